"""Networks by name: each of ours on every kind of image, and what is refused before anything relies on it."""

from functools import partial

import pytest
import torch
from image_task import image_task
from torch import nn

from stages.errors import ConfigError
from stages.models.build import build_generator, build_model, check_in_training
from stages.models.layers import bn_layers

NAMES = ("wrn10_1", "wrn16_2", "resnet20", "resnet8x4", "resnet18", "vgg11")


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 28, 45), (1, 64, 64)])
@pytest.mark.parametrize("name", NAMES)
def test_every_image_size_and_channel_count(name, shape):
    model = build_model(name, task=image_task(7, shape), where="student.model")
    assert model.training
    assert model(torch.rand(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_channels_last_and_bf16_change_the_numbers_little(name, randomised):
    model = randomised(build_model(name, task=image_task(), where="student.model"))
    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        logits = model(images)
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low_precision = model(images).float()
    assert (low_precision - logits).norm() < 0.05 * logits.norm()


@pytest.mark.parametrize("name", NAMES)
def test_feature_maps_stay_channels_last(name):
    # One layer that falls back to NCHW costs two copies on every pass.
    model = build_model(name, task=image_task(), where="student.model").to(memory_format=torch.channels_last)
    layouts = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(
                lambda _, inputs, __, path=path: layouts.update(
                    {path: inputs[0].is_contiguous(memory_format=torch.channels_last)}
                )
            )
    model(torch.randn(2, 3, 32, 32).to(memory_format=torch.channels_last))
    assert len(layouts) > 10
    assert all(layouts.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    model = build_model(name, task=image_task(), where="student.model")
    images = torch.rand(4, 3, 16, 16, requires_grad=True)
    model(images).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert images.grad.abs().sum() > 0


def test_equal_seeds_give_equal_weights_and_the_check_draws_nothing():
    torch.manual_seed(3)
    one = build_model("wrn10_1", task=image_task(), where="student.model").state_dict()
    after_one = torch.get_rng_state()
    torch.manual_seed(3)
    other = build_model("wrn10_1", task=image_task(image_shape=(3, 16, 16)), where="student.model").state_dict()
    assert torch.equal(torch.get_rng_state(), after_one)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["bn1.num_batches_tracked"] == 0


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ConfigError, match=r"`wrn40-2` in `teacher\.model`") as raised:
        build_model("wrn40-2", task=image_task(), where="teacher.model")
    assert raised.value.hint.startswith("did you mean `wrn40_2`? Any other network is `torchvision:NAME`")


def test_a_factory_s_refusal_names_the_key():
    with pytest.raises(ConfigError, match=r"`student\.model` = `wrn17_1`: .* got 17") as raised:
        build_model("wrn17_1", task=image_task(), where="student.model")
    assert "wrn16_1" in raised.value.hint


def test_an_unknown_generator():
    with pytest.raises(ConfigError, match=r"`dcgen` in `inversion\.generator`") as raised:
        build_generator("dcgen", latent_dim=4, image_shape=(1, 8, 8))
    assert "`dcgan`" in raised.value.hint


class Pictures(nn.Module):
    """Pictures of 8x8, and a layer that makes nothing of them."""

    def __init__(self, unused: nn.Module | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 64)
        self.unused = None if unused is None else unused.weight

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.linear(latents).sigmoid().view(-1, 1, 8, 8)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: None, "cannot be built: TypeError.*"),
        (lambda **_: None, "gives a NoneType"),
        (lambda **_: nn.Linear(4, 9), r"images of shape \[1, 1, 8, 8\] of one latent; got \[1, 9\]"),
        (lambda **_: nn.Linear(5, 9), "does not take latents of shape"),
        (lambda **_: Pictures(nn.Linear(4, 9)), "does not depend on the parameter `unused`"),
        (lambda **_: Pictures().requires_grad_(False), "no parameters to train"),
    ],
)
def test_a_stranger_s_generator_that_does_not_serve_is_refused(install, factory, message):
    install("generators", factory)
    with pytest.raises(ConfigError, match=r"`inversion\.generator` = `theirs`.*" + message) as raised:
        build_generator("theirs", latent_dim=4, image_shape=(1, 8, 8))
    assert raised.value.hint


def test_bn_layers_are_those_with_statistics_in_order():
    model = nn.Sequential(
        nn.BatchNorm2d(1), nn.BatchNorm2d(2, track_running_stats=False), nn.GroupNorm(1, 1), nn.BatchNorm1d(3)
    )
    assert bn_layers(model) == [model[0], model[3]]
    assert len(bn_layers(build_model("resnet20", task=image_task(), where="teacher.model"))) == 19


class Constant(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, images):
        return self.output


def build_strangers(install, factory):
    install("models", factory)
    return build_model("theirs", task=image_task(), where="teacher.model")


