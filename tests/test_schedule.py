"""Which stages a command runs, for how long, and when the student takes part."""

import pytest

from stages.schedule import Schedule

CHAIN = ("inversion", "distillation", "evaluation")


def test_run_chains_the_stages_of_the_preset(make_small_config) -> None:
    schedule = Schedule.of("run", make_small_config(run={"epochs": 220, "warmup_epochs": 20}))
    assert schedule.stages == CHAIN
    assert (schedule.epochs, schedule.warmup_epochs, schedule.distillation_epochs) == (220, 20, 200)
    assert [epoch for epoch in (1, 19, 20, 21, 220) if schedule.is_warmup(epoch)] == [1, 19, 20]
    assert [epoch for epoch in (1, 19, 20, 21, 220) if schedule.is_adversarial(epoch)] == [20, 21, 220]


@pytest.mark.parametrize("stages", [("inversion",), ("inversion", "evaluation")])
def test_nobody_is_fought_where_nobody_learns(make_small_config, stages) -> None:
    schedule = Schedule.of("run", make_small_config(run={"stages": stages}))
    assert not any(schedule.is_adversarial(epoch) for epoch in range(1, 8))
    with_another = Schedule.of("run", make_small_config(run={"stages": (*stages, "theirs")}))
    assert with_another.is_adversarial(7)


def test_run_keeps_the_presets_own_order(make_small_config) -> None:
    schedule = Schedule.of("run", make_small_config(run={"stages": ("evaluation", "inversion")}))
    assert schedule.stages == ("evaluation", "inversion")


@pytest.mark.parametrize(("capacity", "calls"), [(40, 4), (36, 3), (37, 4), (1, 1), (10_000, 7)])
def test_invert_makes_the_calls_that_fill_the_buffer(make_small_config, capacity: int, calls: int) -> None:
    """Of 12 images each, and at most run.epochs = 7."""
    schedule = Schedule.of("invert", make_small_config(buffer={"capacity": capacity}))
    assert schedule.stages == ("inversion", "evaluation")
    assert schedule.epochs == schedule.warmup_epochs == calls
    assert schedule.distillation_epochs == 0
    assert all(schedule.is_warmup(epoch) for epoch in range(1, calls + 1))
    assert not any(schedule.is_adversarial(epoch) for epoch in range(1, calls + 1))


def test_calls_of_an_epoch_and_of_the_run(make_small_config) -> None:
    config = make_small_config(inversion={"calls": 2, "warmup_calls": 5})
    schedule = Schedule.of("run", config)
    assert [schedule.num_calls(epoch) for epoch in (1, 3, 4, 7)] == [5, 5, 2, 2]
    assert schedule.total_calls == 3 * 5 + 4 * 2
    assert Schedule.of("distill", config).total_calls == 0
    assert Schedule.of("run", make_small_config(inversion={"calls": 2})).num_calls(1) == 2
    inverting = Schedule.of("invert", make_small_config(inversion={"calls": 3}, buffer={"capacity": 100}))
    assert (inverting.epochs, inverting.total_calls) == (3, 9)  # 36 images an epoch


def test_distill_leaves_out_inversion_and_its_warmup(make_small_config) -> None:
    schedule = Schedule.of("distill", make_small_config())
    assert schedule.stages == ("distillation", "evaluation")
    assert (schedule.epochs, schedule.warmup_epochs, schedule.distillation_epochs) == (4, 0, 4)
    assert not schedule.is_warmup(1)
