"""How far the student is from the teacher: the one measure that inversion, priorities and distillation share.

Legend: B batch, K classes, ... further dimensions of a prediction (none for a label per image, H W for a label per
pixel). The class dimension is the second, as in `torch.nn.functional.cross_entropy`. All of it is fp32.
"""

from __future__ import annotations

from torch import Tensor


def kl_divergence(teacher_logits_BK: Tensor, student_logits_BK: Tensor, *, temperature: float = 1.0) -> Tensor:
    r"""KL(softmax(f_t / T) || softmax(f_s / T)), the D_KD of SSD-KD Sec. 3.1, not multiplied by T^2.

    Shapes: [B, K, ...] logits, twice -> [B, ...] float32 >= 0, in nats. Gradients flow to both arguments.
    """
    teacher_log_BK = (teacher_logits_BK.float() / temperature).log_softmax(dim=1)
    student_log_BK = (student_logits_BK.float() / temperature).log_softmax(dim=1)
    divergence_B = (teacher_log_BK.exp() * (teacher_log_BK - student_log_BK)).sum(dim=1)
    return divergence_B.clamp(min=0)  # rounding can leave -1e-8 where the two agree


def agreement(teacher_logits_BK: Tensor, student_logits_BK: Tensor) -> Tensor:
    """Where the student's most probable class is the teacher's: [B, K, ...] twice -> [B, ...] bool."""
    return teacher_logits_BK.argmax(dim=1) == student_logits_BK.argmax(dim=1)
