"""Recording a step on a CUDA device, as a CUDA graph.

Nothing here runs where there is no such device; `stages.machine.recorded_step` says what is recorded and when.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

OutputsT = TypeVar("OutputsT")

RECOVERS_FROM = "2.15"
"""The first torch that can go on recording, and playing what was recorded, after a recording that failed.

Before it a graph that dies may take memory along which others of its stream still write to (cuBLAS's workspace,
pytorch/pytorch#193402); before 2.14 a recording that failed gives no memory back, and before 2.13 (2.12 of some builds)
the allocators and the generator of the device take it for under way (pytorch/pytorch#180395).
"""

_failed: dict[torch.device, list[torch.cuda.CUDAGraph]] = {}
"""Where recordings failed under an earlier torch, what is left of them: allocators may ask that for ever."""

_WAITED = "called a synchronizing CUDA operation"
_ABOUT_ITSELF = "Synchronization debug mode"
"""Of the warnings that torch gives while it watches for waits: that there was one, and that it may miss some."""


def can_record(device: torch.device) -> bool:
    """Whether this process can record steps on the device: not once a recording has failed under an early torch."""
    return device.type == "cuda" and device not in _failed


class CudaTape:
    """Records steps as CUDA graphs, on a stream of its own and with one memory pool for all of them.

    Steps with one tape must not be played at the same time: what one of them leaves in the pool between its kernels
    another may overwrite, its outputs too once it is played. Inputs and what is older than the recordings are safe.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []  # none may die before the others (`RECOVERS_FROM`)

    @property
    def is_spent(self) -> bool:
        """Whether nothing can be recorded or played any more, by this tape and by others of its device."""
        return not can_record(self._device)

    def rehearse(self, step: Callable[[], OutputsT]) -> tuple[OutputsT, bool]:
        """Run the step on the stream that records: autograd remembers the stream on which a leaf was last used.

        Memory may change hands between the two streams without being marked: each waits for the other before it runs
        anything new.
        """
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs, has_waited = _noting_waits(step)
        current.wait_stream(self._stream)
        return outputs, has_waited

    def record(self, step: Callable[[], OutputsT]) -> tuple[OutputsT, Callable[[], None]]:
        """Capture the step. Random layers will draw from the device's default generator as it is at each replay."""
        graph = torch.cuda.CUDAGraph()
        first_error: Exception | None = None
        try:
            with (
                torch.cuda.device(self._device),
                # Before 2.15 torch leaves its stream current where the recording cannot be ended.
                torch.cuda.stream(torch.cuda.current_stream(self._device)),
                _no_collection(),
                torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
            ):
                try:
                    outputs = step()
                except Exception as error:
                    first_error = error
                    raise
        except Exception as error:
            if torch.__version__ >= RECOVERS_FROM:
                graph.reset()
            else:
                self._clean_up_after(graph)
            self._pool = torch.cuda.graph_pool_handle()
            try:
                # A capture that is ended broken raises an error of its own, which says less.
                raise first_error or error from None
            finally:
                first_error = None  # else this frame and the error's traceback would hold one another
        self._graphs.append(graph)
        return outputs, graph.replay

    def _clean_up_after(self, graph: torch.cuda.CUDAGraph) -> None:
        """What torch itself does from `RECOVERS_FROM` on, as far as it can be done from outside."""
        _failed.setdefault(self._device, []).append(graph)
        self._graphs.clear()
        index = self._device.index
        try:
            torch._C._cuda_endAllocateToPool(index, self._pool)
        except RuntimeError:  # the recording was ended, only to no avail
            graph.reset()
        else:
            torch._C._cuda_releasePool(index, self._pool)
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())  # the same numbers, and not under way

    def another(self) -> CudaTape:
        """A tape with a stream and a pool of its own, for steps that are played at the same time as those of this one.

        Nothing may be recorded or rehearsed while steps of the other tape are at work.
        """
        return CudaTape(self._device)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No garbage collection in this context: a graph or an event that dies while a stream records breaks it."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _noting_waits(step: Callable[[], OutputsT]) -> tuple[OutputsT, bool]:
    """Run the step. Its outputs, and whether it waited for the device, as far as torch notices. Other warnings pass."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            outputs = step()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    has_waited = False
    for warning in caught:
        message = str(warning.message)
        if _WAITED in message:
            has_waited = True
        elif _ABOUT_ITSELF not in message:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return outputs, has_waited
