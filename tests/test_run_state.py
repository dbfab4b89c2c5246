"""The services of a run's state: normalisation in one place, evaluation that leaves no trace."""

from __future__ import annotations

import pytest
import torch
from tiny_network import TinyNetwork
from torch import nn

from stages.models.layers import evaluating
from stages.models.normalized import NormalizedModel


class Identity(nn.Module):
    """Gives its input, and remembers how it came."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.is_channels_last = images_BCHW.is_contiguous(memory_format=torch.channels_last)
        return images_BCHW


@pytest.mark.parametrize("overlap", [False, True])
def test_threads_that_cast_weights_at_once_do_not_share_them(make_run, overlap: bool) -> None:
    run = make_run(run={"threads": 2}, inversion={"overlap": overlap})
    run.precision = "bf16"
    assert run.schedule.overlaps == overlap
    with run.autocast():
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_cache_enabled() != overlap


def test_images_are_normalised_by_channel() -> None:
    model = NormalizedModel(Identity(), mean=(0.5, 0.25), std=(0.5, 0.125))
    images_BCHW = torch.rand(3, 2, 4, 5)
    expected = torch.stack([(images_BCHW[:, 0] - 0.5) / 0.5, (images_BCHW[:, 1] - 0.25) / 0.125], dim=1)
    torch.testing.assert_close(model(images_BCHW), expected)
    assert model.model.is_channels_last


def test_stored_images_are_the_same_images() -> None:
    model = NormalizedModel(Identity(), mean=(0.5,), std=(0.25,))
    stored = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    torch.testing.assert_close(model(stored), (torch.arange(256).view(1, 1, 16, 16) / 255 - 0.5) / 0.25)


def test_normalisation_is_no_part_of_the_weights() -> None:
    model = NormalizedModel(nn.Linear(2, 2), mean=(0.5,), std=(0.25,))
    assert set(model.state_dict()) == {"model.weight", "model.bias"}


@pytest.mark.parametrize("is_training", [True, False])
def test_evaluating_lets_gradients_through_to_the_images_only(is_training: bool) -> None:
    torch.manual_seed(0)
    model = TinyNetwork(in_channels=2, num_classes=3, width=4).train(is_training)
    model.conv1.weight.requires_grad_(False)  # frozen by its owner: it stays so
    images_BCHW = torch.rand(2, 2, 8, 6, requires_grad=True)
    with evaluating(model):
        assert not any(module.training for module in model.modules())
        model(images_BCHW).sum().backward()
    assert images_BCHW.grad.abs().max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(module.training == is_training for module in model.modules())
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["conv1.weight"]


def test_evaluating_leaves_each_module_in_its_mode_and_tells_the_network() -> None:
    told: list[bool] = []

    class Listening(TinyNetwork):
        def train(self, mode: bool = True) -> nn.Module:
            told.append(mode)
            return super().train(mode)

    model = Listening(in_channels=2, num_classes=3, width=2)
    model.bn1.eval()  # frozen by its owner
    with evaluating(model):
        pass
    assert (model.training, model.bn1.training, model.conv1.training) == (True, False, True)
    assert told == [False, True]


def test_evaluating_ends_with_an_error_too() -> None:
    model = TinyNetwork(in_channels=2, num_classes=3, width=2)
    with pytest.raises(RuntimeError, match="channels"), evaluating(model):
        model(torch.rand(2, 1, 8, 6))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_logged_steps(make_run) -> None:
    run = make_run(run={"log_every": 4})
    assert [step for step in range(10) if run.should_log(step, 10)] == [3, 7, 9]


def test_epochs_of_a_run(make_run) -> None:
    run = make_run()
    seen = []
    for run.epoch in range(1, 8):
        seen.append((run.in_warmup, run.is_last_epoch))
    assert seen == [(True, False)] * 3 + [(False, False)] * 3 + [(False, True)]
