"""The student's loss.

Legend: B batch, K classes, ... further dimensions of a prediction.
"""

from __future__ import annotations

from typing import Final

from torch import Tensor

from stages.divergence import kl_divergence


def distillation_loss(teacher_logits_BK: Tensor, student_logits_BK: Tensor, *, temperature: float) -> Tensor:
    r"""T^2 KL(softmax(f_t / T) || softmax(f_s / T)) per prediction (Hinton et al. 2015).

    Shapes: [B, K, ...] twice -> [B, ...] float32 >= 0. The factor T^2 keeps the gradient's size when T changes.
    Not stated in the paper: the temperature and the factor; Fast-Datafree's are T = 20 and T^2. The generator's L_KD is
    another one (`stages.inversion.objectives.adversarial_loss`).
    """
    return temperature**2 * kl_divergence(teacher_logits_BK, student_logits_BK, temperature=temperature)


_SMALLEST_VARIANCE: Final = 1e-6
"""Keeps the gradient finite where all logits are equal."""


def standardized_loss(teacher_logits_BK: Tensor, student_logits_BK: Tensor) -> Tensor:
    r"""v (KL(softmax(f_t / sigma_t) || softmax(f_s / sigma_s)) + (mean log sigma_t - mean log sigma_s)^2).

    sigma is the standard deviation of a prediction's logits over the classes, v the mean of sigma_t^2 over the batch.
    Shapes: [B, K, ...] twice -> [B, ...] float32 >= 0. Which classes are likelier than others is taught, how sure the
    teacher is in a single case is not: a small student has no room for both.

    Source: "Logit Standardization in Knowledge Distillation" (Sun et al., CVPR 2024). Differs from it: its base
    temperature is 2 and its loss weighted by a constant; here the temperature is 1, and v makes the loss about as large
    as T^2 KL at high T. And its student is as sure as it likes; here the second term keeps it as sure as the teacher
    over the batch, for priorities and the adversarial term are made of its probabilities.
    """
    teacher_BK, student_BK = teacher_logits_BK.float(), student_logits_BK.float()
    teacher_scale_B, student_scale_B = _deviation(teacher_BK), _deviation(student_BK)
    divergence_B = kl_divergence(teacher_BK / teacher_scale_B.unsqueeze(1), student_BK / student_scale_B.unsqueeze(1))
    scale_gap = (teacher_scale_B.log().mean() - student_scale_B.log().mean()).square()
    return teacher_scale_B.square().mean() * (divergence_B + scale_gap)


def _deviation(logits_BK: Tensor) -> Tensor:
    """Standard deviation over the classes: [B, K, ...] -> [B, ...]."""
    variance_B: Tensor = logits_BK.var(dim=1, correction=0)
    return (variance_B + _SMALLEST_VARIANCE).sqrt()
