"""A second device on a machine that has none: `SECOND`, whose tensors are kept apart from those of the CPU.

What is computed on it the CPU computes, to the same bits. As with a CUDA device, an operation on tensors of both is an
error, and only copies go from one to the other. Torch cannot forget a device: to be imported in a process of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

aten = torch.ops.aten

_COPIES = (aten._to_copy, aten.copy_, aten._foreach_copy_)
"""Operations that take values from one device to the other. Those of no axes, as elsewhere, any operation takes."""

_FACTORIES = (aten.empty, aten.empty_strided, aten.arange, aten.eye, aten.linspace, aten.randperm)
"""Operations that every other one makes tensors with, and those that would give a tensor its shape late."""


class DeviceError(RuntimeError):
    """An operation got tensors of two devices."""


class _Module(_DummyBackendModule):
    """What torch asks about the device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend("second", _Module())
SECOND = torch.device("second:0")
CPU = torch.device("cpu")


class DeviceTensor(Tensor):
    """A tensor on the second device. `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        tensor: DeviceTensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=SECOND,
        )
        tensor.held = held
        return tensor

    def __repr__(self) -> str:
        return f"{self.held!r} on {self.device}"

    def tolist(self) -> Any:
        """The values, as of any tensor."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, *args, **kwargs or {})


def _computed(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What an operation gives, computed with what its tensors hold."""
    outer_of: dict[int, DeviceTensor] = {}
    strangers: list[Tensor] = []

    def held(value: Any) -> Any:
        if isinstance(value, DeviceTensor):
            outer_of[id(value.held)] = value
            return value.held
        if isinstance(value, Tensor) and value.ndim > 0:
            strangers.append(value)
        return CPU if isinstance(value, torch.device) and value == SECOND else value

    is_copy = func.overloadpacket in _COPIES
    held_args, held_kwargs = tree_map(held, (args, kwargs))
    if func._schema.is_mutable and isinstance(args[0], Tensor) and not isinstance(args[0], DeviceTensor):
        strangers.append(args[0])  # of no axes or some: what is written to is of the device that writes
    if outer_of and strangers and not is_copy:
        raise DeviceError(f"{func} gets tensors of two devices, {[tuple(value.shape) for value in strangers]} here")
    outputs = func(*held_args, **held_kwargs)
    # Nothing that changes a shape in place is known to this device.
    assert all(outer.shape == outer.held.shape for outer in outer_of.values()), func
    if kwargs.get("device") is not None:
        is_here = torch.device(kwargs["device"]) == SECOND
    else:
        is_here = isinstance(args[0], DeviceTensor) if func is aten.copy_.default else bool(outer_of)

    def given(value: Any) -> Any:
        if not isinstance(value, Tensor) or not is_here:
            return value
        outer = outer_of.get(id(value))
        return DeviceTensor(value) if outer is None else outer

    return tree_map(given, outputs)


class Generator(torch.Generator):
    """Random numbers for a device, which are the CPU's."""

    def __new__(cls, device: Any = CPU) -> Generator:
        return super().__new__(cls)

    def __init__(self, device: Any = CPU) -> None:
        super().__init__()
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """The device whose tensors are drawn."""
        return self._device


_library = torch.library.Library("aten", "IMPL")
for _packet in (*_FACTORIES, *_COPIES[:2]):
    for _overload in map(partial(getattr, _packet), _packet.overloads()):
        _name = _overload._schema.name + ("." + _overload._schema.overload_name).rstrip(".")
        if not _name.endswith(("out", "names")):
            _library.impl(_name, partial(_computed, _overload), "PrivateUse1")

torch.Generator = Generator  # type: ignore[misc] - made in C++, and only by what the device is called
torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter cannot take what another one holds
