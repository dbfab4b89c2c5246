"""safetensors files written piece by piece, so that a large one costs no more memory than one of its pieces.

The library's `save` makes the whole file in memory first, and needs each tensor whole. Reading is the library's job.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_ALIGNMENT = 8
# Each type in the format's words with the bytes of an element, in the order in which the library lays tensors out.
_ITEM_BYTES = {
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
    **dict.fromkeys(("F32", "U32", "I32"), 4),
    **dict.fromkeys(("BF16", "F16", "U16", "I16"), 2),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 1),
}
_TYPE_ORDER = list(_ITEM_BYTES)


class TensorData(NamedTuple):
    """A tensor to be written: its type in the format's words, its shape, its elements in order in one or more arrays.

    The arrays need not have the tensor's type or shape, only its bytes. They are asked for when their turn comes.
    """

    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[npt.NDArray[Any]]

    @property
    def num_bytes(self) -> int:
        """Size of all pieces together."""
        return math.prod(self.shape) * _ITEM_BYTES[self.dtype]


def file_pieces(tensors: Mapping[str, TensorData], *, metadata: Mapping[str, str]) -> Iterator[memoryview]:
    """The bytes of the file in order, header first; equal content gives equal bytes, those of `safetensors.save`.

    Source: the format's description in the safetensors repository (eight bytes of header length, the header as JSON
    padded with spaces, the tensors without gaps).
    """
    ordered = sorted(tensors.items(), key=lambda item: (_TYPE_ORDER.index(item[1].dtype), item[0].encode()))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in ordered:
        end = offset + tensor.num_bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for name, tensor in ordered:
        num_left = tensor.num_bytes
        for piece in tensor.pieces:
            num_left -= piece.nbytes
            yield piece.reshape(-1).view(np.uint8).data
        assert num_left == 0, f"the pieces of `{name}` are {num_left} bytes short of its shape"
