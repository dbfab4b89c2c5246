"""k steps, save, load and k steps are 2k steps, bit for bit, wherever a run is stopped or killed."""

from __future__ import annotations

import errno
import gc
import itertools
import json
import os
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from run_outputs import At, KilledError, assert_same_outcome, events, kill, lines, stop_at, tensor_files, warnings
from safetensors import safe_open
from tiny_runs import NETWORKS, PLUS, make_teacher_file

from stages.accounts import Accounts
from stages.checkpoint import load_checkpoint
from stages.errors import ConfigError, DivergedError, FileError, MachineError
from stages.run_directory import RunDirectory
from stages.run_directory.verification import verify
from stages.trainer import resume

SAFE_POINTS = {
    "after inversion, in warm-up": {"kind": "stage_finished", "epoch": 1, "stage": "inversion"},
    "after all of warm-up": {"kind": "stage_finished", "epoch": 1, "stage": "evaluation"},
    "after inversion": {"kind": "stage_finished", "epoch": 3, "stage": "inversion"},
    "after the first update": {"kind": "distillation_step", "epoch": 3, "step": 0},
    "after the second update": {"kind": "distillation_step", "epoch": 3, "step": 1},
    "after the last update": {"kind": "distillation_step", "epoch": 3, "step": 2},
    "after distillation": {"kind": "stage_finished", "epoch": 3, "stage": "distillation"},
    "after evaluation": {"kind": "stage_finished", "epoch": 2, "stage": "evaluation"},
    "at the very end": {"kind": "stage_finished", "epoch": 4, "stage": "evaluation"},
}


@pytest.mark.parametrize("moment", SAFE_POINTS.values(), ids=SAFE_POINTS.keys())
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(start, go_on, out: Path, undisturbed: Path, moment) -> None:
    stop = stop_at(out, **moment)
    stopped = start(listeners=[stop])
    assert stop.has_happened
    assert (stopped.summary["status"], stopped.error) == ("stopped", None)
    assert stopped.summary["epochs"] == moment["epoch"] - 1
    assert RunDirectory(out).status() == "stopped"
    assert RunDirectory(out).latest_checkpoint() == RunDirectory(out).checkpoint_file(moment["epoch"])

    resumed = go_on()
    assert (resumed.summary["status"], resumed.summary["epochs"]) == ("done", 4)
    assert_same_outcome(out, undisturbed)
    assert all(check.is_sound for check in verify(RunDirectory(out)))


@pytest.mark.parametrize(
    ("changes", "num_more"),
    [
        (["distillation.views=0"], 0),
        (["distillation.views=2", "distillation.mix=cutmix"], 0),
        (["distillation.ema_decay=0.9", "distillation.optimizer=muon"], 0),
        (["inversion.calls=2"], 3),  # between the calls of each epoch
        ([*PLUS, "distillation.views=3", "distillation.mix=cutmix", "distillation.recalibration_batches=2"], 3),
        (["inversion.overlap=true", "run.threads=2"], 0),
        (["inversion.overlap=true", "run.threads=1", "inversion.calls=2"], 3),
    ],
    ids=str,
)
def test_stopping_at_every_safe_point_in_turn(start, go_on, out: Path, changes: list[str], num_more: int) -> None:
    overrides = ("run.precision=bf16", "run.epochs=3", "evaluation.data=none", "run.eval_every=5", *changes)
    start(*overrides, out=out.with_name("undisturbed"))

    def at_every_safe_point() -> list[At]:
        kinds = ("inversion_step", "stage_finished", "distillation_step")
        return [stop_at(out, kind) for kind in kinds]

    outcome = start(*overrides, listeners=at_every_safe_point())
    num_processes = 1
    while outcome.summary["status"] == "stopped":
        outcome = go_on(*at_every_safe_point())
        num_processes += 1
    # Three stages and, but for warm-up, three updates in each of three epochs, and the end.
    assert num_processes == 16 + num_more
    assert_same_outcome(out, out.with_name("undisturbed"))


