"""Which features of a network are looked at, and that looking changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.models.features import FeatureLayer, last_features, watched_features
from stages.models.wrn import wide_resnet


class Odd(nn.Module):
    """A module that is called twice, one that writes over its input, one that returns no tensor, one never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.shared = nn.Conv2d(4, 4, 3, padding=1)
        self.in_place = nn.ReLU(inplace=True)
        self.pair = Pair()
        self.small = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.one_pixel = nn.AdaptiveAvgPool2d(1)
        self.only_in_training = nn.Conv2d(4, 4, 1)
        self.answer = nn.Conv2d(6, 5, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.shared(self.shared(self.first(images_BCHW)))
        if self.training:
            x = self.only_in_training(x)
        x, _ = self.pair(x)
        small = self.small(x)
        F.relu_(small)
        self.one_pixel(small)
        return self.answer(small)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_the_stages_of_a_wide_resnet() -> None:
    network = wide_resnet(depth=16, width=2, num_classes=7, in_channels=3, image_size=(32, 24))
    assert last_features(network, (3, 32, 24)) == {
        (32, 24): FeatureLayer("block2.layer.0.bn1", 32),
        (16, 12): FeatureLayer("block3.layer.0.bn1", 64),
        (8, 6): FeatureLayer("bn1", 128),
    }
    assert network.training


def test_what_is_looked_at_in_an_odd_network() -> None:
    assert last_features(Odd(), (3, 8, 8)) == {(8, 8): FeatureLayer("first", 4), (4, 4): FeatureLayer("small", 6)}


def test_a_network_without_features() -> None:
    assert last_features(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2)) == {}


class NoFeatures(nn.Module):
    """What has four sizes and is no map of the image: a kernel, windows of it, channels last, attention, a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1))
        self.windows, self.last, self.attention, self.mask, self.larger = (nn.Identity() for _ in range(5))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x = self.conv(images_BCHW)
        height, width = x.shape[2:]
        self.windows(F.unfold(x, 2, stride=2).mT.reshape(-1, 8, 2, 2))
        self.last(x.permute(0, 2, 3, 1))
        tokens = x.flatten(2).mT
        self.attention(torch.softmax(tokens @ tokens.mT, dim=-1).unsqueeze(1))
        self.mask(F.max_pool2d(x, 2) > 0)
        self.larger(F.interpolate(x, (2 * height, 2 * width)))
        return x.mean(dim=(2, 3))


@pytest.mark.parametrize("size", [(8, 6), (12, 12)])
def test_not_all_that_has_four_sizes_are_features(size: tuple[int, int]) -> None:
    assert last_features(NoFeatures(), (3, *size)) == {size: FeatureLayer("conv", 8)}


def test_maps_that_are_rounded_otherwise_on_each_axis_are_features() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 5, 3, stride=2, padding=1), nn.Flatten())
    assert last_features(network, (3, 30, 45)) == {(14, 22): FeatureLayer("0", 4), (7, 11): FeatureLayer("1", 5)}


def test_an_answer_for_each_pixel_is_no_feature() -> None:
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 5, 1), nn.Conv2d(5, 2, 1)))
    assert last_features(network, (3, 4, 4)) == {(4, 4): FeatureLayer("0.0", 5)}


def test_looking_leaves_the_network_as_it_was() -> None:
    network = wide_resnet(depth=10, width=1, num_classes=7, in_channels=3, image_size=(8, 8))
    network.block2.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    last_features(network, (3, 8, 8))
    assert network.training
    assert not network.block2.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(module._forward_hooks for module in network.modules())


def test_features_are_those_before_they_are_written_over_and_carry_gradients() -> None:
    network = Odd().eval()
    images_BCHW = torch.randn(2, 3, 8, 8)
    with watched_features(network, ["small", "first"]) as features:
        network(images_BCHW)
    assert features["small"].min() < 0
    torch.testing.assert_close(features["first"], network.first(images_BCHW))
    features["small"].sum().backward()
    assert network.first.weight.grad is not None
    assert not any(module._forward_hooks for module in network.modules())


def test_hooks_are_gone_where_a_network_fails() -> None:
    network = Odd()
    with pytest.raises(RuntimeError), watched_features(network, ["first"]):
        network(torch.zeros(1, 9, 8, 8))
    assert not any(module._forward_hooks for module in network.modules())
