"""`ssdkd runs`: lists and comparisons, damage found in a real run, and requests to a live one."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import run_files
import safetensors.numpy
from child_process import run_python, run_ssdkd
from played_trainer import played_trainer

from ssdkd_cli import run_reports
from ssdkd_cli.commands import runs as command
from ssdkd_cli.summary import ECE_EXPLAINED
from stages.events import (
    Evaluation,
    Event,
    Measured,
    RunFinished,
    StageStarted,
    Warning,
)
from stages.run_directory import RunDirectory
from stages.run_directory.verification import hint_of_damage

SECONDS = {"inversion": 30.0, "distillation": 60.0, "evaluation": 1.5, "total": 4000.0}
TINY_RUN = """
import sys
from ssdkd_cli.main import main
settings = {
    "run.epochs": 2, "run.warmup_epochs": 1, "run.threads": 1, "buffer.capacity": 64, "inversion.batch_size": 32,
    "inversion.steps": 1, "distillation.batch_size": 32, "distillation.steps": 1, "evaluation.num_holdout": 16,
}
options = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
sys.exit(main(["run", *options, "--out", sys.argv[1]]))
"""


def finished(top1: float, status: str = "done") -> RunFinished:
    metrics = {"top1": top1, "top5": 1.0, "loss": 0.25, "num_samples": 364}
    return run_files.finished(status, student=metrics, agreement=0.875, ece=0.0625, seconds=SECONDS, device="cpu")


def make_run(name: str, *events: Event, seed: int = 0) -> RunDirectory:
    config = f'[run]\nseed = {seed}\n[student]\nmodel = "wrn16_1"\n'
    return run_files.make_run(Path("runs") / name, *events, config=config)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    run_python("-c", TINY_RUN, path)
    return path


@pytest.fixture
def real_run(finished_run: Path, place: Path) -> RunDirectory:
    """A copy of a run that the trainer made, to be damaged."""
    shutil.copytree(finished_run, place / "runs" / "real")
    return RunDirectory(Path("runs") / "real")


# -- ls and show ---------------------------------------------------------------------------------------------


def test_ls_has_a_row_for_each_run(call, place):
    make_run("digits-1", finished(0.9))
    make_run("digits-2", StageStarted(stage="inversion"))
    result = call("runs", "ls")
    assert (result.code, result.err) == (0, "")
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in result.out.splitlines()}
    assert rows["digits-1"] == ["done", "-", "top-1 90.00%", "87.50%", "1 h 06 min"]
    assert rows["digits-2"] == ["dead", "-", "-", "-", "-"]


def test_ls_json(call, place):
    make_run("digits-1", finished(0.9))
    (document,) = json.loads(call("runs", "ls", "--json").out)
    assert document["name"] == "digits-1"
    assert document["status"] == "done"
    assert document["student"]["top1"] == 0.9


def test_ls_where_there_is_none(call, place):
    result = call("runs", "ls")
    assert (result.code, result.out) == (0, "")
    assert "there is no run" in result.err
    assert json.loads(call("runs", "ls", "--json").out) == []


def test_ls_of_a_folder_that_is_not_there(call, place):
    result = call("runs", "ls", "nowhere")
    assert (result.code, result.out) == (3, "")
    assert "there is no folder nowhere" in result.err


@pytest.mark.parametrize(("status", "goes_on"), [("stopped", True), ("done", False), ("diverged", False)])
def test_show_says_how_to_go_on(call, place, status: str, goes_on: bool) -> None:
    make_run("a run", StageStarted(stage="inversion"), finished(0.5, status))
    assert ("go on with `ssdkd run --resume 'runs/a run'`" in call("runs", "show", "a run").out) is goes_on


def test_ls_of_another_folder(call, place):
    make_run("digits-1").path.parent.rename("elsewhere")
    assert call("runs", "ls", "elsewhere").out.startswith("digits-1\t")
    result = call("runs", "ls", "elsewhere/digits-1")
    assert (result.code, result.out) == (3, "")
    assert "is a run, not a folder of them" in result.err
    assert "ssdkd runs show elsewhere/digits-1" in result.err


def test_ls_lists_groups_by_their_folders(call, place):
    make_run("digits-1", finished(0.9))
    for seed in (0, 1):
        make_run(f"group/seed-{seed}", finished(0.9), seed=seed)
    names = [line.split("\t")[0] for line in call("runs", "ls").out.splitlines()]
    assert names == ["digits-1", "group/seed-0", "group/seed-1"]
    assert len(json.loads(call("runs", "ls", "--json").out)) == 3
    Path("runs/best").symlink_to("group/seed-0")
    names = [line.split("\t")[0] for line in call("runs", "ls").out.splitlines()]
    assert names == ["best", "digits-1", "group/seed-1"]


@pytest.mark.parametrize("name", ["group", "runs/group"])
def test_show_a_group(call, place, name):
    for seed, top1 in enumerate((0.88, 0.90)):
        make_run(f"group/seed-{seed}", finished(top1), seed=seed)
    result = call("runs", "show", name)
    assert (result.code, result.err) == (0, "")
    assert "student top-1  89.00% ± 1.41%" in result.out
    assert json.loads(call("runs", "show", name, "--json").out)["seed_groups"][0]["seeds"] == [0, 1]


def test_show_a_real_run(call, real_run):
    result = call("runs", "show", "real")
    assert (result.code, result.err) == (0, "")
    for text in (
        "runs/real: done",
        "epoch      2 of 2",
        "student  ",
        "distillation  ",
        "student.model",
        "buffer.safetensors",
        "agreement",
        ECE_EXPLAINED,
    ):
        assert text in result.out
    document = json.loads(call("runs", "show", "real", "--json").out)
    assert document["summary"]["status"] == "done"
    assert document["config"]["run"]["epochs"] == 2
    assert document["files"]["student.safetensors"] > 0


def test_show_a_run_that_says_nothing(call, place):
    make_run("digits-1")
    result = call("runs", "show")
    assert result.code == 0
    assert "runs/digits-1: dead" in result.out


def test_show_says_what_stages_measured(call, place):
    make_run("digits-1", *(Measured(stage="drift", values={"x": x, "far": 1 / 3}) for x in (1.0, float("nan"))))
    assert "Measured by stages\n  drift/far  0.3333\n  drift/x    not finite\n" in call("runs", "show").out
    document = json.loads(call("runs", "show", "--json").out)
    assert document["measured"] == {"drift/far": 1 / 3, "drift/x": None}


def test_show_says_why_a_run_ended_and_what_it_warned_of(call, place):
    ending = RunFinished(status="diverged", message="the loss is not finite", hint="lower its rate")
    make_run("digits-1", Warning(message="no real images"), ending)
    out = call("runs", "show").out
    assert "  the loss is not finite\n  hint: lower its rate\n" in out
    assert "--resume" not in out
    assert "no real images" in out


@pytest.mark.parametrize("hint", ["ask for less", "free some space, then `ssdkd run --resume runs/digits-1`"])
def test_show_says_once_how_a_failed_run_goes_on(call, place, hint):
    make_run("digits-1", RunFinished(status="failed", message="it was too much", hint=hint))
    assert call("runs", "show").out.count("`ssdkd run --resume runs/digits-1`") == 1


# -- compare -------------------------------------------------------------------------------------------------


def test_compare_seeds(call, place):
    for seed, top1 in enumerate((0.88, 0.90, 0.95)):
        make_run(f"seed-{seed}", finished(top1), seed=seed)
    result = call("runs", "compare", "seed-0", "seed-1", "runs/seed-2")
    assert result.code == 0
    assert "A  runs/seed-0  (done)" in result.out
    assert result.out.count("88.00%") == 1
    assert "run.seed  0  1  2" in result.out
    assert "Mean and sample standard deviation of A, B, C (seeds 0, 1, 2)" in result.out
    assert "student top-1  91.00% ± 3.61%" in result.out
    assert re.search(r"ECE +6\.25% +6\.25% +6\.25%", result.out)
    assert result.out.count(f"\n  {ECE_EXPLAINED}\n") == 1
    document = json.loads(call("runs", "compare", "seed-0", "seed-1", "--json").out)
    assert document["differences"] == {"run.seed": [0, 1]}
    assert document["metrics"]["student.top1"] == [0.88, 0.9]


def test_compare_seeds_that_agree_on_the_student(call, place):
    for seed in (0, 1):
        make_run(f"seed-{seed}", finished(0.9), seed=seed)
    out = call("runs", "compare", "seed-0", "seed-1").out
    mean = out[out.index("Mean and sample standard deviation") :]
    assert "student top-1  90.00% ± 0.00%" in mean
    assert "teacher top-1" not in mean


def test_compare_groups(call, place):
    for seed in (0, 1):
        make_run(f"group/seed-{seed}", finished(0.9), seed=seed)
    make_run("other", finished(0.7), seed=5)
    document = json.loads(call("runs", "compare", "group", "other", "group/seed-0", "--json").out)
    assert [run["run"] for run in document["runs"]] == ["runs/group/seed-0", "runs/group/seed-1", "runs/other"]


def test_compare_says_how_runs_ended_that_are_not_done(call, place):
    for seed, status in enumerate(("done", "diverged", "done")):
        make_run(f"group/seed-{seed}", finished(0.9 + seed / 100, status), seed=seed)
    out = call("runs", "compare", "group").out
    assert "B  runs/group/seed-1  (diverged, epoch -)" in out
    assert "Mean and sample standard deviation of A, C (seeds 0, 2)" in out
    assert "  left out, as not done: B" in out


def test_results_of_an_earlier_epoch_say_so(call, place):
    make_run("done", finished(0.9))
    stopped = finished(0.8, "stopped")
    measured = Evaluation(real={"student": stopped.summary["student"]}, synthetic=None)
    ended = RunFinished(status="stopped", message="stopped", summary={**stopped.summary, "epochs": 9})
    run_files.append_events(make_run("stopped"), [measured, ended], epoch=7)
    assert "stopped, epoch -, measured at epoch 7" in call("runs", "compare", "stopped", "done").out
    assert "Results on real data, measured at epoch 7" in call("runs", "show", "stopped").out
    assert "measured" not in call("runs", "show", "done").out
    measured = Evaluation(real=None, synthetic={"agreement": 0.25})
    summary = {"agreement": 0.25, "agreement_by_chance": 0.125, "epochs": 9}
    ended = RunFinished(status="stopped", message="", summary=summary)
    run_files.append_events(make_run("blind"), [measured, ended], epoch=7)
    told = call("runs", "show", "blind").out
    assert re.search(r"agreement +25\.00% \(by chance 12\.50%\), measured at epoch 7\n", told)


def test_a_run_that_cannot_be_read_hides_no_other(call, place):
    make_run("sound", finished(0.9))
    broken = make_run("broken", finished(0.9)).events_file
    broken.unlink()
    broken.mkdir()
    listed = call("runs", "ls")
    assert listed.code == 0, listed.err
    assert re.search(r"broken\s+unreadable", listed.out)
    assert re.search(r"sound\s+done", listed.out)
    for arguments in (["show", "broken"], ["verify", "broken"], ["compare", "broken", "sound"]):
        result = call("runs", *arguments)
        assert (result.code, "cannot read" in result.err, "Traceback" in result.err) == (3, True, False)


def test_a_result_of_another_kind_hides_no_run(call, place):
    make_run("sound", finished(0.9))
    odd = RunFinished(status="done", message="", summary={"status": "done", "student": [1], "seconds": 3})
    run = make_run("odd", odd)
    run.events_file.write_text(re.sub(r'"time_s":\d+\.?\d*', '"time_s":1e20', run.events_file.read_text()))
    listed = call("runs", "ls")
    assert (listed.code, listed.err) == (0, "")
    assert {"sound", "odd"} <= set(listed.out.split())
    for arguments in (["show", "odd"], ["compare", "odd", "sound"]):
        result = call("runs", *arguments)
        assert result.code == 0, result.err


def test_compare_in_ascii(place):
    for seed in (0, 1):
        make_run(f"seed-{seed}", finished(0.9 + seed / 100), seed=seed)
    result = run_ssdkd("runs", "compare", "seed-0", "seed-1", environment={"PYTHONIOENCODING": "ascii"})
    assert result.code == 0, result.err
    assert "90.50% +- 0.71%" in result.out


@pytest.mark.parametrize("names", [["seed-0"], ["seed-0", "seed-0"], ["seed-0", "runs/seed-0"]])
def test_compare_needs_two_runs(call, place, names):
    make_run("seed-0", finished(0.9))
    result = call("runs", "compare", *names)
    assert (result.code, result.out) == (2, "")
    assert "two runs or more" in result.err


def test_more_columns_than_fit_go_below_one_another(place, monkeypatch, capsys):
    for index in range(8):
        make_run(f"a-{index}", StageStarted(stage="inversion"), finished(index / 10), seed=index)
    monkeypatch.setattr("ssdkd_cli.console.is_terminal", lambda _: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    from ssdkd_cli.main import main

    assert main(["runs", "compare", *(f"a-{index}" for index in range(8))]) == 0
    out = capsys.readouterr().out
    rows = [line.split()[2:] for line in out.splitlines() if line.startswith("  student top-1") and "±" not in line]
    assert len(rows) > 1
    assert [cell for row in rows for cell in row] == CELLS, "none is cut or folded"
    assert max(len(line) for line in out.splitlines() if line.startswith("  ")) <= 80


CELLS = [f"{index}0.00%" if index else "0.00%" for index in range(8)]


def test_columns_of_many_runs_have_names_of_their_own():
    assert [run_reports._letter(index) for index in (0, 25, 26, 27)] == ["A", "Z", "A2", "B2"]


# -- verify --------------------------------------------------------------------------------------------------


def test_verify_a_real_run(call, real_run):
    result = call("runs", "verify", "real", "--json")
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert document["ok"] is True
    files = {check["file"] for check in document["checks"]}
    assert files == {
        "config.toml",
        "manifest.json",
        "events.jsonl",
        "buffer.safetensors",
        "student.safetensors",
        "holdout.safetensors",
        "checkpoints/epoch-000002.safetensors",
        "samples",
    }


@pytest.mark.parametrize(
    "name",
    ["buffer.safetensors", "student.safetensors", "holdout.safetensors", "checkpoints/epoch-000002.safetensors"],
)
def test_verify_finds_a_truncated_file(call, real_run, name):
    path = real_run.path / name
    path.write_bytes(path.read_bytes()[:-1])
    result = call("runs", "verify", "real")
    assert result.code == 3
    (line,) = [line for line in result.out.splitlines() if "DAMAGED" in line]
    assert line.startswith(name)
    assert f"runs/real is damaged: {name}" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("name", ["config.toml", "manifest.json", "events.jsonl", "buffer.safetensors"])
def test_verify_finds_a_missing_file(call, real_run, name):
    (real_run.path / name).unlink()
    result = call("runs", "verify", "real")
    assert result.code == 3
    assert f"runs/real is damaged: {name}" in result.err


@pytest.mark.parametrize(
    ("names", "hints"),
    [
        (["buffer.safetensors", "manifest.json"], ["put manifest.json back from a copy", "writes buffer, students"]),
        (["config.toml", "manifest.json"], ["put config.toml and manifest.json back"]),
        (["checkpoints/epoch-000002.safetensors"], ["from another checkpoint once the damaged one is deleted"]),
        (["events.jsonl"], ["what is damaged of events.jsonl is passed over"]),
        (["samples", "student.safetensors"], ["writes buffer, students and hold-out again"]),
        (["checkpoints"], ["without a checkpoint the run cannot go on"]),
        (["samples"], ["nothing depends on these pictures"]),
    ],
    ids=lambda values: values[0],
)
def test_what_to_do_depends_on_what_is_damaged(names, hints):
    hint = hint_of_damage(RunDirectory(Path("runs/a-run")), names)
    assert all(part in hint for part in hints)
    assert hint.count("; ") == len(hints) - 1


def test_verify_finds_a_file_of_another_kind(call, real_run):
    checkpoint = real_run.latest_checkpoint()
    assert checkpoint is not None
    shutil.copy(real_run.student_file, checkpoint)
    shutil.copy(real_run.student_file, real_run.buffer_file)
    result = call("runs", "verify", "real", "--json")
    damaged = [check["file"] for check in json.loads(result.out)["checks"] if not check["is_sound"]]
    assert damaged == ["buffer.safetensors", "checkpoints/epoch-000002.safetensors"]


def test_verify_finds_the_buffer_of_another_teacher(call, real_run):
    manifest = real_run.manifest()
    assert manifest["teacher_sha256"], "the check rests on this entry"
    real_run.manifest_file.write_text(json.dumps(manifest | {"teacher_sha256": "f" * 64}))
    assert "another teacher" in call("runs", "verify", "real").out


def test_verify_finds_weights_that_are_not_finite(call, real_run):
    weights = safetensors.numpy.load_file(real_run.student_file)
    next(array for array in weights.values() if array.dtype.kind == "f").flat[0] = float("nan")
    real_run.student_file.write_bytes(safetensors.numpy.save(weights))
    assert "not finite" in call("runs", "verify", "real").out


def test_verify_finds_settings_of_no_run(call, real_run):
    real_run.config_file.write_text("[run]\nepocks = 3\n")
    result = call("runs", "verify", "real")
    assert result.code == 3
    assert "config.toml" in result.err


# -- requests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["pause", "resume", "checkpoint", "stop"])
def test_request_is_answered(call, place, action):
    run = make_run("digits-1", StageStarted(stage="inversion"))
    with played_trainer(run) as asked:
        result = call("runs", action, "digits-1")
    assert (result.code, result.out) == (0, "")
    assert asked == [action]
    assert f"runs/digits-1: {action} it is" in result.err


def test_paused_run_is_listed_as_paused(call, place):
    run = make_run("digits-1", StageStarted(stage="inversion"))
    with played_trainer(run):
        call("runs", "pause", "digits-1")
        assert json.loads(call("runs", "ls", "--json").out)[0]["status"] == "paused"
        call("runs", "resume", "digits-1")
        assert json.loads(call("runs", "ls", "--json").out)[0]["status"] == "running"


def test_request_is_refused(call, place):
    run = make_run("digits-1", StageStarted(stage="inversion"))
    with played_trainer(run, accepts=False):
        result = call("runs", "checkpoint", "digits-1")
    assert result.code == 2
    assert "refused to checkpoint: not now" in result.err
    assert "hint: `ssdkd runs show runs/digits-1`" in result.err


@pytest.mark.parametrize(
    ("ends", "told"),
    [
        (finished(0.9, "failed"), "it is failed"),
        (finished(0.9, "diverged"), "it is diverged"),
        (None, "has not ended within 30 s"),
    ],
    ids=["failed", "diverged", "goes on"],
)
def test_a_stop_is_over_when_everything_is_saved(call, place, monkeypatch, ends: RunFinished | None, told: str) -> None:
    run = make_run("digits-1", StageStarted(stage="inversion"))
    if ends is None:  # half a minute passes at every look
        clock = SimpleNamespace(monotonic=itertools.count(step=30).__next__, sleep=lambda _: None)
        monkeypatch.setattr("ssdkd_cli.commands.runs.time", clock)
    with played_trainer(run, ends=ends):
        result = call("runs", "stop", "digits-1", "--yes", "--timeout", "30")
    assert (result.code, result.out) == (1, "")
    assert told in result.err
    assert "hint: " in result.err


def test_request_without_an_answer(call, place):
    run = make_run("digits-1", StageStarted(stage="inversion"))
    with run.lock.held():
        result = call("runs", "pause", "digits-1", "--timeout", "0")
    assert result.code == 1
    assert "did not answer within 0 s" in result.err
    assert "hint:" in result.err


@pytest.mark.parametrize("action", ["pause", "resume", "checkpoint", "stop"])
@pytest.mark.parametrize(
    ("events", "status"), [((finished(0.9),), "done"), ((finished(0.9, "stopped"),), "stopped"), ((), "dead")]
)
def test_run_that_is_not_running(call, place, action, events, status):
    run = make_run("digits-1", *events)
    result = call("runs", action, "digits-1")
    assert (result.code, result.out) == (2, "")
    assert f"it is not running, its status is {status}" in result.err
    assert ("--resume" in result.err) == (status != "done")
    assert "hint: " in result.err
    assert not run.control_file.exists()


def test_stop_without_a_stdin_does_not_ask(call, place, monkeypatch):
    run = make_run("digits-1", StageStarted(stage="inversion"))
    monkeypatch.setattr(command.sys, "stdin", None)
    with played_trainer(run) as asked:
        assert call("runs", "stop", "digits-1").code == 0
    assert asked == ["stop"]


@pytest.mark.parametrize("action", ["pause", "resume", "checkpoint", "stop"])
def test_run_that_is_not_there(call, place, action):
    make_run("digits-1")
    result = call("runs", action, "digits-2")
    assert (result.code, result.out) == (3, "")
    assert "did you mean `digits-1`?" in result.err


@pytest.mark.parametrize(
    ("answer", "options", "asked_for"), [(True, [], ["stop"]), (False, [], []), (False, ["--yes"], ["stop"])]
)
def test_stop_asks_first_on_a_terminal(call, place, monkeypatch, answer, options, asked_for):
    monkeypatch.setattr(command.sys.stdin, "isatty", lambda: True, raising=False)
    questions: list[str] = []

    def confirm(text: str, *, err: bool) -> bool:
        questions.append(text)
        assert err, "stdout is for data"
        return answer

    monkeypatch.setattr(command.typer, "confirm", confirm)
    run = make_run("digits-1", StageStarted(stage="inversion"))
    with played_trainer(run) as asked:
        result = call("runs", "stop", "digits-1", *options)
    assert asked == asked_for
    assert bool(questions) == (options == [])
    assert result.code == (0 if asked_for == ["stop"] else 1), "130 is for who interrupts"
    assert ("was not asked, and stays as it is" in result.err) == (asked_for == [])


def test_list_on_a_narrow_terminal_cuts_nothing(place, monkeypatch, capsys):
    """Wide names go above their rows."""
    from rich.console import Console

    from stages.run_directory.overview import overview

    name = "cifar100-wrn-16-2-relaxed-20260101-120000-0"
    documents = [overview(make_run(name, finished(0.9)))]
    terminal = Console(width=80, force_terminal=True, highlight=False, _environ={"NO_COLOR": "1"})
    monkeypatch.setattr(run_reports.console, "stdout", lambda: terminal)
    run_reports.print_list(documents)
    out = capsys.readouterr().out
    for text in (name, "done", "top-1 90.00%", "87.50%", "1 h 06 min"):
        assert text in out
    assert max(len(line) for line in out.replace("\x1b[1m", "").replace("\x1b[0m", "").splitlines()) <= 80


def test_verify_without_a_name_says_which_run_it_looks_at(call, place):
    run = make_run("sound", finished(0.9))
    assert f"the run is {run.path}" in call("runs", "verify").err
    assert "the run is" not in call("runs", "verify", "sound").err
