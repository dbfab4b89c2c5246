"""Runs that do not end well say so: in the summary, in the events, and by the error that ended them."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from run_outputs import At, ask, assert_same_outcome, events, lines, stop_at, tensor_files, warnings
from tiny_runs import NETWORKS, untrained

from ssdkd_cli import progress
from stages import api
from stages import events as events_module
from stages.errors import ConfigError, DivergedError, MachineError, StorageError
from stages.run_directory import RunDirectory
from stages.run_directory.verification import verify
from stages.stage import Stage
from stages.trainer import Outcome, resume

SUMMARY = {
    *("run", "status", "epochs", "seconds", "images_synthesized", "buffer_size"),
    *("teacher", "student", "agreement", "agreement_by_chance", "ece", "device"),
}
METRICS = {"top1", "top5", "loss", "num_samples"}


def test_summary_is_the_contract(start, out: Path) -> None:
    outcome = start()
    summary = outcome.summary
    assert set(summary) == SUMMARY
    assert set(summary["seconds"]) == {"total", "inversion", "distillation", "evaluation"}
    assert sum(summary["seconds"].values()) <= 2 * summary["seconds"]["total"]
    assert (summary["run"], summary["status"], summary["epochs"]) == (str(out), "done", 4)
    assert (summary["images_synthesized"], summary["buffer_size"], summary["device"]) == (64, 40, "cpu")
    assert set(summary["teacher"]) == set(summary["student"]) == METRICS
    assert 0 <= summary["agreement"] <= 1
    finished = lines(out)[-1]
    assert (finished["kind"], finished["status"], finished["summary"]) == ("run_finished", "done", summary)
    last = events(out, "evaluation")[-1]
    assert last["real"] == {"student": summary["student"], "teacher": summary["teacher"]}
    assert last["synthetic"] == {name: summary[name] for name in ("agreement", "agreement_by_chance", "ece")}


def assert_ended(outcome: Outcome, status: str, error: type[Exception]) -> None:
    assert set(outcome.summary) == SUMMARY
    assert outcome.summary["status"] == status
    assert isinstance(outcome.error, error)
    finished = lines(outcome.run_directory)[-1]
    assert (finished["kind"], finished["status"]) == ("run_finished", status)
    assert finished["message"] == outcome.error.message
    assert RunDirectory(outcome.run_directory).status() == status


def test_nan_ends_the_run(start, out: Path) -> None:
    outcome = start("distillation.lr=1e30", "distillation.lr_min=1e30")
    assert_ended(outcome, "diverged", DivergedError)
    assert outcome.summary["epochs"] < 4
    losses = [event["loss"] for event in lines(out) if event["kind"] == "distillation_step"]
    assert losses[-1] is None, "null: NaN is not JSON"


def test_a_student_that_is_lost_in_its_very_last_step_is_not_kept(start, go_on, out: Path, undisturbed: Path) -> None:
    """No loss shows it any more: the good files of the last checkpoint stay."""
    student: list[torch.nn.Module] = []

    def lose_student() -> None:
        with torch.no_grad():
            student[0].linear.bias[3] = torch.inf

    from stages.pipeline import Pipeline

    real_init = Pipeline.__init__

    def remember(self, run, *arguments):
        student.append(run.student.model)
        real_init(self, run, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "__init__", remember)
        outcome = start(
            "evaluation.data=none", listeners=[At("stage_finished", lose_student, epoch=4, stage="distillation")]
        )
    assert_ended(outcome, "diverged", DivergedError)
    assert all(check.is_sound for check in verify(RunDirectory(out)))
    assert RunDirectory(out).latest_checkpoint() == RunDirectory(out).checkpoint_file(2)
    assert go_on().summary["status"] == "done"
    assert tensor_files(out)["student.safetensors"] == tensor_files(undisturbed)["student.safetensors"]


def test_a_loss_that_was_lost_just_before_a_stop_is_not_saved(start, go_on, out: Path) -> None:
    """No report of the step it was lost in was due, and its update was left out: nothing else shows it."""
    looks = itertools.count()

    def lose_once_and_stop(student: torch.nn.Module, _inputs: object, logits_BK: torch.Tensor) -> torch.Tensor:
        if student.training and next(looks) == 4:  # the second of three updates in epoch 3
            ask(out, "stop")
            return logits_BK * torch.nan
        return logits_BK

    from stages.pipeline import Pipeline

    real_init = Pipeline.__init__

    def hook(self, run, *arguments):
        run.student.register_forward_hook(lose_once_and_stop)
        real_init(self, run, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "__init__", hook)
        assert_ended(start("run.log_every=100"), "diverged", DivergedError)
    assert RunDirectory(out).latest_checkpoint() == RunDirectory(out).checkpoint_file(2)
    assert go_on().summary["status"] == "done"


def test_collapse_ends_the_run_and_can_be_looked_at(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.inversion.stage._LEAST_THAT_VARY", 1)
    outcome = start("inversion.batch_size=1", "evaluation.num_holdout=0")
    assert_ended(outcome, "diverged", DivergedError)
    assert outcome.error is not None
    assert "collapsed" in outcome.error.message
    assert outcome.summary["epochs"] == 0, "in the first epoch, before anything is saved"
    (told,) = (event for event in lines(out) if event["kind"] == "samples")
    assert len({tile["class"] for tile in told["tiles"]}) == 1
    assert (out / told["picture"]).read_bytes().startswith(b"\x89PNG")


def test_classes_without_an_image_after_warm_up_are_told(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(out=out.with_name("too few to tell"))
    assert [event for event in warnings(out.with_name("too few to tell")) if "no image" in event["message"]] == []
    monkeypatch.setattr("stages.inversion.stage._LEAST_OF_A_CLASS", 1)
    assert start().summary["status"] == "done"
    (told,) = (event for event in warnings(out) if "no image" in event["message"])
    counts = events(out, "buffer_state")[0]["class_counts"]
    missing = [str(index) for index, count in enumerate(counts) if count == 0]
    assert told["epoch"] == 1
    assert f"no image of {len(missing)} of 10 classes ({', '.join(missing[:5])}" in told["message"]
    assert "inversion.targets=balanced" in told["hint"]


def test_a_class_that_fills_the_buffer_is_told(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.inversion.stage._LEAST_OF_A_CLASS", 1)
    monkeypatch.setattr("stages.inversion.stage._TOO_MUCH_OF_A_CLASS", 0.05)
    assert start().summary["status"] == "done"
    counts = events(out, "buffer_state")[0]["class_counts"]
    said = f"{max(counts) / sum(counts):.0%} of the buffer is of class {counts.index(max(counts))} to the teacher"
    assert [event["epoch"] for event in warnings(out) if said in event["message"]] == [1]


def test_a_request_for_a_checkpoint_hides_no_collapse(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that saves is the first to notice it: the run ends with it all the same, and the request is answered."""
    monkeypatch.setattr("stages.inversion.stage._LEAST_THAT_VARY", 1)

    def ask_twice() -> None:
        ask(out, "checkpoint", "one")
        ask(out, "pause", "another")

    asked = At("stage_finished", ask_twice, epoch=1, stage="inversion")
    outcome = start("inversion.batch_size=1", "evaluation.num_holdout=0", listeners=[asked])
    assert_ended(outcome, "diverged", DivergedError)
    assert outcome.summary["epochs"] == 0
    answers = events(out, "control_acknowledged")
    assert [(answer["id"], answer["accepted"]) for answer in answers] == [("one", False), ("another", False)]
    assert "collapsed" in answers[0]["message"]
    assert answers[1]["message"] == "the run is over"


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A disk that can be filled and freed; the event log is on it, too, if asked for."""
    disk = SimpleNamespace(is_full=False, has_log=False)
    real_fsync, real_write = os.fsync, os.write

    def fsync(descriptor: int) -> None:
        if disk.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real_fsync(descriptor)

    def write(descriptor: int, data: bytes) -> int:
        if disk.is_full and disk.has_log:
            if len(data) > 10:
                return real_write(descriptor, data[:10])  # a part of the line still fits
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, data)

    system = SimpleNamespace(fstat=os.fstat, ftruncate=os.ftruncate, write=write)
    monkeypatch.setattr("stages.files.atomic_file.os.fsync", fsync)
    monkeypatch.setattr(events_module, "os", system)
    return disk


def fill(disk: SimpleNamespace, **settings: bool) -> None:
    vars(disk).update(is_full=True, **settings)


def test_a_checkpoint_that_somebody_asks_for_does_not_end_a_run(start, out: Path, undisturbed: Path, full_disk) -> None:
    """The state is whole in memory, and the disk may have space again when the run would save anyway."""

    def ask_on_a_full_disk() -> None:
        fill(full_disk)
        ask(out, "checkpoint")

    answered = At("control_acknowledged", lambda: vars(full_disk).update(is_full=False))
    started = At("stage_started", ask_on_a_full_disk, epoch=2, stage="inversion")
    assert start("run.checkpoint_every=1000", listeners=[started, answered]).summary["status"] == "done"
    (answer,) = events(out, "control_acknowledged")
    assert not answer["accepted"]
    assert "no space" in answer["message"]
    assert_same_outcome(out, undisturbed)


def test_folders_that_somebody_deletes_are_made_again(start, out: Path, undisturbed: Path) -> None:
    def delete() -> None:
        for folder in ("checkpoints", "samples"):
            shutil.rmtree(out / folder)

    deleted = At("stage_started", delete, epoch=3)
    assert start(listeners=[deleted]).summary["status"] == "done"
    assert deleted.has_happened
    assert_same_outcome(out, undisturbed)
    assert RunDirectory(out).latest_checkpoint() is not None


def test_a_run_that_is_moved_away_says_so(start, out: Path) -> None:
    moved = At("stage_started", lambda: out.rename(out.with_name("elsewhere")), epoch=3)
    error = start(listeners=[moved]).error
    assert isinstance(error, StorageError)
    assert "is gone: moved, or deleted" in error.message
    assert resume(out.with_name("elsewhere")).summary["status"] == "done"


def test_disk_full_at_a_checkpoint(start, go_on, out: Path, undisturbed: Path, full_disk) -> None:
    outcome = start(listeners=[At("device", lambda: fill(full_disk), epoch=4)])
    assert_ended(outcome, "failed", StorageError)
    way_on = f"free some space, then `ssdkd run --resume {out}` goes on from the last checkpoint"
    assert lines(out)[-1]["hint"] == way_on
    assert not list(out.rglob("*.tmp"))
    assert all(check.is_sound for check in verify(RunDirectory(out)))
    full_disk.is_full = False
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, undisturbed)


def test_disk_full_while_a_stopped_run_is_saved(start, out: Path, full_disk) -> None:
    filled = At("control_acknowledged", lambda: fill(full_disk))
    outcome = start(listeners=[stop_at(out, "distillation_step", epoch=3), filled])
    assert_ended(outcome, "failed", StorageError)


def test_disk_full_under_the_log(start, go_on, out: Path, undisturbed: Path, full_disk) -> None:
    outcome = start(listeners=[At("distillation_step", lambda: fill(full_disk, has_log=True), epoch=3)])
    assert (outcome.summary["status"], type(outcome.error)) == ("failed", StorageError)
    assert "events.jsonl" in outcome.error.message
    assert f"--resume {out}`" in (outcome.error.hint or "")
    assert lines(out)[-1]["kind"] == "distillation_step", "no torn line is left, and no farewell could be written"
    full_disk.is_full = False
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, undisturbed)
    assert all(check.is_sound for check in verify(RunDirectory(out)))


def test_disk_full_at_the_last_word(start, out: Path, full_disk) -> None:
    outcome = start(listeners=[At("checkpoint_saved", lambda: fill(full_disk, has_log=True), epoch=4)])
    assert (outcome.summary["status"], type(outcome.error)) == ("done", StorageError)


@pytest.mark.parametrize("has_log", [True, False])
def test_disk_full_before_the_first_step(start, out: Path, full_disk, has_log: bool) -> None:
    full_disk.has_log = has_log
    if has_log:  # the files of the beginning still fit
        full_disk.is_full = True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("stages.files.atomic_file.os.fsync", lambda _descriptor: None)
            with pytest.raises(MachineError, match=r"events\.jsonl"):
                start()
    else:
        full_disk.is_full = True
        with pytest.raises(MachineError, match="no space left"):
            start()
    assert not out.exists()


def test_a_listener_that_is_gone_does_not_end_the_run(start, undisturbed: Path, out: Path) -> None:
    """Its terminal was closed, or its pipe: the run has nothing to do with that."""
    calls = []

    def show(event: events_module.Event, epoch: int) -> None:
        calls.append(event.kind)
        raise BrokenPipeError

    assert start(listeners=[show]).summary["status"] == "done"
    assert calls == ["run_started"]
    assert_same_outcome(out, undisturbed)


def test_a_reader_that_is_gone_does_not_end_the_run(start, undisturbed: Path, out: Path, monkeypatch) -> None:
    """As with `ssdkd run --no-tui 2>&1 | head -1`, down to the console that writes to the pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8", buffering=1) as pipe:
        monkeypatch.setattr("sys.stderr", pipe)
        monkeypatch.setattr("ssdkd_cli.progress.MIN_SECONDS_BETWEEN_LINES", 0.0)
        with progress.run_display(as_lines=True) as listener:
            assert start(listeners=[listener]).summary["status"] == "done"
        monkeypatch.undo()
        with suppress(BrokenPipeError):
            pipe.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())
    assert_same_outcome(out, undisturbed)


