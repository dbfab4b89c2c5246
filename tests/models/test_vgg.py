import pytest
import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from stages.errors import ConfigError
from stages.models.vgg import vgg


def build(depth=11, *, num_classes=10, image_size=(32, 32)):
    return vgg(depth=depth, num_classes=num_classes, in_channels=3, image_size=image_size)


@pytest.mark.parametrize(("depth", "expected"), [(8, 3_918_858), (11, 9_231_114), (13, 9_416_010)])
def test_parameter_count(depth, expected):
    with torch.device("meta"):
        model = build(depth)
    assert sum(parameter.numel() for parameter in model.parameters()) == expected


@pytest.mark.parametrize("depth", [8, 11, 13, 16, 19])
def test_depth_counts_the_layers_with_weights(depth):
    """Of the original, which has two more linear layers."""
    with torch.device("meta"):
        weights = [value for value in build(depth).parameters() if value.ndim in (2, 4)]
    assert len(weights) == depth - 2


def test_state_dict_has_the_public_names():
    with torch.device("meta"):
        weights = [name for name, value in build().named_parameters() if value.ndim in (2, 4)]
    expected = (
        "block0.0",
        "block1.0",
        "block2.0",
        "block2.3",
        "block3.0",
        "block3.3",
        "block4.0",
        "block4.3",
    )
    assert weights == [f"{name}.weight" for name in (*expected, "classifier")]


@pytest.mark.parametrize(("depth", "letter"), [(11, "A"), (13, "B"), (16, "D"), (19, "E")])
def test_is_torchvision_s_without_its_last_two_max_pools(randomised, depth, letter):
    features = list(make_layers(cfgs[letter], batch_norm=True))
    last_two = [layer for layer in features if isinstance(layer, nn.MaxPool2d)][-2:]
    reference = nn.Sequential(
        *[layer for layer in features if layer not in last_two],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 10),
    )
    assert sum(isinstance(layer, nn.MaxPool2d) for layer in reference) == 3
    randomised(reference)
    model = build(depth).eval()
    own_names = model.state_dict()
    model.load_state_dict(dict(zip(own_names, reference.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), reference(images))


def test_images_too_small_for_its_max_pools_are_refused():
    with pytest.raises(ConfigError, match=r"8x8 pixels; `task\.image_shape` has 7x32"):
        build(image_size=(7, 32))


@pytest.mark.parametrize(("height", "num_pools"), [(32, 3), (64, 4), (96, 3)])
def test_images_64_pixels_high_are_pooled_once_more(height, num_pools, monkeypatch):
    """RepDistiller's code, whose names these are: `if h == 64`, for Tiny ImageNet."""
    pools = []
    original = nn.functional.max_pool2d
    monkeypatch.setattr("stages.models.vgg.F.max_pool2d", lambda *arguments: pools.append(1) or original(*arguments))
    build(8, image_size=(height, 32)).eval()(torch.zeros(1, 3, height, 32))
    assert len(pools) == num_pools
