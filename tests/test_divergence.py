"""The divergence of teacher and student, against torch's own and a float64 loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.divergence import agreement, kl_divergence


def logits(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0, 20.0])
def test_kl_against_a_loop(temperature: float) -> None:
    teacher_BK, student_BK = logits(7, 5), logits(7, 5, seed=1)
    expected = []
    for teacher_K, student_K in zip(teacher_BK.tolist(), student_BK.tolist(), strict=True):
        p_K = softmax([value / temperature for value in teacher_K])
        q_K = softmax([value / temperature for value in student_K])
        expected.append(sum(p * math.log(p / q) for p, q in zip(p_K, q_K, strict=True)))
    torch.testing.assert_close(
        kl_divergence(teacher_BK, student_BK, temperature=temperature), torch.tensor(expected), rtol=1e-4, atol=1e-7
    )


def test_kl_and_its_gradients_against_torch() -> None:
    teacher_BK, student_BK = logits(6, 4, 3, 2).requires_grad_(), logits(6, 4, 3, 2, seed=1).requires_grad_()
    result_BHW = kl_divergence(teacher_BK, student_BK, temperature=2.0)
    expected_BHW = F.kl_div(
        F.log_softmax(student_BK.double() / 2, dim=1),
        F.log_softmax(teacher_BK.double() / 2, dim=1),
        reduction="none",
        log_target=True,
    ).sum(dim=1)
    assert result_BHW.shape == (6, 3, 2)
    torch.testing.assert_close(result_BHW.double(), expected_BHW, rtol=1e-5, atol=1e-7)

    weight_BHW = torch.rand(6, 3, 2, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad((result_BHW * weight_BHW).sum(), (teacher_BK, student_BK))
    expected = torch.autograd.grad((expected_BHW * weight_BHW).sum(), (teacher_BK, student_BK))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)


def test_kl_of_equals_is_zero() -> None:
    teacher_BK = logits(50, 10, scale=8.0)
    divergence_B = kl_divergence(teacher_BK, teacher_BK.clone())
    assert torch.equal(divergence_B, torch.zeros(50))
    # Logits that differ by a constant are the same prediction; rounding must not make it negative.
    shifted_B = kl_divergence(teacher_BK, teacher_BK + 0.3)
    assert shifted_B.min() >= 0
    assert shifted_B.max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 20.0, 1000.0])
@pytest.mark.parametrize("distance", [0.01, 0.3, 30.0])
def test_kl_of_close_predictions_keeps_its_digits(temperature: float, distance: float) -> None:
    """At a high temperature all predictions are close, and T^2 multiplies what rounding leaves."""
    teacher_BK, difference_BK = logits(64, 100), logits(64, 100, seed=1, scale=distance)
    student_BK = (teacher_BK + difference_BK).requires_grad_()
    result_B = kl_divergence(teacher_BK, student_BK, temperature=temperature)
    (gradient_BK,) = torch.autograd.grad(result_B.sum(), student_BK)

    exact_BK = student_BK.detach().double().requires_grad_()
    student_log_BK = (exact_BK / temperature).log_softmax(dim=1)
    teacher_log_BK = (teacher_BK.double() / temperature).log_softmax(dim=1)
    expected_B = (teacher_log_BK.exp() * (teacher_log_BK - student_log_BK)).sum(dim=1)
    (expected_BK,) = torch.autograd.grad(expected_B.sum(), exact_BK)
    assert result_B.min() > 0
    torch.testing.assert_close(result_B.double(), expected_B, rtol=0.02, atol=0)
    assert (gradient_BK - expected_BK).norm() < 0.03 * expected_BK.norm()


def test_kl_of_opposite_certainties() -> None:
    """Logits so far apart that a probability is 0 in fp32."""
    teacher_BK = torch.tensor([[0.0, 300.0, -300.0]])
    student_BK = torch.tensor([[0.0, -300.0, 300.0]]).requires_grad_()
    divergence_B = kl_divergence(teacher_BK, student_BK)
    divergence_B.sum().backward()
    assert divergence_B.tolist() == [600.0]
    assert student_BK.grad is not None
    torch.testing.assert_close(student_BK.grad, torch.tensor([[0.0, -1.0, 1.0]]))


def test_kl_has_a_direction() -> None:
    sure, unsure = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = 1 / (1 + math.exp(-4))
    assert kl_divergence(sure, unsure).item() == pytest.approx(
        math.log(2) + p * math.log(p) + (1 - p) * math.log(1 - p)
    )
    assert kl_divergence(unsure, sure).item() == pytest.approx(-math.log(2) - 0.5 * math.log(p * (1 - p)), rel=1e-5)


def test_kl_of_bf16_logits_is_computed_in_fp32() -> None:
    teacher_BK, student_BK = logits(9, 5).bfloat16(), logits(9, 5, seed=1).bfloat16()
    result_B = kl_divergence(teacher_BK, student_BK)
    assert result_B.dtype == torch.float32
    assert torch.equal(result_B, kl_divergence(teacher_BK.float(), student_BK.float()))


def test_agreement_is_about_the_most_probable_class() -> None:
    teacher_BK = torch.tensor([[1.0, 2.0, 0.0], [5.0, 2.0, 0.0], [1.0, 2.0, 3.0]])
    student_BK = torch.tensor([[0.0, 9.0, 8.0], [1.0, 2.0, 0.0], [-3.0, -2.0, -1.0]])
    assert agreement(teacher_BK, student_BK).tolist() == [True, False, True]
    assert agreement(teacher_BK, teacher_BK).all()
    dense_BKHW = logits(2, 4, 3, 3)
    assert agreement(dense_BKHW, -dense_BKHW).shape == (2, 3, 3)
