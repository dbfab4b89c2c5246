"""`ssdkd watch` off a terminal, and the trainer as a process of its own."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from child_process import Result
from rich.cells import cell_len
from run_files import append_events, finished, started
from scripted_run import append, evaluation, lines_of, make_run, raw_line, samples, whole_run

from ssdkd_cli import console, trainer_process
from ssdkd_cli.charts import ASCII, BLOCKS
from ssdkd_cli.commands import viewing
from ssdkd_cli.commands.launching import Request, arguments_of
from ssdkd_cli.diagnostics import ExitCode
from ssdkd_cli.main import main
from ssdkd_cli.trainer_process import Trainer, viewer_of_this_process
from ssdkd_cli.watching.comparison import UNKNOWN, candidates, differences, lettered
from ssdkd_cli.watching.feed import RunFeed
from ssdkd_cli.watching.snapshot import _evenly, render_text
from stages import events
from stages.run_directory import STATUSES, RunDirectory


@pytest.fixture
def call(capfd, tmp_path, monkeypatch):
    """Type `ssdkd ...` off a terminal, in a folder without runs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "has_screen", lambda: False)

    def type_in(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(arguments)
        return Result(code, *capfd.readouterr())

    return type_in


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    told = [*whole_run(4), (evaluation(0.9, 0.8), 4), (samples(4), 4)]
    return make_run(tmp_path / "runs" / "a-run", lines_of(told))


# -- watch -------------------------------------------------------------------------------------------------------


def test_once_json_is_one_document_with_the_status(call, run):
    with run.lock.held():
        result = call("watch", str(run.path), "--once", "--json")
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert document["status"] == "running"
    assert document["run"] == str(run.path)
    assert (document["progress"]["epoch"], document["progress"]["share"]) == (4, 1.0)
    assert document["latest"]["distillation/loss"] == pytest.approx(3.25)
    assert document["latest_epoch"]["distillation/loss"] == 4.0
    assert document["real"]["student"]["top1"] == 0.9
    assert document["synthetic"] == {"agreement": 0.8, "agreement_by_chance": 0.125, "ece": None}
    assert document["samples"]["picture"] == "samples/epoch-000004.png"
    assert document["device"]["labels"]["mem_mib"] == "resident memory (RSS)"
    assert document["problems"] == []


def test_a_long_history_is_read_to_its_end(call, tmp_path, monkeypatch):
    monkeypatch.setattr("ssdkd_cli.watching.preview.MIN_BYTES", 1000)
    monkeypatch.setattr("ssdkd_cli.watching.feed._CHUNK_BYTES", 1000)
    told = whole_run(40)
    long = make_run(tmp_path / "runs" / "long", lines_of(told))
    document = json.loads(call("watch", str(long.path), "--json").out)
    assert (document["num_events"], document["history_read"]) == (len(told), 1.0)


@pytest.mark.parametrize("options", [["--json"], ["--once", "--json"], ["--json", "--read-only"]])
def test_json_alone_is_a_snapshot_too(call, run, options):
    assert json.loads(call("watch", str(run.path), *options).out)["status"] == "dead"


def test_of_a_dead_run_nothing_is_at_work_and_no_time_is_left(call, tmp_path):
    told = [(event, epoch) for event, epoch in whole_run(4) if epoch < 4]
    cut = make_run(tmp_path / "runs" / "cut", lines_of([*told, (events.StageStarted(stage="distillation"), 4)]))
    with cut.lock.held():
        alive = json.loads(call("watch", str(cut.path), "--json").out)["progress"]
    assert alive["left_s"] is not None
    assert any(stage["is_running"] for stage in alive["stages"])
    dead = json.loads(call("watch", str(cut.path), "--json").out)["progress"]
    assert dead["left_s"] is None
    assert not any(stage["is_running"] or stage["step"] is not None for stage in dead["stages"])
    assert dead["share"] == alive["share"]
    assert "time left" not in call("watch", str(cut.path), "--once").out


@pytest.mark.parametrize("options", [["--once"], [], ["--read-only"]])
def test_off_a_terminal_it_prints_text_and_never_starts_the_app(call, run, options, monkeypatch):
    monkeypatch.setitem(sys.modules, "ssdkd_cli.dashboard.app", None)  # importing it would fail
    result = call("watch", str(run.path), *options)
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("a-run: dead: its process is gone\n")
    assert "\x1b" not in result.out


def test_without_a_name_it_is_the_newest_run(call, run):
    assert json.loads(call("watch", "--json").out)["name"] == "a-run"
    assert json.loads(call("watch", "a-run", "--json").out)["name"] == "a-run"


def test_of_a_folder_of_runs_it_is_the_one_at_work(call, run, tmp_path):
    newer = make_run(tmp_path / "runs" / "b-run", lines_of(whole_run(2)))
    newer.lock_file.write_text(json.dumps({"pid": 1, "since_s": 4e9}))
    assert json.loads(call("watch", "runs", "--json").out)["name"] == "b-run"
    with run.lock.held():
        assert json.loads(call("watch", "runs", "--json").out)["name"] == "a-run"


@pytest.mark.parametrize(
    ("arguments", "hint"), [([], "ssdkd run"), (["b-run"], "ssdkd runs ls"), (["nowhere/at/all"], "ssdkd runs ls")]
)
def test_a_run_that_is_not_there_is_refused(call, arguments, hint):
    result = call("watch", *arguments, "--once")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: ")
    assert hint in result.err


def test_a_misspelt_run_gets_its_nearest(call, run):
    assert "did you mean `a-run`?" in call("watch", "a-rum", "--json").err


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "diverged"])
def test_a_run_that_is_over_says_how_it_ended(call, run, status):
    line = raw_line(kind="run_finished", seq=900, status=status, message="because", summary={"status": status})
    append(run, [line])
    document = json.loads(call("watch", str(run.path), "--json").out)
    assert (document["status"], document["message"], document["summary"]) == (status, "because", {"status": status})
    assert call("watch", str(run.path), "--once").out.startswith(f"a-run: {status} (because)\n")


