import copy

import pytest
import torch
from torch import nn

from stages.errors import ConfigError
from stages.models.build import build_generator
from stages.models.generator import DoublingConv2d, Generator, reset_first_layer


def test_parameter_count():
    generator = Generator(latent_dim=256, image_shape=(3, 32, 32))
    assert sum(parameter.numel() for parameter in generator.parameters()) == 2_328_899


@pytest.mark.parametrize(
    ("height", "width", "first_shape"),
    [
        (64, 64, (128, 16, 16)),
        (65, 40, (128, 9, 5)),
        (128, 32, (128, 16, 4)),
        (8, 96, (128, 2, 24)),
        (224, 224, (128, 14, 14)),
    ],
)
def test_large_images_start_from_a_small_map_too(height, width, first_shape):
    """The linear layer's weights would be most of all, and more than many a teacher has."""
    generator = build_generator("dcgan", latent_dim=256, image_shape=(3, height, width))
    assert generator.first_shape == first_shape
    assert sum(parameter.numel() for parameter in generator.parameters()) < 10e6


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (1, 28, 28), (3, 33, 31), (3, 5, 18), (2, 1, 1), (1, 70, 9)])
def test_images_of_any_size_in_0_1(shape):
    generator = build_generator("dcgan", latent_dim=16, image_shape=shape)
    images = generator(100 * torch.randn(4, 16))
    assert images.shape == (4, *shape)
    assert images.min() >= 0
    assert images.max() <= 1
    assert generator.training


@pytest.mark.parametrize("side", [1, 4, 5])
def test_a_batch_of_one_small_image(side):
    generator = Generator(latent_dim=8, image_shape=(1, side, side))
    assert generator(torch.randn(1, 8)).shape == (1, 1, side, side)


def test_starts_at_a_quarter_rounded_up_and_crops():
    generator = Generator(latent_dim=8, image_shape=(3, 33, 30))
    assert generator.project.out_features == 128 * 9 * 8
    # Cropping is all that happens to the image: the larger one holds the same pixels.
    larger = Generator(latent_dim=8, image_shape=(3, 36, 32))
    larger.load_state_dict(generator.state_dict())
    latents = torch.randn(4, 8)
    torch.testing.assert_close(generator(latents), larger(latents)[:, :, :33, :30])


def test_layers_are_those_of_the_reference():
    # Written down from the recipe, layer by layer; same weights in the same order, same images.
    reference = nn.Sequential(
        nn.Linear(256, 128 * 8 * 8),
        nn.Unflatten(1, (128, 8, 8)),
        nn.BatchNorm2d(128),
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Conv2d(128, 128, 3, padding=1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2),
        nn.UpsamplingNearest2d(scale_factor=2),
        nn.Conv2d(128, 64, 3, padding=1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2),
        nn.Conv2d(64, 3, 3, padding=1),
        nn.Sigmoid(),
    )
    generator = Generator(latent_dim=256, image_shape=(3, 32, 32))
    names = reference.state_dict()
    reference.load_state_dict(dict(zip(names, generator.state_dict().values(), strict=True)))
    latents = torch.randn(4, 256)
    torch.testing.assert_close(generator(latents), reference(latents))


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 5, 1, 1), (3, 5, 3, 2)])
def test_doubling_convolution_is_upsampling_and_a_convolution(shape):
    layer = DoublingConv2d(5, 7).double()
    small = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    doubled = nn.Upsample(scale_factor=2)(small)
    expected = nn.functional.conv2d(doubled, layer.weight, padding=1)
    found = layer(small)
    torch.testing.assert_close(found, expected)
    towards = torch.randn_like(expected)
    sources = (small, layer.weight)
    torch.testing.assert_close(
        torch.autograd.grad(found, sources, towards), torch.autograd.grad(expected, sources, towards)
    )


def test_all_grey_levels_survive_bf16():
    generator = Generator(latent_dim=16, image_shape=(3, 32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images = generator(torch.randn(64, 16))
    assert images.dtype == torch.float32
    assert not torch.equal(images, images.bfloat16().float())


def test_channels_last_changes_the_layout_only():
    generator = Generator(latent_dim=16, image_shape=(3, 32, 32))
    latents = torch.randn(4, 16)
    images = generator(latents)
    torch.testing.assert_close(generator.to(memory_format=torch.channels_last)(latents), images)


def test_reset_redraws_the_first_layer_and_nothing_else():
    generator = Generator(latent_dim=256, image_shape=(3, 32, 32))
    before = copy.deepcopy(generator.state_dict())
    reset_first_layer(generator, torch.Generator().manual_seed(1))
    changed = {name for name, value in generator.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"project.weight", "project.bias", "blocks.0.weight"}  # BN's bias was 0 already
    assert generator.project.weight.std().item() == pytest.approx(0.02, rel=0.01)
    assert generator.project.weight.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert generator.blocks[0].weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert generator.blocks[0].weight.mean().item() == pytest.approx(0.0, abs=0.01)
    assert not generator.project.bias.any()


def test_reset_is_the_rng_s_doing_alone():
    generators = [Generator(latent_dim=4, image_shape=(1, 8, 8)) for _ in range(2)]
    for generator in generators:
        generator.blocks[0].bias.data.fill_(3.0)
        torch.rand(5)  # the global stream must not matter
        reset_first_layer(generator, torch.Generator().manual_seed(7))
    for name in ("project.weight", "blocks.0.weight", "blocks.0.bias"):
        one, other = (generator.state_dict()[name] for generator in generators)
        assert torch.equal(one, other)
    assert not one.any()


def test_reset_of_a_generator_without_a_first_layer_is_refused():
    with pytest.raises(ConfigError, match=r"inversion\.reset_epoch") as raised:
        reset_first_layer(nn.Sequential(nn.Conv2d(1, 1, 1)), torch.Generator())
    assert "reset_epoch = 0" in raised.value.hint
