"""Settings of stage 1: how images are inverted from the teacher."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from stages.config_table import Table, follows, rule_error

_METHOD = "ssdkd"


@follows
def _meta_rate(table: dict[str, Any]) -> float:
    """The meta-generator moves as far as its clone's steps together: by Adam that is Fast-Datafree's rule."""
    return 1.0 if table["meta_update"] == "reptile" else float(table["lr_generator"] * table["steps"])


@follows
def _bn_weight(table: dict[str, Any]) -> float:
    """L_BN in other units is another number: there 1 made better students than .3 (benchmarks/LOG.md)."""
    return 1.0 if table["bn_loss"] == "standardized" else 10.0


class InversionConfig(Table):
    """The `[inversion]` table: the synthesis calls of an epoch (Algorithm 1, lines 4-10; Eq. 1-3).

    Rates and loss weights are not in the paper, which follows the settings of Fast-Datafree: the defaults are
    those of its public code for WRN40-2 teachers.
    """

    method: str = _METHOD
    """How images are made: the name of a registered method."""

    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of a method that brings a schema of its own; empty for those that bring none."""

    steps: PositiveInt = 5
    """Generator updates per call, T_g. Not stated in the paper: 5 matches its times at 50,000 images, and with 2 the
    student of `cifar10-resnet20-paper` was far worse (benchmarks/LOG.md).

    Fewer images by more steps are as much work: the CIFAR-100 presets and the overlay `plus` make half as many by 10,
    chosen by the student of `cifar100-wrn-plus` (benchmarks/LOG.md).
    """

    batch_size: PositiveInt = 256
    """Images made per call."""

    calls: PositiveInt = 1
    """Synthesis calls per epoch, each of which trains the meta-generator once and inserts its images.

    One in the paper (Algorithm 1) and in Fast-Datafree.
    """

    warmup_calls: PositiveInt = Field(default_factory=follows(lambda table: table["calls"]))
    """Synthesis calls per epoch of warm-up. Default: `calls`. More help short runs, for the meta-generator's first
    hundred calls matter most (benchmarks/LOG.md).
    """

    overlap: bool = False
    """Whether the images of the next epoch are made while the student learns: on a CUDA device beside it, on a CPU by
    half of the threads. They are then made against the student, and for the buffer, of an epoch before. Not in the
    paper.
    """

    lr_generator: PositiveFloat = 3e-3
    """Adam's rate for the generator's clone. Fast-Datafree: 5e-3, 3e-3, 2e-3 at 2, 5, 10 steps."""

    lr_latent: PositiveFloat = 0.01
    """Adam's rate for the latents z. Fast-Datafree: .015, .01, .01 at 2, 5, 10 steps."""

    meta_update: Literal["fomaml", "reptile"] = "fomaml"
    """How the meta-generator learns from a call's clone, whose training starts anew in each call.

    "fomaml": by one step of Adam, whose gradient is the sum of the clone's, as in Fast-Datafree. "reptile": it moves
    towards the clone; all the way by default, so that training goes on where the call before has ended. Differs from
    the paper, as both do: Algorithm 1 initialises a generator anew in each epoch (line 4).
    """

    lr_meta: PositiveFloat = Field(default_factory=_meta_rate)
    """Rate of the meta-generator. Of "fomaml" it is Adam's, for one step a call; default: lr_generator * steps. Of
    "reptile" it is the fraction of the way to the clone, at most 1; default: 1.
    """

    latent_dim: PositiveInt = 256
    """Size of the latent vector z."""

    class_latents: NonNegativeFloat = 0.0
    """How far the latents of a target class lie from the origin, in standard deviations of the noise around that point
    (`stages.inversion.latents`); 0: the same noise for all classes. Not in the paper.
    """

    generator: str = "dcgan"
    """The generator's architecture: the name of a registered generator."""

    bn_loss: Literal["absolute", "standardized"] = "absolute"
    """In which units L_BN (Eq. 1) compares the images' statistics with the teacher's.

    "absolute": as they are, the paper's. "standardized": means in the running deviations of each channel, variances in
    its running variances, which is what the layer itself makes of them; not in the paper. The variances of a network's
    layers differ by factors of up to a thousand, and in absolute terms the small ones hardly count. Part of `plus`,
    chosen by the students of `cifar100-wrn-plus`; with the paper's recipe it brought nothing (benchmarks/LOG.md).
    """

    bn_weight: NonNegativeFloat = Field(default_factory=_bn_weight)
    """Weight of L_BN. Default: 10, or 1 where `bn_loss` is "standardized". Where `bn_momentum` is not .9, another share
    of the gradient comes through: at 0 a tenth of the weight does as much."""

    bn_momentum: float = Field(default=0.9, ge=0, lt=1)
    """m of the running average of batch statistics that L_BN compares; 0 is Eq. 1 as printed.

    Not stated in the paper: .9 is Fast-Datafree's, of which only 1 - m of the gradient comes through. 0, with a weight
    of 1, made a far worse student (benchmarks/LOG.md, 2026-11-29).
    """

    task_weight: NonNegativeFloat = 0.4
    """Weight of the teacher's cross-entropy, L_Task. Per pair of networks.

    A teacher without batch-norm wants less, such as .1, for nothing else draws its images to its data: found on digits,
    with CutMix and balanced targets (benchmarks/LOG.md).
    """

    adversarial_weight: NonNegativeFloat = 1.1
    """Weight of the teacher-student gap, L_KD, which the generator maximises from the end of warm-up on. Per pair."""

    gamma: NonNegativeFloat = 2.0
    """Exponent of the difficulty factor (1 - p_T)^gamma of Eq. 3. Not stated in the paper: focal loss's 2."""

    gamma_start: NonNegativeFloat | None = None
    """gamma in the first epoch, from which it goes in a straight line to `gamma` in the last. Not in the paper."""

    diversity: bool = True
    """Whether phi (Eq. 3) has the factor 1 - share of the buffer that is of the image's class."""

    difficulty: bool = True
    """Whether phi (Eq. 3) has the factor (1 - p_T)^gamma."""

    targets: Literal["uniform", "balanced", "teacher", "inverse_frequency"] = "teacher"
    """Where the classes y of L_Task come from.

    "teacher": what the teacher predicts, the literal reading of Sec. 3.1, with which phi (Eq. 3) makes a focal loss of
    L_Task; "uniform": drawn at random, as in Fast-Datafree; "balanced": equally many of each; "inverse_frequency":
    proportional to 1 / (count in the buffer + 1).
    Not stated in the paper's settings: "teacher" was chosen by students of the paper's recipe, which learn sooner with
    it (benchmarks/LOG.md). phi goes by the class that the teacher predicts, so an image of which it is sure is hardly
    pulled to another target: those drawn at random are met no more often than by chance.

    "balanced" where the teacher has no batch-norm, or the buffer is without images of some classes.
    """

    reset_epoch: NonNegativeInt = 0
    """Epoch (from 1) at whose start the generator's first layer is drawn anew; 0: never.

    Not stated in the paper: Fast-Datafree's recipes do so at epoch 140 of 220, and its settings are adopted "unless
    otherwise stated"; but the paper tells of no such break, and Algorithm 1 has none.
    """

    @model_validator(mode="after")
    def _reptile_stops_at_the_clone(self) -> Self:
        if self.meta_update == "reptile" and self.lr_meta > 1:
            raise rule_error(
                self,
                "meta_update",
                "lr_meta",
                message=f"reptile moves the fraction lr_meta of the way to the clone; {self.lr_meta:g} is past it",
                hint="leave `inversion.lr_meta` out, which is 1 then, or set it between 0 and 1",
            )
        return self

    @model_validator(mode="after")
    def _class_latents_need_a_class(self) -> Self:
        if self.class_latents > 0 and self.targets == "teacher":
            raise rule_error(
                self,
                "class_latents",
                "targets",
                message="latents of a class need a class to aim at, and the teacher's own prediction comes after them",
                hint='set `inversion.class_latents` to 0 or `inversion.targets` to "balanced"',
            )
        return self
