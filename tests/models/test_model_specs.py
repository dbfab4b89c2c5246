"""The names a preset may use: checked without torch, each served by one spec."""

import pytest

from stages import models
from stages.errors import ConfigError
from stages.registry import Spec, find

SPECS = [value for value in vars(models).values() if isinstance(value, Spec)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_every_target_exists(spec):
    assert callable(spec.load())


@pytest.mark.parametrize(
    ("name", "spec", "arguments"),
    [
        ("wrn40_2", models.WRN, {"depth": 40, "width": 2}),
        ("wrn16_10", models.WRN, {"depth": 16, "width": 10}),
        ("resnet110", models.CIFAR_RESNET, {"depth": 110, "variant": ""}),
        ("resnet26b", models.CIFAR_RESNET, {"depth": 26, "variant": "b"}),
        ("resnet1202", models.CIFAR_RESNET, {"depth": 1202, "variant": ""}),
        ("resnet56b", models.CIFAR_RESNET, {"depth": 56, "variant": "b"}),
        ("resnet32x4", models.CIFAR_RESNET, {"depth": 32, "variant": "x4"}),
        ("resnet34", models.RESNET, {"depth": 34}),
        ("vgg11", models.VGG, {"depth": 11}),
        ("vgg8", models.VGG, {"depth": 8}),
        ("torchvision:resnet18", models.TORCHVISION, {"name": "resnet18"}),
        ("my/net.py:make", models.FILE, {"path": "my/net.py", "factory": "make"}),
        ("my/net.py", models.FILE, {"path": "my/net.py", "factory": ""}),
    ],
)
def test_names(name, spec, arguments):
    found = find("models", name, where="teacher.model")
    assert found.spec == spec
    assert found.arguments == arguments
    assert [other for other in SPECS if other.match(name) is not None] == [spec]


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "wrn40",
        "wrn40_0",
        "vgg12",
        "resnet18x4",
        "torchvision:",
        "net.py:2",
        "net.pymake",
        "a/my.python",
        "",
    ],
)
def test_names_that_nothing_serves(name):
    with pytest.raises(ConfigError, match=r"in `student\.model`"):
        find("models", name, where="student.model")
