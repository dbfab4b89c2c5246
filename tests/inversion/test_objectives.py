"""Eq. 2 and 3 against loops and torch's own losses, and in their limits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.inversion.objectives import adversarial_loss, inversion_loss, modulation, task_loss

NUM_CLASSES = 4
BUFFER_CLASSES = [0, 0, 0, 1, 1, 3, 0, 3, 3, 0]
"""c_T of ten stored samples; no one is of class 2."""


def logits(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def share(classes: list[int]) -> Tensor:
    counts_K = torch.bincount(torch.tensor(classes, dtype=torch.int64), minlength=NUM_CLASSES)
    return counts_K / max(1, len(classes))


def eq3(class_index: int, probability: float, gamma: float, *, diversity: bool, difficulty: bool) -> float:
    """Eq. 3 for one sample, the sum over the buffer written out."""
    phi = 1.0
    if diversity:
        phi *= 1 - sum(1 for stored in BUFFER_CLASSES if stored == class_index) / len(BUFFER_CLASSES)
    if difficulty:
        phi *= (1 - probability) ** gamma
    return phi


CLASS_B = torch.tensor([0, 1, 2, 3, 0, 2])
PROBABILITY_B = torch.tensor([0.99, 0.25, 0.6, 1.0, 0.3, 0.9])


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("diversity", [True, False])
@pytest.mark.parametrize("difficulty", [True, False])
def test_modulation_is_eq_3(gamma: float, diversity: bool, difficulty: bool) -> None:
    phi_B = modulation(
        CLASS_B, PROBABILITY_B, share(BUFFER_CLASSES), gamma=gamma, diversity=diversity, difficulty=difficulty
    )
    expected = [
        eq3(class_index, probability, gamma, diversity=diversity, difficulty=difficulty)
        for class_index, probability in zip(CLASS_B.tolist(), PROBABILITY_B.tolist(), strict=True)
    ]
    torch.testing.assert_close(phi_B, torch.tensor(expected), rtol=1e-5, atol=1e-7)
    if not diversity and not difficulty:
        assert torch.equal(phi_B, torch.ones(6))


def test_gamma_zero_leaves_diversity() -> None:
    share_K = share(BUFFER_CLASSES)
    phi_B = modulation(CLASS_B, PROBABILITY_B, share_K, gamma=0.0)
    torch.testing.assert_close(phi_B, 1 - share_K[CLASS_B])  # also where p_T = 1


def test_an_empty_buffer_leaves_difficulty() -> None:
    phi_B = modulation(CLASS_B, PROBABILITY_B, share([]), gamma=2.0)
    torch.testing.assert_close(phi_B, (1 - PROBABILITY_B) ** 2)


def test_a_class_that_fills_the_buffer_weighs_nothing() -> None:
    phi_B = modulation(CLASS_B, PROBABILITY_B, share([2] * 9), gamma=0.0)
    assert phi_B.tolist() == [1, 1, 0, 1, 1, 0]


def test_modulation_is_a_weight_without_gradient() -> None:
    logits_BK = logits(6, NUM_CLASSES).requires_grad_()
    probability_B, class_B = logits_BK.softmax(dim=1).max(dim=1)
    phi_B = modulation(class_B, probability_B, share(BUFFER_CLASSES), gamma=2.0)
    assert not phi_B.requires_grad
    assert probability_B.requires_grad


def test_modulation_of_pixels() -> None:
    class_BHW, probability_BHW = CLASS_B.view(1, 2, 3), PROBABILITY_B.view(1, 2, 3)
    phi_BHW = modulation(class_BHW, probability_BHW, share(BUFFER_CLASSES), gamma=2.0)
    phi_B = modulation(CLASS_B, PROBABILITY_B, share(BUFFER_CLASSES), gamma=2.0)
    assert torch.equal(phi_BHW, phi_B.view(1, 2, 3))


def test_task_loss_is_cross_entropy_per_sample() -> None:
    logits_BK, target_B = logits(6, NUM_CLASSES), torch.tensor([3, 0, 1, 2, 2, 0])
    expected_B = -logits_BK.double().log_softmax(dim=1)[torch.arange(6), target_B]
    torch.testing.assert_close(task_loss(logits_BK, target_B).double(), expected_B, rtol=1e-5, atol=1e-6)
    assert task_loss(logits_BK.bfloat16(), target_B).dtype == torch.float32


def test_what_has_no_target_costs_nothing() -> None:
    logits_BKHW, target_BHW = logits(3, NUM_CLASSES, 2, 2), torch.zeros(3, 2, 2, dtype=torch.int64)
    whole_BHW = task_loss(logits_BKHW, target_BHW)
    target_BHW[:, 0, 1] = -1
    expected_BHW = whole_BHW.clone()
    expected_BHW[:, 0, 1] = 0
    torch.testing.assert_close(task_loss(logits_BKHW, target_BHW), expected_BHW)


def test_adversarial_loss_against_torch_where_both_agree() -> None:
    teacher_BK, student_BK = logits(40, NUM_CLASSES), logits(40, NUM_CLASSES, seed=1)
    total, num_agreeing = 0.0, 0
    for teacher_K, student_K in zip(teacher_BK, student_BK, strict=True):
        if teacher_K.argmax() == student_K.argmax():
            num_agreeing += 1
            total += F.kl_div(
                student_K.log_softmax(0), teacher_K.log_softmax(0), reduction="sum", log_target=True
            ).item()
    assert 0 < num_agreeing < 40
    # The mean is over the whole batch: samples on which they disagree count as 0.
    assert adversarial_loss(teacher_BK, student_BK).item() == pytest.approx(total / 40, rel=1e-5)


def test_adversarial_loss_in_its_limits() -> None:
    teacher_BK = logits(10, NUM_CLASSES)
    assert adversarial_loss(teacher_BK, teacher_BK.clone()).item() == 0
    assert adversarial_loss(teacher_BK, -teacher_BK).item() == 0  # they agree nowhere


def test_adversarial_gradient_flows_through_teacher_and_student() -> None:
    teacher_BK = logits(10, NUM_CLASSES).requires_grad_()
    student_BK = (teacher_BK.detach() * 0.5).requires_grad_()  # the same classes, less sure
    gradients = torch.autograd.grad(adversarial_loss(teacher_BK, student_BK), (teacher_BK, student_BK))
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)


def test_the_sum_that_the_generator_minimises() -> None:
    bn, task, adversarial = torch.tensor(2.0), torch.tensor(3.0), torch.tensor(5.0)
    loss = inversion_loss(bn, task, adversarial, bn_weight=10.0, task_weight=0.4, adversarial_weight=1.1)
    assert loss.total.item() == pytest.approx(10.0 * 2 + 0.4 * 3 - 1.1 * 5)  # the gap is maximised
    assert (loss.bn, loss.task, loss.adversarial) == (bn, task, adversarial)
