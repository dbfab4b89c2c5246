"""Images of the next epoch, made while the student learns: when, from what, and what becomes of errors."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from operation_tape import OperationTape

from stages import optimizers
from stages.distillation.stage import Distillation
from stages.errors import DivergedError
from stages.events import Event, InversionStep, Warning
from stages.inversion import overlap
from stages.inversion.config import InversionConfig
from stages.inversion.method import Inverted
from stages.inversion.overlap import Overlap
from stages.inversion.stage import Inversion, quantized
from stages.run import Run

WARMUP = 3
LAST = 7
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class StyleStep(InversionStep):
    """With a term of the method's own."""

    loss_style: float = 0.5


class Meeting:
    """A method that notes who called it, and with `student_must_learn` waits until the student has begun to."""

    def __init__(self, config: InversionConfig) -> None:
        self.config = config
        self.student_must_learn: threading.Event | None = None
        self.is_waiting = threading.Event()
        self.error: Exception | None = None
        self.seen: list[tuple[int, int, float, str]] = []

    def setup(self, run: Run) -> None:
        pass

    def invert(self, run: Run) -> Inverted:
        if threading.current_thread() is not threading.main_thread() and self.student_must_learn is not None:
            self.is_waiting.set()
            assert self.student_must_learn.wait(PATIENCE_S)
        bias = run.student.model.linear.bias[0].item()
        assert run.student.model.bn1.running_mean[0].item() == bias, "statistics are brought up to date as weights are"
        self.seen.append((run.epoch, run.call, bias, threading.current_thread().name))
        if self.error is not None and run.epoch == 5:
            raise self.error
        run.emit(StyleStep(step=0, num_steps=1, loss=float(run.epoch), loss_bn=0, loss_task=0, loss_adversarial=0))
        run.num_trained += 1
        num = self.config.batch_size
        images_BCHW = torch.rand(num, *run.config.task.image_shape, generator=run.rng("inversion", "images"))
        return Inverted(images_BCHW, torch.arange(num) % run.task.num_classes)

    def invert_holdout(self, run: Run, num_images: int) -> Inverted:
        images_BCHW = torch.rand(num_images, *run.config.task.image_shape)
        return Inverted(images_BCHW, torch.zeros(num_images, dtype=torch.int64))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@pytest.fixture
def make_stage(make_run, install):
    """A run with two threads, its inversion stage and the stage's method."""
    install("methods", Meeting, "meeting")

    def make(*, inversion: dict[str, Any] | None = None, **settings: Any) -> tuple[Run, Inversion, Meeting]:
        run = make_run(inversion={"method": "meeting", "overlap": True} | (inversion or {}), **settings)
        run.student.model.bn1.running_mean[0] = run.student.model.linear.bias[0].item()
        stage = Inversion(run.config.inversion)
        stage.setup(run)
        stages.append(stage)
        return run, stage, stage._method

    stages: list[Inversion] = []
    torch.set_num_threads(2)
    yield make
    for stage in stages:
        stage.close()


def learn(run: Run) -> None:
    """What distillation would do to the student of this epoch."""
    with torch.no_grad():
        run.student.model.linear.bias[0] = run.epoch
        run.student.model.bn1.running_mean[0] = run.epoch


def run_epochs(run: Run, stage: Inversion) -> None:
    for run.epoch in range(1, LAST + 1):
        stage.run_epoch(run)
        if not run.in_warmup:
            learn(run)


def test_images_of_an_epoch_are_begun_in_the_epoch_before_from_the_student_at_its_start(make_stage) -> None:
    run, stage, method = make_stage()
    run.epoch = 0
    learn(run)
    run_epochs(run, stage)
    assert [(epoch, bias) for epoch, _, bias, _ in method.seen] == [
        (1, 0.0), (2, 0.0), (3, 0.0), (4, 0.0),
        (5, 0.0), (6, 4.0), (7, 5.0),
    ]  # fmt: skip
    names = [name for *_, name in method.seen]
    assert all(name == threading.main_thread().name for name in names[:4])
    assert all(name.startswith("inversion") for name in names[4:])


