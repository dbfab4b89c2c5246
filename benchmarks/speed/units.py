"""The units of work that a run is made of, each through the product's own objects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from measuring import Spread, clock_of, timed
from observing import Cost, cost_of
from workload import Workload, set_up_stages

from stages.config import with_values
from stages.data.dataset import LabelledImages
from stages.distillation.views import make_views
from stages.evaluation.measure import measure
from stages.inversion.method import InversionMethod, Inverted
from stages.inversion.stage import insert
from stages.registry import build
from stages.run import Run

NUM_EVALUATED = 1000


@dataclass(frozen=True)
class Unit:
    """`call` does the work `num` times over."""

    name: str
    num: int
    precision: str
    call: Callable[[], object]


@dataclass(frozen=True)
class Measured:
    """What one of a unit's pieces costs: counted, and in seconds."""

    unit: Unit
    cost: Cost
    seconds: Spread

    def document(self) -> dict[str, Any]:
        return {
            "name": self.unit.name,
            "precision": self.unit.precision,
            "flop": self.cost.flop / self.unit.num,
            "bytes": self.cost.num_bytes / self.unit.num,
            "seconds": self.seconds.document(),
        }


def measured(unit: Unit, workload: Workload, *, repeats: int) -> Measured:
    """Warm a unit up, count it, time it. What only its first call does, such as judging all views, is in neither."""
    unit.call()
    cost = cost_of(unit.call)
    seconds = timed(unit.call, repeats=repeats, clock=clock_of(workload.run.device))
    return Measured(unit, cost, seconds.scaled(1 / unit.num))


def units_of(workload: Workload, *, kd_steps: int) -> Iterator[Unit]:
    """The units of the run's stages. Its buffer must not be empty; each unit leaves the run in another state."""
    run, config = workload.run, workload.run.config
    if "inversion" in workload.stages:
        inversion, insertion = _inversion_calls(run, config.inversion.batch_size)
        warmup, adversarial = 1, workload.first_epoch
        if not run.schedule.is_adversarial(warmup):
            call = _in_epoch(run, warmup, inversion)
            yield Unit("inversion step, warm-up", config.inversion.steps, run.precision, call)
        call = _in_epoch(run, adversarial, inversion)
        yield Unit("inversion step, adversarial", config.inversion.steps, run.precision, call)
        call = _in_epoch(run, adversarial, insertion)
        yield Unit(f"insertion of {config.inversion.batch_size}", 1, run.precision, call)
    if "distillation" in workload.stages:
        # The same networks and buffer, and an epoch of only a few steps.
        shorter = replace(run, config=with_values(config, {"distillation.steps": kd_steps}))
        stage = set_up_stages(shorter, ExitStack())["distillation"]
        call = _in_epoch(shorter, workload.first_epoch, lambda: stage.run_epoch(shorter))
        yield Unit("distillation step", kd_steps, run.precision, call)
        if config.distillation.views > 0 and "inversion" in workload.stages:
            num_new = min(config.inversion.calls * config.inversion.batch_size, run.buffer.size)
            call = _views_of_new(run, num_new)
            yield Unit(f"a view of {num_new} new images", config.distillation.views, run.precision, call)
    yield Unit(f"evaluation of {NUM_EVALUATED:,}", 1, "fp32", _evaluation(run))


def _in_epoch(run: Run, epoch: int, call: Callable[[], object]) -> Callable[[], None]:
    def in_epoch() -> None:
        run.epoch = epoch
        call()

    return in_epoch


def _inversion_calls(run: Run, batch_size: int) -> tuple[Callable[[], object], Callable[[], object]]:
    """A call of the preset's inversion method, and the insertion of as many images."""
    table = run.config.inversion
    method: InversionMethod = build(
        "methods", table.method, table, where="inversion.method", takes="the [inversion] table"
    )
    method.setup(run)
    images_BCHW = torch.rand(batch_size, *run.config.task.image_shape, device=run.device)
    inverted = Inverted(images_BCHW, torch.zeros(batch_size, dtype=torch.int64, device=run.device))
    return lambda: method.invert(run), lambda: insert(run, inverted, batch_size=batch_size)


def _views_of_new(run: Run, num_new: int) -> Callable[[], None]:
    """What the teacher says of all views of the newest images, as it does once an epoch."""
    views = make_views(run, run.config.distillation)

    def call() -> None:
        views.load_state_dict({"num_seen": run.buffer.num_inserted - num_new, "columns": {}})
        views.begin_epoch(run)

    return call


def _evaluation(run: Run) -> Callable[[], object]:
    """Of the student, in fp32 always, on noise."""
    shape = (NUM_EVALUATED, *run.config.task.image_shape)
    data = LabelledImages(
        torch.randint(256, shape, dtype=torch.uint8),
        torch.zeros(NUM_EVALUATED, dtype=torch.int64),
        class_names=None,
        name="noise",
        split="all",
    )
    batch_size = run.config.evaluation.batch_size
    return lambda: measure(run.student, data, run.task, batch_size=batch_size)
