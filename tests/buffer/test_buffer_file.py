from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
import torch
from buffer_files import to_bytes, write_buffer
from buffer_rows import make_rows

from stages.buffer import file as file_module
from stages.buffer.file import METADATA_KEY, BufferContents, implausible, read_buffer
from stages.errors import FileError, StorageError
from stages.machine.device import resident_memory_mib

Arrays = dict[str, npt.NDArray[Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "buffer.safetensors"


def write_foreign(path: Path, change: Callable[[Arrays], object] = lambda arrays: None, **header_changes: Any) -> None:
    """A file as somebody else might write it: with other arrays, with other metadata (`...` takes one away)."""
    rows = make_rows()
    arrays = {name: array.copy() for name, array in rows.arrays().items()}
    change(arrays)
    header = json.loads(metadata_of(to_bytes(rows))[METADATA_KEY]) | header_changes
    header = {key: value for key, value in header.items() if value is not ...}
    path.write_bytes(safetensors.numpy.save(arrays, metadata={METADATA_KEY: json.dumps(header)}))


def metadata_of(data: bytes) -> dict[str, str]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length])["__metadata__"]


def assert_damaged(path: Path, message: str) -> None:
    with pytest.raises(FileError, match=message) as caught:
        read_buffer(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


# -- what is written comes back ------------------------------------------------------------------------------


@pytest.mark.parametrize("piece_bytes", [1, 200, 2**24], ids=lambda size: f"pieces of {size} bytes")
@pytest.mark.parametrize(
    "rows", [make_rows(), make_rows(0), make_rows(3, label_shape=(6, 5)), make_rows(class_names=None)]
)
def test_round_trip(path: Path, rows: Any, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_module, "_PIECE_BYTES", piece_bytes)
    write_buffer(path, rows)
    back = read_buffer(path)
    assert back.meta == rows.meta
    for name, array in rows.arrays().items():
        np.testing.assert_array_equal(back.arrays()[name], array)
        assert back.arrays()[name].dtype == array.dtype


def test_equal_rows_give_equal_bytes(path: Path, tmp_path: Path) -> None:
    write_buffer(path, make_rows())
    (tmp_path / "elsewhere").mkdir()
    write_buffer(tmp_path / "elsewhere" / "other-name", make_rows())
    assert path.read_bytes() == (tmp_path / "elsewhere" / "other-name").read_bytes() == to_bytes(make_rows())
    assert to_bytes(read_buffer(path)) == path.read_bytes()
    assert to_bytes(make_rows(seed=1)) != path.read_bytes()


def test_memory_layout_does_not_show(path: Path) -> None:
    rows = make_rows()
    # What a channels-last tensor on the device becomes: the same values, other strides.
    strided = replace(rows, images=np.ascontiguousarray(rows.images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2))
    assert not strided.images.flags.c_contiguous
    assert to_bytes(strided) == to_bytes(rows)


def test_metadata_has_one_key_so_its_order_cannot_change() -> None:
    metadata = metadata_of(to_bytes(make_rows()))
    assert list(metadata) == [METADATA_KEY]
    keys = list(json.loads(metadata[METADATA_KEY]))
    assert keys == sorted(keys)


def test_other_readers_understand_it(path: Path) -> None:
    rows = make_rows()
    write_buffer(path, rows)
    arrays = safetensors.numpy.load_file(path)
    assert set(arrays) == {"images", "teacher_class", "teacher_prob", "priority", "age", "target"}
    np.testing.assert_array_equal(arrays["images"], rows.images)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's books of memory are Linux's")
def test_images_are_read_where_they_are_looked_at(path: Path) -> None:
    rows = make_rows(20_000, capacity=20_000)
    images = np.full((20_000, 3, 32, 32), 7, np.uint8)
    images[11] = 8
    write_buffer(path, replace(rows, images=images))
    before_mib = resident_memory_mib(torch.device("cpu"))
    back = read_buffer(path)
    assert resident_memory_mib(torch.device("cpu")) - before_mib < images.nbytes / 2**20 / 2
    np.testing.assert_array_equal(back.images[10:12], images[10:12])


def test_what_is_read_is_independent_of_the_file(path: Path) -> None:
    write_buffer(path, make_rows())
    data = path.read_bytes()
    back = read_buffer(path)
    back.images[:] = 7
    back.priority[:] = 7
    assert path.read_bytes() == data
    write_buffer(path, make_rows(5))
    assert (back.images == 7).all()


def test_a_file_that_is_replaced_while_it_is_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run writes it anew at every checkpoint: the header of one and the images of the other are no buffer."""
    write_buffer(path, make_rows(label_shape=(6, 5)))
    replaced: list[int] = []

    def replace_and_open(name: Path, **options: str) -> Any:
        if not replaced:
            replaced.append(1)
            write_buffer(path, make_rows(40, seed=1))
        return real_open(name, **options)

    real_open = file_module.safe_open
    monkeypatch.setattr(file_module, "safe_open", replace_and_open)
    back = read_buffer(path)
    np.testing.assert_array_equal(back.images, make_rows(40, seed=1).images)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write_buffer(tmp_path / "gone" / "buffer.safetensors", make_rows())


# -- what else may lie there ---------------------------------------------------------------------------------


def test_no_file(path: Path) -> None:
    assert_damaged(path, "there is no buffer file")


def test_folder(path: Path) -> None:
    path.mkdir()
    assert_damaged(path, "is a folder")


@pytest.mark.parametrize("data", [b"", b"\x80\x04\x95 a pickle", b"PK\x03\x04 a zip", b"\xff" * 64, b"{}"])
def test_not_safetensors(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert_damaged(path, "no safetensors file")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.999])
def test_truncated(path: Path, share: float) -> None:
    data = to_bytes(make_rows())
    path.write_bytes(data[: int(len(data) * share)])
    assert_damaged(path, "truncated")


def test_data_after_the_end(path: Path) -> None:
    path.write_bytes(to_bytes(make_rows()) + b"more")
    assert_damaged(path, "damaged")


def test_other_kind_of_safetensors(path: Path) -> None:
    path.write_bytes(safetensors.numpy.save({"conv1.weight": np.zeros(3, np.float32)}, metadata={"format": "pt"}))
    assert_damaged(path, "no replay buffer")


def test_newer_schema(path: Path) -> None:
    write_foreign(path, schema=2)
    with pytest.raises(FileError, match="has schema 2; this ssdkd reads schemas up to 1") as caught:
        read_buffer(path)
    assert "update" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "not json", "[" * 100_000, "[]", "null", '{"schema": "1"}', "{}"])
def test_metadata_is_no_document(path: Path, text: str) -> None:
    path.write_bytes(safetensors.numpy.save(make_rows().arrays(), metadata={METADATA_KEY: text}))
    assert_damaged(path, "its metadata")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": ...}, "its metadata lacks capacity"),
        ({"sha256": ...}, "its metadata lacks sha256"),
        ({"task": ..., "mean": ...}, "lacks task, mean"),
        ({"capacity": "many"}, "wrong type"),
        ({"capacity": None}, "wrong type"),
        ({"capacity": float("inf")}, "wrong type"),
        ({"alpha": 10**400}, "wrong type"),
        ({"mean": 0.5}, "wrong type"),
        ({"mean": [0.5]}, "mean and std have 1 and 3 values for 3 channels"),
        ({"std": [0.2, 0.2, 0.0]}, "out of range"),
        ({"alpha": float("nan")}, "out of range"),
        ({"alpha": -0.1}, "out of range"),
        ({"alpha": 1e300}, "out of range"),
        ({"epsilon": 0.0}, "out of range"),
        ({"epsilon": -5.0}, "out of range"),
        ({"epsilon": float("inf")}, "out of range"),
        ({"capacity": 29}, "holds 30 images, above its capacity of 29"),
        ({"num_classes": 0, "class_names": None}, "0 classes"),
        ({"class_names": ["cat"]}, "names 1 of 4 classes"),
        ({"num_classes": 3, "class_names": None}, r"`teacher_class` of image \d+ is 3, outside \[0, 2\]"),
    ],
)
def test_metadata_that_does_not_fit(path: Path, changes: dict[str, Any], message: str) -> None:
    write_foreign(path, **changes)
    assert_damaged(path, message)


@pytest.mark.parametrize("name", ["images", "teacher_class", "teacher_prob", "priority", "age", "target"])
def test_missing_tensor(path: Path, name: str) -> None:
    write_foreign(path, lambda arrays: arrays.pop(name))
    assert_damaged(path, f"the tensor `{name}` is missing")


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("images", np.float32, "`images` is F32, not U8"),
        ("teacher_class", np.int32, "`teacher_class` is I32, not I64"),
        ("priority", np.float64, "`priority` is F64, not F32"),
        ("age", np.int64, "`age` is I64, not I32"),
    ],
)
def test_wrong_type(path: Path, name: str, dtype: Any, message: str) -> None:
    write_foreign(path, lambda arrays: arrays.update({name: arrays[name].astype(dtype)}))
    assert_damaged(path, message)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("images", (30, 3, 30), "not .N, C, H, W."),
        ("images", (30, 0, 6, 5), "not .N, C, H, W."),
        ("images", (29, 3, 6, 5), r"`teacher_class` has shape \[30\] for 29 images"),
        ("teacher_class", (30, 6), r"`teacher_class` has shape \[30, 6\]"),
        ("teacher_prob", (30, 1), r"`teacher_prob` has shape \[30, 1\], not \[30\]"),
        ("priority", (31,), r"`priority` has shape \[31\], not \[30\]"),
        ("age", (), r"`age` has shape \[\], not \[30\]"),
        ("target", (30, 6, 5), r"`target` has shape \[30, 6, 5\], not \[30\]"),
    ],
)
def test_wrong_shape(path: Path, name: str, shape: tuple[int, ...], message: str) -> None:
    write_foreign(path, lambda arrays: arrays.update({name: np.zeros(shape, arrays[name].dtype)}))
    assert_damaged(path, message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("priority", np.nan, "`priority` of image 7 is nan"),
        ("priority", np.inf, "`priority` of image 7 is inf"),
        ("priority", -0.5, "`priority` of image 7 is -0.5"),
        ("teacher_prob", np.nan, "`teacher_prob` of image 7 is nan"),
        ("teacher_prob", 1.5, "`teacher_prob` of image 7 is 1.5"),
        ("teacher_class", -1, "`teacher_class` of image 7 is -1"),
        ("teacher_class", 4, "`teacher_class` of image 7 is 4"),
        ("target", 4, "`target` of image 7 is 4"),
        ("age", -1, "`age` of image 7 is -1"),
    ],
)
def test_value_out_of_range(path: Path, name: str, value: float, message: str) -> None:
    def change(arrays: Arrays) -> None:
        arrays[name][7] = value

    write_foreign(path, change)
    assert_damaged(path, message)


def test_nothing_is_written_that_cannot_be_read(path: Path) -> None:
    rows = make_rows()
    for broken in (
        replace(rows, priority=rows.priority * np.float32("nan")),
        replace(rows, age=rows.age.astype(np.int64)),  # type: ignore[arg-type]
        replace(rows, target=rows.target[:-1]),
    ):
        with pytest.raises(AssertionError):
            write_buffer(path, broken)
    assert not path.exists()


# -- plausibility --------------------------------------------------------------------------------------------


def written(path: Path, rows: BufferContents) -> BufferContents:
    write_buffer(path, rows)
    return read_buffer(path)


def test_rows_of_a_run_are_plausible(path: Path) -> None:
    assert implausible(written(path, make_rows())) == []
    assert implausible(written(path, make_rows(0))) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"age": make_rows().age[::-1]}, "not ordered oldest first"),
        ({"teacher_prob": np.full(30, 0.2, np.float32)}, "below 1/4"),
        ({"images": np.zeros((30, 3, 6, 5), np.uint8)}, "the same"),
        ({"meta": make_rows(teacher_sha256="unknown").meta}, "no sha256"),
    ],
)
def test_implausible_rows(path: Path, changes: dict[str, Any], message: str) -> None:
    (problem,) = implausible(written(path, replace(make_rows(), **changes)))
    assert message in problem