def test_the_student_learns_while_images_are_made(make_stage) -> None:
    run, stage, method = make_stage()
    for run.epoch in range(1, WARMUP + 1):
        stage.run_epoch(run)
    method.student_must_learn = threading.Event()
    run.epoch = WARMUP + 1
    stage.run_epoch(run)  # returns although the method waits
    assert [epoch for epoch, *_ in method.seen] == [1, 2, 3, 4]
    learn(run)
    method.student_must_learn.set()
    run.epoch += 1
    stage.run_epoch(run)
    assert [epoch for epoch, *_ in method.seen][:5] == [1, 2, 3, 4, 5]
    assert method.seen[4][2] != WARMUP + 1  # not the student that has learnt since


def test_all_images_come_in_the_order_of_epochs_and_are_told_in_the_epoch_they_are_for(make_stage) -> None:
    run, stage, _ = make_stage(inversion={"calls": 2, "warmup_calls": 1})
    told: list[tuple[float, int]] = []
    run.emit = lambda event: told.append((event.loss, run.epoch))
    before = run.num_trained
    for run.epoch in range(1, LAST + 1):
        stage.run_epoch(run)
        newest = run.buffer.column("images")[run.buffer.column("inserted_epoch") == run.epoch]
        calls = 1 if run.in_warmup else 2
        assert len(newest) == 12 * calls
        expected = set()
        for run.call in range(calls):
            images_BCHW = torch.rand(12, *run.config.task.image_shape, generator=run.rng("inversion", "images"))
            expected |= {tuple(image.flatten().tolist()) for image in quantized(images_BCHW)}
        run.call = 0
        assert {tuple(image.flatten().tolist()) for image in newest} == expected
    assert all(loss == epoch for loss, epoch in told)
    assert len(told) == run.num_trained - before == 3 + 4 * 2


@pytest.mark.parametrize("settings", [{"command": "invert"}, {"inversion": {"overlap": False}}])
def test_nothing_is_made_ahead_where_it_is_not_wanted_or_no_student_learns(make_stage, settings) -> None:
    run, stage, method = make_stage(**settings)
    run_epochs(run, stage)
    assert [epoch for epoch, *_ in method.seen] == list(range(1, LAST + 1))
    assert {name for *_, name in method.seen} == {threading.main_thread().name}


def test_what_goes_wrong_while_the_student_learns_is_told_when_the_images_are_wanted(make_stage) -> None:
    run, stage, method = make_stage()
    method.error = DivergedError("not finite", hint="lower a rate")
    for run.epoch in range(1, WARMUP + 2):
        stage.run_epoch(run)
    run.epoch += 1
    with pytest.raises(DivergedError, match="not finite"):
        stage.run_epoch(run)


@pytest.mark.parametrize("failing_epoch", [2, 5])
def test_what_was_told_before_something_went_wrong_is_told_on(make_stage, failing_epoch: int) -> None:
    """In warm-up, at once; and while the student learns."""
    run, stage, method = make_stage()
    told: list[float] = []
    run.emit = lambda event: told.append(event.loss)
    invert = method.invert

    def fail(own: Run) -> Inverted:
        inverted = invert(own)
        if own.epoch == failing_epoch:
            raise DivergedError("not finite", hint="lower a rate")
        return inverted

    method.invert = fail
    with pytest.raises(DivergedError):
        run_epochs(run, stage)
    assert told == [float(epoch) for epoch in range(1, failing_epoch + 1)]


def test_a_warning_of_images_made_ahead_is_told_before_they_are_saved(make_stage) -> None:
    """A run that goes on from there does not make them again, and would not hear it."""
    run, stage, method = make_stage()
    told: list[Event] = []
    run.emit = told.append
    invert = method.invert

    def warn(own: Run) -> Inverted:
        own.emit(Warning(message=f"of epoch {own.epoch}"))
        return invert(own)

    method.invert = warn
    for run.epoch in range(1, WARMUP + 2):
        stage.run_epoch(run)
    state = stage.state_dict()
    assert [event.message for event in told if isinstance(event, Warning)] == [
        f"of epoch {epoch}" for epoch in range(1, WARMUP + 3)
    ]
    assert [event.loss for event in told if isinstance(event, InversionStep)] == [1, 2, 3, 4]
    run.epoch += 1
    stage.run_epoch(run)
    assert [event.message for event in told if isinstance(event, Warning)].count(f"of epoch {WARMUP + 2}") == 1
    assert [said["loss"] for said in state["ahead"]["said"]] == [WARMUP + 2]


