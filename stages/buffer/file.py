"""The replay buffer as a file: `buffer.safetensors`, written and read without torch.

Images are written piece by piece and read only where they are looked at, so that neither takes their memory.

    images         uint8    [N, C, H, W]         un-augmented, oldest first
    teacher_class  int64    [N] or [N, H, W]     c_T of each image (of each pixel in dense tasks)
    teacher_prob   float32  like teacher_class   p_T, the teacher's probability of that class
    priority       float32  [N]                  delta of Eq. (4), >= 0
    age            int32    [N]                  epochs since insertion
    target         int64    like teacher_class   class asked of the generator; -1 where none

The metadata is one JSON text under one key: safetensors keeps no order among keys, but equal
buffers must give equal bytes. It holds no times and no paths. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from stages.errors import FileError
from stages.files.atomic_file import write_atomically
from stages.files.tensor_file import TensorData, file_pieces

SCHEMA_VERSION = 1
METADATA_KEY = "ssdkd_buffer"

_PIECE_BYTES = 2**22

_LARGEST_ALPHA = 100.0
"""The largest exponent of Eq. 6 in a file: above it all but the hardest sample would be out of reach."""

# Each tensor's type, in safetensors' words and in numpy's.
_DTYPES = {
    "images": ("U8", np.uint8),
    "teacher_class": ("I64", np.int64),
    "teacher_prob": ("F32", np.float32),
    "priority": ("F32", np.float32),
    "age": ("I32", np.int32),
    "target": ("I64", np.int64),
}

Images = Callable[[], Iterable[npt.NDArray[np.uint8]]]
"""Gives images some rows at a time, uint8 [n, C, H, W]; each call gives all of them."""


@dataclass(frozen=True, kw_only=True)
class BufferMeta:
    """What a reader must know: the task, the normalisation, how images were sampled."""

    task: str
    num_classes: int
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    capacity: int
    alpha: float
    """Exponent of Eq. 6 by which samples are drawn; 0 where that is done uniformly."""
    epsilon: float
    teacher_sha256: str


@dataclass(frozen=True, kw_only=True)
class BufferContents:
    """The rows of a replay buffer, oldest first, as numpy arrays (shapes in the module's text)."""

    images: npt.NDArray[np.uint8]
    teacher_class: npt.NDArray[np.int64]
    teacher_prob: npt.NDArray[np.float32]
    priority: npt.NDArray[np.float32]
    age: npt.NDArray[np.int32]
    target: npt.NDArray[np.int64]
    meta: BufferMeta
    sha256: str | None = None
    """Digest of the rows as they were written; None where they have not been."""

    def __len__(self) -> int:
        return len(self.images)

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by their names in the file."""
        return {name: getattr(self, name) for name in _DTYPES}


def write_rows(
    path: Path,
    arrays: Mapping[str, npt.NDArray[Any]],
    image_shape: tuple[int, ...],
    images: Images,
    meta: BufferMeta,
) -> None:
    """Write the file atomically; equal rows give equal bytes. Raises StorageError where it cannot be written.

    Images come some rows at a time and are `image_shape` [N, C, H, W] together. They are asked for twice: their digest
    stands before them in the file.
    """
    columns = {name: np.ascontiguousarray(array) for name, array in arrays.items() if name != "images"}
    for name, array in columns.items():
        assert array.dtype == _DTYPES[name][1], f"{name} is {array.dtype}"
    problem = _problem(columns, image_shape, meta)
    assert problem is None, problem
    header = {"schema": SCHEMA_VERSION, "sha256": _digest(columns, images()), **asdict(meta)}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    tensors = {name: TensorData(_DTYPES[name][0], array.shape, [array]) for name, array in columns.items()}
    tensors["images"] = TensorData(_DTYPES["images"][0], image_shape, images())
    write_atomically(path, file_pieces(tensors, metadata={METADATA_KEY: text}))


def _digest(columns: Mapping[str, npt.NDArray[Any]], images: Iterable[npt.NDArray[np.uint8]]) -> str:
    """SHA-256 of the rows, column by column in the order of `_DTYPES`, in hexadecimal."""
    digest = hashlib.sha256()
    for pieces in ([columns[name]] if name != "images" else images for name in _DTYPES):
        for piece in pieces:
            digest.update(np.ascontiguousarray(piece).data)
    return digest.hexdigest()


def _in_slices(images_NCHW: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    return (images_NCHW[rows] for rows in row_slices(images_NCHW.shape))


def row_slices(image_shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices over the rows of images [N, C, H, W], each of a few MiB."""
    num_rows, *row_shape = image_shape
    step = max(1, _PIECE_BYTES // max(1, math.prod(row_shape)))
    return (slice(first, min(first + step, num_rows)) for first in range(0, num_rows, step))


def read_buffer(path: Path) -> BufferContents:
    """Read a file and check everything that its users rely on.

    The images are mapped: one comes from the disk when it is looked at, and changing it changes no file. Raises
    FileError for a file that is missing, damaged, of another kind, or of a newer schema.
    """
    if path.is_dir():
        raise FileError(f"{path} is a folder, not a buffer file", hint="give its buffer.safetensors")
    try:
        with path.open("rb") as raw, safe_open(path, framework="np") as file:
            if not os.path.samestat(os.fstat(raw.fileno()), path.stat()):
                return read_buffer(path)  # its run has just put a new one in its place
            meta, sha256 = _read_meta(path, file.metadata() or {})
            _check_dtypes(path, file)
            arrays = {name: file.get_tensor(name) for name in _DTYPES if name != "images"}
            images = _mapped_images(raw, tuple(file.get_slice("images").get_shape()))
    except FileNotFoundError as error:
        raise FileError(f"there is no buffer file {path}", hint="`ssdkd run` and `ssdkd invert` write one") from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}", hint="check its permissions") from error
    except SafetensorError as error:
        raise FileError(
            f"{path} is truncated, damaged, or no safetensors file ({error})",
            hint="`ssdkd run --resume` writes the run's buffer again; `ssdkd invert` fills a new one",
        ) from error
    problem = _problem(arrays, images.shape, meta)
    if problem is not None:
        raise _damaged(path, problem)
    return BufferContents(images=images, **arrays, meta=meta, sha256=sha256)


def _mapped_images(file: BinaryIO, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """The images of a file that safetensors found sound."""
    if 0 in shape:
        return np.empty(shape, np.uint8)
    header_bytes = int.from_bytes(file.read(8), "little")
    offset, _ = json.loads(file.read(header_bytes))["images"]["data_offsets"]
    return np.asarray(np.memmap(file, np.uint8, mode="c", offset=8 + header_bytes + offset, shape=shape))


def _damaged(path: Path, problem: str) -> FileError:
    return FileError(f"{path} is damaged: {problem}", hint="`ssdkd invert` fills a new buffer")


def _read_meta(path: Path, metadata: dict[str, str]) -> tuple[BufferMeta, str]:
    if METADATA_KEY not in metadata:
        raise FileError(
            f"{path} is a safetensors file, but no replay buffer: its metadata has no `{METADATA_KEY}`",
            hint="a run's replay buffer is its buffer.safetensors",
        )
    try:
        header = json.loads(metadata[METADATA_KEY])
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its metadata is not JSON") from error
    if not isinstance(header, dict) or not isinstance(header.get("schema"), int):
        raise _damaged(path, "its metadata gives no schema version")
    if header["schema"] > SCHEMA_VERSION:
        raise FileError(
            f"{path} has schema {header['schema']}; this ssdkd reads schemas up to {SCHEMA_VERSION}",
            hint="a newer ssdkd wrote it: update this one",
        )
    missing = [name for name in (*(field.name for field in fields(BufferMeta)), "sha256") if name not in header]
    if missing:
        raise _damaged(path, f"its metadata lacks {', '.join(missing)}")
    try:
        names = header["class_names"]
        meta = BufferMeta(
            task=str(header["task"]),
            num_classes=int(header["num_classes"]),
            class_names=None if names is None else tuple(str(name) for name in names),
            mean=tuple(float(value) for value in header["mean"]),
            std=tuple(float(value) for value in header["std"]),
            capacity=int(header["capacity"]),
            alpha=float(header["alpha"]),
            epsilon=float(header["epsilon"]),
            teacher_sha256=str(header["teacher_sha256"]),
        )
        return meta, str(header["sha256"])
    except (TypeError, ValueError, OverflowError) as error:
        raise _damaged(path, f"its metadata holds a value of the wrong type ({error})") from error


def _check_dtypes(path: Path, file: Any) -> None:
    present = set(file.keys())
    for name, (wanted, _) in _DTYPES.items():
        if name not in present:
            raise _damaged(path, f"the tensor `{name}` is missing")
        found = file.get_slice(name).get_dtype()
        if found != wanted:
            raise _damaged(path, f"the tensor `{name}` is {found}, not {wanted}")


def _problem(arrays: Mapping[str, npt.NDArray[Any]], image_shape: tuple[int, ...], meta: BufferMeta) -> str | None:
    """The first thing about arrays of the right types that a user of the buffer would stumble over."""
    if len(image_shape) != 4 or 0 in image_shape[1:]:
        return f"the images have shape {list(image_shape)}, not [N, C, H, W]"
    num_samples, num_channels, *pixels = image_shape
    if not 0 <= num_samples <= meta.capacity:
        return f"it holds {num_samples} images, above its capacity of {meta.capacity}"
    if meta.num_classes < 1:
        return f"its metadata says {meta.num_classes} classes"
    if meta.class_names is not None and len(meta.class_names) != meta.num_classes:
        return f"it names {len(meta.class_names)} of {meta.num_classes} classes"
    if not len(meta.mean) == len(meta.std) == num_channels:
        return f"mean and std have {len(meta.mean)} and {len(meta.std)} values for {num_channels} channels"
    are_finite = all(np.isfinite([*meta.mean, *meta.std, meta.alpha, meta.epsilon]))
    if not are_finite or min(meta.std) <= 0 or not 0 <= meta.alpha <= _LARGEST_ALPHA or meta.epsilon <= 0:
        return "its metadata holds a mean, std, alpha or epsilon out of range"
    class_shape = arrays["teacher_class"].shape
    if class_shape not in ((num_samples,), (num_samples, *pixels)):
        return f"`teacher_class` has shape {list(class_shape)} for {num_samples} images"
    wanted = {
        "teacher_prob": class_shape,
        "target": class_shape,
        "priority": (num_samples,),
        "age": (num_samples,),
    }
    for name, shape in wanted.items():
        if arrays[name].shape != shape:
            return f"`{name}` has shape {list(arrays[name].shape)}, not {list(shape)}"
    return _value_problem(arrays, meta.num_classes)


def _value_problem(arrays: Mapping[str, npt.NDArray[Any]], num_classes: int) -> str | None:
    # NaN fails every comparison, so these catch it, too.
    allowed = {
        "teacher_class": (0, num_classes - 1),
        "teacher_prob": (0.0, 1.0 + 1e-5),  # a softmax may round above 1
        "priority": (0.0, float(np.finfo(np.float32).max)),
        "age": (0, np.iinfo(np.int32).max),
        "target": (-1, num_classes - 1),
    }
    for name, (low, high) in allowed.items():
        array = arrays[name]
        is_wrong = ~((array >= low) & (array <= high))
        if is_wrong.any():
            index = int(np.argwhere(is_wrong)[0][0])
            return f"`{name}` of image {index} is {array[is_wrong][0]}, outside [{low:g}, {high:g}]"
    return None


def is_as_written(contents: BufferContents) -> bool:
    """Whether the rows of a file have the digest that was written with them."""
    return contents.sha256 == _digest(contents.arrays(), _in_slices(contents.images))


def implausible(contents: BufferContents) -> list[str]:
    """What a run would not have written, though every reader can cope with it: [] for a file of ours."""
    meta, num_classes = contents.meta, contents.meta.num_classes
    problems = []
    if not is_as_written(contents):
        problems.append("its rows are not those that were written (their sha256 is another one)")
    if not re.fullmatch(r"[0-9a-f]{64}", meta.teacher_sha256):
        problems.append("its metadata gives no sha256 of the teacher")
    if (np.diff(contents.age) > 0).any():
        problems.append("its images are not ordered oldest first")
    # The probability of the likeliest of K classes cannot be below 1/K, but for rounding.
    if (contents.teacher_prob < (1 - 1e-3) / num_classes).any():
        problems.append(f"a teacher probability is below 1/{num_classes}: not that of the likeliest class")
    if len(contents) > 1 and all(np.array_equal(image_CHW, contents.images[0]) for image_CHW in contents.images):
        problems.append("all its images are the same")
    return problems
