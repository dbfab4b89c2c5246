"""Settings that are fine by themselves and under which nothing would come of a run: refused before it begins.

They are no part of the schema, for what a run has made with them can still be read, measured and verified, and a
command that leaves a stage out is not held to its settings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stages.config import Config
from stages.errors import Problem
from stages.inversion.config import InversionConfig
from stages.schedule import Schedule
from stages.settings.loading import config_error
from stages.settings.schema import contradiction


def refuse_futile(config: Config, schedule: Schedule, *, has_buffer: bool) -> None:
    """Raise ConfigError, with all problems at once, where nothing would come of a new run.

    `has_buffer` says whether it starts from a buffer that is there already.
    """
    problems = [
        *_nothing_to_do(schedule, has_buffer=has_buffer),
        *_measured_before_it_learns(config, schedule),
        *_without_warmup(schedule),
        *_without_loss(config, schedule),
        *_two_standardized_logits(config, schedule),
        *_mixed_with_itself(config, schedule),
    ]
    if problems:
        raise config_error(problems)


def refuse_without_loss(config: Config, schedule: Schedule, *, num_batch_norms: int) -> None:
    """Raise ConfigError where L_BN was the only loss of the first epoch and no batch-norm of the teacher runs."""
    if num_batch_norms == 0:
        problems = list(_without_loss(config, schedule, has_statistics=False))
        if problems:
            raise config_error(problems)


def _nothing_to_do(schedule: Schedule, *, has_buffer: bool) -> Iterator[Problem]:
    idle = {"evaluation"} if has_buffer else {"evaluation", "distillation"}
    if set(schedule.stages) <= idle:
        yield Problem(
            f"nothing to do for `ssdkd {schedule.command}`: of `run.stages` it has {list(schedule.stages)}"
            + ("" if has_buffer else ", and nothing that fills the buffer"),
            '`run.stages` is ["inversion", "distillation", "evaluation"] unless a preset changes it',
        )


def _measured_before_it_learns(config: Config, schedule: Schedule) -> Iterator[Problem]:
    places = {name: place for place, name in enumerate(schedule.stages)}
    if places.get("evaluation", len(places)) < places.get("distillation", -1):
        yield contradiction(
            config.settings,
            {"run.stages": list(config.run.stages)},
            "the student would be measured before it learns: as it was an epoch ago",
            'name "evaluation" after "distillation"',
        )


def _without_warmup(schedule: Schedule) -> Iterator[Problem]:
    if "inversion" in schedule.stages and schedule.warmup_epochs == 0:
        yield Problem(
            "`run.warmup_epochs` is 0, and 1 is needed: at the end of warm-up the hold-out is made and the buffer"
            " looked at",
            "set it to 1 or more; the default is 20",
        )


def _without_loss(config: Config, schedule: Schedule, *, has_statistics: bool = True) -> Iterator[Problem]:
    inversion = config.inversion
    is_ours = "inversion" in schedule.stages and inversion.method == InversionConfig().method
    is_adversarial = inversion.adversarial_weight > 0 and schedule.is_adversarial(1)
    if not is_ours or is_adversarial or inversion.task_weight > 0 or (has_statistics and inversion.bn_weight > 0):
        return
    values: dict[str, Any] = {"inversion.task_weight": inversion.task_weight}
    if has_statistics:
        values["inversion.bn_weight"] = inversion.bn_weight
    without = "" if has_statistics else f", for the teacher `{config.teacher.model}` gives no batch-norm statistics"
    yield contradiction(
        config.settings,
        values,
        f"in warm-up nothing is left to minimise, and its images are noise{without}",
        "set inversion.task_weight above 0; its default is 0.4",
    )


def _two_standardized_logits(config: Config, schedule: Schedule) -> Iterator[Problem]:
    """Two logits are 1 and -1 once they are standardised, whatever the student says: there is nothing to learn then."""
    if "distillation" not in schedule.stages or config.task.num_classes > 2:
        return
    values: Mapping[str, str] = {"loss": config.distillation.loss, "late_loss": config.distillation.late_loss}
    # The later one is the earlier unless somebody says otherwise.
    key = next((key for key, value in values.items() if value == "standardized"), None)
    if key is not None:
        yield contradiction(
            config.settings,
            {f"distillation.{key}": values[key], "task.num_classes": config.task.num_classes},
            "of two standardised logits nothing is left but which is larger",
            f"--set distillation.{key}=kl",
        )


def _mixed_with_itself(config: Config, schedule: Schedule) -> Iterator[Problem]:
    distillation, inversion = config.distillation, config.inversion
    if "distillation" not in schedule.stages or distillation.mix == "none":
        return
    mix, batch_size = {"distillation.mix": distillation.mix}, {"distillation.batch_size": distillation.batch_size}
    if distillation.batch_size == 1:
        yield contradiction(
            config.settings,
            {**mix, **batch_size},
            "an image is mixed with another of its batch, and it is the only one there",
            'raise `distillation.batch_size` or set `distillation.mix` to "none"',
        )
    elif config.buffer.capacity == 1:
        yield contradiction(
            config.settings,
            {**mix, "buffer.capacity": 1},
            "an image is mixed with another of the buffer, and it is the only one there",
            'raise `buffer.capacity` or set `distillation.mix` to "none"',
        )
    elif "inversion" in schedule.stages and distillation.views > 0 and inversion.calls * inversion.batch_size == 1:
        yield contradiction(
            config.settings,
            {**mix, "distillation.views": distillation.views, "inversion.batch_size": inversion.batch_size},
            "cached views are mixed with those of other new images, and an epoch makes only one",
            'raise `inversion.batch_size`, or set `distillation.views` to 0 or `distillation.mix` to "none"',
        )
