"""The state of a planned run before its first step."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from typing import Any

from stages.buffer.replay_buffer import ReplayBuffer
from stages.errors import ConfigError
from stages.machine.cuda_tape import CudaTape, can_record
from stages.models.copying import copied
from stages.models.normalized import NormalizedModel
from stages.planning import stored_buffer
from stages.planning.plan import Plan
from stages.registry import build
from stages.run import Run
from stages.stage import Stage


def set_up_stages(run: Run, closing: ExitStack) -> dict[str, Stage[Any]]:
    """The stages of a run by name, in its order, ready for the first epoch; `closing` will close them."""
    stages: dict[str, Stage[Any]] = {name: _stage(name, run) for name in run.schedule.stages}
    for stage in stages.values():
        try:
            stage.setup(run)
        except BaseException:  # a Ctrl-C, too: it is raised again
            with suppress(Exception):  # half set up, it may fail, too; the first error is the one to tell
                stage.close()
            raise
        closing.callback(stage.close)
    return stages


def _stage(name: str, run: Run) -> Stage[Any]:
    stage: object = build("stages", name, run.config.tables()[name], where="run.stages", takes="its config")
    if not isinstance(stage, Stage):
        raise ConfigError(
            f"`run.stages`: `{name}` gives a {type(stage).__name__}, not a Stage",
            hint="what is called returns a `stages.api.Stage`",
        )
    return stage


def build_run(planned: Plan) -> Run:
    """The state that the stages share, on the device, at its beginning."""
    config, device = planned.config, planned.device
    run = Run(
        config=config,
        schedule=planned.schedule,
        task=planned.task,
        device=device,
        precision=config.run.precision,
        tape=CudaTape(device) if config.run.acceleration != "eager" and can_record(device) else None,
        teacher=NormalizedModel.on(device, planned.teacher.model, config.task).eval().requires_grad_(False),
        student=NormalizedModel.on(device, copied(planned.student), config.task),
        buffer=ReplayBuffer(
            config.buffer,
            image_shape=config.task.image_shape,
            label_shape=planned.task.label_shape(config.task.image_shape),
            num_classes=config.task.num_classes,
            device=device,
            num_expected=planned.footprint.num_buffered,
        ),
        class_names=planned.class_names,
        evaluation_data=planned.evaluation_data,
    )
    if planned.stored is not None:
        stored_buffer.fill(run, planned.stored)
    return run