def test_stopping_while_the_teacher_looks_at_all_of_warmup(start, go_on, out: Path) -> None:
    overrides = ("run.epochs=3", "run.warmup_epochs=2", "distillation.views=2", "distillation.batch_size=4")
    start(*overrides, out=out.with_name("undisturbed"))
    stop = stop_at(out, "views_judged", epoch=3, done=20)
    assert start(*overrides, listeners=[stop]).summary["status"] == "stopped"
    assert stop.has_happened
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, out.with_name("undisturbed"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_goes_on_to_the_same_bits(start, go_on, out: Path, precision: str) -> None:
    overrides = ("run.acceleration=compile", f"run.precision={precision}")
    moment = SAFE_POINTS["after the second update"]
    torch.compiler.reset()  # as in another process, before each run
    start(*overrides, out=out.with_name("undisturbed"))
    torch.compiler.reset()
    assert start(*overrides, listeners=[stop_at(out, **moment)]).summary["status"] == "stopped"
    torch.compiler.reset()
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, out.with_name("undisturbed"))
    assert warnings(out) == []


KILLS = {
    "before any checkpoint": {"kind": "stage_finished", "epoch": 2, "stage": "inversion"},
    "in the first event": {"kind": "run_started"},
    "in the middle of inversion": {"kind": "inversion_step", "epoch": 3, "step": 0},
    "in the middle of distillation": {"kind": "distillation_step", "epoch": 4, "step": 1},
    "right after a checkpoint": {"kind": "checkpoint_saved", "epoch": 2},
    "right after the last checkpoint": {"kind": "checkpoint_saved", "epoch": 4},
    "right before the last checkpoint": {"kind": "samples", "epoch": 4},
    "when all was done": {"kind": "run_finished"},
}


@pytest.mark.parametrize("moment", KILLS.values(), ids=KILLS.keys())
def test_a_killed_run_goes_on_from_its_last_checkpoint(start, go_on, out: Path, undisturbed: Path, moment) -> None:
    with pytest.raises(KilledError):
        start(listeners=[At(action=kill, **moment)])
    if moment["kind"] == "run_finished":
        assert RunDirectory(out).status() == "done"
    else:
        assert RunDirectory(out).status() == "dead"
    checkpoint = RunDirectory(out).latest_checkpoint()

    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, undisturbed)
    assert all(check.is_sound for check in verify(RunDirectory(out)))
    told = lines(out)
    assert_rising(told)
    resumptions = [event for event in told if event["kind"] == "run_resumed"]
    assert len(resumptions) == (moment["kind"] != "run_finished")
    for resumed in resumptions:
        saved = [
            event["seq"] for event in told if event["kind"] == "checkpoint_saved" and event["seq"] < resumed["seq"]
        ]
        assert resumed["checkpoint_seq"] == (0 if checkpoint is None else saved[-1])
        assert resumed["checkpoint"] == ("" if checkpoint is None else f"checkpoints/{checkpoint.name}")
        assert resumed["epoch"] == (0 if checkpoint is None else int(checkpoint.stem[-6:]))
    # What still holds is what the undisturbed run told.
    holding = [(event["kind"], event["epoch"]) for event in events(out) if event["kind"] != "run_resumed"]
    assert holding == [(event["kind"], event["epoch"]) for event in events(undisturbed)]


def assert_rising(told: list[dict[str, Any]]) -> None:
    seqs = [event["seq"] for event in told]
    assert seqs == sorted(set(seqs))


@pytest.mark.parametrize("is_whole", [False, True])
@pytest.mark.parametrize("moment", [{"kind": "run_started"}, {"kind": "checkpoint_saved", "epoch": 2}])
def test_a_torn_last_line_is_no_event(start, go_on, out: Path, undisturbed: Path, moment, is_whole: bool) -> None:
    with pytest.raises(KilledError):
        start(listeners=[At(action=kill, **moment)])
    next_event = lines(out)[-1] | {"kind": "device", "seq": len(lines(out)), "seconds": {}}
    text = json.dumps(next_event)
    with (out / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(text if is_whole else text[:-9])  # nothing but the newline is missing, or more
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, undisturbed)
    assert all(check.is_sound for check in verify(RunDirectory(out)))
    if not is_whole:
        content = (out / "events.jsonl").read_text(encoding="utf-8")
        (out / "events.jsonl").write_text(content.replace(text[:-9] + "\n", ""), encoding="utf-8")
    assert_rising(lines(out))


