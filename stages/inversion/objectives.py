"""The terms of Eq. 2 and the modulating function of Eq. 3.

Legend: B batch, K classes, ... further dimensions of a prediction (none for a label per image, H W for one per pixel).
Everything here is fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from stages.divergence import agreement, kl_divergence


def modulation(
    teacher_class_B: Tensor,
    teacher_prob_B: Tensor,
    class_share_K: Tensor,
    *,
    gamma: float | Tensor,
    diversity: bool = True,
    difficulty: bool = True,
) -> Tensor:
    r"""phi(x) = (1 - 1/|B| sum_{x' in B} I[c_T(x') = c_T(x)]) (1 - p_T(x))^gamma, SSD-KD Eq. (3), detached.

    Shapes: [B, ...] int64, [B, ...] float, [K] -> [B, ...] float32 in [0, 1]. `class_share_K` is each class's share of
    the replay buffer by the teacher's prediction; all zero for an empty buffer, so the first factor is 1.
    `diversity` and `difficulty` switch the two factors (Table 4). Without both phi = 1.
    Not stated in the paper: whether a gradient flows through phi (here none does: phi is a weight); what |B| is while
    the buffer fills (here the samples it holds, not its capacity); and whether the batch at hand counts (here not).
    c_T(x) and p_T(x) are of the augmented image that the teacher sees, the stored classes of images as they are.
    """
    phi_B = teacher_prob_B.new_ones(teacher_prob_B.shape)
    if diversity:
        phi_B = phi_B * (1 - class_share_K[teacher_class_B])
    if difficulty:
        phi_B = phi_B * (1 - teacher_prob_B) ** gamma
    return phi_B.detach()


def task_loss(teacher_logits_BK: Tensor, target_B: Tensor) -> Tensor:
    """L_Task: cross-entropy of the teacher's logits against the target class, per prediction, in nats.

    Shapes: [B, K, ...], [B, ...] int64 -> [B, ...] float32. Where the target is -1 there is none, and the loss is 0. In
    the reading of Sec. 3.1 the target is the class that the teacher sees.
    """
    return F.cross_entropy(teacher_logits_BK.float(), target_B, ignore_index=-1, reduction="none")


def adversarial_loss(teacher_logits_BK: Tensor, student_logits_BK: Tensor) -> Tensor:
    """L_KD as the generator maximises it: the batch mean of KL(f_t || f_s) where both agree on the class, else 0.

    Shapes: [B, K, ...] twice -> scalar float32 >= 0. Differs from the paper, whose Eq. 2 has one L_KD for both sides:
    as in Fast-Datafree it is masked, for where teacher and student already disagree there is nothing to gain, and of
    temperature 1; the student's (`stages.distillation.losses`) is of all predictions, at a higher temperature.
    Gradients flow through both networks to the images.
    """
    mask_B = agreement(teacher_logits_BK, student_logits_BK).float()
    return (mask_B * kl_divergence(teacher_logits_BK, student_logits_BK)).mean()


@dataclass(frozen=True)
class InversionLoss:
    """Eq. 2 for one batch: the weighted sum that the generator minimises, and its terms before that (scalars)."""

    total: Tensor
    bn: Tensor
    """L_BN, Eq. 1."""
    task: Tensor
    """mean(phi L_Task) [nats]: it falls with phi, too."""
    adversarial: Tensor
    """Mean KL of teacher and student where both see the same class, at temperature 1 [nats]."""

    def detach(self) -> InversionLoss:
        """The same numbers without their history."""
        return InversionLoss(self.total.detach(), self.bn.detach(), self.task.detach(), self.adversarial.detach())


def inversion_loss(
    bn: Tensor,
    task: Tensor,
    adversarial: Tensor,
    *,
    bn_weight: float,
    task_weight: float,
    adversarial_weight: float,
) -> InversionLoss:
    r"""L_g = w_bn L_BN + w_task mean(phi L_Task) - w_adv L_KD, SSD-KD Eq. (2), to be minimised over g and z.

    Differs from the paper: Eq. 2 prints max over g of the plain sum. Read literally the generator would flee the
    teacher's statistics, against the text; so L_BN and L_Task are minimised and L_KD is maximised. The weights are
    Fast-Datafree's, whose settings the paper follows; Eq. 2 has none. `task` is mean(phi L_Task).
    """
    total = bn_weight * bn + task_weight * task - adversarial_weight * adversarial
    return InversionLoss(total, bn, task, adversarial)
