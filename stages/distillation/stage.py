"""Stage 2: train the student on samples drawn by priority, write new priorities back (Algorithm 1, lines 16-23).

Legend: B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stages import optimizers
from stages.buffer.priorities import importance_sampling_weights, updated_priority
from stages.distillation.config import DistillationConfig, Loss
from stages.distillation.delivery import Delivery
from stages.distillation.hints import Hints, NothingInCommon, hint_loss
from stages.distillation.losses import distillation_loss, standardized_loss
from stages.distillation.views import make_views
from stages.divergence import agreement, kl_divergence
from stages.errors import DivergedError
from stages.events import DistillationStep, HintedStep, Warning
from stages.machine.compiled import Compiled
from stages.machine.recorded_step import RecordedStep
from stages.run import Run
from stages.stage import Stage


class StudentBatch(NamedTuple):
    """A batch for the student: images uint8 [B, C, H, W], the teacher's logits [B, K, ...], w of Eq. 5 [B]."""

    images_BCHW: Tensor
    teacher_logits_BK: Tensor
    weight_B: Tensor


class UpdateOutcome(NamedTuple):
    """The loss before the update and what of hints is added to it, scalars; delta of Eq. 4 [B]; the logits of both
    [B, K, ...]."""

    loss: Tensor
    hint_loss: Tensor | None
    priority_B: Tensor
    teacher_logits_BK: Tensor
    student_logits_BK: Tensor


