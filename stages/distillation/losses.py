"""The student's loss."""

from __future__ import annotations

from torch import Tensor

from stages.divergence import kl_divergence


def distillation_loss(teacher_logits_BK: Tensor, student_logits_BK: Tensor, *, temperature: float) -> Tensor:
    r"""T^2 KL(softmax(f_t / T) || softmax(f_s / T)) per prediction (Hinton et al. 2015).

    Shapes: [B, K, ...] twice -> [B, ...] float32 >= 0. The factor T^2 keeps the gradient's size when T changes.
    Not stated in the paper: the temperature and the factor; Fast-Datafree's are T = 20 and T^2.
    """
    return temperature**2 * kl_divergence(teacher_logits_BK, student_logits_BK, temperature=temperature)
