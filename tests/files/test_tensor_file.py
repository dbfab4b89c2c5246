"""Files written piece by piece against the library's own, and what they cost in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from stages.files.atomic_file import write_atomically
from stages.files.tensor_file import TensorData, file_pieces

METADATA = {"key": 'text "quoted" \\ Größe\n\x1b'}


def whole(array: np.ndarray[Any, Any]) -> TensorData:
    words = {"uint8": "U8", "int64": "I64", "float32": "F32", "int32": "I32", "bool": "BOOL", "float16": "F16"}
    return TensorData(words[str(array.dtype)], array.shape, [array])


ARRAYS = {
    "one": {"images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4)},
    "all types": {name: np.ones(3, name) for name in ("uint8", "int64", "float32", "int32", "bool", "float16")},
    "names out of order": {"b": np.ones(2, np.float32), "a": np.zeros(3, np.float32), "ä": np.ones(1, np.float32)},
    "empty and scalar": {"empty": np.empty((0, 3), np.int64), "scalar": np.array(2.5, np.float32)},
    "none": {},
}


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS.keys())
def test_the_bytes_are_those_of_the_library(arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    data = b"".join(file_pieces({name: whole(array) for name, array in arrays.items()}, metadata=METADATA))
    assert data == safetensors.numpy.save(arrays, metadata=METADATA)


def test_a_tensor_may_come_in_pieces() -> None:
    rows = np.arange(60, dtype=np.int64).reshape(12, 5)
    in_pieces = TensorData("I64", (12, 5), (rows[first : first + 5] for first in range(0, 12, 5)))
    data = b"".join(file_pieces({"rows": in_pieces}, metadata={}))
    np.testing.assert_array_equal(safetensors.numpy.load(data)["rows"], rows)


@pytest.mark.parametrize("pieces", [[], [np.zeros(3, np.uint8)], [np.zeros(5, np.uint8)]])
def test_pieces_that_do_not_make_up_the_tensor(pieces: list[np.ndarray[Any, Any]]) -> None:
    with pytest.raises(AssertionError, match="rows"):
        list(file_pieces({"rows": TensorData("U8", (4,), pieces)}, metadata={}))


def test_one_piece_at_a_time_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sizes: list[int] = []

    def pieces() -> Any:
        for _ in range(3):
            sizes.append(sum(each.stat().st_size for each in tmp_path.iterdir()))
            yield np.zeros(1 << 20, np.uint8)

    write_atomically(path, file_pieces({"rows": TensorData("U8", (3 << 20,), pieces())}, metadata={}))
    assert path.stat().st_size > 3 << 20
    assert sizes[1] > 1 << 20, "the piece before has been written already"
    assert sizes[2] - sizes[1] == 1 << 20
