"""A class for each pixel: what an image is to show moves with its pixels, as the teacher sees them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.data.augment import moved_with
from stages.inversion import synthesis
from stages.inversion.generator_inversion import GeneratorInversion
from stages.run import Run
from stages.tasks.classification import Classification

NUM_CLASSES = 5


class Pixels(Classification):
    """A label a pixel, and targets that differ from pixel to pixel."""

    def label_shape(self, image_shape: Any) -> tuple[int, ...]:
        return tuple(image_shape[1:])

    def per_sample(self, values_BHW: Tensor) -> Tensor:
        return values_BHW.flatten(1).mean(dim=1)

    def draw_targets(self, policy: str, num: int, *, image_shape: Any, rng: torch.Generator, **_: Any) -> Tensor | None:
        if policy == "teacher":
            return None
        return torch.randint(self.num_classes, (num, *image_shape[1:]), generator=rng)


@pytest.fixture
def run(make_run, request: pytest.FixtureRequest) -> Run:
    """One whose teacher has a class for each pixel; the parameter is the policy of its targets."""

    def dense() -> nn.Module:
        return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, NUM_CLASSES, 1))

    run = make_run(teacher=dense(), student=dense(), inversion={"targets": request.param, "steps": 3})
    run.task = Pixels(NUM_CLASSES)
    return run


def inverted_and_aims(run: Run, monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, list[Tensor], list[Any]]:
    """The targets that a call returns; what the loss was given in each step, and how the images were moved there."""
    aims, moves = [], []
    task_loss, augmented = synthesis.task_loss, synthesis.augmented

    def task_loss_of(logits: Tensor, target: Tensor) -> Tensor:
        aims.append(target.clone())
        return task_loss(logits, target)

    def augmented_by(images: Tensor, augmentation: Any) -> Tensor:
        moves.append(augmentation)
        return augmented(images, augmentation)

    monkeypatch.setattr(synthesis, "task_loss", task_loss_of)
    monkeypatch.setattr(synthesis, "augmented", augmented_by)
    method = GeneratorInversion(run.config.inversion)
    method.setup(run)
    return method.invert(run).target_B, aims, moves


@pytest.mark.parametrize("run", ["uniform"], indirect=True)
def test_targets_move_with_the_pixels(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    target_BHW, aims, moves = inverted_and_aims(run, monkeypatch)
    assert target_BHW.shape == (12, 8, 6)
    assert target_BHW.unique().tolist() == list(range(NUM_CLASSES)), "of the images as they are, not as they are moved"
    assert len(aims) == len(moves) == 3
    for aim_BHW, move in zip(aims, moves, strict=True):
        assert torch.equal(aim_BHW, moved_with(move, target_BHW))
        assert not torch.equal(aim_BHW, target_BHW), "nothing has moved"


@pytest.mark.parametrize("run", ["teacher"], indirect=True)
def test_what_the_teacher_sees_in_moved_pixels_is_no_target_of_the_image(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    target_BHW, aims, _ = inverted_and_aims(run, monkeypatch)
    assert all(aim_BHW.min() >= 0 for aim_BHW in aims)
    assert target_BHW.shape == (12, 8, 6)
    assert target_BHW.unique().tolist() == [-1]
