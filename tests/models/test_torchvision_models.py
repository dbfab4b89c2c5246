import pytest
import torch
import torchvision
from image_task import image_task
from torch import nn

from stages.errors import ConfigError, FileError
from stages.models.build import build_model
from stages.models.torchvision_models import torchvision_model
from stages.models.weights import load_weights


def build(name, *, num_classes=10, in_channels=3):
    return torchvision_model(name=name, num_classes=num_classes, in_channels=in_channels, image_size=(64, 64))


def test_is_torchvision_s_network():
    torch.manual_seed(0)
    model = build("shufflenet_v2_x0_5")
    torch.manual_seed(0)
    expected = torchvision.models.shufflenet_v2_x0_5(num_classes=10).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_by_its_name_in_a_preset():
    model = build_model("torchvision:resnet18", task=image_task(4, (3, 64, 64)), where="teacher.model")
    assert isinstance(model, torchvision.models.ResNet)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 4)


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "squeezenet1_0", "mobilenet_v3_small"])
def test_grey_images_replace_the_first_convolution_only(name):
    grey, colour = build(name, in_channels=1), build(name)
    assert grey(torch.rand(2, 1, 64, 64)).shape == (2, 10)
    shapes = {key: value.shape for key, value in colour.state_dict().items()}
    differing = [key for key, value in grey.state_dict().items() if value.shape != shapes[key]]
    assert len(differing) == 1
    first = next(module for module in grey.modules() if isinstance(module, nn.Conv2d))
    was = next(module for module in colour.modules() if isinstance(module, nn.Conv2d))
    assert (first.stride, first.padding, first.bias is None) == (was.stride, was.padding, was.bias is None)


def test_auxiliary_heads_are_off():
    model = build("googlenet").train()
    assert isinstance(model(torch.rand(2, 3, 64, 64)), torch.Tensor)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_a_file_may_have_the_auxiliary_heads(name, prefix, tmp_path):
    published = torchvision.models.get_model(name, weights=None, num_classes=10, aux_logits=True, init_weights=False)
    weights = published.state_dict()
    torch.save({prefix + key: value for key, value in weights.items()}, tmp_path / "published.pth")
    model = build(name)
    load_weights(model, tmp_path / "published.pth")
    loaded = model.state_dict()
    assert set(weights) - set(loaded)
    assert all(torch.equal(value, weights[key]) for key, value in loaded.items())


def test_a_file_of_another_network_may_not(tmp_path):
    weights = build("shufflenet_v2_x0_5").state_dict()
    torch.save({**weights, "aux1.conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(FileError, match=r"1 unexpected \(`aux1\.conv\.weight`\)"):
        load_weights(build("shufflenet_v2_x0_5"), tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet81", "`torchvision:resnet18`"), ("zzz", "alexnet, "), ("fcn_resnet50", "torchvision:")],
)
def test_unknown_names(name, hint):
    with pytest.raises(ConfigError, match=f"no classifier `{name}`") as raised:
        build(name)
    assert hint in raised.value.hint
