"""What teacher and student say of stored images: the fields that the buffer keeps beside each of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from stages.divergence import kl_divergence
from stages.models.layers import evaluating
from stages.run import Run


class Scores(NamedTuple):
    """c_T [N, ...] int64, p_T [N, ...] float32 and KL(f_t || f_s) [N] of N images."""

    teacher_class_N: Tensor
    teacher_prob_N: Tensor
    divergence_N: Tensor


@torch.no_grad()
def score(run: Run, images_NCHW: Tensor, *, batch_size: int) -> Scores:
    """One forward of teacher and student, both in eval mode, on un-augmented uint8 images [N, C, H, W].

    The KL is at `distillation.delta_temperature`: with w_{-1} = 1 it is delta_0 of Eq. 4.
    """
    parts: list[Scores] = []
    run.seed_layers("scoring", "networks")
    with evaluating(run.student):
        for images_BCHW in torch.split(images_NCHW, batch_size):
            with run.autocast():
                teacher_logits_BK = run.teacher(images_BCHW)
                student_logits_BK = run.student(images_BCHW)
            teacher_class_B, teacher_prob_B = run.task.predict(teacher_logits_BK)
            divergence_B = kl_divergence(
                teacher_logits_BK, student_logits_BK, temperature=run.config.distillation.delta_temperature
            )
            parts.append(Scores(teacher_class_B, teacher_prob_B, run.task.per_sample(divergence_B)))
    return Scores(*(torch.cat(column) for column in zip(*parts, strict=True)))
