"""Eq. 1 of SSD-KD: how far a batch's feature statistics are from those the teacher remembers of its training data.

Legend: B batch, C channels of a layer, H W pixels; R rows, two for each layer that runs, its means and its variances; M
the most channels of any layer, with zeros behind those of the others. One tensor [R, M] for all layers, and not one for
each, makes Eq. 1 some twenty operations, however many layers there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.models.layers import bn_layers, watched


class _BatchStatistics(torch.autograd.Function):
    """Mean and biased variance of each channel in one pass, with a gradient of one pass.

    The numbers of `torch.var_mean(x.float(), ...)`, about 15 times faster on a CPU for bf16 channels-last input: it
    uses the kernel by which batch-norm itself collects them, which accumulates in fp32. Of channels-last fp32 a CPU's
    plain sums lose digits of the variance where the mean is large: 1e-5 of it at 30 deviations, all of it at 1e4.
    """

    @staticmethod
    def forward(ctx: Any, features_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        # Of no use but for their type: it makes the results fp32.
        ignored_C = torch.zeros(features_BCHW.shape[1], dtype=torch.float32, device=features_BCHW.device)
        mean_C, variance_C = torch.ops.aten.batch_norm_update_stats(
            features_BCHW, ignored_C, torch.ones_like(ignored_C), 0.0
        )
        ctx.save_for_backward(features_BCHW, mean_C)
        return mean_C, variance_C

    @staticmethod
    def backward(ctx: Any, grad_mean_C: Tensor, grad_variance_C: Tensor) -> Tensor:
        features_BCHW, mean_C = ctx.saved_tensors
        # d mean / dx = 1 / n and d var / dx = 2 (x - mean) / n, so the gradient is scale * (x - mean) + offset per
        # channel. Batch-norm in eval mode is such a map, and its kernel keeps the factors in fp32 beside bf16 features.
        num = features_BCHW.numel() // features_BCHW.shape[1]
        scale_C, offset_C = grad_variance_C * (2 / num), grad_mean_C / num
        return F.batch_norm(features_BCHW, mean_C, torch.ones_like(mean_C), scale_C, offset_C, eps=0.0)


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


class _Watched(NamedTuple):
    """What stands still once it is known which layers run."""

    rows: _Rows
    origin_RM: Tensor
    unit_RM: Tensor
    """Statistics are compared as (statistics - origin) / unit."""
    running_RM: Tensor
    """The teacher's, in these units."""


class BatchNormMatching:
    """Watches the inputs of a network's batch-norm layers and keeps the moving average of their statistics.

    Layers count in the order they run, which need not be that of their names; one that does not run (an auxiliary
    head in eval mode) does not count. Which run, and what they remember, is found out once, by the first `loss`. The
    average stays in the same tensor from call to call.

    Differs from the paper where `is_standardized`: then Eq. 1 compares statistics as a layer sees them: the mean from
    its running one on, in running deviations; the variance in running variances. By the numbers as they are, a layer
    whose features are small hardly counts beside one whose features are large, though both see theirs at variance 1.
    """

    def __init__(self, model: nn.Module, *, momentum: float, is_standardized: bool = False) -> None:
        self._model = model
        self._layers = bn_layers(model)
        self._momentum = momentum
        self._is_standardized = is_standardized
        self._recorded: list[tuple[_BatchNorm, Tensor, Tensor]] = []
        self._watched: _Watched | None = None
        self._average_RM: Tensor | None = None
        """Zeros, which count for nothing, until the first call is over."""
        self._device = next(chain(model.parameters(), model.buffers())).device
        # m of Eq. 1 at present. In double precision, so that 1 - m is what Python makes of it.
        self._weight = torch.zeros((), dtype=torch.float64, device=self._device)
        self._has_average = False

    def prepare(self, images_BCHW: Tensor) -> None:
        """Find out which layers run, by a forward pass of any images, and make room for their average.

        Else the first `loss` does. A step that is compiled must not.
        """
        with torch.no_grad(), self.watching():
            self._model(images_BCHW)
            self.loss()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within this context every forward pass of the network records its statistics."""

        def record(layer: _BatchNorm, features_BCHW: Tensor) -> None:
            self._recorded.append((layer, *channel_statistics(features_BCHW)))

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

        What was recorded is forgotten. A network without batch-norm has a loss of 0 and no statistics.
        """
        recorded = self._recorded
        self.forget()
        if self._watched is None:
            self._watched = self._find_out([layer for layer, _, _ in recorded])
        rows, origin_RM, unit_RM, running_RM = self._watched
        if self._average_RM is None:
            self._average_RM = torch.zeros_like(running_RM)
        batch_RM = (rows.join(chain.from_iterable(statistics for _, *statistics in recorded)) - origin_RM) / unit_RM
        average_RM = self._average_RM if self._momentum > 0 else None
        return bn_loss(batch_RM, running_RM, average_RM, momentum=self._weight), batch_RM.detach()

    def update_average(self, batch_RM: Tensor) -> None:
        """Move the average towards a batch's statistics: m * average + (1 - m) * batch. Once per inversion call."""
        assert self._average_RM is not None, "the statistics are those that `loss` gave"
        m = self._momentum if self._has_average else 0.0
        self._average_RM.mul_(m).add_(batch_RM, alpha=1 - m)
        self._has_average = True
        self._weight.fill_(self._momentum)

    def state_dict(self) -> dict[str, Any]:
        """The moving averages of each layer's statistics, as lists of tensors."""
        if self._watched is None or self._average_RM is None or not self._has_average:
            return {}
        vectors = self._watched.rows.split(self._average_RM)
        return {"mean": vectors[::2], "variance": vectors[1::2]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. Before the first call."""
        if not state:
            return
        layers = zip(state["mean"], state["variance"], strict=True)
        vectors = [value_C.to(self._device) for value_C in chain.from_iterable(layers)]
        self._average_RM = _Rows([len(value_C) for value_C in vectors], self._device).join(vectors)
        self._has_average = True
        self._weight.fill_(self._momentum)

    def _find_out(self, layers: Sequence[_BatchNorm]) -> _Watched:
        remembered = [_remembered(layer) for layer in layers]
        rows = _Rows([layer.num_features for layer in layers for _ in range(2)], self._device)
        running_RM = rows.join(chain.from_iterable(remembered))
        origin_RM, unit_RM = torch.zeros_like(running_RM), torch.ones_like(running_RM)
        if self._is_standardized:
            # With eps, as in the layer: a channel that never varied is no division by 0.
            units = [variance_C + layer.eps for layer, (_, variance_C) in zip(layers, remembered, strict=True)]
            origin_RM[::2] = running_RM[::2]
            unit_RM = rows.join(chain.from_iterable((unit_C.sqrt(), unit_C) for unit_C in units), behind=1.0)
        return _Watched(rows, origin_RM, unit_RM, (running_RM - origin_RM) / unit_RM)


def _remembered(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None, "only layers with running statistics are watched"
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var
