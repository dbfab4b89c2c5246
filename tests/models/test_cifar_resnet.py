import pytest
import torch
import torch.nn.functional as F

from stages.models.cifar_resnet import PaddedShortcut, cifar_resnet


def build(depth, *, num_classes=10, variant=""):
    return cifar_resnet(depth=depth, num_classes=num_classes, in_channels=3, image_size=(32, 32), variant=variant)


@pytest.mark.parametrize(
    ("depth", "variant", "num_classes", "expected"),
    [
        (20, "", 10, 269_722),
        (32, "", 10, 464_154),
        (56, "", 10, 853_018),
        # As published for CIFAR-100 with "Contrastive Representation Distillation".
        (20, "b", 100, 278_324),
        (56, "b", 100, 861_620),
        (8, "x4", 100, 1_233_540),
        (32, "x4", 100, 7_433_860),
    ],
)
def test_parameter_counts(depth, variant, num_classes, expected):
    model = build(depth, num_classes=num_classes, variant=variant)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_depth_counts_the_layers_with_weights(depth):
    weights = [name for name, value in build(depth).named_parameters() if value.ndim in (2, 4)]
    assert len(weights) == depth


def test_state_dict_has_the_public_names():
    names = list(build(20).state_dict())
    assert names[0] == "conv1.weight"
    assert names[1] == "bn1.weight"
    assert "layer1.0.conv1.weight" in names
    assert "layer3.2.bn2.running_var" in names
    assert names[-2:] == ["linear.weight", "linear.bias"]
    assert not any("shortcut" in name for name in names)


def test_first_weights_are_those_of_kaiming_he():
    """Of mean zero and variance 2 / inputs, convolutions and linear layer alike."""
    torch.manual_seed(0)
    weights = build(20, num_classes=100).state_dict()
    for name, num_inputs in (
        ("layer3.1.conv2.weight", 9 * 64),
        ("layer1.0.conv1.weight", 9 * 16),
        ("linear.weight", 64),
    ):
        assert weights[name].std().item() == pytest.approx((2 / num_inputs) ** 0.5, rel=0.05)
        assert abs(weights[name].mean().item()) < 0.1 * (2 / num_inputs) ** 0.5


@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_shortcut_is_every_second_pixel_between_zero_channels(size):
    x = torch.randn(2, 16, *size)
    out = PaddedShortcut(16)(x)
    every_second = F.max_pool2d(x, kernel_size=1, stride=2)
    zeros = torch.zeros(2, 8, *every_second.shape[2:])
    assert torch.equal(out, torch.cat([zeros, every_second, zeros], dim=1))


def test_shortcut_keeps_channels_last():
    x = torch.randn(2, 16, 8, 8).to(memory_format=torch.channels_last)
    assert PaddedShortcut(16)(x).is_contiguous(memory_format=torch.channels_last)


def reference_forward(weights, x, num_blocks):
    """Sec. 4.2 of He et al., from the weights alone."""

    def norm(x, name):
        statistics = (weights[f"{name}.running_mean"], weights[f"{name}.running_var"])
        return F.batch_norm(x, *statistics, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = F.relu(norm(F.conv2d(x, weights["conv1.weight"], padding=1), "bn1"))
    for stage, first_stride in ((1, 1), (2, 2), (3, 2)):
        for index in range(num_blocks):
            block = f"layer{stage}.{index}"
            stride = first_stride if index == 0 else 1
            out = F.conv2d(x, weights[f"{block}.conv1.weight"], stride=stride, padding=1)
            out = norm(
                F.conv2d(F.relu(norm(out, f"{block}.bn1")), weights[f"{block}.conv2.weight"], padding=1),
                f"{block}.bn2",
            )
            shortcut = torch.zeros_like(out)
            first = (out.shape[1] - x.shape[1]) // 2
            shortcut[:, first : first + x.shape[1]] = x[:, :, ::stride, ::stride]
            if f"{block}.shortcut.0.weight" in weights:  # option B
                projected = F.conv2d(x, weights[f"{block}.shortcut.0.weight"], stride=stride)
                shortcut = norm(projected, f"{block}.shortcut.1")
            x = F.relu(out + shortcut)
    return F.linear(x.mean((2, 3)), weights["linear.weight"], weights["linear.bias"])


@pytest.mark.parametrize(("variant", "num_projections"), [("", 0), ("b", 2), ("x4", 3)])
def test_forward_is_that_of_the_paper(randomised, variant, num_projections):
    model = randomised(build(20, variant=variant)).double()
    assert sum("shortcut.0.weight" in name for name in model.state_dict()) == num_projections
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(model(images), reference_forward(model.state_dict(), images, num_blocks=3))
