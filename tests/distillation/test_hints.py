"""What of a teacher's features a student's features tell."""

from __future__ import annotations

import pytest
import torch
from tiny_network import TinyNetwork
from torch import nn

from stages.distillation.hints import Hints, hint_loss
from stages.distillation.stage import Distillation
from stages.events import HintedStep
from stages.models.wrn import wide_resnet


def wrn(width: int) -> nn.Module:
    torch.manual_seed(width)
    return wide_resnet(depth=10, width=width, num_classes=5, in_channels=2, image_size=(8, 6))


def untold(hints: Hints, images_BCHW: torch.Tensor) -> float:
    return hints.ask_student(images_BCHW)[1].item()


def test_nothing_is_foretold_at_first_and_everything_of_the_same_network_in_the_end(make_run) -> None:
    run = make_run(teacher=wrn(1).train(), student=wrn(1), distillation={"hint_share": 1.0})
    run.teacher.train()  # by the statistics of the batch, as the student
    hints = Hints(run)
    images_BCHW = torch.rand(64, 2, 8, 6)
    levels = 3
    assert abs(untold(hints, images_BCHW) - levels) < 0.01
    for _ in range(300):
        hints.optimizer.zero_grad()
        hints.ask_student(images_BCHW)[1].backward()
        hints.optimizer.step()
    assert untold(hints, images_BCHW) < 0.01 * levels


def test_a_student_learns_features_that_it_did_not_have(make_run, fill) -> None:
    torch.manual_seed(0)
    teacher, student = (TinyNetwork(in_channels=2, num_classes=5, width=width) for width in (6, 5))
    learning = {"hint_share": 1.0, "steps": 60, "optimizer": "muon", "lr": 0.1}
    run = make_run(epoch=4, teacher=teacher, student=student, distillation=learning)
    fill(run, 40)
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    stage.run_epoch(run)
    losses = [event.loss_hints for event in run.events if isinstance(event, HintedStep)]
    assert len(losses) == 60
    assert losses[-1] < 0.5 * losses[0]


def test_hints_weigh_as_much_as_logits_that_tell_nothing() -> None:
    """T^2 KL of a student that answers the mean of the teacher's logits."""
    torch.manual_seed(0)
    teacher_BK = 3 * torch.randn(500, 10)
    temperature = 1e3
    log_probabilities_BK = (teacher_BK.double() / temperature).log_softmax(dim=1)
    uniform_K = torch.full((10,), 0.1).double().log()
    divergence = (log_probabilities_BK.exp() * (log_probabilities_BK - uniform_K)).sum(dim=1).mean()
    loss = hint_loss(torch.tensor(1.0), teacher_BK)
    torch.testing.assert_close(loss.double(), temperature**2 * divergence, rtol=1e-2, atol=0)


class Dropping(nn.Module):
    """A network that leaves a layer out in training, the last one at its resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.block = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.small = nn.Conv2d(4, 4, 3, stride=2, padding=1)
        self.last = nn.Linear(4, 5)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.features(images_BCHW)
        return self.last(self.small(x if self.training else self.block(x)).mean(dim=(2, 3)))


class Halving(nn.Module):
    """A network whose last features are half as wide in training as they are otherwise; it counts in `dtype`."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.features = nn.Conv2d(2, 4, 3, padding=1, dtype=dtype)
        self.small = nn.Conv2d(4, 4, 3, stride=2, padding=1, dtype=dtype)
        self.last = nn.Linear(4, 5, dtype=dtype)

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.features(images_BCHW.to(self.last.weight.dtype))
        return self.last(self.small(x[..., ::2] if self.training else x).mean(dim=(2, 3)))


@pytest.mark.parametrize("network", [Dropping, Halving])
def test_features_that_are_others_in_training_are_left_out(make_run, network: type[nn.Module]) -> None:
    hints = Hints(make_run(teacher=wrn(1), student=network(), distillation={"hint_share": 1.0}))
    images_BCHW = torch.rand(16, 2, 8, 6)
    hints._student.train()
    assert abs(untold(hints, images_BCHW) - 1) < 0.01
    hints._student.eval()
    assert abs(untold(hints, images_BCHW) - 2) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_of_any_precision_and_autocast(make_run, dtype) -> None:
    hints = Hints(make_run(teacher=Halving(dtype), student=Halving(dtype), distillation={"hint_share": 1.0}))
    images_BCHW = torch.rand(16, 2, 8, 6)
    hints._student.eval()
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            _, value = hints.ask_student(images_BCHW)
        value.backward()
        assert value.dtype == torch.float32
        assert abs(value.item() - 2) < 0.01


def test_a_teacher_that_draws_numbers_leaves_the_students_alone(make_run) -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4, 5)

        def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
            return self.last(nn.functional.dropout(self.features(images_BCHW), 0.5).mean(dim=(2, 3)))

    hints = Hints(make_run(teacher=Drawing(), student=Drawing(), distillation={"hint_share": 1.0}))
    images_BCHW = torch.rand(16, 2, 8, 6)
    torch.manual_seed(1)
    logits_BK, _ = hints.ask_student(images_BCHW)
    torch.manual_seed(1)
    torch.testing.assert_close(logits_BK, hints._student(images_BCHW))


def test_what_hints_learnt_is_forgotten_after_them(make_run, fill) -> None:
    run = make_run(epoch=4, teacher=wrn(2), student=wrn(1), distillation={"hint_share": 0.2, "steps": 4})
    fill(run, 20)
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    assert stage.state_dict()["hints"] != {}
    run.epoch = run.config.run.epochs
    stage.run_epoch(run)
    assert stage.state_dict()["hints"] == {}
    later = Distillation(run.config.distillation)
    later.setup(run)
    later.load_state_dict(stage.state_dict())
    assert later.state_dict()["hints"] == {}
    later.run_epoch(run)


def test_networks_with_nothing_in_common_are_told_of(make_run, fill) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 8 * 6, 5))
    run = make_run(epoch=4, student=flat, distillation={"hint_share": 1.0})
    fill(run, 20)
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    warnings = [event.message for event in run.events]
    assert warnings == ["student and teacher have no features of the same resolution: the student learns without hints"]
    stage.run_epoch(run)
    assert not any(isinstance(event, HintedStep) for event in run.events)
    assert stage.state_dict()["hints"] == {}
