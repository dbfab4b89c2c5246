"""One synthesis call: the T_g steps that turn latents into images (Algorithm 1, lines 4-10; Eq. 1-3).

Legend: B batch, C channels, H W pixels, K classes, Z latent.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.data.augment import Augmentation, augmented, moved_with
from stages.inversion.bn_statistics import BatchNormMatching
from stages.inversion.config import InversionConfig
from stages.inversion.objectives import InversionLoss, adversarial_loss, inversion_loss, modulation, task_loss
from stages.machine.compiled import Compiled
from stages.machine.recorded_step import RecordedStep
from stages.models.copying import copied
from stages.models.layers import parameters_and_buffers
from stages.optimizers import adam, reset, step_if
from stages.run import Run

ADAM_BETAS = (0.5, 0.999)
"""Of the clone's optimiser and of the meta-generator's, as in Fast-Datafree."""


class StepInputs(NamedTuple):
    """What is new in a step: its augmentation. And what stands still during a call."""

    augmentation: Augmentation
    target_B: Tensor | None
    """[B, ...] int64, -1 where there is none; None: the teacher's own prediction."""
    class_share_K: Tensor
    """[K] float32, of the buffer, for Eq. 3."""
    gamma: Tensor | None
    """Exponent of Eq. 3 in this epoch, a scalar; None: always the same."""


class StepOutcome(NamedTuple):
    """The loss before a step's update, and the statistics under its L_BN."""

    loss: InversionLoss
    statistics_RM: Tensor


class _Best:
    """The images of the lowest loss so far and the teacher's classes of them, chosen on the device without a wait."""

    def __init__(self, run: Run, num_images: int) -> None:
        image_shape = run.config.task.image_shape
        label_shape = run.task.label_shape(image_shape)
        self.loss = torch.zeros((), device=run.device)
        self.images_BCHW = torch.zeros((num_images, *image_shape), device=run.device)
        self.teacher_class_B = torch.zeros((num_images, *label_shape), dtype=torch.int64, device=run.device)

    def update(self, loss: Tensor, images_BCHW: Tensor, teacher_class_B: Tensor) -> None:
        """Keep what belongs to this loss where it is the lowest, or the first."""
        is_better = (loss < self.loss) | self.loss.isinf()
        given = (loss, images_BCHW, teacher_class_B)
        for kept, value in zip((self.loss, self.images_BCHW, self.teacher_class_B), given, strict=True):
            kept.copy_(torch.where(is_better, value, kept))