def test_why_a_run_failed_is_told_to_the_last_word(call, run):
    message, hint = "the device is out of memory: " + "word " * 30 + "last", "lower " + "語語 " * 40 + "or that"
    told = raw_line(kind="run_finished", seq=900, status="failed", message=message, hint=hint, summary={})
    append(run, [told])
    out = call("watch", str(run.path), "--once").out
    assert max(map(cell_len, out.splitlines())) <= 80
    assert all(" ".join(text.split()) in " ".join(out.split()) for text in (message, hint))
    document = json.loads(call("watch", str(run.path), "--json").out)
    assert (document["message"], document["hint"]) == (message, hint)
    with run.lock.held():  # it is being resumed: that is no failure any more
        document = json.loads(call("watch", str(run.path), "--json").out)
    assert (document["status"], document["message"]) == ("starting", "")


def test_a_run_before_its_first_word(call, tmp_path):
    run = make_run(tmp_path / "runs" / "new", [])
    with run.lock.held():
        document = json.loads(call("watch", "new", "--json").out)
        assert call("watch", "new").out == "new: starting\n"
    assert document["status"] == "starting"
    assert document["progress"] is document["buffer"] is document["device"] is document["real"] is None
    assert document["status"] in STATUSES


def test_what_is_wrong_with_the_files_is_told(call, run):
    append(run, ["rubbish\n", raw_line(kind="future", seq=901, schema=9)])
    out = call("watch", str(run.path), "--once").out
    assert "! 1 line of events.jsonl could not be read" in out
    assert "! events of kinds unknown to this ssdkd: future (1)" in out


def test_the_page_fits_80_columns_and_ascii(run):
    view = RunFeed(run).poll()
    page = render_text(view, glyphs=BLOCKS)
    assert max(map(len, page.splitlines())) <= 80
    plain = render_text(view, glyphs=ASCII)
    assert plain.isascii()
    assert re.search(r"^  student +top-1 90.00%$", plain, re.M)
    assert re.search(r"^  agreement with the teacher +80.00% \(by chance 12.50%\)$", plain, re.M)
    assert re.search(r"\d\d:\d\d:\d\d  epoch 4    top-1 90.0%, synthetic agreement 80.0%$", plain, re.M)
    for words in ("epoch 4 of 4", "4 of 4", "effective sample size", "27 (90.0%)", "1,000", "resident memory (RSS)"):
        assert words in plain


