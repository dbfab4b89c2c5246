"""The student as it leaves the run: its weights averaged over the last updates, its batch-norm statistics taken anew.

    trained student -> [ moving average of its weights ] -> [ batch-norm statistics of the buffer ] -> delivered student

Neither is in the paper. What is trained, and whatever depends on it, stays as it is: only what is measured and written
differs. Both need no labels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from stages.data.augment import augmented
from stages.distillation.config import DistillationConfig
from stages.models.copying import copied
from stages.models.layers import bn_layers_that_run, parameters_and_buffers, statistics_taken_anew
from stages.models.normalized import NormalizedModel
from stages.run import Run


class Delivery:
    """Follows the student's updates and makes the student that is delivered. Its state is the moving average."""

    def __init__(self, run: Run, config: DistillationConfig) -> None:
        self._run = run
        self._config = config
        self._average: nn.Module | None = None
        if config.ema_decay > 0:
            self._average = copied(run.student.model).requires_grad_(False)
            # The tensors of both change in place, so they are looked up once; a layer may have two names.
            of_average = parameters_and_buffers(self._average)
            of_student = parameters_and_buffers(run.student.model)
            self._averaged = [average for average in of_average if average.is_floating_point()]
            self._trained = [trained for trained in of_student if trained.is_floating_point()]
            # Counters of batches are no numbers to average.
            self._own_counters = [average for average in of_average if not average.is_floating_point()]
            self._trained_counters = [trained for trained in of_student if not trained.is_floating_point()]
        self._num_updates = 0
        self._made: tuple[tuple[int, ...], NormalizedModel] | None = None
        """The student delivered last, and what it was made after: see `deliver`."""

    @property
    def is_wanted(self) -> bool:
        """Whether another student is delivered than the one that is trained."""
        return self._average is not None or self._config.recalibration_batches > 0

    @torch.no_grad()
    def follow_update(self) -> None:
        """Take in an update of the student: average <- decay average + (1 - decay) student.

        The decay rises from 2/11 to `ema_decay` as (1 + n) / (10 + n) over n updates, so that the untrained student is
        soon forgotten. Statistics of batch-norm layers are averaged like weights.
        """
        self._num_updates += 1
        if self._average is None:
            return
        n = self._num_updates
        decay = min(self._config.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(self._averaged, self._trained, 1 - decay)
        if self._own_counters:
            torch._foreach_copy_(self._own_counters, self._trained_counters)

    def deliver(self, student: NormalizedModel) -> NormalizedModel:
        """What is measured and written in place of the trained student."""
        run = self._run
        if run.in_warmup or run.buffer.size == 0:
            return student  # it has not learnt yet
        source = student.model if self._average is None else self._average
        # Another stage may change the student, too, and an update that is recorded changes no version.
        num_changes = sum(tensor._version for tensor in parameters_and_buffers(source))
        moment = (run.epoch, self._num_updates, run.buffer.num_inserted, num_changes)
        if self._made is None or self._made[0] != moment:
            model = copied(source)
            delivered = NormalizedModel.on(run.device, model, run.config.task, memory_format=student.memory_format)
            if self._config.recalibration_batches > 0:
                recalibrate(run, delivered, num_batches=self._config.recalibration_batches)
            self._made = moment, delivered.eval()
        return self._made[1]

    def state_dict(self) -> dict[str, Any]:
        """The average, and how many updates it has seen."""
        average = None if self._average is None else self._average.state_dict()
        return {"average": average, "num_updates": self._num_updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        if self._average is not None:
            self._average.load_state_dict(state["average"])
        self._num_updates = state["num_updates"]


@torch.no_grad()
def recalibrate(run: Run, network: NormalizedModel, *, num_batches: int) -> None:
    """Take a network's batch-norm statistics anew: the mean over batches drawn uniformly from the buffer, augmented.

    In fp32, as students are measured and used. Under priority sampling the statistics of training are those of hard
    images; these are of the buffer as a whole. Draws from a stream of its own. A network without batch-norm stays.
    """
    layers = bn_layers_that_run(network.model, run.config.task.image_shape)
    if not layers:
        return
    config = run.config.distillation
    network.eval()
    with statistics_taken_anew(layers):
        for index in range(num_batches):
            rng = run.rng("distillation", "recalibration", index)
            batch = run.buffer.draw(
                config.batch_size, rng, sampling="uniform", alpha=config.alpha, epsilon=config.epsilon
            )
            images_BCHW: Tensor = augmented(batch.images_BCHW, run.draw_augmentation(config.batch_size, rng))
            network(images_BCHW)
