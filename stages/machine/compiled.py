"""Parts of a step translated by torch's compiler, where the run asks for it."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

import torch

from stages.events import CompilationFinished, CompilationStarted, Warning
from stages.machine.device import is_out_of_memory

if TYPE_CHECKING:
    from stages.run import Run

_BACKWARD_AT_ONCE = "force_non_lazy_backward_lowering"
"""The setting of torch, not a public one, by which the backward pass is compiled together with the forward pass."""

_LOOKS_FOR_CUDA = logging.getLogger("torch.utils.cpp_extension")
"""The logger on which torch warns that there is no nvcc, where a CPU is compiled for, too."""

P = ParamSpec("P")
ResultT = TypeVar("ResultT")


def forget_compiled() -> None:
    """Let go of what earlier runs of this process have compiled: the compiler keeps so much for a function and no more.

    Else the teacher of the seventh of `--seeds` would not be compiled any longer.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()


class Compiled(Generic[P, ResultT]):
    """A function of tensors that is compiled at its first call, or run as it is where that fails.

    Compiled from the first call on, it gives the same bits to a run that is resumed. A function is compiled as a whole
    or not at all: where the compiler gives up, on the forward or the backward pass, nothing of it has run.
    """

    def __init__(self, run: Run, name: str, function: Callable[P, ResultT], *, has_fixed_weights: bool = False) -> None:
        """`name` is what events and warnings call it.

        `has_fixed_weights` says that the weights in it never change and that it is called without gradients: on a CPU
        batch-norm is then folded into the convolutions, which take ReLU and sums along.
        """
        self._run = run
        self._name = name
        self._function = function
        self._compiled: Callable[P, ResultT] | None = None
        self._is_wanted = run.config.run.acceleration == "compile"
        self._folds = has_fixed_weights and run.device.type == "cpu"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ResultT:
        """What the function gives."""
        if self._is_wanted:
            try:
                with nullcontext() if self._compiled is not None else self._compiling():
                    if self._compiled is None:
                        self._compiled = torch.compile(self._function, fullgraph=True, dynamic=False)
                    return self._compiled(*args, **kwargs)
            except Exception as error:  # no compiler, a network it cannot read: each fails in its own way
                if is_out_of_memory(error) or _is_recording():  # a recording that was broken cannot go on
                    raise
                self._give_up(error)
        return self._function(*args, **kwargs)

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        """Within this context the first call is made, which compiles: told, and charged to an account of its own."""
        self._run.emit(CompilationStarted(what=self._name))
        began_s = time.perf_counter()
        try:
            with self._run.charged_to("setup"), _quiet(_LOOKS_FOR_CUDA), _folding() if self._folds else _backward_too():
                yield
        finally:
            self._run.emit(CompilationFinished(what=self._name, seconds=time.perf_counter() - began_s))

    def _give_up(self, error: Exception) -> None:
        self._is_wanted = False
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        self._run.emit(
            Warning(
                message=f"{self._name} is not compiled and runs as it is: {reason}",
                hint="the result is the same up to rounding; run.acceleration=eager compiles nothing",
            )
        )


def _is_recording() -> bool:
    """Whether the device's work is being recorded now."""
    is_initialized: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return is_initialized and torch.cuda.is_current_stream_capturing()


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Within this context the logger tells of errors only."""
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _backward_too() -> AbstractContextManager[object]:
    """Within this context the backward pass is compiled with the forward pass, not when it is first needed."""
    from torch._functorch import config  # heavy

    if not hasattr(config, _BACKWARD_AT_ONCE):  # another version of torch
        return nullcontext()
    context: AbstractContextManager[object] = config.patch({_BACKWARD_AT_ONCE: True})
    return context


def _folding() -> AbstractContextManager[object]:
    """Within this context weights are constants to the compiler."""
    from torch._inductor import config  # heavy

    context: AbstractContextManager[object] = config.patch({"freezing": True})
    return context