def test_what_a_stage_measures_is_on_the_page_and_in_the_document(call, run):
    append(run, [raw_line(kind="measured", seq=900, epoch=4, stage="drift", values={"mean_norm": 0.25, "x": None})])
    out = call("watch", str(run.path), "--once").out
    assert re.search(r"^drift\n  mean norm +0.25 .*\n  x +not finite since epoch 4\n\nreal data", out, re.M)
    document = json.loads(call("watch", str(run.path), "--json").out)
    assert document["problems"] == []
    assert (document["latest"]["drift/mean_norm"], document["latest"]["drift/x"]) == (0.25, None)
    assert document["latest_epoch"]["drift/mean_norm"] == 4.0


def test_the_time_of_each_stage_and_what_is_left_of_it_are_told(run):
    page = render_text(RunFeed(run).poll(), glyphs=ASCII)
    rows = re.findall(r"^  (\w+) +#+ +(\S+)  (\d+ s)$", page, re.M)
    assert rows == [("inversion", "25.0%", "2 s"), ("distillation", "50.0%", "4 s"), ("other", "25.0%", "2 s")]


def test_of_a_long_curve_values_from_all_of_it_are_drawn_with_the_newest_as_the_last():
    assert _evenly([float(index) for index in range(100)], 10) == [9.0 + 10 * index for index in range(10)]
    assert _evenly([1.0, 2.0], 10) == [1.0, 2.0]


def test_a_page_of_a_run_on_a_gpu_says_so(tmp_path):
    told = [(event, epoch) for event, epoch in whole_run(3) if event.kind != "device"]
    device = events.Device(
        device="cuda:0",
        seconds={"inversion": 10.0, "total": 7200.0},
        utilisation=0.97,
        mem_mib=4321.0,
        images_per_s=48_000.0,
    )
    page = render_text(RunFeed(make_run(tmp_path / "run", lines_of([*told, (device, 3)]))).poll(), glyphs=ASCII)
    assert "2.00 GPU hours" in page
    assert re.search(r"GPU utilisation +97%", page)
    assert re.search(r"GPU memory +4,321 MiB", page)


# -- other runs --------------------------------------------------------------------------------------------------


def test_other_runs_to_lay_over_this_one(run, tmp_path):
    other = make_run(tmp_path / "runs" / "b-run", lines_of(whole_run(6)))
    for each, seed in ((run, 0), (other, 1)):
        each.config_file.write_text(f"[run]\nseed = {seed}\nepochs = 6\n", encoding="utf-8")
    found = candidates(run, root=tmp_path / "nowhere")
    assert [(candidate.name, candidate.epoch, candidate.epochs, candidate.status) for candidate in found] == [
        ("b-run", 6, 6, "dead")
    ]
    assert [(each.key, each.values) for each in differences([run, other])[0]] == [("run.seed", (0, 1))]
    append(other, [raw_line(kind="run_finished", seq=9999, epoch=6, status="stopped", summary={"epochs": 5})])
    assert candidates(run, root=tmp_path / "nowhere")[0].epoch == 5, "as `runs ls` counts them: those that are over"
    other.events_file.unlink()
    other.events_file.mkdir()
    assert [candidate.status for candidate in candidates(run, root=tmp_path / "nowhere")] == ["unreadable"]
    assert [each.key for each in differences([run, other])[0]] == ["run.seed"], "settings are read alone"
    other.events_file.rmdir()
    broken = make_run(tmp_path / "runs" / "c-run", lines_of(whole_run(6)))
    rows, unreadable = differences([run, broken, other])
    assert [(each.key, each.values) for each in rows] == [("run.seed", (0, UNKNOWN, 1))]
    assert unreadable == [broken]


