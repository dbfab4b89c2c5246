"""Tensors in a safetensors file with a digest of them, by which a changed bit is found when they are read again.

The digest is one more entry of the file's metadata: any reader of the format passes it over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.files.atomic_file import write_atomically
from stages.files.tensor_file import TensorData, file_pieces

DIGEST_KEY: Final = "sha256"
"""Where the file's metadata has the digest."""

_PIECE_BYTES = 2**24
_TYPES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float32: "F32",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.float64: "F64",
}


def save_with_digest(path: Path, tensors: Mapping[str, Tensor], *, notes: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically, with `notes` in the metadata. Equal ones of both give equal bytes.

    Raises StorageError (disk full).
    """
    metadata = {"format": "pt", DIGEST_KEY: digest(tensors)} | dict(notes or {})
    write_atomically(
        path, file_pieces({name: tensor_data(tensor) for name, tensor in tensors.items()}, metadata=metadata)
    )


def digest(tensors: Mapping[str, Tensor], *, text: str = "") -> str:
    """SHA-256, hexadecimal, of a text, then of names, types, shapes and elements of tensors in order of their names."""
    sha256 = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for piece in _in_pieces(tensor):
            sha256.update(piece.data)
    return sha256.hexdigest()


def tensor_data(tensor: Tensor) -> TensorData:
    """A tensor on any device, to be written."""
    return TensorData(_TYPES[tensor.dtype], tuple(tensor.shape), _in_pieces(tensor))


def _in_pieces(tensor: Tensor) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of a tensor on any device, some of its elements at a time. A tensor of odd strides is copied first."""
    for elements in torch.split(tensor.detach().reshape(-1), max(1, _PIECE_BYTES // tensor.element_size())):
        yield elements.cpu().view(torch.uint8).numpy()
