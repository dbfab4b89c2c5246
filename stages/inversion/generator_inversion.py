"""SSD-KD's data inversion: a meta-learned generator that balances what it makes (Sec. 3.3; Algorithm 1, lines 4-10).

The generator is that of Fast-Datafree: a persistent meta-generator whose clone is trained for a few steps at each call
together with the latents; the sum of the clone's gradients is one gradient for the meta-generator (called first-order
MAML there; that of Finn et al., ICML 2017, takes the gradient of the last step alone). With phi = 1
(`inversion.diversity` and `inversion.difficulty` off) and targets drawn at random this is Fast-Datafree's inversion
(the overlays `fast2`, `fast5` and `fast10`). Or the meta-generator moves to where the clone has come (Reptile: Nichol
et al., 2018, arXiv:1803.02999).

Differs from the paper, as Fast-Datafree does: Algorithm 1 initialises g anew in each epoch (line 4), here it begins as
the meta-generator; and it inserts the images of the last step, here those of the step with the lowest loss are. Eq. 1-3
are of shifted and flipped views of the images, and the student in Eq. 2 is in eval mode, of which the paper says
nothing.

Legend: B batch, Z latent.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from stages import optimizers
from stages.errors import ConfigError, DivergedError
from stages.events import InversionStep
from stages.inversion.bn_statistics import BatchNormMatching
from stages.inversion.config import InversionConfig
from stages.inversion.latents import class_anchors
from stages.inversion.method import Inverted
from stages.inversion.synthesis import ADAM_BETAS, StepInputs, StepOutcome, Synthesis, learning_parameters
from stages.models.build import build_generator, draws_numbers
from stages.models.frozen_batch_norm import frozen_batch_norm
from stages.models.generator import first_layer, reset_first_layer
from stages.models.layers import evaluating
from stages.run import Run, derived_seed


class GeneratorInversion:
    """The `ssdkd` method. Its state is the meta-generator, its optimiser and the moving averages of L_BN."""

    def __init__(self, config: InversionConfig) -> None:
        self.config = config

    def setup(self, run: Run) -> None:
        """Build the meta-generator, its optimiser and the watch on the teacher's batch-norm layers."""
        run.seed_layers("inversion", "generator")
        generator = build_generator(
            self.config.generator,
            latent_dim=self.config.latent_dim,
            image_shape=run.config.task.image_shape,
        )
        # Beside the student, whose layers draw from the same stream, its draws would be another run's every time.
        if run.schedule.overlaps and draws_numbers(generator, torch.zeros(2, self.config.latent_dim)):
            raise ConfigError(
                f"`inversion.generator` = `{self.config.generator}` draws random numbers, as dropout does, and cannot"
                " work beside the student",
                hint="set inversion.overlap = false",
            )
        if self.config.reset_epoch > 0:
            first_layer(generator)  # what cannot be drawn anew is found out now and not at that epoch
        self._meta_generator = generator.to(run.device).to(memory_format=torch.channels_last).train()
        self._meta_optimizer = _meta_optimizer(self.config, self._meta_generator, run.device)
        self._bn = BatchNormMatching(
            run.teacher,
            run.config.task.image_shape,
            momentum=self.config.bn_momentum,
            is_standardized=self.config.bn_loss == "standardized",
        )
        self._synthesis = Synthesis(run, self.config, self._meta_generator, self._bn, self.config.batch_size)
        self._synthesis.accelerate()
        self._anchors_KZ: Tensor | None = None
        if self.config.class_latents > 0:
            if run.task.label_shape(run.config.task.image_shape):
                raise ConfigError(
                    "`inversion.class_latents` gives a latent one class, and this task's images have one a pixel",
                    hint="set inversion.class_latents = 0",
                )
            self._anchors_KZ = class_anchors(
                run.teacher,
                num_classes=run.task.num_classes,
                latent_dim=self.config.latent_dim,
                rng=torch.Generator().manual_seed(derived_seed(run.config.run.seed, "class anchors")),
            )

    def invert(self, run: Run) -> Inverted:
        """One call: T_g steps of the clone and the latents, then one of the meta-generator."""
        if run.epoch == self.config.reset_epoch and run.call == 0:
            reset_first_layer(self._meta_generator, run.rng("inversion", "reset"))
        inverted, last = self._call(run, "epoch", self._synthesis, is_reported=True)
        self._synthesis.give_meta_gradient()
        optimizers.step_if(self._meta_optimizer, ~self._synthesis.is_lost)
        self._bn.update_average(last.statistics_RM)
        return inverted

    def invert_holdout(self, run: Run, num_images: int) -> Inverted:
        """As `invert`, from streams of its own, and nothing is learnt from it."""
        synthesis = Synthesis(run, self.config, self._meta_generator, self._bn, num_images)
        return self._call(run, "holdout", synthesis, is_reported=False)[0]

    def _call(self, run: Run, stream: str, synthesis: Synthesis, *, is_reported: bool) -> tuple[Inverted, StepOutcome]:
        """Lines 4-10: initialise g, draw z, and minimise Eq. 2 over both for T_g steps. And the last step's outcome."""
        config, num_images = self.config, synthesis.num_images
        if not run.schedule.overlaps:  # else the stream is the student's layers', and a generator that draws is refused
            run.seed_layers("inversion", f"{stream} layers")
        latent_BZ = torch.randn(
            num_images, config.latent_dim, generator=run.rng("inversion", f"{stream} latent"), device=run.device
        )
        target_B = run.task.draw_targets(
            config.targets,
            num_images,
            class_counts_K=run.buffer.class_counts(),
            image_shape=run.config.task.image_shape,
            rng=run.rng("inversion", f"{stream} targets"),
        )
        if self._anchors_KZ is not None and target_B is not None:
            latent_BZ += config.class_latents * self._anchors_KZ[target_B]
        class_share_K = run.buffer.class_share()  # Eq. 3's counts stand still during a call
        gamma = self._gamma(run)
        is_adversarial = config.adversarial_weight > 0 and run.schedule.is_adversarial(run.epoch)
        synthesis.begin(latent_BZ)
        with self._bn.watching(), evaluating(run.student), frozen_batch_norm(run.teacher, run.student):
            for step in range(config.steps):
                augmentation = run.draw_augmentation(num_images, run.rng("inversion", f"{stream} augmentation", step))
                inputs = StepInputs(augmentation, target_B, class_share_K, gamma)
                outcome = synthesis.step(inputs, is_adversarial=is_adversarial)
                run.num_trained += num_images
                if is_reported and run.should_log(step, config.steps):
                    _report(run, config, step, outcome, synthesis)
        images_BCHW, teacher_class_B = synthesis.best()
        if target_B is None:
            # A class a pixel is of the moved image that the teacher saw, not of this one.
            target_B = teacher_class_B if teacher_class_B.ndim == 1 else torch.full_like(teacher_class_B, -1)
        return Inverted(images_BCHW, target_B), outcome

    def _gamma(self, run: Run) -> Tensor | None:
        """Exponent of Eq. 3 in this epoch where it changes: a straight line from the first to the last epoch."""
        config = self.config
        if config.gamma_start is None:
            return None
        progress = (run.epoch - 1) / max(1, run.schedule.epochs - 1)
        return torch.full((), config.gamma_start + (config.gamma - config.gamma_start) * progress, device=run.device)

    def state_dict(self) -> dict[str, Any]:
        """Meta-generator, its optimiser, and the averages of L_BN."""
        return {
            "meta_generator": self._meta_generator.state_dict(),
            "meta_optimizer": self._meta_optimizer.state_dict(),
            "bn": self._bn.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._meta_generator.load_state_dict(state["meta_generator"])
        optimizers.load(self._meta_optimizer, state["meta_optimizer"])
        self._bn.load_state_dict(state["bn"])


def _meta_optimizer(config: InversionConfig, generator: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    parameters, lr = learning_parameters(generator), config.lr_meta
    if config.meta_update == "reptile":
        return optimizers.sgd(parameters, lr=lr, momentum=0.0, weight_decay=0.0, device=device)
    return optimizers.adam([{"params": parameters, "lr": lr}], betas=ADAM_BETAS, device=device)


def _report(run: Run, config: InversionConfig, step: int, outcome: StepOutcome, synthesis: Synthesis) -> None:
    loss = outcome.loss
    num_steps = run.schedule.num_calls(run.epoch) * config.steps
    step += run.call * config.steps
    scalars = [loss.total, loss.bn, loss.task, loss.adversarial, synthesis.is_lost.float()]
    total, bn, task, adversarial, is_lost = torch.stack(scalars).tolist()
    run.emit(
        InversionStep(
            step=step, num_steps=num_steps, loss=total, loss_bn=bn, loss_task=task, loss_adversarial=adversarial
        )
    )
    if is_lost:
        value = "not finite" if math.isfinite(total) else total
        raise DivergedError(
            f"the inversion loss is {value} in epoch {run.epoch}, step {step}",
            hint="lower inversion.lr_generator or inversion.bn_weight, or use run.precision=fp32",
        )