def test_runs_of_a_group_are_other_runs_too(run, tmp_path):
    seeds = [make_run(tmp_path / "runs" / "group" / f"seed-{seed}", lines_of(whole_run(6))) for seed in (0, 1)]
    root = tmp_path / "runs"
    assert {other.name: other.path for other in candidates(run, root=root)} == {
        f"group/{seed.name}": seed.path.resolve() for seed in seeds
    }
    assert {other.name for other in candidates(seeds[0], root=root)} == {"group/seed-1", run.name}


def test_runs_of_the_folder_that_is_watched_are_other_runs_too(run, tmp_path):
    """Wherever it is, and in groups there: of those the dashboard says that one is at work."""
    folder = tmp_path / "elsewhere"
    shown = make_run(folder / "one" / "a-run", lines_of(whole_run(6)))
    other = make_run(folder / "two" / "a-run", lines_of(whole_run(6)))
    assert candidates(shown, root=tmp_path / "nowhere") == []
    (found,) = candidates(shown, folder, root=tmp_path / "nowhere")
    assert (found.name, found.path) == ("two/a-run", other.path.resolve())


def test_runs_of_the_groups_beside_are_other_runs_too(tmp_path):
    """As a list of experiments leaves them, with a folder of seeds for each."""
    shown = make_run(tmp_path / "one" / "seed-0", lines_of(whole_run(6)))
    for other in ("one/seed-1", "two/seed-0"):
        make_run(tmp_path / other, lines_of(whole_run(6)))
    assert {found.name for found in candidates(shown, root=tmp_path / "nowhere")} == {"one/seed-1", "two/seed-0"}


@pytest.mark.parametrize(
    ("status", "is_stopping", "expected"),
    [
        ("running", False, ["goes on without this terminal", "ssdkd watch ", "ssdkd runs stop "]),
        ("paused", False, ["is paused and waits", "ssdkd runs resume ", "ssdkd watch ", "ssdkd runs stop "]),
        ("running", True, ["saves everything and stops", "ssdkd watch "]),
    ],
)
def test_who_leaves_is_told_what_the_run_does(run, monkeypatch, capfd, status, is_stopping, expected):
    monkeypatch.setattr(type(run), "status", lambda _self: status)
    monkeypatch.setattr(viewing, "_open_dashboard", lambda *_, **__: viewing._Closed(0, run, is_stopping))
    assert viewing.show(run) == 0
    first, *commands = capfd.readouterr().err.splitlines()
    assert expected[0] in first
    assert [line.strip().partition(f"{run.path} ")[0] for line in commands] == expected[1:]
    assert len({line.rindex("  ") for line in commands}) == 1, "in a column"


def test_a_name_that_two_runs_have_is_told_with_its_folder():
    runs = [Path("runs/one/seed-0"), Path("runs/two/seed-0"), Path("runs/two/seed-1")]
    assert lettered(runs) == [("A", "one/seed-0"), ("B", "two/seed-0"), ("C", "seed-1")]


# -- in a browser ------------------------------------------------------------------------------------------------


def test_a_browser_gets_a_viewer_of_its_own(call, run, monkeypatch):
    served = []

    class Server:
        console = SimpleNamespace(quiet=False)

        def __init__(self, command, *, host, port, title):
            served.append((command, host, port, title))

        def serve(self):
            pass

    server = ModuleType("textual_serve.server")
    server.Server = Server
    monkeypatch.setitem(sys.modules, "textual_serve", ModuleType("textual_serve"))
    monkeypatch.setitem(sys.modules, "textual_serve.server", server)
    result = call("watch", str(run.path), "--serve", "--port", "8123", "--read-only")
    assert (result.code, result.out) == (0, "")
    assert "http://localhost:8123" in result.err
    ((command, host, port, title),) = served
    assert shlex.split(command)[1:] == ["-P", "-m", "ssdkd_cli", "watch", "--read-only", "--", str(run.path)]
    assert (host, port, title) == ("localhost", 8123, f"ssdkd {run.name}")


