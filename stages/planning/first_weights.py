"""What the student begins with, and the learning rate that suits it."""

from __future__ import annotations

from typing import Any

from torch import nn

from stages.config import Config
from stages.config_table import AUTO
from stages.errors import ConfigError
from stages.models.copying import copied
from stages.models.weight_selection import ENOUGH_INHERITED, NOTHING, Inheritance, select_weights


def with_first_weights(config: Config, student: nn.Module, teacher: nn.Module) -> tuple[nn.Module, Inheritance]:
    """The student as it starts, and which shares of its weights are the teacher's.

    Raises ConfigError where all are to be the teacher's and none can be.
    """
    start = config.student.start
    if start == "random":
        return student, NOTHING
    heir = copied(student)
    inherited = select_weights(heir, teacher)
    if inherited.share == 0 and start == "teacher":
        raise ConfigError(
            f'`student.start` is "teacher", and nothing in `{config.student.model}` has a counterpart in the teacher,'
            f" `{config.teacher.model}`",
            hint='name a student whose layers are no wider than the teacher\'s, or set `student.start` to "random"',
        )
    return (student, NOTHING) if start == AUTO and inherited.share < ENOUGH_INHERITED else (heir, inherited)


def suitable_values(config: Config, inherited: Inheritance) -> dict[str, Any]:
    """What "auto" stands for where it depends on the student's first weights, or on what it is to learn."""
    values: dict[str, Any] = {}
    if config.student.start == AUTO:
        values["student.start"] = "teacher" if inherited.share > 0 else "random"
    if config.distillation.lr == AUTO:
        values["distillation.lr"] = config.distillation.learning_rate(whole_share=inherited.whole)
    if config.distillation.late_loss == AUTO:
        values["distillation.late_loss"] = config.late_loss
    return values


def warnings_of(config: Config, inherited: Inheritance) -> tuple[str, ...]:
    """What whoever wanted the teacher's weights should know of them."""
    if config.student.start != "teacher":
        return ()
    if inherited.only_in_one is not None:
        message = (
            f"blocks of the student `{config.student.model}` and of the teacher differ in `{inherited.only_in_one}`, so"
            " the teacher's weights fit badly; a student with the teacher's kind of blocks starts closer (for a"
            " `resnet56b`, a `resnet20b`)"
        )
        return (message,)
    if inherited.share >= ENOUGH_INHERITED:
        return ()
    share = f"{inherited.share:.1%}"
    return (f"student.start is teacher, and only {share} of the student's weights have a counterpart",)


def told(inherited: Inheritance) -> str:
    """The first weights in a few words."""
    if inherited.share == 0:
        return "random weights"
    matched = ", layer by layer in their order" if inherited.is_by_depth else ""
    return f"{inherited.share:.1%} of its weights copied from the teacher{matched}"
