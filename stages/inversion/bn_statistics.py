"""Eq. 1 of SSD-KD: how far a batch's feature statistics are from those the teacher remembers of its training data.

Legend: B batch, C channels, H W pixels, L batch-norm layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.models.build import bn_layers


class ChannelStatistics(NamedTuple):
    """Mean and biased variance over batch and pixels of one layer's input: [C] float32 each."""

    mean_C: Tensor
    variance_C: Tensor


class _BatchStatistics(torch.autograd.Function):
    """Mean and biased variance of each channel in one pass, with a gradient of one pass.

    The same numbers as `torch.var_mean(x.float(), ...)`, about 15 times faster on a CPU for bf16 channels-last input:
    it uses the kernel by which batch-norm itself collects them, which accumulates in fp32.
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
        # d mean / dx = 1 / n and d var / dx = 2 (x - mean) / n, so the gradient is scale * x + offset per channel.
        num = features_BCHW.numel() // features_BCHW.shape[1]
        scale_C = 2.0 * grad_variance_C / num
        offset_C = grad_mean_C / num - scale_C * mean_C
        # Batch-norm in eval mode is such a map, and its kernel keeps the factors in fp32 beside bf16 features.
        zeros_C, ones_C = torch.zeros_like(scale_C), torch.ones_like(scale_C)
        return F.batch_norm(features_BCHW, zeros_C, ones_C, scale_C, offset_C, eps=0.0)


def channel_statistics(features_BCHW: Tensor) -> ChannelStatistics:
    """mu_l(x) and sigma_l^2(x) of Eq. 1: mean and biased variance over batch and pixels.

    Shapes: [B, C, ...] fp32, bf16 or fp16 -> two [C] float32, differentiable once.
    """
    return ChannelStatistics(*_BatchStatistics.apply(features_BCHW))


def standardized(statistics: ChannelStatistics, running: ChannelStatistics, eps: float) -> ChannelStatistics:
    """As a layer sees them: the mean from its running one on, in running deviations; the variance in running variances.

    `eps` is the layer's, which it adds to its variance, so that a channel that never varied is no division by 0.
    """
    unit_C = running.variance_C + eps
    return ChannelStatistics((statistics.mean_C - running.mean_C) * unit_C.rsqrt(), statistics.variance_C / unit_C)


def bn_loss(
    batch_L: Sequence[ChannelStatistics],
    running_L: Sequence[ChannelStatistics],
    average_L: Sequence[ChannelStatistics] | None = None,
    *,
    momentum: float | Tensor = 0.0,
    device: torch.device | None = None,
) -> Tensor:
    r"""L_BN(x) = sum_l ||mu_l(x) - E(mu_l)||_2 + ||sigma_l^2(x) - E(sigma_l^2)||_2, SSD-KD Eq. (1).

    E is the teacher's running statistics. The norms are not squared. Differs from the paper where `average_L`, the
    moving average of earlier calls' statistics, is given: then (1-m) mu_l(x) + m average_l takes the place of mu_l(x),
    and likewise for the variance (Fast-Datafree). `momentum` m = 0 is the paper's literal form.
    Returns a scalar float32 tensor >= 0, on `device`; 0 where there is no layer.
    """
    loss = torch.zeros((), device=device)
    rest = 1 - momentum
    for layer, (batch, running) in enumerate(zip(batch_L, running_L, strict=True)):
        mean_C, variance_C = batch
        if average_L is not None:
            average = average_L[layer]
            mean_C = rest * mean_C + momentum * average.mean_C
            variance_C = rest * variance_C + momentum * average.variance_C
        loss = loss + torch.linalg.vector_norm(mean_C - running.mean_C)
        loss = loss + torch.linalg.vector_norm(variance_C - running.variance_C)
    return loss


class BatchNormMatching:
    """Watches the inputs of a network's batch-norm layers and keeps the moving average of their statistics.

    Layers count in the order they run, which need not be that of their names; one that does not run (an auxiliary
    head in eval mode) does not count. The average stays in the same tensors from call to call.

    Differs from the paper where `is_standardized`: then Eq. 1 compares statistics in each layer's own units
    (`standardized`), which is what the layer passes on. By the numbers as they are, a layer whose features are small
    hardly counts beside one whose features are large, though both see theirs at variance 1.
    """

    def __init__(self, model: nn.Module, *, momentum: float, is_standardized: bool = False) -> None:
        self._model = model
        self._layers = bn_layers(model)
        self._momentum = momentum
        self._is_standardized = is_standardized
        self._batch: list[ChannelStatistics] = []
        self._running: list[ChannelStatistics] = []
        self._average: list[ChannelStatistics] | None = None
        """Zeros, which count for nothing, until the first call is over."""
        device = next(chain(model.parameters(), model.buffers())).device
        # m of Eq. 1 at present. In double precision, so that 1 - m is what Python makes of it.
        self._weight = torch.zeros((), dtype=torch.float64, device=device)
        self._has_average = False

    def prepare(self, images_BCHW: Tensor) -> None:
        """Find out which layers run, by a forward pass of any images, and make room for their averages.

        Else the first `loss` does. A step that is compiled must not.
        """
        with torch.no_grad(), self.watching():
            self._model(images_BCHW)
            self.loss()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within this context every forward pass of the network records its statistics."""

        def record(layer: _BatchNorm, inputs: tuple[Tensor, ...]) -> None:
            batch = channel_statistics(inputs[0])
            running = ChannelStatistics(layer.running_mean, layer.running_var)  # type: ignore[arg-type]
            if self._is_standardized:
                batch = standardized(batch, running, layer.eps)
                running = standardized(running, running, layer.eps)
            self._batch.append(batch)
            self._running.append(running)

        handles = [layer.register_forward_pre_hook(record) for layer in self._layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.forget()

    def forget(self) -> None:
        """Drop the statistics of forward passes so far: one that failed may have left some."""
        self._batch, self._running = [], []

    def loss(self) -> tuple[Tensor, list[ChannelStatistics]]:
        """Eq. 1 for the forward passes since the last call of `loss`, and their statistics, which are forgotten."""
        batch, running = self._batch, self._running
        self.forget()
        if self._average is None:
            self._average = [ChannelStatistics(*(torch.zeros_like(value_C) for value_C in layer)) for layer in running]
        average = self._average if self._momentum > 0 else None
        loss = bn_loss(batch, running, average, momentum=self._weight, device=self._weight.device)
        return loss, [ChannelStatistics(mean_C.detach(), variance_C.detach()) for mean_C, variance_C in batch]

    def update_average(self, batch_L: Sequence[ChannelStatistics]) -> None:
        """Move the average towards a batch's statistics: m * average + (1 - m) * batch. Once per inversion call."""
        if not batch_L:
            return
        assert self._average is not None, "the statistics are those that `loss` gave"
        m = self._momentum if self._has_average else 0.0
        average = list(chain.from_iterable(self._average))
        torch._foreach_mul_(average, m)
        torch._foreach_add_(average, torch._foreach_mul(list(chain.from_iterable(batch_L)), 1 - m))
        self._has_average = True
        self._weight.fill_(self._momentum)

    def state_dict(self) -> dict[str, Any]:
        """The moving averages, as lists of tensors."""
        if self._average is None or not self._has_average:
            return {}
        return {
            "mean": [statistics.mean_C for statistics in self._average],
            "variance": [statistics.variance_C for statistics in self._average],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`. Before the first call."""
        if not state:
            return
        device = self._weight.device
        self._average = [
            ChannelStatistics(mean_C.to(device, copy=True), variance_C.to(device, copy=True))
            for mean_C, variance_C in zip(state["mean"], state["variance"], strict=True)
        ]
        self._has_average = True
        self._weight.fill_(self._momentum)
