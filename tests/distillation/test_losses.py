"""The student's loss against torch's, and in the limits of its temperature."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.distillation.losses import distillation_loss
from stages.divergence import kl_divergence


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_loss_against_torch(temperature: float) -> None:
    """`batchmean` of torch's KL times T^2 is the loss everyone writes."""
    teacher_BK, student_BK = logits(8, 5), logits(8, 5, seed=1)
    expected = temperature**2 * F.kl_div(
        F.log_softmax(student_BK.double() / temperature, dim=1),
        F.softmax(teacher_BK.double() / temperature, dim=1),
        reduction="batchmean",
    )
    loss_B = distillation_loss(teacher_BK, student_BK, temperature=temperature)
    assert loss_B.shape == (8,)
    assert loss_B.mean().item() == pytest.approx(expected.item(), rel=1e-4)


def test_temperature_one_is_the_plain_divergence() -> None:
    teacher_BK, student_BK = logits(8, 5), logits(8, 5, seed=1)
    assert torch.equal(
        distillation_loss(teacher_BK, student_BK, temperature=1.0), kl_divergence(teacher_BK, student_BK)
    )


def test_high_temperature_matches_centred_logits() -> None:
    """Hinton et al. 2015, Eq. 4: with T^2 the loss tends to |t - s|^2 / 2K of centred logits, for any large T."""
    teacher_BK, student_BK = logits(8, 5), logits(8, 5, seed=1).requires_grad_()
    loss_B = distillation_loss(teacher_BK, student_BK, temperature=300.0)
    difference_BK = (teacher_BK - student_BK) - (teacher_BK - student_BK).mean(dim=1, keepdim=True)
    torch.testing.assert_close(loss_B, (difference_BK**2).sum(dim=1) / 10, rtol=0.03, atol=0.02)
    (gradient_BK,) = torch.autograd.grad(loss_B.sum(), student_BK)
    torch.testing.assert_close(gradient_BK, -difference_BK / 5, rtol=0.03, atol=0.02)


def test_equals_cost_nothing() -> None:
    teacher_BK = logits(8, 5)
    assert torch.equal(distillation_loss(teacher_BK, teacher_BK.clone(), temperature=20.0), torch.zeros(8))


def test_loss_of_pixels() -> None:
    teacher_BKHW, student_BKHW = logits(2, 5, 3, 4), logits(2, 5, 3, 4, seed=1)
    loss_BHW = distillation_loss(teacher_BKHW, student_BKHW, temperature=2.0)
    one = distillation_loss(teacher_BKHW[:, :, 1, 2], student_BKHW[:, :, 1, 2], temperature=2.0)
    assert loss_BHW.shape == (2, 3, 4)
    torch.testing.assert_close(loss_BHW[:, 1, 2], one)
