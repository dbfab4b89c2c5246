"""Eq. 1 of SSD-KD: how far a batch's feature statistics are from those the teacher remembers of its training data.

Legend: B batch, C channels of a layer, H W pixels; R rows, two for each layer that runs, its means and its variances; M
the most channels of any layer, with zeros behind those of the others. One tensor [R, M] for all layers, and not one for
each, makes Eq. 1 some twenty operations, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.errors import MisuseError
from stages.models.layers import bn_layers_that_run, scaled_channels, watched


class _BatchStatistics(torch.autograd.Function):
    """Mean and biased variance of each channel in one pass, with a gradient of one pass.

    The numbers of `torch.var_mean(x.float(), ...)`, about 15 times faster on a CPU for bf16 channels-last input: it
    uses the kernel by which batch-norm itself collects them, which accumulates in fp32. Of channels-last fp32 a CPU's
    plain sums lose digits of the variance where the mean is large: 1e-5 of it at 30 deviations, all of it at 1e4.
    """

    @staticmethod
    def forward(ctx: Any, features_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        ignored_C = None
        if not features_BCHW.is_cuda:  # of no use but for its type, which makes the results fp32 there, too
            ignored_C = torch.zeros(features_BCHW.shape[1], dtype=torch.float32, device=features_BCHW.device)
        mean_C, variance_C = torch.ops.aten.batch_norm_update_stats(features_BCHW, ignored_C, ignored_C, 0.0)
        ctx.save_for_backward(features_BCHW, mean_C)
        return mean_C, variance_C

    @staticmethod
    def backward(ctx: Any, grad_mean_C: Tensor, grad_variance_C: Tensor) -> Tensor:
        features_BCHW, mean_C = ctx.saved_tensors
        # d mean / dx = 1 / n and d var / dx = 2 (x - mean) / n
        num = features_BCHW.numel() // features_BCHW.shape[1]
        return scaled_channels(features_BCHW, grad_variance_C * (2 / num), mean_C=mean_C, offset_C=grad_mean_C / num)


def channel_statistics(features_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """mu_l(x) and sigma_l^2(x) of Eq. 1: mean and biased variance over batch and pixels.

    Shapes: [B, C, ...] fp32, bf16 or fp16 -> two [C] float32, differentiable once.
    """
    mean_C, variance_C = _BatchStatistics.apply(features_BCHW)
    return mean_C, variance_C


def bn_loss(
    batch_RM: Tensor, running_RM: Tensor, average_RM: Tensor | None = None, *, momentum: float | Tensor = 0.0
) -> Tensor:
    r"""L_BN(x) = sum_l ||mu_l(x) - E(mu_l)||_2 + ||sigma_l^2(x) - E(sigma_l^2)||_2, SSD-KD Eq. (1).

    E is the teacher's running statistics. The norms are not squared. Differs from the paper where `average_RM`, the
    moving average of earlier calls' statistics, is given: then (1-m) mu_l(x) + m average_l takes the place of mu_l(x),
    and likewise for the variance (Fast-Datafree). `momentum` m = 0 is the paper's literal form.
    Shapes: statistics [R, M] -> a scalar float32 tensor >= 0; 0 where there is no row.
    """
    if average_RM is not None:
        batch_RM = (1 - momentum) * batch_RM + momentum * average_RM
    distance_R: Tensor = torch.linalg.vector_norm(batch_RM - running_RM, dim=1)
    return distance_R.sum()


class _Rows:
    """Vectors of several lengths as the rows of one tensor [R, M]."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._lengths = list(lengths)
        self._device = device
        lengths_R = torch.tensor(self._lengths, dtype=torch.int64)
        columns_M = torch.arange(max(self._lengths, default=0))
        begins_R = lengths_R.cumsum(0) - lengths_R
        indices_RM = torch.where(columns_M < lengths_R[:, None], begins_R[:, None] + columns_M, lengths_R.sum())
        self._shape = indices_RM.shape
        self._indices = indices_RM.flatten().to(device)

    def join(self, vectors: Iterable[Tensor], *, behind: float = 0.0) -> Tensor:
        """[length] each -> [R, M] float32, differentiable, with the value `behind` in what the shorter ones leave."""
        flat = torch.cat([*vectors, torch.full((1,), behind, device=self._device)])
        return flat.index_select(0, self._indices).view(self._shape)

    def split(self, rows_RM: Tensor) -> list[Tensor]:
        """The vectors that were joined, each with memory of its own."""
        return [row_M[:length].clone() for row_M, length in zip(rows_RM, self._lengths, strict=True)]


