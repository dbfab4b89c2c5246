"""The student that is delivered: averaged weights, statistics of the buffer, and nothing of it in what is trained."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from same_values import assert_same
from torch import Tensor, nn

from stages.data.augment import augmented, draw_augmentation
from stages.distillation.delivery import recalibrate
from stages.distillation.stage import Distillation
from stages.run import Run

FIRST, STEPS = 4, 3
"""The first epoch in which the student learns, and its updates."""


def set_up(run: Run) -> Distillation:
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    return stage


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_without_options_the_student_itself_is_delivered(make_run, fill) -> None:
    run = make_run(epoch=FIRST)
    fill(run, 20)
    set_up(run).run_epoch(run)
    assert run.delivered_student is run.student


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_the_average_is_the_moving_average_of_the_updates(make_run, fill, decay: float) -> None:
    run = make_run(epoch=FIRST, distillation={"ema_decay": decay})
    fill(run, 20)
    expected = weights_of(run.student.model)
    stage = set_up(run)
    num_updates = 0

    def follow() -> None:
        nonlocal num_updates
        num_updates += 1
        now = min(decay, (1 + num_updates) / (10 + num_updates))
        for name, value in run.student.model.state_dict().items():
            is_real = value.is_floating_point()
            expected[name] = now * expected[name] + (1 - now) * value if is_real else value.clone()

    run.safe_point = follow
    stage.run_epoch(run)
    assert num_updates == STEPS
    delivered = run.delivered_student
    assert not delivered.training
    torch.testing.assert_close(weights_of(delivered.model), expected, rtol=1e-5, atol=1e-7)
    assert not torch.equal(delivered.model.linear.weight, run.student.model.linear.weight)


def test_a_layer_with_two_names_is_averaged_once(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"ema_decay": 0.9})
    fill(run, 20)
    run.student.model.norm_again = run.student.model.bn2
    before = run.student.model.bn2.weight.clone()
    stage = set_up(run)
    run.student.model.bn2.weight.data += 1
    stage._delivery.follow_update()
    delivered = run.delivered_student.model
    assert delivered.norm_again is delivered.bn2
    torch.testing.assert_close(delivered.bn2.weight, before + 9 / 11)  # a decay of 2/11 in the first update


def test_recalibrated_statistics_are_the_mean_over_uniform_draws(make_run, fill) -> None:
    run = make_run(epoch=FIRST)
    fill(run, 20)
    network = copy.deepcopy(run.student)
    inputs: list[Tensor] = []
    network.model.bn1.register_forward_pre_hook(
        lambda layer, args: inputs.append(args[0].detach()) if layer.training else None
    )
    recalibrate(run, network, num_batches=3)

    task, config = run.config.task, run.config.distillation
    assert len(inputs) == 3
    assert not torch.equal(inputs[0], inputs[1]), "each batch is a draw of its own"
    torch.testing.assert_close(
        network.model.bn1.running_mean, torch.stack([each.mean(dim=(0, 2, 3)) for each in inputs]).mean(dim=0)
    )
    torch.testing.assert_close(
        network.model.bn1.running_var, torch.stack([each.var(dim=(0, 2, 3)) for each in inputs]).mean(dim=0)
    )
    rng = run.rng("distillation", "recalibration", 0)
    batch = run.buffer.draw(config.batch_size, rng, sampling="uniform", alpha=config.alpha, epsilon=config.epsilon)
    augmentation = draw_augmentation(
        config.batch_size, padding=task.crop_padding, flip=task.horizontal_flip, rng=rng, device=run.device
    )
    seen: list[Tensor] = []
    probe = copy.deepcopy(run.student).eval()
    probe.model.bn1.register_forward_pre_hook(lambda _layer, args: seen.append(args[0].detach()))
    probe(augmented(batch.images_BCHW, augmentation))
    torch.testing.assert_close(inputs[0], seen[0])
    assert network.model.bn1.momentum == run.student.model.bn1.momentum
    assert not any(module.training for module in network.modules())


def test_layers_that_run_in_training_alone_keep_their_statistics(make_run, fill) -> None:
    run = make_run(epoch=FIRST)
    fill(run, 20)
    run.student.model.auxiliary = nn.BatchNorm2d(3)
    run.student.model.auxiliary.running_mean.fill_(4.5)
    mean = run.student.model.bn1.running_mean.clone()
    recalibrate(run, run.student, num_batches=1)
    assert run.student.model.auxiliary.running_mean.tolist() == [4.5] * 3
    assert not torch.equal(run.student.model.bn1.running_mean, mean)


def test_a_student_that_another_stage_changes_is_delivered_anew(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"recalibration_batches": 2})
    fill(run, 20)
    set_up(run).run_epoch(run)
    before = run.delivered_student
    assert run.delivered_student is before
    with torch.no_grad():
        run.student.model.linear.weight.mul_(2)
    assert torch.equal(run.delivered_student.model.linear.weight, 2 * before.model.linear.weight)


OPTIONS = [{"ema_decay": 0.9}, {"recalibration_batches": 2}, {"ema_decay": 0.9, "recalibration_batches": 2}]


@pytest.mark.parametrize("options", OPTIONS)
def test_what_is_trained_stays_the_same(make_run, fill, options: dict[str, Any]) -> None:
    runs = [make_run(epoch=FIRST, distillation=changes) for changes in ({}, options)]
    for run in runs:
        fill(run, 20)
        stage = set_up(run)
        for run.epoch in (FIRST, FIRST + 1):
            stage.run_epoch(run)
            assert (run.delivered_student is run.student) == (run is runs[0])
    plain, run = runs
    assert_same(weights_of(run.student.model), weights_of(plain.student.model))
    assert_same(run.buffer.state_dict(), plain.buffer.state_dict())


@pytest.mark.parametrize("options", OPTIONS)
def test_a_restored_stage_delivers_the_same(make_run, fill, options: dict[str, Any]) -> None:
    first, again = (make_run(epoch=FIRST, distillation=options) for _ in range(2))
    fill(first, 20)
    stage = set_up(first)
    stage.run_epoch(first)
    state = copy.deepcopy(stage.state_dict())
    other = set_up(again)
    again.buffer.load_state_dict(first.buffer.state_dict())
    again.student.load_state_dict(first.student.state_dict())
    other.load_state_dict(state)
    assert_same(weights_of(again.delivered_student.model), weights_of(first.delivered_student.model))
    for run, each in ((first, stage), (again, other)):
        run.epoch += 1
        each.run_epoch(run)
    assert_same(weights_of(again.delivered_student.model), weights_of(first.delivered_student.model))


@pytest.mark.parametrize("options", OPTIONS[1:])
def test_the_delivered_student_has_statistics_taken_anew(make_run, fill, options: dict[str, Any]) -> None:
    run = make_run(epoch=FIRST, distillation=options)
    fill(run, 20)
    stage = set_up(run)
    stage.run_epoch(run)
    expected = copy.deepcopy(run.student)
    if "ema_decay" in options:
        expected.model.load_state_dict(stage.state_dict()["delivery"]["average"])
    recalibrate(run, expected, num_batches=2)
    assert_same(weights_of(run.delivered_student.model), weights_of(expected.model))


def test_it_is_made_once_for_evaluation_and_files(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"recalibration_batches": 1})
    fill(run, 20)
    stage = set_up(run)
    stage.run_epoch(run)
    delivered = run.delivered_student
    assert run.delivered_student is delivered
    fill(run, 1)
    assert run.delivered_student is not delivered, "its statistics are those of the buffer"
    delivered = run.delivered_student
    run.epoch += 1
    stage.run_epoch(run)
    assert run.delivered_student is not delivered


def test_in_warmup_there_is_nothing_to_average_yet(make_run, fill) -> None:
    run = make_run(epoch=FIRST - 1, distillation={"ema_decay": 0.9, "recalibration_batches": 2})
    fill(run, 20)
    set_up(run)
    assert run.delivered_student is run.student
