"""How far the student is from the teacher: the one measure that inversion, priorities and distillation share.

Legend: B batch, K classes, ... further dimensions of a prediction (none for a label per image, H W for a label per
pixel). The class dimension is the second, as in `torch.nn.functional.cross_entropy`. All of it is fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_divergence(teacher_logits_BK: Tensor, student_logits_BK: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""KL(softmax(f_t / T) || softmax(f_s / T)), the D_KD of SSD-KD Sec. 3.1, not multiplied by T^2.

    Shapes: [B, K, ...] logits, twice -> [B, ...] float32 >= 0, in nats. Gradients flow to both arguments.
    """
    teacher_log_BK = (teacher_logits_BK.float() / temperature).log_softmax(dim=1)
    student_log_BK = (student_logits_BK.float() / temperature).log_softmax(dim=1)
    ratio_BK, teacher_BK = teacher_log_BK - student_log_BK, teacher_log_BK.exp()
    # sum_k (s_k - t_k) is 0. With it no term is below 0, and terms do not cancel one another where the two are close:
    # at a high temperature they always are, and T^2 multiplies what rounding leaves. s - t = t (exp(-ratio) - 1).
    is_close_BK = ratio_BK > -1
    close_BK = teacher_BK * torch.expm1(-ratio_BK.clamp(min=-1))
    difference_BK = torch.where(is_close_BK, close_BK, student_log_BK.exp() - teacher_BK)
    return (teacher_BK * ratio_BK + difference_BK).sum(dim=1)


def agreement(teacher_logits_BK: Tensor, student_logits_BK: Tensor) -> Tensor:
    """Where the student's most probable class is the teacher's: [B, K, ...] twice -> [B, ...] bool."""
    return teacher_logits_BK.argmax(dim=1) == student_logits_BK.argmax(dim=1)