def test_out_of_memory_while_running(start, go_on, out: Path, undisturbed: Path) -> None:
    def run_out() -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    outcome = start(listeners=[At("distillation_step", run_out, epoch=3)])
    assert_ended(outcome, "failed", MachineError)
    assert outcome.error is not None
    assert "batch_size" in (outcome.error.hint or "")
    go_on()
    assert_same_outcome(out, undisturbed)


@pytest.mark.parametrize("error", [ZeroDivisionError("of a metric"), MachineError("their disk is gone")])
def test_an_evaluation_that_fails_loses_nothing_that_was_learned(
    start, go_on, out: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("stages.evaluation.stage.measure", fail)
        outcome = start("run.checkpoint_every=100")
    assert (outcome.summary["status"], type(outcome.error)) == ("failed", type(error))
    epoch = outcome.summary["epochs"] + 1
    assert RunDirectory(out).latest_checkpoint() == RunDirectory(out).checkpoint_file(epoch)
    assert RunDirectory(out).student_file.exists()
    began = len(lines(out))
    go_on()
    assert lines(out)[-1]["status"] == "done"
    again = [event for event in lines(out)[began:] if event["epoch"] == epoch and event["kind"] == "stage_started"]
    assert [event["stage"] for event in again] == ["evaluation"], "what came before is not done again"
    assert_same_outcome(out, undisturbed)


def test_a_picture_that_cannot_be_drawn_is_a_warning(start, out: Path, undisturbed: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise OSError("no such font")

    with monkeypatch.context() as patch:
        patch.setattr("stages.recorder.grid_png", fail)
        outcome = start()
    assert outcome.summary["status"] == "done"
    assert "no picture of epoch 4: OSError: no such font" in [event["message"] for event in warnings(out)]
    assert_same_outcome(out, undisturbed)


def test_a_picture_that_cannot_be_drawn_hides_no_divergence(start, out: Path, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> bytes:
        raise OSError("no such font")

    def diverge() -> None:
        raise DivergedError("the loss is nan", hint="lower a rate")

    monkeypatch.setattr("stages.recorder.grid_png", fail)
    assert_ended(start(listeners=[At("distillation_step", diverge, epoch=3)]), "diverged", DivergedError)
    assert "no picture of epoch 3: OSError: no such font" in [event["message"] for event in warnings(out)]


def test_a_plugins_own_error_ends_the_run(start) -> None:
    def refuse() -> None:
        raise api.ConfigError("I cannot go on", hint="do something")

    assert_ended(start(listeners=[At("distillation_step", refuse, epoch=3)]), "failed", ConfigError)


def test_a_bug_is_handed_on_and_the_log_says_that_the_run_is_over(start, go_on, out: Path, undisturbed: Path) -> None:
    def fail() -> None:
        raise ZeroDivisionError("of a plugin")

    outcome = start(listeners=[At("distillation_step", fail, epoch=3)])
    assert isinstance(outcome.error, ZeroDivisionError)
    assert outcome.summary["status"] == "failed"
    finished = lines(out)[-1]
    assert (finished["status"], finished["message"]) == ("failed", "ZeroDivisionError: of a plugin")
    go_on()
    assert_same_outcome(out, undisturbed)


def test_stages_are_closed_also_where_the_run_is_interrupted(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    closed: list[str] = []
    monkeypatch.setattr(Stage, "close", lambda stage: closed.append(type(stage).__name__))
    for kind in ("distillation_step", "run_started"):
        closed.clear()
        with pytest.raises(KeyboardInterrupt):
            start(out=out.with_name(kind), listeners=[At(kind, interrupt)])
        assert {"Distillation", "EvaluationStage"} <= set(closed)
        assert len(set(closed)) == len(closed)
        assert out.with_name(kind).exists() == (kind == "distillation_step"), "before, there is nothing to go on with"


def test_a_stage_that_cannot_be_closed_is_a_run_that_failed(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_stage: Stage) -> None:
        raise ZeroDivisionError("of a plugin")

    monkeypatch.setattr(Stage, "close", fail)
    assert isinstance(start().error, ZeroDivisionError)
    assert (lines(out)[-1]["kind"], lines(out)[-1]["status"]) == ("run_finished", "failed")


def test_a_teacher_without_batch_norm_runs_with_a_warning(start, out: Path, tmp_path: Path) -> None:
    teacher = untrained("teacher_without_norms", tmp_path)
    outcome = start(*teacher, "inversion.targets=balanced", "inversion.steps=6")
    assert (outcome.summary["status"], outcome.error) == ("done", None)
    (warning,) = warnings(out)
    assert "no batch-norm statistics" in warning["message"]


@pytest.mark.parametrize("overlap", [False, True])
def test_networks_that_keep_features_and_name_inputs_run(start, out: Path, tmp_path: Path, overlap: bool) -> None:
    outcome = start(
        *untrained("keeping", tmp_path),
        f"student.model={NETWORKS}:keeping",
        "inversion.targets=balanced",
        f"inversion.overlap={str(overlap).lower()}",
        "distillation.recalibration_batches=2",
        f"run.threads={2 if overlap else 1}",
    )
    assert (outcome.summary["status"], outcome.error) == ("done", None)
    assert min(event["loss_bn"] for event in events(out, "inversion_step")) > 0
    assert (out / "student.safetensors").is_file()


def test_a_teacher_that_does_not_call_its_batch_norms_runs_with_a_warning(start, out: Path, tmp_path: Path) -> None:
    teacher = (*untrained("reading", tmp_path), "inversion.targets=balanced")
    with pytest.raises(ConfigError, match="gives no batch-norm statistics"):
        start(*teacher, "inversion.task_weight=0", "inversion.adversarial_weight=0")
    assert start(*teacher).summary["status"] == "done"
    (warning,) = warnings(out)
    assert "has batch-norm layers and does not call them" in warning["message"]


def test_networks_that_flatten_by_view_run(start, tmp_path: Path) -> None:
    outcome = start(
        *untrained("viewing", tmp_path),
        f"student.model={NETWORKS}:viewing",
        "inversion.targets=balanced",
        "distillation.ema_decay=0.9",
    )
    assert (outcome.summary["status"], outcome.error) == ("done", None)