def test_without_the_extra_serving_says_how_to_get_it(call, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    result = call("watch", str(run.path), "--serve")
    assert (result.code, result.out) == (4, "")
    assert "pip install textual-serve" in result.err


def test_a_taken_port_is_told(call, run, monkeypatch):
    class Server:
        console = SimpleNamespace(quiet=False)

        def __init__(self, *_arguments, **_options):
            pass

        def serve(self):
            raise OSError(98, "Address already in use")

    server = ModuleType("textual_serve.server")
    server.Server = Server
    monkeypatch.setitem(sys.modules, "textual_serve", ModuleType("textual_serve"))
    monkeypatch.setitem(sys.modules, "textual_serve.server", server)
    result = call("watch", str(run.path), "--serve")
    assert (result.code, result.out) == (4, "")
    assert "port 8000" in result.err
    assert "--port" in result.err


def test_serving_does_not_print(call, run):
    assert call("watch", str(run.path), "--serve", "--json").code == 2


# -- the trainer as a process of its own -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--tui"], "not a terminal"), (["--tui", "--resume", "a-run"], "not a terminal")],
)
def test_the_dashboard_off_a_terminal_is_refused(call, arguments, words, tmp_path):
    result = call("run", *arguments)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert "hint: " in result.err
    assert list(tmp_path.iterdir()) == []


def test_the_dashboard_for_several_seeds_is_refused(call, monkeypatch):
    monkeypatch.setattr(console, "has_screen", lambda: True)
    result = call("run", "--tui", "--seeds", "0,1")
    assert result.code == 2
    assert "--seeds" in result.err


@pytest.mark.parametrize(
    "options",
    [
        ["--no-tui"],
        ["--json"],
        ["--dry-run"],
        ["--estimate"],
        ["--seeds", "0,1"],
        ["--json", "--tui"],
        ["--dry-run", "--tui"],
    ],
    ids=" ".join,
)
def test_what_stays_in_the_process_that_was_started(call, monkeypatch, options):
    monkeypatch.setattr(console, "has_screen", lambda: True)
    monkeypatch.setattr("ssdkd_cli.commands.launching.Trainer", None)  # starting one would fail
    result = call("run", "--set", "teacher.weights=nowhere.pt", *options)
    assert result.code == 3
    assert "nowhere.pt" in result.err


def test_on_a_terminal_the_trainer_is_asked_for_the_same(call, monkeypatch):
    asked = []

    class Asked:
        def __init__(self, arguments):
            asked.append(arguments)

        def wait_until_ready(self, *, meanwhile):
            meanwhile()

        def exit_code(self):
            return 4

        def killed_by(self):
            return None

    monkeypatch.setattr(console, "has_screen", lambda: True)
    monkeypatch.setattr("ssdkd_cli.commands.launching.Trainer", Asked)
    assert call("run", "--set", "run.epochs=30", "--out", "new", "--device", "cpu").code == 4
    assert asked == [["run", "--no-tui", "--set", "run.epochs=30", "--out", "new", "--device", "cpu"]]
    assert call("run", "--set", "run.epoch=30").code == 2  # refused at once
    assert call("run", "--resume", "nowhere").code == 3
    assert len(asked) == 1


def test_the_arguments_ask_for_the_same_again():
    request = Request(
        command="distill",
        preset=["a", "b.toml"],
        overrides=["x=1", "y = [2, 3]"],
        out=Path("a folder"),
        device="cpu",
        buffer="-odd",
        train_teacher=True,
    )
    assert arguments_of(request) == [
        *("distill", "--no-tui", "--preset", "a", "--preset", "b.toml", "--set", "x=1", "--set", "y = [2, 3]"),
        *("--buffer", "-odd", "--out", "a folder", "--device", "cpu", "--train-teacher"),
    ]
    assert arguments_of(Request(command="run", resume="r", tui=True)) == ["run", "--no-tui", "--resume", "r"]


CHILD = """
import os, signal, sys
from pathlib import Path
from ssdkd_cli.trainer_process import once_begun, viewer_of_this_process
from stages.events import RunResumed
print("before", flush=True)
begun = once_begun(viewer_of_this_process().tell, Path(sys.argv[1]))
for _ in range(2):
    begun(RunResumed(checkpoint="", checkpoint_seq=0), 0)
print("after", os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True)
print("and errors", file=sys.stderr, flush=True)
assert "SSDKD_READY_PIPE" not in os.environ and sys.stdin.read() == ""
sys.exit(5)
"""


