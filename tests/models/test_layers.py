"""A network that is looked at stays as it was: modes, gradients, frozen parts."""

from __future__ import annotations

import pytest
import torch
from tiny_network import TinyNetwork
from torch import nn

from stages.models.layers import evaluating


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