class BatchNormMatching:
    """Watches the inputs of a network's batch-norm layers and keeps the moving average of their statistics.

        matching = BatchNormMatching(run.teacher, run.config.task.image_shape, momentum=0.9)
        with matching.watching():
            logits = run.teacher(images)
            loss_bn, statistics = matching.loss()  # within the context, once for each forward pass
        matching.update_average(statistics)

    Layers count in the order they run, which need not be that of their names; one that does not run (an auxiliary
    head in eval mode) does not count. Which run, and what they remember, is found out once, by the constructor. The
    average stays in the same tensor from call to call.

    Differs from the paper where `is_standardized`: then Eq. 1 compares statistics as a layer sees them: the mean from
    its running one on, in running deviations; the variance in running variances. By the numbers as they are, a layer
    whose features are small hardly counts beside one whose features are large, though both see theirs at variance 1.
    """

    def __init__(
        self, model: nn.Module, image_shape: tuple[int, int, int], *, momentum: float, is_standardized: bool = False
    ) -> None:
        layers = bn_layers_that_run(model, image_shape)
        self._layers = list(dict.fromkeys(layers))  # one that runs twice is watched once
        self._num_recorded_in_a_pass = len(layers)
        self._momentum = momentum
        self._recorded: list[tuple[Tensor, Tensor]] = []
        self._device = next(chain(model.parameters(), model.buffers())).device
        remembered = [_remembered(layer) for layer in layers]
        self._lengths = [layer.num_features for layer in layers for _ in range(2)]
        self._rows = _Rows(self._lengths, self._device)
        running_RM = self._rows.join(chain.from_iterable(remembered))
        # Statistics are compared as (statistics - origin) / unit.
        self._origin_RM, self._unit_RM = torch.zeros_like(running_RM), torch.ones_like(running_RM)
        if is_standardized:
            # With eps, as in the layer: a channel that never varied is no division by 0.
            units = [variance_C + layer.eps for layer, (_, variance_C) in zip(layers, remembered, strict=True)]
            self._origin_RM[::2] = running_RM[::2]
            deviations_and_variances = chain.from_iterable((unit_C.sqrt(), unit_C) for unit_C in units)
            self._unit_RM = self._rows.join(deviations_and_variances, behind=1.0)
        self._running_RM = (running_RM - self._origin_RM) / self._unit_RM
        self._average_RM = torch.zeros_like(running_RM)
        """Zeros, which count for nothing, until the first call is over."""
        # m of Eq. 1 at present. In double precision, so that 1 - m is what Python makes of it.
        self._weight = torch.zeros((), dtype=torch.float64, device=self._device)
        self._has_average = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within this context every forward pass of the network records its statistics."""

        def record(_layer: _BatchNorm, features_BCHW: Tensor) -> None:
            self._recorded.append(channel_statistics(features_BCHW))

        with watched(self._layers, record):
            try:
                yield
            finally:
                self.forget()

    def forget(self) -> None:
        """Drop the statistics of forward passes so far: one that failed may have left some."""
        self._recorded = []

    def loss(self) -> tuple[Tensor, Tensor]:
        """Eq. 1 for the forward pass since the last call of `loss`, and the statistics [R, M] under it.

        What was recorded is forgotten. A network without batch-norm has a loss of 0 and no statistics. Raises
        MisuseError where anything else than one forward pass was recorded.
        """
        recorded = self._recorded
        self.forget()
        if len(recorded) != self._num_recorded_in_a_pass:
            raise MisuseError(
                f"of the network's {self._num_recorded_in_a_pass} batch-norm layers {len(recorded)} were recorded:"
                " BatchNormMatching.loss is called within its watching(), once after each forward pass of the network"
            )
        batch_RM = (self._rows.join(chain.from_iterable(recorded)) - self._origin_RM) / self._unit_RM
        average_RM = self._average_RM if self._momentum > 0 else None
        return bn_loss(batch_RM, self._running_RM, average_RM, momentum=self._weight), batch_RM.detach()

    def update_average(self, batch_RM: Tensor) -> None:
        """Move the average towards a batch's statistics: m * average + (1 - m) * batch. Once per inversion call."""
        m = self._momentum if self._has_average else 0.0
        self._average_RM.mul_(m).add_(batch_RM, alpha=1 - m)
        self._has_average = True
        self._weight.fill_(self._momentum)

    def state_dict(self) -> dict[str, Any]:
        """The moving averages of each layer's statistics, as lists of tensors."""
        if not self._has_average:
            return {}
        vectors = self._rows.split(self._average_RM)
        return {"mean": vectors[::2], "variance": vectors[1::2]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. Before the first call. Raises ValueError where it is another network's."""
        if not state:
            return
        layers = zip(state["mean"], state["variance"], strict=True)
        vectors = [value_C.to(self._device) for value_C in chain.from_iterable(layers)]
        if [len(value_C) for value_C in vectors] != self._lengths:
            raise ValueError("the averages are of a network with other batch-norm layers")
        self._average_RM.copy_(self._rows.join(vectors))
        self._has_average = True
        self._weight.fill_(self._momentum)


def _remembered(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None, "only layers with running statistics are watched"
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var