@pytest.fixture
def trainer_running(monkeypatch):
    """A trainer whose command is a Python text."""

    def start(code: str, *arguments: str) -> Trainer:
        popen = subprocess.Popen
        monkeypatch.setattr(
            trainer_process.subprocess,
            "Popen",
            lambda _, **options: popen([sys.executable, "-c", code, *arguments], **options),
        )
        return Trainer(["run"])

    return start


def test_a_trainer_says_where_its_run_is_and_leaves_the_terminal(trainer_running, tmp_path, capfd):
    trainer = trainer_running(CHILD, str(tmp_path))
    run = trainer.wait_until_ready()
    assert run.path == tmp_path
    assert trainer.exit_code() == 5
    assert capfd.readouterr().out == "before\n"
    said = "after True True\nand errors\n"
    assert (run.trainer_log_file.read_text(), trainer.log_start) == (said, 0)
    again = trainer_running(CHILD, str(tmp_path))
    again.wait_until_ready()
    again.exit_code()
    assert (run.trainer_log_file.read_text(), again.log_start) == (2 * said, len(said))


def test_a_trainer_works_on_where_nobody_waits_for_its_run(trainer_running, tmp_path):
    trainer = trainer_running(CHILD, str(tmp_path))
    os.close(trainer._pipe)  # the terminal was closed meanwhile
    assert trainer.exit_code() == 5
    assert RunDirectory(tmp_path).trainer_log_file.read_text().startswith("after ")


def test_the_last_words_are_of_the_trainer_that_ended_now(tmp_path, capsys):
    run = RunDirectory(tmp_path)
    earlier = "error: no space left\n"
    run.trainer_log_file.write_text(earlier + "epoch 3\n")
    viewing._print_last_words(run, len(earlier))
    assert "no space" not in capsys.readouterr().err
    run.trainer_log_file.write_text(earlier + "epoch 3\nerror: lost\n  hint: other\n")
    viewing._print_last_words(run, len(earlier))
    told = capsys.readouterr().err
    assert "error: lost\n  hint: other\n" in told
    assert "no space" not in told
    run.trainer_log_file.write_text(earlier + "epoch 3\nerror: one\n  hint: a\nerror: two\n  hint: b\n")
    viewing._print_last_words(run, len(earlier))
    assert "error: one\n  hint: a\nerror: two\n  hint: b\n" in capsys.readouterr().err
    bug = "Traceback (most recent call last):\n  in training\nKeyError: 3\nerror: a bug\n  hint: report it\n"
    run.trainer_log_file.write_text(earlier + "epoch 3\nerror: earlier\n" + bug)
    viewing._print_last_words(run, len(earlier))
    told = capsys.readouterr().err
    assert bug in told
    assert "earlier" not in told


def closing_at_once(run: RunDirectory):
    """A dashboard that is closed as soon as it is opened."""
    return viewing._Closed(ExitCode.DONE, run, is_stopping=False)


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [("done", 0, ""), ("stopped", 75, "hint: go on with `ssdkd invert --resume {path}`\n")],
)
def test_a_run_that_ends_under_its_viewer_is_summed_up(
    trainer_running, tmp_path, monkeypatch, capsys, status, code, hint
):
    trainer = trainer_running(CHILD.replace("sys.exit(5)", f"sys.exit({code})"), str(tmp_path))
    run = trainer.wait_until_ready()
    results = {"epochs": 4, "seconds": {"total": 9.0, "inversion": 5.0}, "device": "cpu"}
    append_events(run, [started(), finished(status, **results, images_synthesized=64, buffer_size=64)])
    monkeypatch.setattr(viewing, "_open_dashboard", closing_at_once)
    assert viewing.show_own(run, trainer, command="invert") == code
    told = capsys.readouterr()
    assert f"{tmp_path}: {status}" in told.out
    assert told.err == hint.format(path=tmp_path)


