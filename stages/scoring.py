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


def insert_scored(run: Run, images_BCHW: Tensor, target_B: Tensor, *, epoch: int | Tensor, batch_size: int) -> Tensor:
    """Put uint8 images into the buffer with what teacher and student say of them now.

    The priority is delta_0 of Eq. 4; one that is not finite is stored as 0, for nothing could be drawn by it. `epoch`
    is that of their insertion, one for all or [B]. Returns which deltas are finite, [B] bool.
    """
    scores = score(run, images_BCHW, batch_size=batch_size)
    finite_B = scores.divergence_N.isfinite()
    run.buffer.insert(
        images_BCHW,
        teacher_class_B=scores.teacher_class_N,
        teacher_prob_B=scores.teacher_prob_N,
        priority_B=torch.where(finite_B, scores.divergence_N, 0.0),
        target_B=target_B,
        epoch=epoch,
    )
    return finite_B