@pytest.mark.parametrize("content", [b"", b'{"schema":1,"kind":"run_st'])
def test_a_run_that_had_not_said_anything_begins_anew(start, go_on, out: Path, undisturbed: Path, content) -> None:
    with pytest.raises(KilledError):
        start(listeners=[At("run_started", kill)])
    (out / "events.jsonl").write_bytes(content)
    go_on()
    assert [event["kind"] for event in lines(out)] == [event["kind"] for event in lines(undisturbed)]


@pytest.mark.parametrize("nth", range(1, 7))
def test_killed_while_the_last_files_are_written(
    start, go_on, out: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """Buffer, picture, student, hold-out, checkpoint: the run is not done before they all are."""
    names: list[str] = []

    def write(path: Path, data: bytes) -> None:
        if last_epoch.has_happened:
            names.append(path.name)
            if len(names) == nth:
                raise KilledError
        real_write(path, data)

    last_epoch = At("device", lambda: None, epoch=4)
    from stages.files.atomic_file import write_atomically as real_write

    for module in ("recorder", "checkpoint", "buffer.file", "files.tensor_digest"):
        monkeypatch.setattr(f"stages.{module}.write_atomically", write)
    if nth == 6:
        start(listeners=[last_epoch])
        assert names[-1] == "epoch-000004.safetensors"
        assert len(names) == 5, "as many as there are cases to this test"
        return
    with pytest.raises(KilledError):
        start(listeners=[last_epoch])
    monkeypatch.undo()
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, undisturbed)


def test_a_resumed_run_remembers_its_results_and_its_best_student(start, go_on, out: Path) -> None:
    overrides = ("evaluation.select_best=true", "run.eval_every=1")
    undisturbed = start(*overrides, out=out.with_name("undisturbed")).summary
    start(*overrides, listeners=[stop_at(out, epoch=4, stage="distillation")])
    summary = go_on().summary
    name = "student-best.safetensors"
    assert (out / name).read_bytes() == (out.with_name("undisturbed") / name).read_bytes()
    assert (summary["images_synthesized"], summary["buffer_size"]) == (64, 40)
    for role in ("teacher", "student"):
        assert list(summary[role].items()) == list(undisturbed[role].items())  # in the same order, too


def test_other_real_data_is_measured_anew(start, go_on, out: Path) -> None:
    overrides = ("evaluation.select_best=true", "run.eval_every=1")
    stopped = start(*overrides, listeners=[stop_at(out, epoch=4, stage="inversion")])
    assert stopped.summary["teacher"]["num_samples"] == stopped.summary["student"]["num_samples"] == 364
    config = out / "config.toml"
    config.write_text(config.read_text().replace('split = "test"', 'split = "train"'))
    summary = go_on().summary
    assert summary["teacher"]["num_samples"] == summary["student"]["num_samples"] == 1433
    with safe_open(out / "student-best.safetensors", "pt") as file:
        assert file.metadata()["epoch"] == "4", "of the earlier ones it is not known how they do on this data"