@pytest.mark.parametrize(("shown", "is_stopping"), [(".", False), (".", True), ("another", True)])
def test_a_run_that_goes_on_without_its_viewer_has_no_exit_code_yet(
    trainer_running, tmp_path, monkeypatch, capsys, shown, is_stopping
):
    """Who stopped another run, which was on the screen last, has not stopped their own."""
    trainer = trainer_running(CHILD.replace("sys.exit(5)", "import time; time.sleep(600)"), str(tmp_path))
    run = trainer.wait_until_ready()
    try:
        closed = viewing._Closed(ExitCode.DONE, RunDirectory(tmp_path / shown), is_stopping)
        monkeypatch.setattr(viewing, "_open_dashboard", lambda _run: closed)
        assert viewing.show_own(run, trainer, command="run") == 0
    finally:
        trainer.process.kill()
        trainer.exit_code()
    told = capsys.readouterr()
    is_stopping = is_stopping and shown == "."
    what = "saves everything and stops" if is_stopping else "goes on"
    assert told.err.startswith(f"{tmp_path} {what} without this terminal\n")
    assert f"ssdkd watch {tmp_path}" in told.err
    assert ("runs stop" in told.err) == (not is_stopping)


def test_a_trainer_that_was_killed_at_work_is_told_of(trainer_running, tmp_path, monkeypatch, capsys):
    killed = CHILD.replace("sys.exit(5)", "os.kill(os.getpid(), signal.SIGKILL)")
    trainer = trainer_running(killed, str(tmp_path))
    run = trainer.wait_until_ready()
    trainer.exit_code()
    monkeypatch.setattr(viewing, "_open_dashboard", closing_at_once)
    assert viewing.show_own(run, trainer, command="distill") == 137
    told = capsys.readouterr().err
    assert told.startswith("error: SIGKILL ended the run\n")
    assert f"`ssdkd distill --resume {tmp_path}` goes on from its last checkpoint" in told
    assert "memory" in told
    assert str(run.trainer_log_file) in told


def test_a_trainer_that_is_refused_gives_no_run(trainer_running):
    trainer = trainer_running("import sys; sys.exit(3)")
    assert trainer.wait_until_ready() is None
    assert trainer.exit_code() == 3


def test_a_trainer_imports_nothing_from_the_folder_it_works_in(tmp_path, monkeypatch, capfd):
    (tmp_path / "stages.py").write_text("raise ImportError('not ours')")
    monkeypatch.chdir(tmp_path)
    trainer = Trainer(["presets", "ls", "--json"])
    assert trainer.wait_until_ready() is None
    assert trainer.exit_code(timeout_s=60) == 0
    assert "digits" in capfd.readouterr().out


def test_a_trainer_that_was_killed_has_the_code_of_shells(trainer_running):
    trainer = trainer_running("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert trainer.wait_until_ready() is None
    assert trainer.exit_code() == 137


def test_a_trainer_that_is_killed_before_its_first_word_is_told_of(call, monkeypatch):
    start = subprocess.Popen
    monkeypatch.setattr(console, "has_screen", lambda: True)
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda _arguments, **options: start([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **options),
    )
    result = call("run", "--out", "new")
    assert result.code == 137
    assert "SIGKILL ended the run before it had begun" in result.err
    assert "ssdkd doctor" in result.err


def test_a_trainer_at_work_has_no_exit_code(trainer_running):
    trainer = trainer_running("import time; time.sleep(600)")
    assert trainer.exit_code(timeout_s=0) is None
    trainer.process.kill()
    assert trainer.exit_code() == 137
    os.close(trainer._pipe)


def test_ctrl_c_before_the_run_has_begun_ends_the_trainer_too(trainer_running, tmp_path):
    we_are_ready = tmp_path / "ready"
    trainer = trainer_running(
        "import os, signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
        f"while not os.path.exists({str(we_are_ready)!r}): time.sleep(0.01)\n"
        "os.kill(os.getppid(), signal.SIGINT); time.sleep(600)"
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.wait_until_ready(meanwhile=we_are_ready.touch)
        assert trainer.process.returncode == 130
    finally:
        trainer.process.kill()


def test_without_a_viewer_nobody_is_told(monkeypatch):
    monkeypatch.delenv("SSDKD_READY_PIPE", raising=False)
    before = signal.getsignal(signal.SIGHUP)
    assert viewer_of_this_process() is None
    assert signal.getsignal(signal.SIGHUP) == before
