"""Shift and mirror: against torchvision image by image, and its gradient against autograd's own."""

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from stages.data.augment import Augmentation, augmented, draw_augmentation, moved_with

B, C, H, W, PADDING = 64, 3, 10, 7, 3


def draw(seed: int = 0, *, batch: int = B, flip: bool = True, padding: int = PADDING) -> Augmentation:
    rng = torch.Generator().manual_seed(seed)
    return draw_augmentation(batch, padding=padding, flip=flip, rng=rng, device="cpu")


def crop_and_flip(images_BCHW: Tensor, augmentation: Augmentation) -> Tensor:
    """torchvision's pad, crop and flip, one image at a time, differentiable by autograd."""
    results = []
    for image_CHW, shift_y, shift_x, flip in zip(
        images_BCHW,
        augmentation.shift_y_B.tolist(),
        augmentation.shift_x_B.tolist(),
        augmentation.flip_B.tolist(),
        strict=True,
    ):
        padded = reference.pad(image_CHW, [PADDING])
        cropped = reference.crop(padded, PADDING + shift_y, PADDING + shift_x, H, W)
        results.append(reference.horizontal_flip(cropped) if flip else cropped)
    return torch.stack(results)


def random_images(dtype: torch.dtype, *, channels: int = C) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (B, channels, H, W), generator=rng).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_is_what_torchvision_makes_of_it(dtype: torch.dtype, channels: int) -> None:
    images_BCHW = random_images(dtype, channels=channels)
    result = augmented(images_BCHW, draw())
    assert result.dtype == dtype
    assert torch.equal(result, crop_and_flip(images_BCHW, draw()))


def test_nothing_drawn_changes_nothing() -> None:
    images_BCHW = random_images(torch.uint8)
    assert torch.equal(augmented(images_BCHW, draw(padding=0, flip=False)), images_BCHW)


def test_image_shifted_away_leaves_zeros() -> None:
    images_BCHW = random_images(torch.float32) + 1
    far_B = torch.full((B,), 1000)
    away = Augmentation(far_B, -far_B, torch.zeros(B, dtype=torch.bool))
    assert torch.equal(augmented(images_BCHW, away), torch.zeros_like(images_BCHW))


def test_memory_format_is_kept() -> None:
    images_BCHW = random_images(torch.float32)
    assert augmented(images_BCHW, draw()).is_contiguous()
    channels_last = images_BCHW.contiguous(memory_format=torch.channels_last)
    result = augmented(channels_last, draw())
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, augmented(images_BCHW, draw()))


def test_gradient_is_that_of_the_reference() -> None:
    weight_BCHW = torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(2))
    gradients = []
    for augment in (augmented, crop_and_flip):
        images_BCHW = random_images(torch.float32).requires_grad_()
        (augment(images_BCHW, draw()) * weight_BCHW).sum().backward()
        gradients.append(images_BCHW.grad)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])
    assert gradients[0].count_nonzero() < gradients[0].numel()  # pixels shifted out of the image have none


def test_gradient_and_its_gradient_are_exact() -> None:
    augmentation = draw(batch=4)
    images_BCHW = torch.randn(
        4, 2, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda images: augmented(images, augmentation), images_BCHW)
    assert torch.autograd.gradgradcheck(lambda images: augmented(images, augmentation), images_BCHW)


def test_draws_are_uniform_and_independent() -> None:
    num, padding = 20_000, 2
    drawn = draw(batch=num, padding=padding)
    expected = num / (2 * padding + 1)
    for shift_B in (drawn.shift_y_B, drawn.shift_x_B):
        assert sorted(shift_B.unique().tolist()) == [-2, -1, 0, 1, 2]
        counts = (shift_B + padding).bincount().double()
        assert ((counts - expected).abs() < 5 * expected**0.5).all()
    assert abs(drawn.flip_B.float().mean() - 0.5) < 5 * 0.5 / num**0.5
    columns = torch.stack([drawn.shift_y_B.float(), drawn.shift_x_B.float(), drawn.flip_B.float()])
    correlation = torch.corrcoef(columns) - torch.eye(3)
    assert correlation.abs().max() < 5 / num**0.5


def test_equal_seeds_draw_the_same() -> None:
    first, again, other = draw(4), draw(4), draw(5)
    assert torch.equal(first.shift_y_B, again.shift_y_B)
    assert torch.equal(first.shift_x_B, again.shift_x_B)
    assert torch.equal(first.flip_B, again.flip_B)
    assert not torch.equal(first.shift_y_B, other.shift_y_B)


def test_flips_only_where_asked() -> None:
    assert draw(flip=True).flip_B.any()
    assert not draw(flip=False).flip_B.any()


def test_a_label_a_pixel_goes_with_its_pixel() -> None:
    label_BHW = random_images(torch.int64, channels=1).squeeze(1)
    augmentation = draw()
    pixels_BCHW = crop_and_flip(label_BHW.unsqueeze(1) + 1, augmentation)  # so that what comes in is 0, and no class
    assert (pixels_BCHW == 0).any()
    assert torch.equal(moved_with(augmentation, label_BHW), pixels_BCHW.squeeze(1) - 1)


def test_a_label_an_image_stays() -> None:
    label_B = torch.arange(B)
    assert torch.equal(moved_with(draw(), label_B), label_B)
