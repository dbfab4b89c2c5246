"""Settings of stage 2: how the student learns from the buffer."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from stages.config_table import Table, follows, rule_error

Loss = Literal["kl", "standardized"]

_LEARNING_RATE, _GENTLE_LEARNING_RATE = 0.2, 0.06
"""What "auto" stands for in batches of 256, the latter for weights that are good as they are."""


class DistillationConfig(Table):
    """The `[distillation]` table: the student's updates of one epoch (Algorithm 1, lines 16-23; Eq. 4-6).

    The paper refers to the settings of Fast-Datafree: where nothing else is said, the defaults are those of its public
    code.
    """

    steps: PositiveInt | Literal["auto"] = "auto"
    """Student updates per epoch, T_kd; "auto": 400 * capacity / 50,000 of 256 images, more of fewer, at least 4.

    The paper's "data scale", read literally, is the number of images that an epoch draws, which is 20 updates of 256 at
    5,000 images; 40 fit its times best. In short runs more updates make a better student and take longer: with 20 that
    of `cifar10-resnet20-paper` was far worse (benchmarks/LOG.md).
    """

    batch_size: PositiveInt = 256
    """Images drawn per update."""

    lr: PositiveFloat | Literal["auto"] = 0.2
    """The learning rate at the start; a cosine takes it to lr_min in the end (`decay_share`).

    "auto": .2 for batches of 256 images, and .06 where most of the student's first weights are the teacher's as they
    were, which a larger rate would undo; for batches of another size by the square root of it.
    """

    lr_min: NonNegativeFloat = 2e-4
    """The rate at the end."""

    decay_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the student's updates, the last ones, in which the rate falls; before them it stays what it is. 1: it
    falls from the first update on, as in Fast-Datafree. Less is not in the paper: for runs that are cut short, .5 helps
    them and changes nothing at full length (`cifar100-wrn-plus`, benchmarks/LOG.md)."""

    optimizer: Literal["sgd", "muon"] = "sgd"
    """Who makes the steps. "sgd", as in the paper; "muon": orthogonal steps for dense convolutions and hidden linear
    layers, a fifth of the rate long, and SGD for the rest (`stages.muon`). Not in the paper."""

    weight_decay: NonNegativeFloat = 1e-4
    """Weight decay."""

    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum."""

    views: NonNegativeInt = 0
    """Augmented views kept of each buffered image with the teacher's logits; 0: a fresh view, and a teacher pass, at
    every draw.

    Not in the paper: saves most of the teacher's work where an image is drawn far more often than this. Too few may
    cost accuracy: presets have 32 where views are mixed, tried with `cifar100-wrn-plus`, and 16 where they are not,
    tried with `cifar100-wrn` (benchmarks/LOG.md).
    """

    mix: Literal["none", "cutmix", "mixup"] = "none"
    """Whether images are mixed in pairs, and then shown to the teacher. Not in the paper."""

    mix_share: float = Field(default=0.5, gt=0, le=1)
    """Share of the drawn images that are mixed; of V cached views one is always whole, so at most 1 - 1/V."""

    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a moving average of the student's weights, which is then the student that is measured and written; 0:
    the student itself. Not in the paper."""

    recalibration_batches: NonNegativeInt = 0
    """Batches, drawn uniformly from the buffer, by which the written student's batch-norm statistics are taken anew; 0:
    those of training. Not in the paper."""

    loss: Loss = "kl"
    """What the student minimises. "kl": T^2 KL(teacher || student) at `temperature`, as in Fast-Datafree;
    "standardized": the KL of logits that are divided by their standard deviation (`stages.distillation.losses`). The
    latter is not in the paper."""

    late_loss: Loss | Literal["auto"] = Field(default_factory=follows(lambda table: table["loss"]))
    """The loss of the last updates, `late_share` of them; "auto": "standardized", and "kl" with two classes, of whose
    logits it leaves nothing but which is larger. Default: `loss`. Another one is not in the paper.
    """

    late_share: float = Field(default=0.25, gt=0, le=1)
    """Share of the student's updates, the last ones, that minimise `late_loss`."""

    hint_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the student's updates, the first ones, in which it learns the teacher's features, too: the last ones at
    each resolution that both networks have (FitNets, `stages.distillation.hints`). 0: none. Each such update asks the
    teacher once more, and is not compiled. Not in the paper. With .05 CIFAR-100's WRN-40-2 -> WRN-16-1 gained a point
    in 80 epochs and nothing in 220, a student of the teacher's own channels nothing (benchmarks/LOG.md, 2026-12-01)."""

    temperature: PositiveFloat = 20.0
    """Temperature T of the "kl" loss, T^2 KL(teacher || student)."""

    sampling: Literal["priority", "uniform"] = "priority"
    """How images are drawn from the buffer: by Eq. 6, or all alike (Table 4's baseline)."""

    alpha: float = Field(default=0.6, ge=0, le=100)
    """Exponent of the priorities in Eq. 6; 0 is uniform. Not stated in the paper: prioritised replay's."""

    beta: NonNegativeFloat = 0.4
    """Exponent of the importance-sampling weight in Eq. 5; alpha * beta must stay below 1.

    Not stated in the paper: prioritised replay's, kept constant.
    """

    epsilon: float = Field(default=1e-6, ge=1e-30)
    """Keeps every probability of Eq. 6 above 0, in float32 up to an alpha of about 6. Not stated in the paper."""

    delta_temperature: PositiveFloat = 1.0
    """Temperature of the KL in the priority delta (Eq. 4): 1, of the softmax outputs as they are."""

    weight_loss: bool = False
    """Whether the loss too is weighted by Eq. 5's w, divided by its largest.

    Not stated in the paper, whose w enters the priority only.
    """

    def learning_rate(self, *, whole_share: float) -> float:
        """`lr`, or what "auto" stands for where that share of the student's first weights is the teacher's, unchanged.

        Found with ResNet-32 -> ResNet-20, where it was not told apart from smaller batches; with ResNet-20 ->
        ResNet-8 it gains nothing that shows (benchmarks/LOG.md). A student of random weights is far behind with it.
        """
        if self.lr != "auto":
            return self.lr
        return (_GENTLE_LEARNING_RATE if whole_share >= 0.5 else _LEARNING_RATE) * math.sqrt(self.batch_size / 256)

    @model_validator(mode="after")
    def _priorities_must_settle(self) -> Self:
        # delta <- w KL multiplies the error of a log-priority by -alpha * beta at each visit.
        if self.sampling == "priority" and self.alpha * self.beta >= 1:
            raise rule_error(
                self,
                "beta",
                "alpha",
                message="alpha * beta must be below 1, or the priorities diverge",
                hint="lower `distillation.beta` or `distillation.alpha`",
            )
        return self

    @model_validator(mode="after")
    def _one_view_is_whole(self) -> Self:
        if self.views > 0 and self.mix != "none" and self.mix_share > 1 - 1 / self.views:
            raise rule_error(
                self,
                "mix_share",
                "views",
                message=f"the first of cached views is never mixed, so at most {1 - 1 / self.views:.3g} of them are",
                hint='lower `distillation.mix_share`, set `distillation.views` to 0, or `distillation.mix` to "none"',
            )
        return self

    @model_validator(mode="after")
    def _rate_must_not_rise(self) -> Self:
        if self.lr != "auto" and self.lr_min > self.lr:
            raise rule_error(
                self,
                "lr_min",
                "lr",
                message="the final learning rate must not be above the first",
                hint="lower `distillation.lr_min`, for example to lr / 1000",
            )
        return self
