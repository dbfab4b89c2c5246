"""CutMix and mixup: whose pixels an image has, and how many."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stages.data.mixing import Mixing, draw_mixing, mix

NUM, HEIGHT, WIDTH = 4000, 16, 8
KINDS = ["cutmix", "mixup"]


def draw(*, share: float = 1.0, seed: int = 0) -> Mixing:
    rng = torch.Generator().manual_seed(seed)
    return draw_mixing(NUM, share=share, rng=rng)


def share_of_other(kind: str, mixing: Mixing) -> Tensor:
    """Of each pixel: white where it is the other image's, [B, H, W] in [0, 1]."""
    black = torch.zeros(len(mixing.other_B), 1, HEIGHT, WIDTH, dtype=torch.uint8)
    return mix(kind, black, black + 255, mixing)[:, 0].float() / 255


def test_mixup_is_the_weighted_mean_of_two_images() -> None:
    images, others = torch.randint(256, (2, 3, 2, 4, 4), dtype=torch.uint8)
    mixed = mix("mixup", images, others, Mixing(torch.tensor([0.0, 0.25, 0.5]), torch.rand(3), torch.rand(3)))
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed[0], images[0])
    expected = 0.75 * images[1].double() + 0.25 * others[1].double()
    assert (mixed[1].double() - expected).abs().max() <= 0.5
    expected = (images[2].double() + others[2].double()) / 2
    assert (mixed[2].double() - expected).abs().max() <= 0.5


def test_cutmix_takes_a_rectangle_of_the_other_image() -> None:
    mixing = draw()
    is_other = share_of_other("cutmix", mixing)
    assert set(is_other.unique().tolist()) == {0.0, 1.0}
    is_other = is_other.bool()[:, None]
    images, others = torch.randint(256, (2, NUM, 1, HEIGHT, WIDTH), dtype=torch.uint8)
    mixed = mix("cutmix", images, others, mixing)
    assert torch.equal(mixed[is_other], others[is_other])
    assert torch.equal(mixed[~is_other], images[~is_other])
    for index in range(200):
        rows, columns = is_other[index, 0].any(dim=1).nonzero(), is_other[index, 0].any(dim=0).nonzero()
        if len(rows) > 0:
            box = is_other[index, 0, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
            assert box.all()


@pytest.mark.parametrize("kind", KINDS)
def test_at_least_half_of_an_image_is_its_own_and_a_quarter_on_average_is_not(kind: str) -> None:
    other_B = share_of_other(kind, draw()).mean(dim=(1, 2))
    assert other_B.max() <= (0.5 if kind == "cutmix" else 0.502)  # mixup: of whole bytes
    assert other_B.min() >= 0
    assert float(other_B.mean()) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_images_that_are_mixed(kind: str, share: float) -> None:
    is_mixed_B = (share_of_other(kind, draw(share=share)) > 0).flatten(1).any(dim=1)
    # A rectangle of less than half a pixel is none: about 1 % of them at this size.
    assert float(is_mixed_B.float().mean()) == pytest.approx(share, abs=0.04 * (share > 0))


def test_how_much_of_an_image_is_mixed_does_not_depend_on_how_many_are() -> None:
    other_B = draw(share=0.25).other_B
    mixed_B = other_B[other_B > 0]
    assert float(mixed_B.mean()) == pytest.approx(0.25, abs=0.02)
    assert 0.49 < mixed_B.max() <= 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 32), (128, 1), (5, 5), (8, 8), (28, 28)])
def test_at_least_half_is_its_own_at_any_size(size: tuple[int, int]) -> None:
    black = torch.zeros(NUM, 1, *size, dtype=torch.uint8)
    other_B = mix("cutmix", black, black + 1, draw()).float().mean(dim=(1, 2, 3))
    assert other_B.max() <= 0.5
    assert float(other_B.max()) == pytest.approx(0.5 * (size != (1, 1)), abs=0.04)


def test_a_draw_depends_on_its_stream_alone() -> None:
    for value, again, other in zip(draw(), draw(), draw(seed=1), strict=True):
        assert torch.equal(value, again)
        assert not torch.equal(value, other)


def test_rectangles_lie_anywhere() -> None:
    covered = share_of_other("cutmix", draw()).mean(dim=0)
    assert covered.min() > 0.01, "corners too"
    assert torch.allclose(covered, covered.flip(0), atol=0.05)
    assert torch.allclose(covered, covered.flip(1), atol=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_format_stays(kind: str) -> None:
    images = torch.zeros(NUM, 3, HEIGHT, WIDTH, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert mix(kind, images, images, draw()).is_contiguous(memory_format=torch.channels_last)