def test_a_resumed_run_lets_go_of_what_it_loaded(start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is as large as the buffer."""

    class State(dict):
        """Unlike a plain dictionary, one that tells when it is gone."""

    states: list[weakref.ref[State]] = []

    def load(path: Path) -> State:
        state = State(load_checkpoint(path))
        states.append(weakref.ref(state))
        return state

    def look() -> None:
        gc.collect()
        assert [state() for state in states] == [None]

    start(listeners=[stop_at(out, epoch=2)])
    monkeypatch.setattr("stages.trainer.load_checkpoint", load)
    first_stage = At("stage_started", look)
    assert go_on(first_stage).summary["status"] == "done"
    assert first_stage.has_happened


def look_at_the_clock_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still but for looks at it, so equal runs take equal time."""
    now_s = itertools.count()
    monkeypatch.setattr("stages.recorder.Accounts", lambda: Accounts(lambda: float(next(now_s))))


def test_seconds_go_on_from_the_checkpoint(start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done after the checkpoint is lost, and counts for nothing."""
    look_at_the_clock_for_a_second(monkeypatch)
    start(out=out.with_name("undisturbed"))
    with pytest.raises(KilledError):
        start(listeners=[At("distillation_step", kill, epoch=4)])
    assert [event["epoch"] for event in events(out, "device")] == [1, 2, 3], "more than there is at the checkpoint"
    seconds = go_on().summary["seconds"]
    saved, *resumed = [event["seconds"] for event in events(out, "device") if event["epoch"] > 1]
    undisturbed = [event["seconds"] for event in events(out.with_name("undisturbed"), "device") if event["epoch"] > 2]
    for name in ("inversion", "distillation", "evaluation"):
        assert saved[name] > 0
        assert [each[name] for each in resumed] == [each[name] for each in undisturbed]
    assert saved["total"] < resumed[0]["total"] < resumed[1]["total"] < seconds["total"]


def test_images_per_second_after_a_resumption_are_those_of_this_process(
    start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_at_the_clock_for_a_second(monkeypatch)
    start(out=out.with_name("undisturbed"))
    with pytest.raises(KilledError):
        start(listeners=[At("distillation_step", kill, epoch=3)])
    go_on()
    speeds = [
        [event["images_per_s"] for event in events(path, "device") if event["epoch"] > 2]
        for path in (out, out.with_name("undisturbed"))
    ]
    assert speeds[0] == speeds[1]
    assert len(speeds[0]) == 2
    assert None not in speeds[0]


def test_warnings_are_told_by_every_process(start, go_on, out: Path) -> None:
    overrides = ("evaluation.data=imagefolder", "evaluation.root=nowhere")
    with pytest.raises(KilledError):
        start(*overrides, listeners=[At("inversion_step", kill)])
    go_on()
    assert len([event for event in warnings(out) if "nowhere" in event["message"]]) == 1
    assert len([event for event in lines(out) if "nowhere" in event.get("message", "")]) == 2


def test_without_its_real_data_a_resumed_run_does_not_pass_off_an_earlier_result(
    start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start("run.eval_every=1", listeners=[stop_at(out, epoch=3, stage="evaluation")])
    monkeypatch.setattr("stages.planning.plan._evaluation_data", lambda *_: (None, ()))
    assert RunDirectory(out).summary()["student"] is not None
    summary = go_on().summary
    assert summary["status"] == "done"
    assert summary["student"] is None


def test_a_finished_run_gives_its_summary_at_once(start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished = start()
    before = (out / "events.jsonl").read_bytes()
    monkeypatch.setattr("stages.resumption.plan", None)  # nothing is loaded for it
    again = go_on()
    assert again.summary == json.loads(json.dumps(finished.summary))
    assert again.error is None
    assert (out / "events.jsonl").read_bytes() == before


@pytest.mark.parametrize("is_missing", [True, False], ids=["missing", "cut short"])
def test_a_finished_run_writes_lost_files_again(start, go_on, out: Path, undisturbed: Path, is_missing: bool) -> None:
    summary = start().summary
    for path in (RunDirectory(out).student_file, RunDirectory(out).buffer_file):
        content = path.read_bytes()
        path.unlink()
        if not is_missing:
            path.write_bytes(content[:-100])
    assert not all(check.is_sound for check in verify(RunDirectory(out)))
    again = go_on().summary
    assert all(check.is_sound for check in verify(RunDirectory(out)))
    assert_same_outcome(out, undisturbed)
    assert {name: again[name] for name in ("status", "epochs", "student")} == {
        name: summary[name] for name in ("status", "epochs", "student")
    }


@pytest.mark.parametrize("name", ["student-best.safetensors", "holdout.safetensors"])
def test_every_file_of_a_finished_run_is_missed(start, go_on, out: Path, name: str) -> None:
    start("evaluation.select_best=true", "run.eval_every=1")
    content = (out / name).read_bytes()
    (out / name).unlink()
    assert [check.file for check in verify(RunDirectory(out)) if not check.is_sound] == [name]
    go_on()
    assert (out / name).read_bytes() == content


def test_a_repair_that_was_cut_off_is_gone_on_with(start, go_on, out: Path) -> None:
    start()
    student = RunDirectory(out).student_file
    student.unlink()
    with pytest.raises(KilledError):
        go_on(At("run_resumed", kill))
    assert RunDirectory(out).status() == "dead"
    assert go_on().summary["status"] == "done"
    assert student.is_file()


def test_lost_files_and_no_checkpoint(start, go_on, out: Path) -> None:
    start()
    for path in (RunDirectory(out).student_file, *RunDirectory(out).checkpoints()):
        path.unlink()
    with pytest.raises(FileError, match="there is no checkpoint to write them from"):
        go_on()


def test_one_process_at_a_time(start, go_on, out: Path) -> None:
    refusals: list[str] = []

    def go_on_too() -> None:
        with pytest.raises(ConfigError, match="is being written by process") as refusal:
            go_on()
        refusals.append(refusal.value.message)

    assert start(listeners=[At("inversion_step", go_on_too)]).summary["status"] == "done"
    assert len(refusals) == 1
    assert [event["kind"] for event in lines(out)].count("run_resumed") == 0


@pytest.fixture
def stopped(start, out: Path) -> Path:
    """A run that was stopped in its third epoch."""
    start(listeners=[stop_at(out, epoch=3)])
    return out


def test_another_teacher_is_refused(tmp_path: Path, start, out: Path, go_on) -> None:
    mine = make_teacher_file(tmp_path / "mine.safetensors")
    start(f"teacher.weights={mine}", listeners=[stop_at(out, epoch=3)])
    content = mine.read_bytes()
    make_teacher_file(mine, seed=1)
    with pytest.raises(FileError, match=r"mine\.safetensors is not the file that this run began with"):
        go_on()
    mine.write_bytes(content)
    assert go_on().summary["status"] == "done"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.toml", None, r"no such file: .*config\.toml"),
        ("manifest.json", None, "manifest.json is missing or damaged"),
        ("manifest.json", b"{", "manifest.json is missing or damaged$"),
        ("manifest.json", b'{"command":"run","settings":[]}', "damaged: see its preset, automatic, .*, settings,"),
        ("checkpoints/epoch-000003.safetensors", b"", "is damaged"),
        ("checkpoints/epoch-000003.safetensors", b"not a checkpoint", "is damaged"),
    ],
)
def test_damaged_files_are_named(stopped: Path, name: str, content: bytes | None, message: str) -> None:
    path = stopped / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FileError, match=message):
        resume(stopped)
    assert RunDirectory(stopped).status() == "stopped", "it is left as it was"


def test_without_its_damaged_checkpoint_a_run_goes_on_from_the_one_before(stopped: Path, undisturbed: Path) -> None:
    (stopped / "checkpoints/epoch-000003.safetensors").unlink()
    assert resume(stopped).summary["status"] == "done"
    assert tensor_files(stopped) == tensor_files(undisturbed)


def test_settings_that_were_changed_meanwhile_are_refused(stopped: Path) -> None:
    config, manifest = stopped / "config.toml", stopped / "manifest.json"
    for old, new, told in (
        ("latent_dim = 8", "latent_dim = 9", "`inversion.latent_dim` is 9 and was 8"),
        ("capacity = 40", "capacity = 80", "`buffer.capacity` is 80 and was 40"),
        ("lr = 0.2\n", "", "`distillation.lr` is not there and was 0.2"),
        ("horizontal_flip = false", "horizontal_flip = true", "`task.horizontal_flip` is true and was false"),
    ):
        text = config.read_text()
        assert old in text
        config.write_text(text.replace(old, new))
        with pytest.raises(FileError, match=f"config.toml was changed since the run began: {told}$") as refusal:
            resume(stopped)
        assert "only these may differ: teacher.*, student.model," in (refusal.value.hint or "")
        config.write_text(text)
    # Where the settings that the run began with were changed, too.
    manifest.write_text(manifest.read_text().replace('latent_dim": 8', 'latent_dim": 9'))
    config.write_text(config.read_text().replace("latent_dim = 8", "latent_dim = 9"))
    with pytest.raises(FileError, match=r"does not fit the settings") as refusal:
        resume(stopped)
    assert f"`ssdkd run --preset {config}` starts a new run" in (refusal.value.hint or "")


def test_other_code_of_a_network_is_told(start, out: Path, tmp_path: Path) -> None:
    """Its names and shapes fit, and nothing else would show it."""
    network = tmp_path / "net.py"
    network.write_text(NETWORKS.read_text())
    start(f"student.model={network}:student", listeners=[stop_at(out, epoch=3)])
    network.write_text(NETWORKS.read_text() + "\n# another activation, say\n")
    assert resume(out).summary["status"] == "done"
    (told,) = (event["message"] for event in warnings(out) if "another file" in event["message"])
    assert told == "this run began with another file as `student.model`, and goes on with what is in it now"


def test_that_a_run_diverged_is_told_when_it_goes_on(start, go_on, out: Path) -> None:
    def diverge() -> None:
        raise DivergedError("it is lost")

    broken = At("stage_started", diverge, epoch=3)
    assert start(listeners=[broken]).summary["status"] == "diverged"
    go_on()
    (told,) = (event["message"] for event in warnings(out) if "diverged" in event["message"])
    assert "does so again" in told
    assert f"`ssdkd run --preset {out}/config.toml` starts a new run" in told


@pytest.mark.parametrize("header", ["", "resolved = false\n"])
def test_what_stands_above_the_settings_is_none_of_them(stopped: Path, undisturbed: Path, header: str) -> None:
    """A run made before there was such a word has none."""
    config = stopped / "config.toml"
    text = config.read_text()
    assert text.count("resolved = true\n") == 1
    config.write_text(text.replace("resolved = true\n", header))
    assert resume(stopped).summary["status"] == "done"
    assert tensor_files(stopped) == tensor_files(undisturbed)


def test_what_does_not_change_the_run_may_be_changed(stopped: Path, undisturbed: Path) -> None:
    config = stopped / "config.toml"
    text = config.read_text()
    assert "log_every = 1" in text
    config.write_text(text.replace("log_every = 1", "log_every = 7"))
    assert resume(stopped).summary["status"] == "done"
    assert (stopped / "student.safetensors").read_bytes() == (undisturbed / "student.safetensors").read_bytes()


def test_a_run_goes_on_where_it_was_unless_told_otherwise(stopped: Path, undisturbed: Path) -> None:
    config = stopped / "config.toml"
    config.write_text(config.read_text().replace('device = "cpu"', 'device = "cuda:99"'))
    with pytest.raises(MachineError, match="cuda:99"):
        resume(stopped)
    assert resume(stopped, device="auto").summary["status"] == "done"
    if not torch.cuda.is_available():
        assert (stopped / "student.safetensors").read_bytes() == (undisturbed / "student.safetensors").read_bytes()


@pytest.mark.parametrize("is_named_since", [False, True])
def test_a_run_that_was_moved_stays_where_it_is(stopped: Path, is_named_since: bool) -> None:
    """From the device it began on to another by `--device`; to a third by its settings."""
    config, log = stopped / "config.toml", stopped / "events.jsonl"
    config.write_text(config.read_text().replace('device = "cpu"', 'device = "cuda:98"'))
    log.write_text(log.read_text().replace('"device":"cpu"', '"device":"cuda:98"'))
    asked = stop_at(stopped, epoch=3)
    assert resume(stopped, device="cpu", listeners=[asked]).summary["status"] == "stopped"
    if is_named_since:
        config.write_text(config.read_text().replace("cuda:98", "cuda:99"))
        with pytest.raises(MachineError, match="cuda:99"):
            resume(stopped)
    else:
        assert resume(stopped).summary["device"] == "cpu"


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(stopped: Path) -> None:
    student = (stopped / "student.safetensors").read_bytes()
    for path in (stopped / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(FileError, match=r"checkpoints of .* are gone") as refusal:
        resume(stopped)
    assert f"`ssdkd run --preset {stopped / 'config.toml'}` starts a new run" in (refusal.value.hint or "")
    assert (stopped / "student.safetensors").read_bytes() == student


def test_a_teacher_that_was_moved_is_named_in_the_settings(stopped: Path, teacher_file: Path, tmp_path: Path) -> None:
    config = stopped / "config.toml"
    config.write_text(config.read_text().replace(str(teacher_file), str(tmp_path / "gone.safetensors")))
    with pytest.raises(FileError, match=r"gone\.safetensors does not exist") as refusal:
        resume(stopped)
    assert f"{config}, `teacher.weights`" in (refusal.value.hint or "")
    assert str(teacher_file) in (refusal.value.hint or "")
    shutil.copy(teacher_file, tmp_path / "gone.safetensors")
    assert resume(stopped).summary["status"] == "done"


def test_a_teacher_that_the_cache_has_lost_is_named_in_the_settings(stopped: Path, teacher_file: Path) -> None:
    config = stopped / "config.toml"
    text = config.read_text()
    config.write_text(text.replace(f'weights = "{teacher_file}"', 'weights = "auto"'))
    with pytest.raises(FileError) as refusal:
        resume(stopped)
    assert f"{config}, `teacher.weights`" in (refusal.value.hint or "")
    assert str(teacher_file) in (refusal.value.hint or "")


def test_what_a_killed_process_was_writing_makes_room_first(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torn = stopped / "checkpoints/.epoch-000004.safetensors.7.tmp"
    torn.write_bytes(b"half of it")

    def look(_folder: Path) -> SimpleNamespace:
        return SimpleNamespace(free=2**20 if torn.exists() else 2**40)

    monkeypatch.setattr("stages.planning.footprint.shutil.disk_usage", look)
    assert resume(stopped).summary["status"] == "done"


def test_other_versions_are_told(stopped: Path) -> None:
    manifest = stopped / "manifest.json"
    document = json.loads(manifest.read_text())
    now = document["versions"]["torch"]
    document["versions"]["torch"] = "1.0"
    document["git_revision"] = "another commit"
    manifest.write_text(json.dumps(document))
    resume(stopped)
    assert any(f"torch 1.0 -> {now}" in event["message"] for event in warnings(stopped))
    assert any("code another commit -> " in event["message"] for event in warnings(stopped))


@pytest.mark.parametrize("asked", ["auto", "fp32"])
def test_a_precision_that_does_not_suit_the_device_it_goes_on_with(
    start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    start(f"run.precision={asked}", listeners=[stop_at(out, epoch=3)])
    monkeypatch.setattr("stages.resumption.resolve_precision", lambda _wanted, _device: "fp8")
    assert go_on().summary["status"] == "done"
    told = [event["message"] for event in warnings(out) if "goes on in" in event["message"]]
    assert len(told) == (asked == "auto"), "what somebody chose is their own"
    assert all("auto is fp8 on cpu" in message and "--set run.precision=auto" in message for message in told)


def test_events_that_are_lost_begin_anew_with_the_runs_beginning(stopped: Path, undisturbed: Path) -> None:
    (stopped / "events.jsonl").unlink()
    assert resume(stopped).summary["status"] == "done"
    assert tensor_files(stopped) == tensor_files(undisturbed)
    first, second, *_ = lines(stopped)
    assert (first["kind"], first["epoch"], second["kind"]) == ("run_started", 0, "run_resumed")
    assert second["seq"] == second["checkpoint_seq"] + 1
    assert all(check.is_sound for check in verify(RunDirectory(stopped)))


@pytest.mark.parametrize("num_left", [0, 1, 9])
def test_what_is_told_after_events_were_lost_is_superseded_as_ever(stopped: Path, undisturbed: Path, num_left) -> None:
    """The log has fewer lines than the checkpoint knows of; what a killed process adds to them holds no longer."""
    log = stopped / "events.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:num_left]))
    with pytest.raises(KilledError):
        resume(stopped, listeners=[At("distillation_step", kill, nth=2)])
    assert resume(stopped).summary["status"] == "done"
    told = [(event["kind"], event["epoch"]) for event in events(stopped) if event["kind"] != "run_resumed"]
    whole = [(event["kind"], event["epoch"]) for event in events(undisturbed)]
    num_known = max(num_left, 1)  # with all lines lost, the first is written again
    assert told[:num_known] == whole[:num_known]
    assert told[num_known:] == whole[-len(told) + num_known :]
    assert [kind for kind, _ in told].count("distillation_step") == 6, "in the epoch it was stopped in, and the last"


def test_an_event_that_did_not_fit_leaves_no_hole(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes a part of a line and refuses the rest; the next line begins where that one did."""
    write, is_full = os.write, [False]

    def write_some(descriptor: int, data: bytes) -> int:
        if not is_full[0] and b'"kind":"samples"' in data[:60]:
            is_full[0] = True
            return write(descriptor, data[:10])
        if is_full[0] and not data.startswith(b"{"):
            raise OSError(errno.ENOSPC, "no space left on device")
        return write(descriptor, data)

    monkeypatch.setattr("stages.events.os.write", write_some)
    assert start().summary["status"] == "failed"
    assert is_full[0]
    assert RunDirectory(out).status() == "failed"


def test_a_resumed_run_tells_the_metric_that_people_quote_first(start, go_on, out: Path) -> None:
    start(listeners=[stop_at(out, "checkpoint_saved", epoch=2)])
    summary = go_on(stop_at(out, epoch=3)).summary
    assert summary["status"] == "stopped"
    assert next(iter(summary["student"])) == next(iter(summary["teacher"])) == "top1"