class Distillation(Stage[DistillationConfig]):
    """Distillation with priority sampling (Sec. 3.4). Its state: the optimiser, views, average, hints, the step."""

    def setup(self, run: Run) -> None:
        """Build the student's optimiser, its views, and what records or compiles its updates."""
        self._optimizer = optimizers.of_student(
            self.config.optimizer,
            run.student,
            num_classes=run.task.num_classes,
            lr=float(self.config.lr),
            momentum=self.config.momentum,
            weight_decay=self.config.weight_decay,
            precision=run.precision,
            device=run.device,
        )
        self._views = make_views(run, self.config)
        self._delivery = Delivery(run, self.config)
        if self._delivery.is_wanted:
            run.deliver = self._delivery.deliver
        self._hints = self._make_hints(run)
        self._ask_student = Compiled(run, "the student", run.student)
        self._updates = {
            (loss, hints): RecordedStep(run, name, partial(self._update_student, run, loss, hints))
            for loss in (self.config.loss, run.config.late_loss)
            for hints, name in {self._hints: "the student's update with hints", None: "the student's update"}.items()
        }
        self._is_lost = torch.zeros((), dtype=torch.bool, device=run.device)
        self._num_steps = run.config.num_distillation_steps
        self._step = 0

    def run_epoch(self, run: Run) -> None:
        """T_kd student updates; none while the buffer warms up, which is not in the paper (`run.warmup_epochs`)."""
        if run.in_warmup:
            return
        self._views.begin_epoch(run)
        run.student.train()
        while self._step < self._num_steps:
            self._run_step(run, self._step)
            self._step += 1
            run.num_trained += self.config.batch_size
            run.safe_point()
        self._step = 0

    def _run_step(self, run: Run, step: int) -> None:
        config = self.config
        # Line 17: sample a small-scale mini-batch M from B.
        batch = run.buffer.draw(
            config.batch_size,
            run.rng("distillation", "draw", step),
            sampling=config.sampling,
            alpha=config.alpha,
            epsilon=config.epsilon,
        )
        run.seed_layers("distillation", "teacher", step)  # of one that draws numbers in eval mode, too
        judged = self._views.judge(run, batch, step)
        weight_B = importance_sampling_weights(batch.probability_B, num_samples=run.buffer.size, beta=config.beta)

        # Lines 18-20 and 22: the loss, the new priorities, the update.
        progress = run.schedule.progress(run.epoch, step / self._num_steps)
        lr = self._learning_rate(progress)
        optimizers.set_learning_rate(self._optimizer, lr)
        run.seed_layers("distillation", "student", step)
        objective = run.config.late_loss if progress >= 1 - config.late_share else config.loss
        if self._hints is not None and progress >= config.hint_share:
            self._forget_hints()
        update = self._updates[objective, self._hints]
        outcome = update(StudentBatch(judged.images_BCHW, judged.teacher_logits_BK, weight_B))
        self._delivery.follow_update()

        # Line 21: the priorities are written back.
        run.buffer.update_priorities(batch.slots_B, outcome.priority_B)

        if run.should_log(step, self._num_steps):
            self._report(run, step, lr, objective, outcome)

    def _update_student(self, run: Run, loss: Loss, hints: Hints | None, batch: StudentBatch) -> UpdateOutcome:
        """Lines 18-22 for a batch. A loss that is not finite leaves the student's weights as they were."""
        config, teacher_logits_BK = self.config, batch.teacher_logits_BK
        # Line 18: the distillation loss.
        with run.autocast():
            if hints is None:
                student_logits_BK, untold = self._ask_student(batch.images_BCHW), None
            else:
                student_logits_BK, untold = hints.ask_student(batch.images_BCHW)
        loss_B = run.task.per_sample(self._loss(loss, teacher_logits_BK, student_logits_BK))

        # Lines 19-20: the new priority (Eq. 4), with the importance-sampling weight (Eq. 5).
        divergence_B = run.task.per_sample(
            kl_divergence(teacher_logits_BK, student_logits_BK.detach(), temperature=config.delta_temperature)
        )
        priority_B = updated_priority(batch.weight_B, divergence_B)

        # Line 22: update theta_s.
        if config.weight_loss:
            loss_B = batch.weight_B / batch.weight_B.max() * loss_B
        mean_loss = loss_B.mean()
        loss_of_hints = None if untold is None else hint_loss(untold, teacher_logits_BK)
        minimized = mean_loss if loss_of_hints is None else mean_loss + loss_of_hints
        learners = [self._optimizer] if hints is None else [self._optimizer, hints.optimizer]
        for learner in learners:
            learner.zero_grad()
        minimized.backward()  # type: ignore[no-untyped-call]
        is_finite = minimized.detach().isfinite()
        self._is_lost |= ~is_finite
        for learner in learners:
            optimizers.step_if(learner, is_finite)
        return UpdateOutcome(
            mean_loss.detach(),
            None if loss_of_hints is None else loss_of_hints.detach(),
            priority_B,
            teacher_logits_BK,
            student_logits_BK.detach(),
        )

    def _make_hints(self, run: Run) -> Hints | None:
        """Hints, where they are wanted and the networks have features to compare."""
        if self.config.hint_share == 0:
            return None
        try:
            return Hints(run)
        except NothingInCommon:
            message = "student and teacher have no features of the same resolution: the student learns without hints"
            run.emit(Warning(message=message, hint="distillation.hint_share=0 asks for none"))
            return None

    def _forget_hints(self) -> None:
        self._hints = None
        self._updates = {key: update for key, update in self._updates.items() if key[1] is None}

    def _loss(self, loss: Loss, teacher_logits_BK: Tensor, student_logits_BK: Tensor) -> Tensor:
        if loss == "standardized":
            return standardized_loss(teacher_logits_BK, student_logits_BK)
        return distillation_loss(teacher_logits_BK, student_logits_BK, temperature=self.config.temperature)

    def _report(self, run: Run, step: int, lr: float, objective: Loss, outcome: UpdateOutcome) -> None:
        agree_B = run.task.per_sample(agreement(outcome.teacher_logits_BK, outcome.student_logits_BK).float())
        told = [outcome.loss, agree_B.mean(), self._is_lost.float()]
        if outcome.hint_loss is not None:
            told.append(outcome.hint_loss)
        loss, agree, is_lost, *loss_hints = torch.stack(told).tolist()
        common: dict[str, Any] = {"step": step, "loss": loss, "lr": lr, "agreement": agree, "objective": objective}
        run.emit(HintedStep(**common, loss_hints=loss_hints[0]) if loss_hints else DistillationStep(**common))
        for value in (loss, *loss_hints):
            if not math.isfinite(value):
                raise _diverged(f"{value} in epoch {run.epoch}, step {step}")
        if is_lost:
            raise _diverged(f"not finite in epoch {run.epoch}, before step {step}")

    def check(self, run: Run) -> None:
        """Raise DivergedError where a loss that nobody was told was not finite."""
        if self._is_lost:
            raise _diverged(f"not finite in epoch {run.epoch}, before step {self._step}")

    def _learning_rate(self, progress: float) -> float:
        """A cosine from lr to lr_min over the last student updates of the run, by default all, in closed form.

        Not stated in the paper: Fast-Datafree's cosine moves once an epoch, this one at each step.
        """
        decay_share, lowest = self.config.decay_share, self.config.lr_min
        decayed = max(0.0, progress - (1 - decay_share)) / decay_share
        return lowest + (float(self.config.lr) - lowest) * (1 + math.cos(math.pi * decayed)) / 2

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's momenta, the cached views, the average, what hints have learnt, and how many updates of this
        epoch are done."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "views": self._views.state_dict(),
            "delivery": self._delivery.state_dict(),
            "hints": {} if self._hints is None else self._hints.state_dict(),
            "step": self._step,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`: the epoch goes on at the step it was at."""
        optimizers.load(self._optimizer, state["optimizer"])
        self._views.load_state_dict(state["views"])
        self._delivery.load_state_dict(state["delivery"])
        if self._hints is not None and state["hints"]:
            self._hints.load_state_dict(state["hints"])
        else:
            self._forget_hints()
        self._step = state["step"]


def _diverged(how: str) -> DivergedError:
    return DivergedError(f"the distillation loss is {how}", hint="lower distillation.lr, or use run.precision=fp32")
