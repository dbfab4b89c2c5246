"""The one place where images are normalised takes images only."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from stages.models.normalized import NormalizedModel


class Identity(nn.Module):
    """Gives its input, and remembers how it came."""

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.is_channels_last = images_BCHW.is_contiguous(memory_format=torch.channels_last)
        return images_BCHW


@pytest.fixture
def model() -> NormalizedModel:
    """A network of any number of channels: what it gets is what it gives."""
    return NormalizedModel(nn.Identity(), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))


def test_images_are_normalised_by_channel() -> None:
    model = NormalizedModel(Identity(), mean=(0.5, 0.25), std=(0.5, 0.125))
    images_BCHW = torch.rand(3, 2, 4, 5)
    expected = torch.stack([(images_BCHW[:, 0] - 0.5) / 0.5, (images_BCHW[:, 1] - 0.25) / 0.125], dim=1)
    torch.testing.assert_close(model(images_BCHW), expected)
    assert model.model.is_channels_last


def test_normalisation_is_no_part_of_the_weights() -> None:
    model = NormalizedModel(nn.Linear(2, 2), mean=(0.5,), std=(0.25,))
    assert set(model.state_dict()) == {"model.weight", "model.bias"}


def test_bytes_and_fractions_are_the_same_images(model: NormalizedModel) -> None:
    images_BCHW = torch.randint(256, (2, 3, 4, 5), dtype=torch.uint8)
    torch.testing.assert_close(model(images_BCHW), model(images_BCHW.float() / 255))
    assert model(torch.ones(1, 3, 1, 1)).flatten().tolist() == [1.0, 3.0, 1.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_images_of_any_float_type_come_in_that_of_the_network(dtype: torch.dtype) -> None:
    """numpy's fractions have 64 bits."""
    model = NormalizedModel(nn.Conv2d(3, 2, 1), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))
    images_BCHW = torch.tensor([0.0, 0.25, 0.5, 1.0]).expand(2, 3, 1, 4)
    assert torch.equal(model(images_BCHW.to(dtype)), model(images_BCHW))
    network = copy.deepcopy(model.model).double()
    for double in (copy.deepcopy(model).double(), NormalizedModel(network, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1))):
        assert double(images_BCHW.to(dtype)).dtype == torch.float64


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 4, 4, 3), (1, 4, 4), (3, 4, 4), (3,)])
def test_images_of_another_shape_are_refused(model: NormalizedModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape \[B, 3, H, W\], not \[") as raised:
        model(torch.zeros(shape))
    assert str(raised.value).endswith(f"not {list(shape)}")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_images_of_another_type_are_refused(model: NormalizedModel, dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match=rf"floating point in \[0, 1\], or uint8, not {dtype}"):
        model(torch.zeros(2, 3, 4, 4, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_the_checks_compile_into_nothing(model: NormalizedModel, dtype: torch.dtype) -> None:
    images_BCHW = torch.ones(2, 3, 4, 4, dtype=dtype)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images_BCHW), model(images_BCHW))


class Viewing(nn.Module):
    """Ends as many public networks do, with features that `view` can flatten channel by channel only."""

    def __init__(self, *, flattens: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.linear = nn.Linear(5 * 2 * 2, 7)
        self.flattens = flattens

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        features_BCHW = nn.functional.adaptive_avg_pool2d(self.conv(images_BCHW), 2)
        rows_BF = features_BCHW.flatten(1) if self.flattens else features_BCHW.view(len(features_BCHW), -1)
        logits_BK: torch.Tensor = self.linear(rows_BF)
        return logits_BK


def test_a_network_that_needs_its_features_channel_by_channel_gets_them_so() -> None:
    task = SimpleNamespace(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), image_shape=(3, 8, 8))
    images_BCHW = torch.rand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    outputs = []
    for flattens in (True, False):
        torch.manual_seed(0)
        model = NormalizedModel.on(torch.device("cpu"), Viewing(flattens=flattens), task)
        assert model.training
        assert model.model.conv.weight.is_contiguous(memory_format=torch.channels_last) == flattens
        outputs.append(model(images_BCHW))
        outputs[-1].sum().backward()
        assert copy.deepcopy(model)(images_BCHW).shape == (4, 7)
    torch.testing.assert_close(*outputs)
