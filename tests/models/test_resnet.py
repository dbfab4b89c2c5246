import pytest
import torch
import torchvision
from torch import nn

from stages.models.resnet import resnet
from stages.models.weights import load_weights


def build(depth, *, num_classes=10):
    return resnet(depth=depth, num_classes=num_classes, in_channels=3, image_size=(32, 32))


@pytest.mark.parametrize(
    ("depth", "num_classes", "expected"),
    [(18, 10, 11_173_962), (18, 100, 11_220_132), (34, 10, 21_282_122), (34, 100, 21_328_292)],
)
def test_parameter_counts(depth, num_classes, expected):
    with torch.device("meta"):
        model = build(depth, num_classes=num_classes)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


def test_state_dict_has_the_public_names():
    with torch.device("meta"):
        names = list(build(18).state_dict())
    for name in (
        "conv1.weight",
        "layer1.0.conv1.weight",
        "layer2.0.shortcut.0.weight",
        "layer4.0.shortcut.1.bias",
    ):
        assert name in names
    assert not any(name.startswith("layer1.0.shortcut") for name in names)
    assert names[-2:] == ["linear.weight", "linear.bias"]


def test_is_torchvision_s_with_another_stem_and_its_names_load(randomised, tmp_path):
    reference = torchvision.models.resnet18(num_classes=10)
    reference.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    reference.maxpool = nn.Identity()
    randomised(reference)
    torch.save(reference.state_dict(), tmp_path / "downsample-and-fc.pt")

    model = build(18)
    load_weights(model, tmp_path / "downsample-and-fc.pt")
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(images), reference(images))