def test_a_run_that_ends_leaves_no_thread_behind(make_stage, monkeypatch: pytest.MonkeyPatch) -> None:
    run, stage, method = make_stage(inversion={"calls": 3, "warmup_calls": 1})
    for run.epoch in range(1, WARMUP + 1):
        stage.run_epoch(run)
    method.student_must_learn = threading.Event()
    run.epoch += 1
    stage.run_epoch(run)
    assert method.is_waiting.wait(PATIENCE_S)

    join = stage._overlap._thread.join
    monkeypatch.setattr(stage._overlap._thread, "join", lambda: (method.student_must_learn.set(), join()))
    stage.close()
    assert [thread for thread in threading.enumerate() if thread.name == "inversion"] == []
    assert len([epoch for epoch, *_ in method.seen if epoch == WARMUP + 2]) == 1, "the call at work, and no other"
    assert torch.get_num_threads() == 2


def test_one_thread_serves_all_epochs(make_stage) -> None:
    run, stage, method = make_stage()
    found: list[int] = []
    invert = method.invert
    method.invert = lambda own: (found.append(threading.get_ident()), invert(own))[1]
    run_epochs(run, stage)
    assert len(set(found[WARMUP + 1 :])) == 1
    assert found[-1] != threading.get_ident()


def test_compiled_code_is_made_for_a_number_of_threads(make_stage) -> None:
    run, stage, method = make_stage(run={"acceleration": "compile", "epochs": LAST, "warmup_epochs": WARMUP})
    for run.epoch in range(1, WARMUP + 2):
        stage.run_epoch(run)
        assert torch.get_num_threads() == 2
    assert [epoch for epoch, *_ in method.seen] == [1, 2, 3, 4, 5]
    assert {name for *_, name in method.seen} == {threading.main_thread().name}


def test_images_that_were_made_ahead_are_part_of_the_state(make_stage) -> None:
    run, stage, method = make_stage()
    for run.epoch in range(1, WARMUP + 2):
        stage.run_epoch(run)
    state = stage.state_dict()  # while the method may be at work
    assert [epoch for epoch, *_ in method.seen] == [1, 2, 3, 4, 5]

    torch.set_num_threads(2)  # as in another process
    again, other_stage, other_method = make_stage(epoch=WARMUP + 1)
    other_stage.load_state_dict(state)
    assert torch.get_num_threads() == 1, "as in the undisturbed run: sums depend on it"
    again.epoch += 1
    told = []
    again.emit = told.append
    before = again.num_trained
    other_stage.run_epoch(again)
    assert again.num_trained == before + 1, "what was trained on to make them counts, and once"
    assert [epoch for epoch, *_ in other_method.seen if epoch < 6] == []
    assert [event.loss for event in told] == [5.0]
    run.epoch += 1
    stage.run_epoch(run)
    newest = run.buffer.column("images")[run.buffer.column("inserted_epoch") == run.epoch]
    assert torch.equal(newest, again.buffer.column("images")[again.buffer.column("inserted_epoch") == run.epoch])


def test_cores_are_shared_out_until_the_images_are_taken(make_stage) -> None:
    run, stage, method = make_stage()
    inside: list[int] = []
    invert = method.invert
    method.invert = lambda own: (inside.append(torch.get_num_threads()), invert(own))[1]
    for run.epoch in range(1, WARMUP + 1):
        stage.run_epoch(run)
        assert torch.get_num_threads() == 2
    run.epoch = WARMUP + 1
    stage.run_epoch(run)
    assert torch.get_num_threads() == 1
    stage._overlap.take()
    assert torch.get_num_threads() == 2
    assert inside == [2, 2, 2, 2, 1]


def test_the_lane_keeps_its_number_of_threads_whatever_is_set_meanwhile(make_stage) -> None:
    torch.set_num_threads(3)
    _, stage, _ = make_stage()
    is_in_lane, is_set = threading.Event(), threading.Event()
    seen: list[int] = []

    def work() -> None:
        with stage._overlap._lane(1):
            is_in_lane.set()
            assert is_set.wait(PATIENCE_S)
            seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    assert is_in_lane.wait(PATIENCE_S)
    torch.set_num_threads(2)
    is_set.set()
    thread.join()
    assert seen == [1]


