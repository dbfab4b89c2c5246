"""CutMix and mixup: whose pixels an image has, and how many."""

from __future__ import annotations

import pytest
import torch

from stages.data.mixing import Mixing, draw_mixing, mix

CPU = torch.device("cpu")
NUM, HEIGHT, WIDTH = 4000, 16, 8


def draw(kind: str, *, share: float = 1.0, seed: int = 0) -> Mixing:
    rng = torch.Generator().manual_seed(seed)
    return draw_mixing(kind, NUM, share=share, height=HEIGHT, width=WIDTH, rng=rng, device=CPU)


def test_mixup_is_the_weighted_mean_of_two_images() -> None:
    images = torch.randint(256, (3, 2, 4, 4), dtype=torch.uint8)
    own = torch.tensor([1.0, 0.75, 0.5]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    mixed = mix(images, Mixing(torch.tensor([2, 0, 1]), own))
    assert mixed.dtype == torch.uint8
    assert torch.equal(mixed[0], images[0])
    expected = 0.75 * images[1].double() + 0.25 * images[0].double()
    assert (mixed[1].double() - expected).abs().max() <= 0.5
    expected = (images[2].double() + images[1].double()) / 2
    assert (mixed[2].double() - expected).abs().max() <= 0.5


def test_cutmix_takes_a_rectangle_of_the_partner() -> None:
    mixing = draw("cutmix")
    assert set(mixing.own_B1HW.unique().tolist()) == {0.0, 1.0}
    images = torch.randint(256, (NUM, 1, HEIGHT, WIDTH), dtype=torch.uint8)
    mixed = mix(images, mixing)
    is_other = mixing.own_B1HW == 0
    assert torch.equal(mixed[is_other], images[mixing.partner_B][is_other])
    assert torch.equal(mixed[~is_other], images[~is_other])
    for index in range(200):
        rows, columns = is_other[index, 0].any(dim=1).nonzero(), is_other[index, 0].any(dim=0).nonzero()
        if len(rows) > 0:
            box = is_other[index, 0, int(rows[0]) : int(rows[-1]) + 1, int(columns[0]) : int(columns[-1]) + 1]
            assert box.all()


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_at_least_half_of_an_image_is_its_own_and_a_quarter_on_average_is_not(kind: str) -> None:
    own_B = draw(kind).own_B1HW.expand(-1, 1, HEIGHT, WIDTH).mean(dim=(1, 2, 3))
    # Whole pixels: a rectangle may be half a pixel larger on each side.
    assert own_B.min() >= (0.4 if kind == "cutmix" else 0.5)
    assert own_B.max() <= 1
    assert float(own_B.mean()) == pytest.approx(0.75, abs=0.02)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_the_share_of_images_that_are_mixed(kind: str, share: float) -> None:
    is_mixed_B = (draw(kind, share=share).own_B1HW < 1).flatten(1).any(dim=1)
    # A rectangle of less than half a pixel is none: about 1 % of them at this size.
    assert float(is_mixed_B.float().mean()) == pytest.approx(share, abs=0.04)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_a_draw_depends_on_its_stream_alone(kind: str) -> None:
    assert torch.equal(draw(kind).own_B1HW, draw(kind).own_B1HW)
    assert not torch.equal(draw(kind).own_B1HW, draw(kind, seed=1).own_B1HW)
    assert draw(kind).partner_B.sort().values.tolist() == list(range(NUM))


def test_rectangles_lie_anywhere() -> None:
    is_other = draw("cutmix").own_B1HW[:, 0] == 0
    covered = is_other.float().mean(dim=0)
    assert covered.min() > 0.01, "corners too"
    assert torch.allclose(covered, covered.flip(0), atol=0.05)
    assert torch.allclose(covered, covered.flip(1), atol=0.05)
