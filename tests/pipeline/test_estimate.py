"""What `--estimate` finds out: the time of a run, from a few of its steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from tiny_runs import PlanRun

from stages.events import DistillationStep, Event, InversionStep
from stages.machine.memory import MachineMemory
from stages.planning import estimate as module
from stages.planning.estimate import estimate
from stages.run import Run

LONG = ("run.epochs=50", "run.warmup_epochs=20", "inversion.steps=9", "distillation.steps=40", "buffer.capacity=500")


@pytest.fixture
def planned(plan_run: PlanRun) -> PlanRun:
    """A run that is planned as `--dry-run` plans it."""
    return partial(plan_run, is_dry_run=True)


class Played:
    """A stage whose steps take a known time by a clock of its own: the first of all, later ones, what comes around."""

    def __init__(self, kind: str, *, before_s: float = 0.0, after_s: float = 0.0) -> None:
        self.kind, self.before_s, self.after_s = kind, before_s, after_s
        self.step_s, self.now_s = 1.0, 0.0

    def run_epoch(self, run: Run) -> None:
        inverts = self.kind == "inversion"
        num_steps = run.config.inversion.steps if inverts else run.config.distillation.steps
        step_s = 3.0 if inverts and run.schedule.is_adversarial(run.epoch) else self.step_s
        self.now_s += self.before_s
        for step in range(int(num_steps)):
            self.now_s += step_s + (100.0 if step == 0 and inverts else 0.0)
            run.emit(self.told(step))
        self.now_s += self.after_s
        if inverts:
            shape = (run.config.inversion.batch_size, *run.config.task.image_shape)
            classes_B = torch.zeros(shape[0], dtype=torch.int64)
            run.buffer.insert(
                torch.zeros(shape, dtype=torch.uint8),
                teacher_class_B=classes_B,
                teacher_prob_B=torch.ones(shape[0]),
                priority_B=torch.ones(shape[0]),
                target_B=classes_B,
                epoch=run.epoch,
            )

    def told(self, step: int) -> Event:
        if self.kind == "inversion":
            return InversionStep(step=step, num_steps=9, loss=1.0, loss_bn=1.0, loss_task=0.0, loss_adversarial=0.0)
        return DistillationStep(step=step, loss=1.0, lr=0.1, agreement=0.5)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the run have these stages, timed by their clocks."""

    def put_in_place(**stages: Played) -> None:
        def set_up(run: Run, _closing: ExitStack) -> dict[str, Played]:
            assert set(run.schedule.stages) == set(stages)
            return stages

        monkeypatch.setattr(module, "set_up_stages", set_up)
        clock = SimpleNamespace(perf_counter=lambda: sum(stage.now_s for stage in stages.values()))
        monkeypatch.setattr(module, "time", clock)

    return put_in_place


@pytest.mark.parametrize(
    ("counted_s", "is_told"), [((2.0, 2.0), False), ((2.0, 24.0), False), ((2.0, 47.0), True), ((None, None), False)]
)
def test_a_busy_machine_is_told_of(planned, play, monkeypatch, counted_s, is_told) -> None:
    """The played steps take 225 seconds, of which the system says how many went by waiting."""
    play(inversion=Played("inversion"), distillation=Played("distillation"))
    counter = iter(counted_s)
    monkeypatch.setattr(module, "waited_for_cpu_s", lambda: next(counter))
    warnings = estimate(planned(*LONG)).warnings
    assert ["had the processor for 20%" in warning for warning in warnings] == [True] * is_told


def test_where_a_run_has_more_threads_than_cpus_they_wait_for_each_other(planned, play, monkeypatch) -> None:
    play(inversion=Played("inversion"), distillation=Played("distillation"))
    counter = iter((0.0, 200.0))
    monkeypatch.setattr(module, "waited_for_cpu_s", lambda: next(counter))
    monkeypatch.setattr(module, "num_usable_cpus", lambda: 1)
    assert estimate(planned(*LONG, "run.threads=2")).warnings == ()


@pytest.mark.parametrize(("missing_bytes", "is_told"), [(1, True), (0, False)])
def test_a_buffer_that_will_not_fit_beside_the_networks_is_told_of(
    planned, play, monkeypatch, missing_bytes, is_told
) -> None:
    play(inversion=Played("inversion"), distillation=Played("distillation"))
    monkeypatch.setattr(module, "resident_memory_mib", lambda _device: 1000.0)
    checked = planned(*LONG)
    mib = checked.footprint.buffer_mib
    memory = MachineMemory(total=2**40, available=int(mib * 2**20) - missing_bytes)
    monkeypatch.setattr(module, "machine_memory", lambda: memory)
    told = [warning for warning in estimate(checked).warnings if "with its buffer full" in warning]
    assert len(told) == is_told


def test_all_steps_are_reckoned_from_a_few(planned, play) -> None:
    play(inversion=Played("inversion", after_s=5.0), distillation=Played("distillation"))
    found = estimate(planned(*LONG, "inversion.warmup_calls=2", "inversion.calls=3"))
    # 19 epochs of warm-up are without the student, the last one and 30 more with it; what only the first step of all
    # takes longer is no part of it.
    assert found.seconds["inversion"] == 19 * 2 * (9 * 1 + 5) + (2 + 30 * 3) * (9 * 3 + 5)
    assert found.seconds["distillation"] == 30 * 40
    assert found.not_timed == ("evaluation",)
    assert found.describe()["estimated_seconds"]["total"] == sum(found.seconds.values())
    compiled = planned(*LONG, "run.acceleration=compile")
    assert estimate(compiled).not_timed == ("evaluation", "acceleration")


