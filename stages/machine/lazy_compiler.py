"""torch's compiler stays unloaded until something is compiled.

The optimisers of torch.optim tell the compiler, torch._dynamo, to keep out of five of their methods, and load it to
tell it so: a thousand modules, half of the time that a run needs to its first step. But where nobody else has loaded
it, nothing can be compiled, and there is nobody to keep out. So until then these methods are called without the
wrapper that says so; from then on, with it, as ever. What they compute is the same either way.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch.optim import Optimizer

_Method = Callable[..., Any]

_COMPILER = "torch._dynamo"

_METHODS = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")

# All that torch's two wrappers do, by the names in their code (torch/_compile.py, torch/optim/optimizer.py). One that
# uses any other name is of a version that does more than is known here, and is left alone.
_KEEPS_COMPILER_OUT = {"getattr", "__dynamo_disable", "torch", "torch._dynamo", "_dynamo", "disable"}
_BREAKS_GRAPH_AND_SETS_GRAD = {
    *("torch", "torch._dynamo", "_dynamo", "graph_break", "cast", "Optimizer"),
    *("is_grad_enabled", "set_grad_enabled", "defaults"),
}


def keep_compiler_unloaded() -> None:
    """Let optimisers load torch's compiler no more; one that is loaded anyway, now or later, is used as ever.

    To be called before the first optimiser is made. Without effect where torch's wrappers are not the known ones.
    """
    if _COMPILER in sys.modules:
        return
    for name in _METHODS:
        _unwrap_until_loaded(Optimizer, name, _KEEPS_COMPILER_OUT)
    for kind in vars(torch.optim).values():
        if isinstance(kind, type) and issubclass(kind, Optimizer):
            _unwrap_until_loaded(kind, "step", _BREAKS_GRAPH_AND_SETS_GRAD, _with_gradients_as_asked)


def _unwrap_until_loaded(
    kind: type[Optimizer], name: str, known: set[str], instead: Callable[[_Method], _Method] = lambda method: method
) -> None:
    """Let a method of this class go without its wrapper until the compiler is loaded, and do this `instead`."""
    wrapped = vars(kind).get(name)
    if not isinstance(wrapped, FunctionType) or not hasattr(wrapped, "__wrapped__"):
        return
    names = set(wrapped.__code__.co_names)
    if _COMPILER not in names or not names <= known:
        return
    unwrapped = instead(wrapped.__wrapped__)

    @functools.wraps(wrapped)
    def method(*args: Any, **kwargs: Any) -> Any:
        return (wrapped if _COMPILER in sys.modules else unwrapped)(*args, **kwargs)

    setattr(kind, name, method)


def _with_gradients_as_asked(step: _Method) -> _Method:
    """What torch's own wrapper of `step` does, but for the words to the compiler."""

    def step_without_compiler(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            return step(self, *args, **kwargs)

    return step_without_compiler
