"""What a CUDA graph does, done on a CPU: operations are recorded with the memory they use and run again by themselves.

    record:  operations run once to be noted; then all memory and the random state are put back, as if none had run
    play:    the same operations on the same memory, in the same order; no line of the step's Python runs. What other
             recordings of the tape gave is overwritten, for they may share their memory

So a step that keeps a number in Python, allocates its state late or looks at a value is found out here, too, and so is
who reads the outputs of one step after another was played.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OutputsT = TypeVar("OutputsT")

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense,  # item(), bool(), int(), float()
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.lift_fresh,  # torch.tensor(...): a copy from the host's pageable memory
}
"""Operations for which the host waits for a CUDA device."""


class WaitError(RuntimeError):
    """The host would wait for the device here."""


def waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation would make the host wait for a CUDA device."""
    packet = func.overloadpacket
    if packet in WAITING:
        return True
    if packet in (aten.index, aten.index_put, aten.index_put_):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    if packet is aten.multinomial:
        with_replacement = args[2] if len(args) > 2 else kwargs.get("replacement", False)
        return args[1] == 1 or not with_replacement
    return False


class NoWaits(TorchDispatchMode):
    """Within this context an operation that would wait for the device is an error, or only noted."""

    def __init__(self, *, is_error: bool = True) -> None:
        super().__init__()
        self.is_error = is_error
        self.has_waited = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if waits(func, args, kwargs):
            self.has_waited = True
            if self.is_error:
                raise WaitError(f"{func} waits for the device")
        return func(*args, **kwargs)


class _Recorder(NoWaits):
    """Notes operations, and what was in the memory that they did not make themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._own: set[int] = set()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        used = _tensors((args, kwargs))
        for storage in (tensor.untyped_storage() for tensor in used):
            # Not every operation says what it writes to (batch-norm's running statistics): all that is used is kept.
            if storage.data_ptr() not in self._own:
                self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))
        given = {_address(value) for value in used}
        outputs = super().__torch_dispatch__(func, types, args, kwargs)
        made = [value for value in _tensors(outputs) if _address(value) not in given]
        self._own |= {_address(value) for value in made}
        # All tensors are kept, so that no memory is used twice.
        self.operations.append((func, args, kwargs, made))
        return outputs

    def has_made(self, tensor: Tensor) -> bool:
        """Whether a tensor is in memory that came into being while recording."""
        return _address(tensor) in self._own

    def take_back(self) -> None:
        for storage, before in self._before.values():
            storage.copy_(before)


class OperationTape:
    """Records the operations of steps on a CPU. `num_recorded` and `num_played` count."""

    def __init__(self) -> None:
        self.is_spent = False
        self.num_recorded = 0
        self.num_played = 0
        self._given: dict[_Recorder, list[Tensor]] = {}
        """Outputs of each recording that are in memory of its own."""

    def another(self) -> OperationTape:
        return OperationTape()

    def rehearse(self, step: Callable[[], OutputsT]) -> tuple[OutputsT, bool]:
        with NoWaits(is_error=False) as watch:
            outputs = step()
        return outputs, watch.has_waited

    def record(self, step: Callable[[], OutputsT]) -> tuple[OutputsT, Callable[[], None]]:
        random_state = torch.get_rng_state()
        recorder = _Recorder()
        try:
            with recorder:
                outputs = step()
        finally:
            recorder.take_back()
            torch.set_rng_state(random_state)
        self.num_recorded += 1
        self._given[recorder] = [value for value in _tensors(outputs) if recorder.has_made(value)]
        return outputs, lambda: self._play(recorder)

    @torch.no_grad()
    def _play(self, recorder: _Recorder) -> None:
        self.num_played += 1
        for value in (value for other, given in self._given.items() if other is not recorder for value in given):
            value.fill_(torch.nan if value.is_floating_point() else 1)
        for func, args, kwargs, made in recorder.operations:
            given = {_address(value) for value in _tensors((args, kwargs))}
            outputs = func(*args, **kwargs)
            again = [value for value in _tensors(outputs) if _address(value) not in given]
            for held, value in zip(made, again, strict=True):
                held.copy_(value)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
