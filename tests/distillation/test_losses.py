"""The student's loss against torch's, and in the limits of its temperature."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.distillation.losses import distillation_loss, standardized_loss
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


def test_standardized_loss_against_its_formula() -> None:
    """Zero-mean logits of deviation 1, one prediction at a time, in double precision."""
    teacher_BK, student_BK = logits(8, 5), logits(8, 5, seed=1) / 3
    teacher, student = teacher_BK.double(), student_BK.double()
    scales = [rows.std(dim=1, correction=0) for rows in (teacher, student)]
    gap = (scales[0].log().mean() - scales[1].log().mean()) ** 2
    unit = scales[0].square().mean()
    losses = standardized_loss(teacher_BK, student_BK)
    for row in range(8):
        teacher_log, student_log = (
            ((z - z.mean()) / z.std(correction=0)).log_softmax(0) for z in (teacher[row], student[row])
        )
        expected = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
        swapped = F.kl_div(teacher_log, student_log, reduction="sum", log_target=True)
        assert not math.isclose(expected.item(), swapped.item(), rel_tol=1e-2)
        assert losses[row].item() == pytest.approx((unit * (expected + gap)).item(), rel=1e-4)


def test_standardized_loss_has_the_gradient_of_its_formula() -> None:
    """By central differences in double precision, one logit at a time."""
    teacher_BK, student_BK = logits(2, 3), logits(2, 3, seed=1).requires_grad_()
    (gradient_BK,) = torch.autograd.grad(standardized_loss(teacher_BK, student_BK).sum(), student_BK)

    def formula(student: Tensor) -> float:
        teacher = teacher_BK.double()
        scales = [rows.std(dim=1, correction=0, keepdim=True) for rows in (teacher, student)]
        t, s = teacher / scales[0], student / scales[1]
        divergence = (t.softmax(1) * (t.log_softmax(1) - s.log_softmax(1))).sum()
        gap = (scales[0].log().mean() - scales[1].log().mean()) ** 2
        return (scales[0].square().mean() * (divergence + 2 * gap)).item()

    for place in ((row, column) for row in range(2) for column in range(3)):
        step_BK = torch.zeros(2, 3, dtype=torch.float64)
        step_BK[place] = 1e-5
        student = student_BK.detach().double()
        expected = (formula(student + step_BK) - formula(student - step_BK)) / 2e-5
        assert gradient_BK[place].item() == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_standardized_loss_is_fp32_whatever_the_networks_compute_in() -> None:
    teacher_BK, student_BK = logits(8, 5).bfloat16(), logits(8, 5, seed=1).bfloat16()
    loss_B = standardized_loss(teacher_BK, student_BK)
    torch.testing.assert_close(loss_B, standardized_loss(teacher_BK.float(), student_BK.float()))


def test_standardized_loss_leaves_the_scale_of_a_single_prediction_open() -> None:
    teacher_BK = logits(4, 5)
    factors_B = torch.tensor([0.5, 2.0, 3.0, 1 / 3])  # whose logarithms have the mean 0
    loss_B = standardized_loss(teacher_BK, factors_B[:, None] * teacher_BK + 7)
    torch.testing.assert_close(loss_B, torch.zeros(4), rtol=0, atol=2e-4)
    assert standardized_loss(teacher_BK, 2 * teacher_BK).min() > 1, "but not that of all of them"


def test_standardized_loss_is_about_as_large_as_the_plain_one() -> None:
    teacher_BK = logits(256, 100)
    student_BK = teacher_BK + 0.1 * logits(256, 100, seed=1)
    plain = distillation_loss(teacher_BK, student_BK, temperature=100.0).mean().item()
    assert 0.3 < standardized_loss(teacher_BK, student_BK).mean().item() / plain < 3


def test_standardized_loss_of_equal_logits_has_a_finite_gradient() -> None:
    student_BK = torch.zeros(4, 5, requires_grad=True)
    loss = standardized_loss(logits(4, 5), student_BK).mean()
    loss.backward()
    assert student_BK.grad is not None
    assert bool(loss.isfinite())
    assert bool(student_BK.grad.isfinite().all())


def test_standardized_loss_of_pixels() -> None:
    teacher_BKHW = logits(2, 5, 3, 4)
    loss_BHW = standardized_loss(teacher_BKHW, teacher_BKHW + logits(2, 5, 3, 4, seed=1))
    assert loss_BHW.shape == (2, 3, 4)
    rows = [values.permute(0, 2, 3, 1).reshape(-1, 5) for values in (teacher_BKHW, logits(2, 5, 3, 4, seed=1))]
    torch.testing.assert_close(loss_BHW.flatten(), standardized_loss(rows[0], rows[0] + rows[1]))