class Synthesis:
    """A clone of the generator and a batch of latents, minimised together over Eq. 2.

    The tensors are the same in every call, so that its steps can be recorded: `begin` gives them new values. An update
    by a loss that is not finite is left out, and `is_lost` says so from then on until the next call.
    """

    def __init__(
        self, run: Run, config: InversionConfig, generator: nn.Module, bn: BatchNormMatching, num_images: int
    ) -> None:
        """`generator` is the meta-generator, with which every call begins."""
        self.num_images = num_images
        self._run = run
        self._config = config
        self._bn = bn
        self._meta_generator = generator
        self._generator = copied(generator)
        self._parameters = learning_parameters(self._generator)
        self._latent_BZ = torch.zeros(num_images, config.latent_dim, device=run.device).requires_grad_()
        self._optimizer = adam(
            [
                {"params": self._parameters, "lr": config.lr_generator},
                {"params": [self._latent_BZ], "lr": config.lr_latent},
            ],
            betas=ADAM_BETAS,
            device=run.device,
        )
        self._gradient_sum = [torch.zeros_like(parameter) for parameter in self._parameters]
        """The sum of the clone's gradients over the steps of a call."""
        self.is_lost = torch.zeros((), dtype=torch.bool, device=run.device)
        self._best = _Best(run, num_images)
        self._make_images: Callable[[Tensor], Tensor] = self._generator
        self._ask_student: Callable[[Tensor], Tensor] = run.student
        self._watch_teacher = self._teacher_and_statistics
        self._steps: dict[bool, Callable[[StepInputs], StepOutcome]] = {
            is_adversarial: partial(self._step, is_adversarial=is_adversarial) for is_adversarial in (False, True)
        }

    def accelerate(self) -> None:
        """Compile and record what the run wants compiled and recorded: worth it for many calls."""
        run = self._run
        self._make_images = Compiled(run, "the generator", self._make_images)
        self._ask_student = Compiled(run, "the student", self._ask_student)
        self._watch_teacher = Compiled(run, "the teacher", self._watch_teacher)
        self._steps = {key: RecordedStep(run, "the inversion step", step) for key, step in self._steps.items()}

    @torch.no_grad()
    def begin(self, latent_BZ: Tensor) -> None:
        """Lines 4-5: initialise g and z, and what a call accumulates."""
        torch._foreach_copy_(parameters_and_buffers(self._generator), parameters_and_buffers(self._meta_generator))
        self._latent_BZ.copy_(latent_BZ)
        reset(self._optimizer)
        torch._foreach_zero_(self._gradient_sum)
        self._best.loss.fill_(torch.inf)
        self.is_lost.fill_(False)

    def step(self, inputs: StepInputs, *, is_adversarial: bool) -> StepOutcome:
        """Lines 6-9 once. The outcome holds until the next step."""
        return self._steps[is_adversarial](inputs)

    @torch.no_grad()
    def give_meta_gradient(self) -> None:
        """What the steps of a call have taught, as gradients of the meta-generator.

        By "fomaml" the sum of the clone's gradients, by Reptile the way back from the clone to the meta-generator.
        """
        parameters = learning_parameters(self._meta_generator)
        for parameter, own, gradient in zip(parameters, self._parameters, self._gradient_sum, strict=True):
            parameter.grad = parameter - own if self._config.meta_update == "reptile" else gradient

    def best(self) -> tuple[Tensor, Tensor]:
        """The images [B, C, H, W] of the step with the lowest loss, and the teacher's classes of them."""
        return self._best.images_BCHW.clone(), self._best.teacher_class_B.clone()

    def _step(self, inputs: StepInputs, *, is_adversarial: bool) -> StepOutcome:
        with self._run.autocast():
            images_BCHW = self._make_images(self._latent_BZ)
        images_BCHW = images_BCHW.float()
        loss, teacher_class_B, statistics_RM = self._loss(images_BCHW, inputs, is_adversarial=is_adversarial)
        self._best.update(loss.total.detach(), images_BCHW.detach(), teacher_class_B)
        self._optimizer.zero_grad()
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch._foreach_add_(self._gradient_sum, [_gradient(parameter) for parameter in self._parameters])
        is_finite = loss.total.detach().isfinite()
        self.is_lost |= ~is_finite
        step_if(self._optimizer, is_finite)
        return StepOutcome(loss.detach(), statistics_RM)

    def _loss(
        self, images_BCHW: Tensor, inputs: StepInputs, *, is_adversarial: bool
    ) -> tuple[InversionLoss, Tensor, Tensor]:
        """Eq. 2 for the present images, the teacher's classes of them, and the statistics under its L_BN."""
        run, config = self._run, self._config
        views_BCHW = augmented(images_BCHW, inputs.augmentation)
        with run.autocast():
            teacher_logits_BK, bn, statistics_RM = self._watch_teacher(views_BCHW)
        teacher_class_B, teacher_prob_B = run.task.predict(teacher_logits_BK.detach())
        phi_B = modulation(
            teacher_class_B,
            teacher_prob_B,
            inputs.class_share_K,
            gamma=config.gamma if inputs.gamma is None else inputs.gamma,
            diversity=config.diversity,
            difficulty=config.difficulty,
        )
        target_B = inputs.target_B
        target_B = teacher_class_B if target_B is None else moved_with(inputs.augmentation, target_B)
        task = (phi_B * task_loss(teacher_logits_BK, target_B)).mean()
        adversarial = torch.zeros((), device=run.device)
        if is_adversarial:
            with run.autocast():
                student_logits_BK = self._ask_student(views_BCHW)
            adversarial = adversarial_loss(teacher_logits_BK, student_logits_BK)
        loss = inversion_loss(
            bn,
            task,
            adversarial,
            bn_weight=config.bn_weight,
            task_weight=config.task_weight,
            adversarial_weight=config.adversarial_weight,
        )
        return loss, teacher_class_B, statistics_RM

    def _teacher_and_statistics(self, views_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's logits of the views, L_BN and the statistics under it."""
        self._bn.forget()
        teacher_logits_BK = self._run.teacher(views_BCHW)
        return teacher_logits_BK, *self._bn.loss()


def learning_parameters(generator: nn.Module) -> list[nn.Parameter]:
    """What of a generator is trained: all that is not frozen."""
    return [parameter for parameter in generator.parameters() if parameter.requires_grad]


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "every parameter of a generator takes part in every pass, or is frozen"
    return parameter.grad