def test_updates_with_hints_are_reckoned_apart(planned, play) -> None:
    class TakesHints(Played):
        def run_epoch(self, run: Run) -> None:
            self.step_s = 4.0 if run.schedule.progress(run.epoch, 0) < run.config.distillation.hint_share else 1.0
            super().run_epoch(run)

    def seconds(*settings: str) -> float:
        play(inversion=Played("inversion"), distillation=TakesHints("distillation"))
        return estimate(planned(*LONG, *settings)).seconds["distillation"]

    assert seconds() == 30 * 40
    assert seconds("distillation.hint_share=0.25") == 300 * 4 + 900
    assert seconds("distillation.hint_share=1") == 1200 * 4


def test_where_the_first_steps_load_libraries_they_are_made_once_before(planned, play, monkeypatch) -> None:
    """As on a GPU: what only the first steps of the process take is no part of what all of them will."""

    class LoadsLibraries(Played):
        def run_epoch(self, run: Run) -> None:
            if self.now_s == 0.0:
                self.now_s += 10_000.0
            super().run_epoch(run)

    settings = (*LONG, "inversion.batch_size=16", "distillation.views=8")
    play(inversion=Played("inversion"), distillation=Played("distillation", before_s=64.0))
    expected = estimate(planned(*settings)).seconds
    stages = {
        "inversion": LoadsLibraries("inversion"),
        "distillation": LoadsLibraries("distillation", before_s=64.0),
    }
    play(**stages)
    assert estimate(planned(*settings)).seconds["distillation"] > expected["distillation"] + 10_000
    monkeypatch.setitem(module._NUM_TRIALS, "cpu", module._NUM_TRIALS["cuda"])
    for stage in stages.values():
        stage.now_s = 0.0
    assert estimate(planned(*settings)).seconds == expected


def test_one_trial_is_in_memory_at_a_time(planned, play, monkeypatch) -> None:
    made: list[weakref.ref[Run]] = []

    def build(trial) -> Run:
        assert all(run() is None for run in made)
        run = build_run(trial)
        run.refers_to_itself = run
        made.append(weakref.ref(run))
        return run

    build_run = module.build_run
    monkeypatch.setattr(module, "build_run", build)
    monkeypatch.setitem(module._NUM_TRIALS, "cpu", 2)
    play(inversion=Played("inversion"), distillation=Played("distillation"))
    estimate(planned(*LONG))
    assert len(made) == 2


def test_cached_views_are_counted_by_the_images_that_come(planned, play) -> None:
    play(inversion=Played("inversion"), distillation=Played("distillation", before_s=64.0))
    settings = (*LONG, "inversion.batch_size=16", "distillation.views=8")
    found = estimate(planned(*settings))
    # The trial's buffer holds two calls of 16, and two views of each take 64 s: one a view. The run shows the teacher
    # all that the buffer holds after 20 epochs of warm-up, and then 30 times 16.
    assert found.seconds["distillation"] == 30 * 40 + (20 * 16 + 30 * 16) * 8
    smaller = estimate(planned(*settings, "buffer.capacity=100"))
    assert smaller.seconds["distillation"] < found.seconds["distillation"]


def test_more_images_may_be_mixed_than_views_so_few_can_be(planned, play) -> None:
    play(inversion=Played("inversion"), distillation=Played("distillation"))
    settings = ("distillation.views=4", "distillation.mix=cutmix", "distillation.mix_share=0.75")
    assert estimate(planned(*LONG, *settings)).seconds["distillation"] > 0


def test_a_method_that_tells_nothing_of_its_steps(planned, play) -> None:
    inversion = Played("inversion", after_s=2.0)
    inversion.told = lambda _step: DistillationStep(step=0, loss=0.0, lr=0.0, agreement=0.0)  # type: ignore[method-assign]
    play(inversion=inversion)
    found = estimate(planned(*LONG, "buffer.capacity=320", "inversion.steps=3", command="invert"))
    assert found.seconds == {"inversion": 20 * (100 + 3 + 2)}


@pytest.mark.parametrize(
    "settings", [(), ("distillation.views=4", "distillation.mix=cutmix"), ("inversion.overlap=true",)]
)
def test_the_real_stages(planned, settings: tuple[str, ...], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = planned(*LONG, *settings)
    before = {name: value.clone() for name, value in asked.student.state_dict().items()}
    found = estimate(asked)
    assert set(found.seconds) == {"inversion", "distillation"}
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert found.memory_mib is None or found.memory_mib > 10  # None: not on Linux
    assert all(torch.equal(value, before[name]) for name, value in asked.student.state_dict().items())
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_command_does_is_timed(planned, undisturbed) -> None:
    assert set(estimate(planned(command="invert")).seconds) == {"inversion"}
    settings = ("distillation.views=4", "evaluation.num_holdout=4")
    learned = estimate(planned(*settings, command="distill", buffer=undisturbed / "buffer.safetensors"))
    assert set(learned.seconds) == {"distillation"}
