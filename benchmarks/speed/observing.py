"""What a piece of the product does while it runs, seen from outside: FLOP, bytes, and time within its networks.

A network is whatever torch module is called from outside of any other: the normalised teacher and student, the
generator. What is seen is therefore what is really executed, whoever executes it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from measuring import Clock
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True)
class Cost:
    """What a call computes, and what it must at least move."""

    flop: int
    """Of matrix products and convolutions, forward and backward; a multiplication and an addition are 2 FLOP.

    Elementwise work, statistics, pooling and the optimiser count nothing.
    """

    num_bytes: int
    """Weights, inputs, outputs and activations saved for the gradient, once per pass of each network.

    A pass is a forward, or the backward through it, which reads or writes as much again. A lower bound: it holds where
    everything between two layers stays in the cache.
    """

    num_passes: int
    """Forward passes of networks."""


def cost_of(call: Callable[[], object]) -> Cost:
    """Run `call` once and count."""
    meter = _ByteMeter()
    of_optimizers = 0
    with ExitStack() as stack:
        counter = stack.enter_context(FlopCounterMode(display=False))

        def step_begins(*_: object) -> None:
            nonlocal of_optimizers
            of_optimizers -= counter.get_total_flops()

        def step_ends(*_: object) -> None:
            nonlocal of_optimizers
            of_optimizers += counter.get_total_flops()

        stack.callback(register_optimizer_step_pre_hook(step_begins).remove)
        stack.callback(register_optimizer_step_post_hook(step_ends).remove)
        stack.enter_context(watching_networks(meter.enter, meter.leave))
        stack.enter_context(torch.autograd.graph.saved_tensors_hooks(meter.saved, lambda tensor: tensor))
        call()
    return Cost(counter.get_total_flops() - of_optimizers, meter.num_bytes, meter.num_passes)


class _ByteMeter:
    """Adds up the bytes of network passes."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self.num_passes = 0
        self._weights: set[int] = set()
        self._saved: dict[int, int] = {}
        """Sizes of the storages saved in the present pass, by address; no other has an address while they live."""
        self._is_inside = False

    def enter(self, network: nn.Module) -> None:
        weights = [*network.parameters(), *network.buffers()]
        self._weights = {weight.data_ptr() for weight in weights}
        self._saved = {}
        self._is_inside = True

    def saved(self, tensor: Tensor) -> Tensor:
        if self._is_inside and tensor.data_ptr() not in self._weights:
            storage = tensor.untyped_storage()
            self._saved[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # an output that kept itself would never be freed

    def leave(self, network: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._is_inside = False
        num_bytes = sum(tensor.nbytes for tensor in [*network.parameters(), *network.buffers()])
        num_bytes += sum(tensor.nbytes for tensor in (*inputs, output) if isinstance(tensor, Tensor))
        num_bytes += sum(self._saved.values())
        has_backward = isinstance(output, Tensor) and output.requires_grad
        self.num_bytes += (2 if has_backward else 1) * num_bytes
        self.num_passes += 1


class Stopwatch:
    """Seconds within networks, and their forward passes, since a beginning."""

    def __init__(self, clock: Clock) -> None:
        self.seconds = 0.0
        self.num_passes = 0
        self._clock = clock
        self._depth = 0
        self._began_s = 0.0

    def start(self, *_: object) -> None:
        if self._depth == 0:
            self._began_s = self._clock()
        self._depth += 1

    def stop(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += self._clock() - self._began_s

    def stop_pass(self, *_: object) -> None:
        self.num_passes += 1
        self.stop()

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.start()
            try:
                return function(*args, **kwargs)
            finally:
                self.stop()

        return timed


@contextmanager
def timing_networks(clock: Clock = time.perf_counter) -> Iterator[Stopwatch]:
    """Time the networks' forward passes, all backward passes and the optimisers' steps while in this context.

    Backward passes begin at the loss: what the losses cost there counts as the networks', forward as overhead.
    """
    watch = Stopwatch(clock)
    with ExitStack() as stack:
        stack.enter_context(watching_networks(watch.start, watch.stop_pass))
        for name in ("backward", "grad"):
            timed = watch.around(getattr(torch.autograd, name))
            stack.enter_context(mock.patch.object(torch.autograd, name, timed))
        stack.callback(register_optimizer_step_pre_hook(watch.start).remove)
        stack.callback(register_optimizer_step_post_hook(watch.stop).remove)
        yield watch


@contextmanager
def watching_networks(
    enter: Callable[[nn.Module], object], leave: Callable[[nn.Module, tuple[Any, ...], Any], object]
) -> Iterator[None]:
    """Call `enter` before and `leave` after each forward pass of a module that no other module calls."""
    depth = 0

    def before(module: nn.Module, _inputs: tuple[Any, ...]) -> None:
        nonlocal depth
        if depth == 0:
            enter(module)
        depth += 1

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal depth
        depth -= 1
        if depth == 0:
            leave(module, inputs, output)

    handles: list[RemovableHandle] = [
        register_module_forward_pre_hook(before),
        register_module_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
