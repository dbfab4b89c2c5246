"""DeepInversion in short (Yin et al., CVPR 2020): without a generator, each image by gradients of its own."""

from typing import Any

import torch

from stages.api import (
    BatchNormMatching,
    ConfigError,
    InversionConfig,
    InversionStep,
    Inverted,
    Run,
    augmented,
    frozen_batch_norm,
    task_loss,
)


class PixelInversion:
    """The method `pixels`: batch-norm statistics as the teacher remembers them, and the class that is aimed at."""

    def __init__(self, config: InversionConfig) -> None:
        if config.targets == "teacher":
            raise ConfigError("`inversion.method` = `pixels` must be told classes", hint='inversion.targets="balanced"')
        self.config = config

    def setup(self, run: Run) -> None:
        """Watch the teacher's batch-norm layers."""
        is_standardized = self.config.bn_loss == "standardized"
        self._bn = BatchNormMatching(
            run.teacher, run.config.task.image_shape, momentum=0.0, is_standardized=is_standardized
        )

    def invert(self, run: Run) -> Inverted:
        """The images of a call."""
        return self._optimized(run, "epoch", self.config.batch_size)

    def invert_holdout(self, run: Run, num_images: int) -> Inverted:
        """Images that nobody is trained on, by random numbers of their own."""
        return self._optimized(run, "holdout", num_images)

    def _optimized(self, run: Run, stream: str, num_images: int) -> Inverted:
        config, shape = self.config, run.config.task.image_shape
        rng = run.rng("inversion", f"{stream} targets")
        counts_K = run.buffer.class_counts()
        target_B = run.task.draw_targets(
            config.targets, num_images, class_counts_K=counts_K, image_shape=shape, rng=rng
        )
        rng = run.rng("inversion", f"{stream} pixels")
        images_BCHW = torch.rand(num_images, *shape, generator=rng, device=run.device).requires_grad_()
        optimizer = torch.optim.Adam([images_BCHW], lr=config.options["lr"])
        with self._bn.watching(), frozen_batch_norm(run.teacher):
            for step in range(config.steps):
                moves = run.draw_augmentation(num_images, run.rng("inversion", f"{stream} moves", step))
                with run.autocast():
                    logits_BK = run.teacher(augmented(images_BCHW, moves))
                bn, _ = self._bn.loss()
                task = task_loss(logits_BK, target_B).mean()
                loss = config.bn_weight * bn + config.task_weight * task
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    images_BCHW.clamp_(0, 1)
                run.num_trained += num_images
                if stream == "epoch" and run.should_log(step, config.steps):  # this alone waits for the device
                    self._report(run, step, torch.stack([loss, bn, task]).tolist())
        return Inverted(images_BCHW.detach(), target_B)

    def _report(self, run: Run, step: int, losses: list[float]) -> None:
        terms = dict(zip(("loss", "loss_bn", "loss_task"), losses, strict=True))
        step += run.call * self.config.steps  # an epoch may have several calls
        num_steps = run.schedule.num_calls(run.epoch) * self.config.steps
        run.emit(InversionStep(step=step, num_steps=num_steps, loss_adversarial=0.0, **terms))

    def state_dict(self) -> dict[str, Any]:
        """Nothing: each call begins anew."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from nothing."""