def test_a_stranger_s_factory_gets_classes_channels_and_size(install):
    seen = {}

    def factory(**keywords):
        seen.update(keywords)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    build_strangers(install, factory)
    assert seen == {"num_classes": 10, "in_channels": 3, "image_size": (32, 32)}


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: None, "cannot be built: TypeError"),
        (lambda **_: "resnet", "gives a str"),
        (lambda **_: Constant(torch.zeros(1, 5)), r"logits of shape \[1, 10\] .* got shape \[1, 5\]"),
        (lambda **_: Constant(torch.zeros(10)), r"got shape \[10\]"),
        (lambda **_: Constant(torch.zeros(1, 10, 1, 1)), r"got shape \[1, 10, 1, 1\]"),
        (lambda **_: Constant({"logits": torch.zeros(1, 10)}), "got a dict"),
        (lambda **_: nn.Sequential(nn.Flatten(), Counting(3072, 10)), r"no tensor \(`1\._extra_state`\)"),
        (lambda **_: nn.Conv2d(1, 10, 1), r"does not take images of shape \[3, 32, 32\]: RuntimeError"),
    ],
)
def test_a_stranger_s_network_that_does_not_serve_is_refused(install, factory, message):
    with pytest.raises(ConfigError, match=r"`teacher\.model` = `theirs`.*" + message) as raised:
        build_strangers(install, factory)
    assert raised.value.hint


class ShortOfMemory(nn.Linear):
    def forward(self, images):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 GiB")


def test_want_of_memory_is_no_fault_of_the_network(install):
    network = ShortOfMemory(3072, 10)
    with pytest.raises(RuntimeError, match="2 GiB"):
        build_strangers(install, lambda **_: network)
    with pytest.raises(RuntimeError, match="2 GiB"):
        check_in_training(network, "theirs", task=image_task(), where="student.model", batch_size=8)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_torchscript_is_refused_with_its_way_out(install):
    network = torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)))
    with pytest.raises(ConfigError, match="is TorchScript") as raised:
        build_strangers(install, lambda **_: network)
    assert "state_dict" in raised.value.hint


class Counting(nn.Linear):
    def get_extra_state(self):
        return {"calls": 0}


@pytest.mark.parametrize(
    ("logits", "hint"),
    [
        (torch.zeros(1, 1), "one logit"),
        (torch.zeros(10), "flatten"),
        (torch.zeros(1, 10, 1, 1), "flatten"),
        (torch.zeros(1, 5), "num_classes"),
        (torch.zeros(4, 10), "task.image_shape"),
    ],
)
def test_a_shape_that_is_wrong_gets_its_own_hint(install, logits, hint):
    with pytest.raises(ConfigError) as raised:
        build_strangers(install, lambda **_: Constant(logits))
    assert hint in raised.value.hint


class Learning(nn.Module):
    """A network with batch-norm and dropout; while it learns it gives what `while_learning` makes of its logits."""

    def __init__(self, while_learning):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072), nn.Dropout(), nn.Linear(3072, 10))
        self.while_learning = while_learning

    def forward(self, images):
        logits = self.layers(images)
        return self.while_learning(logits) if self.training else logits


@pytest.mark.parametrize(
    ("while_learning", "message"),
    [
        (lambda logits: (logits, logits), "must give a tensor in training mode; got a tuple"),
        (lambda logits: {"logits": logits}, "must give a tensor in training mode; got a dict"),
        (
            lambda logits: logits[:, :5],
            r"logits of shape \[2, 10\] for two images in training mode; got shape \[2, 5\]",
        ),
        (lambda _: undefined, r"images of shape .* in training mode: NameError: .*test_model_building\.py:\d+\)"),  # noqa: F821
    ],
)
def test_a_student_that_gives_something_else_while_it_learns_is_refused(while_learning, message):
    with pytest.raises(ConfigError, match=r"`student\.model` = `theirs`.*" + message) as raised:
        check_in_training(Learning(while_learning), "theirs", task=image_task(), where="student.model", batch_size=8)
    assert raised.value.hint


@pytest.mark.parametrize("is_frozen", [False, True])
def test_a_student_that_gets_no_gradient_is_refused(is_frozen):
    model = Learning((lambda logits: logits) if is_frozen else torch.Tensor.detach)
    model.requires_grad_(not is_frozen)
    with pytest.raises(ConfigError, match=r"`theirs` cannot learn: its parameters get no gradient"):
        check_in_training(model, "theirs", task=image_task(), where="student.model", batch_size=8)


@pytest.mark.parametrize("is_saved", [True, False])
def test_a_student_that_keeps_infinities_is_refused(is_saved):
    """A mask of attention, say: what is not saved of it does not matter."""
    model = Learning(lambda logits: logits)
    model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1), persistent=is_saved)
    check = partial(check_in_training, model, "theirs", task=image_task(), where="student.model", batch_size=8)
    if not is_saved:
        check()
        return
    with pytest.raises(ConfigError, match=r"keeps values in `mask` that are not finite") as refusal:
        check()
    assert "persistent=False" in refusal.value.hint


def test_a_student_is_tried_with_as_many_images_as_it_learns_from():
    def pooled(logits):
        return nn.BatchNorm1d(10)(logits)

    check_in_training(Learning(pooled), "theirs", task=image_task(), where="student.model", batch_size=2)
    with pytest.raises(ConfigError, match="more than 1 value per channel"):
        check_in_training(Learning(pooled), "theirs", task=image_task(), where="student.model", batch_size=1)


def test_a_student_is_tried_without_a_trace():
    model = Learning(lambda logits: logits).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    check_in_training(model, "theirs", task=image_task(), where="student.model", batch_size=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
