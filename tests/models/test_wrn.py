import pytest
import torch
import torch.nn.functional as F

from stages.errors import ConfigError
from stages.models.wrn import wide_resnet


def build(depth, width, *, num_classes=100, in_channels=3):
    return wide_resnet(depth=depth, width=width, num_classes=num_classes, in_channels=in_channels, image_size=(32, 32))


@pytest.mark.parametrize(
    ("depth", "width", "expected"),
    [(16, 1, 180_916), (16, 2, 703_284), (40, 1, 569_780), (40, 2, 2_255_156)],
)
def test_parameter_counts_of_the_paper_s_networks(depth, width, expected):
    assert sum(parameter.numel() for parameter in build(depth, width).parameters()) == expected


def test_state_dict_has_the_public_names():
    names = {name for name in build(10, 2).state_dict() if "running" not in name and "num_b" not in name}
    block = ("bn1.weight", "bn1.bias", "conv1.weight", "bn2.weight", "bn2.bias", "conv2.weight")
    expected = {"conv1.weight", "bn1.weight", "bn1.bias", "fc.weight", "fc.bias"}
    for stage in (1, 2, 3):
        expected |= {f"block{stage}.layer.0.{part}" for part in (*block, "convShortcut.weight")}
    assert names == expected


def test_no_shortcut_convolution_where_the_shape_stays():
    # Width 1: the first stage goes from 16 channels to 16.
    names = [name for name in build(16, 1).state_dict() if "convShortcut" in name]
    assert names == ["block2.layer.0.convShortcut.weight", "block3.layer.0.convShortcut.weight"]


def reference_forward(weights, x, num_blocks):
    """The network as Zagoruyko and Komodakis write it, from its weights alone."""

    def activate(x, name):
        statistics = (weights[f"{name}.running_mean"], weights[f"{name}.running_var"])
        return F.relu(F.batch_norm(x, *statistics, weights[f"{name}.weight"], weights[f"{name}.bias"]))

    x = F.conv2d(x, weights["conv1.weight"], padding=1)
    for stage, first_stride in ((1, 1), (2, 2), (3, 2)):
        for index in range(num_blocks):
            block = f"block{stage}.layer.{index}"
            stride = first_stride if index == 0 else 1
            activated = activate(x, f"{block}.bn1")
            residual = F.conv2d(activated, weights[f"{block}.conv1.weight"], stride=stride, padding=1)
            residual = F.conv2d(activate(residual, f"{block}.bn2"), weights[f"{block}.conv2.weight"], padding=1)
            if (shortcut := weights.get(f"{block}.convShortcut.weight")) is not None:
                x = F.conv2d(activated, shortcut, stride=stride)
            x = x + residual
    return F.linear(activate(x, "bn1").mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


def test_forward_is_that_of_the_paper(randomised):
    model = randomised(build(16, 2, num_classes=7)).double()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images), reference_forward(model.state_dict(), images, num_blocks=2))


def test_initialisation():
    model = build(16, 4)
    weight = model.block3.layer[1].conv2.weight  # 256 x 256 x 3 x 3
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert not model.fc.bias.any()


@pytest.mark.parametrize(
    ("depth", "nearest"),
    [
        (17, "`wrn16_2` and `wrn22_2`"),
        (28 + 5, "`wrn28_2` and `wrn34_2`"),
        (4, "`wrn10_2`"),
        (1, "`wrn10_2`"),
    ],
)
def test_a_depth_that_is_not_6n_plus_4_names_the_nearest(depth, nearest):
    with pytest.raises(ConfigError, match=f"got {depth}") as raised:
        build(depth, 2)
    assert nearest in raised.value.hint