def test_a_step_of_the_student_is_recorded_when_the_images_at_work_are_made(
    make_stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, stage, method = make_stage()
    method.student_must_learn = threading.Event()

    def wait_for(futures: list[Future[Any]]) -> object:
        assert not futures[0].done()
        method.student_must_learn.set()
        return wait(futures, PATIENCE_S)

    monkeypatch.setattr(overlap, "wait", wait_for)
    method.error = ZeroDivisionError("of the method")
    for run.epoch in range(1, WARMUP + 2):
        stage.run_epoch(run)
    assert method.is_waiting.wait(PATIENCE_S)
    assert run.may_record()
    assert method.student_must_learn.is_set(), "it has waited"
    assert [epoch for epoch, *_ in method.seen] == [1, 2, 3, 4, 5]
    assert torch.get_num_threads() == 1, "the cores are shared out as in a run that records nothing"
    run.epoch += 1
    with pytest.raises(ZeroDivisionError, match="of the method"):
        stage.run_epoch(run)


def test_a_step_of_the_method_is_recorded_while_nothing_goes_on_beside_it(make_stage) -> None:
    """A new one may turn up in any epoch: it is run as it is where the student learns beside it."""
    run, stage, method = make_stage(tape=OperationTape())
    asked: list[tuple[int, bool, bool]] = []
    invert = method.invert

    def invert_with_steps(own: Run) -> Inverted:
        if own.epoch in (2, WARMUP + 1, WARMUP + 3):
            is_alone = threading.current_thread() is threading.main_thread()
            asked.append((own.epoch, is_alone, own.may_record()))
        return invert(own)

    method.invert = invert_with_steps
    run_epochs(run, stage)
    assert asked == [(2, True, True), (WARMUP + 1, True, True), (WARMUP + 3, False, False)]
    names = {epoch: name for epoch, _, _, name in method.seen}
    beside = [epoch for epoch, name in names.items() if name != threading.main_thread().name]
    assert beside == [WARMUP + 3], "and alone before, when it is not known yet, and after"


def test_with_one_thread_images_are_made_at_once(make_stage) -> None:
    torch.set_num_threads(1)
    run, stage, method = make_stage()
    for run.epoch in range(1, WARMUP + 2):
        stage.run_epoch(run)
    assert [epoch for epoch, *_ in method.seen] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("is_alone", [False, True])
@pytest.mark.parametrize("is_recorded", [False, True], ids=["as it is", "recorded"])
def test_stages_side_by_side_leave_the_run_as_one_after_the_other_do(
    make_run, is_alone: bool, is_recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are at the same networks and at the same buffer, and none disturbs the other."""
    torch.set_num_threads(2)
    monkeypatch.setattr(optimizers, "is_fused", lambda _device: is_recorded)  # as on a device that records
    runs = []
    for alone in (True, is_alone):
        monkeypatch.setattr(Overlap, "_is_alone", lambda _self, alone=alone: alone)
        tape = OperationTape() if is_recorded else None
        run = make_run(epoch=0, tape=tape, inversion={"overlap": True, "steps": 8}, distillation={"steps": 12})
        stages = [Inversion(run.config.inversion), Distillation(run.config.distillation)]
        for stage in stages:
            stage.setup(run)
        for run.epoch in range(1, LAST + 1):
            for stage in stages:
                stage.run_epoch(run)
        stages[0].close()
        runs.append(run)
        told = [event.message for event in run.events if isinstance(event, Warning)]
        assert [message for message in told if "recorded" in message] == []
        if tape is not None:
            assert tape.num_recorded == 2, "the teacher's look and the student's update"
    one, other = runs
    assert torch.equal(one.buffer.column("images"), other.buffer.column("images"))
    assert torch.equal(one.buffer.column("priority"), other.buffer.column("priority"))
    for name, value in one.student.state_dict().items():
        assert torch.equal(value, other.student.state_dict()[name]), name
