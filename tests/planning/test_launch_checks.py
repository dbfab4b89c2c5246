"""What is refused because nothing would come of it: by the run as a whole, not by what its settings are alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.config import Config, from_file, load
from stages.errors import ConfigError, Problem
from stages.planning import idle_settings
from stages.planning.launch_checks import refuse_futile, refuse_without_loss
from stages.schedule import Command, Schedule

TWO = "task.num_classes=2"


def settings(*overrides: str) -> Config:
    return load(["digits"], overrides)


def check(*overrides: str, command: Command = "run") -> None:
    config = settings(*overrides)
    refuse_futile(config, Schedule.of(command, config), has_buffer=command == "distill")


def problems_of(*overrides: str, command: Command = "run") -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        check(*overrides, command=command)
    return caught.value.problems


@pytest.mark.parametrize(
    ("overrides", "blamed", "message"),
    [
        (["inversion.task_weight=0", "inversion.bn_weight=0"], "inversion.task_weight", "nothing is left to minimise"),
        ([TWO, "distillation.loss=standardized"], "distillation.loss", "which is larger"),
        ([TWO, "distillation.late_loss=standardized"], "distillation.late_loss", "which is larger"),
        (["distillation.mix=cutmix", "distillation.batch_size=1"], "distillation.mix", "the only one"),
        (
            ["distillation.mix=mixup", "distillation.batch_size=1", "distillation.views=8"],
            "distillation.mix",
            "only one",
        ),
        (["distillation.mix=mixup", "buffer.capacity=1"], "distillation.mix", "the only one"),
        (
            ["distillation.mix=mixup", "distillation.views=8", "inversion.batch_size=1", "inversion.calls=1"],
            "distillation.mix",
            "makes only one",
        ),
        (['run.stages=["inversion", "evaluation", "distillation"]'], "run.stages", "before it learns"),
        (["run.warmup_epochs=0"], "run.warmup_epochs", "the hold-out is made"),
        (["run.warmup_epochs=0", 'run.stages=["inversion"]'], "run.warmup_epochs", "the hold-out is made"),
    ],
)
def test_what_would_teach_nothing_is_refused(overrides: list[str], blamed: str, message: str) -> None:
    (problem,) = problems_of(*overrides)
    assert problem.message.startswith(f"`{blamed}` is ")
    assert message in problem.message
    assert problem.hint


def test_all_is_told_at_once() -> None:
    told = problems_of(TWO, "distillation.loss=standardized", "inversion.task_weight=0", "inversion.bn_weight=0")
    assert [problem.message.split("`")[1] for problem in told] == ["inversion.task_weight", "distillation.loss"]


@pytest.mark.parametrize(
    ("stages", "command", "message"),
    [
        (["evaluation"], "run", "nothing to do for `ssdkd run`"),
        (["distillation"], "run", "nothing that fills the buffer"),
        (["distillation", "evaluation"], "invert", "nothing to do for `ssdkd invert`"),
        (["inversion", "evaluation"], "distill", "nothing to do for `ssdkd distill`"),
    ],
)
def test_stages_of_which_nothing_comes(stages: list[str], command: Command, message: str) -> None:
    assert any(message in problem.message for problem in problems_of(f"run.stages={stages}", command=command))


@pytest.mark.parametrize(
    "overrides",
    [
        ["inversion.bn_weight=0"],
        ["inversion.task_weight=0"],
        ["task.num_classes=3", "distillation.loss=standardized"],
        ["inversion.task_weight=0", "inversion.bn_weight=0", "run.warmup_epochs=1"],  # adversarial from the first epoch
        ["distillation.mix=mixup", "distillation.views=8", "inversion.batch_size=1", "inversion.calls=2"],
        ["distillation.mix=mixup", "inversion.batch_size=1"],  # fresh views of images of many epochs
    ],
)
def test_what_teaches_something_is_not_refused(overrides: list[str]) -> None:
    check(*overrides)


def test_a_command_is_not_held_to_what_it_leaves_out() -> None:
    check(TWO, "distillation.loss=standardized", command="invert")
    check("inversion.task_weight=0", "inversion.bn_weight=0", command="distill")
    check("run.warmup_epochs=0", command="distill")
    check("run.warmup_epochs=0", command="invert")
    check('run.stages=["inversion", "evaluation", "distillation"]', command="invert")


def test_an_adversary_needs_its_weight_and_somebody_to_fight() -> None:
    lossless = ("inversion.task_weight=0", "inversion.bn_weight=0", "run.warmup_epochs=1")
    assert problems_of(*lossless, "inversion.adversarial_weight=0")
    assert problems_of(*lossless, command="invert")


@pytest.mark.parametrize(("num_classes", "loss"), [(2, "kl"), (3, "standardized")])
def test_the_late_loss_that_suits_the_number_of_classes(num_classes: int, loss: str) -> None:
    chosen = ("distillation.late_loss=auto", "distillation.late_share=0.3")
    config = settings(f"task.num_classes={num_classes}", *chosen)
    assert config.late_loss == loss
    refuse_futile(config, Schedule.of("run", config), has_buffer=False)
    assert idle_settings.warnings_of(config, Schedule.of("run", config)) == ()


def test_a_teacher_without_statistics_needs_another_loss() -> None:
    config = settings("inversion.task_weight=0")
    schedule = Schedule.of("run", config)
    refuse_without_loss(config, schedule, num_batch_norms=1)
    with pytest.raises(ConfigError, match=r"`inversion\.task_weight` is 0\.0 in --set.*no batch-norm statistics"):
        refuse_without_loss(config, schedule, num_batch_norms=0)
    refuse_without_loss(config, Schedule.of("distill", config), num_batch_norms=0)


def test_settings_of_a_run_that_would_be_refused_are_read(tmp_path: Path) -> None:
    """What it made is still measured and verified."""
    file = tmp_path / "config.toml"
    file.write_text(settings(TWO, "distillation.late_loss=standardized", "inversion.bn_weight=0").to_toml())
    assert from_file(file).distillation.late_loss == "standardized"
