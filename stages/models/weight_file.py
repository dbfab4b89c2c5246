"""What a file of weights holds, whoever wrote it.

Nothing is unpickled but through `torch.load(weights_only=True)`. Checkpoints keep their weights in an entry among
other state; the table below says which. All else is a FileError.
"""

from __future__ import annotations

import argparse
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from stages.errors import FileError
from stages.models.public_names import by_common_name, unwrapped

# Where a training script keeps the weights among its other state, most specific name first.
_CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")

# Files that are often taken for weights: (first bytes, what it is, what to do).
_FOREIGN = (
    (b"<", "a web page or XML, not weights", "download the file itself, not the page about it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "fetch the file with `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file (Keras?)", "convert it to a PyTorch state_dict first"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it first: `gunzip FILE`"),
    (b"\x93NUMPY", "a single array of numpy's, not a network's weights", "save them by name, as safetensors"),
)
_ARRAYS_TO_WEIGHTS = (
    "torch.save({name: torch.from_numpy(array) for name, array in numpy.load(FILE).items()}, ANOTHER_FILE)"
)

# What training scripts keep beside the weights, and no code is run for: their settings, and numbers of numpy's.
_PLAIN_DATA: tuple[Any, ...] = (
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)

_CONTAINERS_OF_PYTHON = ("GLOBAL collections.", "GLOBAL types.", "GLOBAL argparse.")
_MOST_OF_A_PICKLE = 2**16
"""Bytes of an archive's pickle that are read at most to see how it begins."""
_SAFETENSORS_LENGTH_BYTES = 8  # its JSON header comes after its length
_MAX_NESTING = 3
_NUM_NAMES_SHOWN = 3
WEIGHTS_OF_TORCHSCRIPT = (
    "name the network itself, and as its file that of"
    ' `torch.save(torch.jit.load(FILE, map_location="cpu").state_dict(), ANOTHER_FILE)`'
)


class StoredWeights(NamedTuple):
    """The weights in a file, by name, dense, on the CPU, floating point ones as float32; and what was passed over."""

    weights: dict[str, Tensor]

    others: tuple[str, ...]
    """Where else in the file there are weights by these names with other values, such as an average of them, as the
    index that leads there: `["state_dict_ema"]`."""


def read_weights(path: Path) -> StoredWeights:
    """What a file holds, without its containers and wrapper prefixes; knows nothing of the network it belongs to.

    Raises FileError where the file is missing, damaged, foreign, or would have to run code to be read.
    """
    stored = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    weights = _find_weights(stored)
    if not any("." in name for name in weights):  # none, or some number beside the entry that has them
        weights = _in_the_only_entry(path, stored) or weights
    if not weights:
        raise FileError(
            f"no weights found in `{path}`: its entries are {shortened(map(str, stored)) or 'none'}",
            hint="save the network's state_dict: torch.save(model.state_dict(), FILE)",
        )
    others = tuple(_other_values(stored, by_common_name(weights)))
    weights = unwrapped(weights)
    for name, tensor in weights.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
            raise FileError(
                f"`{name}` in `{path}` is not a plain tensor ({kind})",
                hint="save the network before quantising or pruning it",
            )
    dense = {
        name: tensor.to(torch.float32) if tensor.is_floating_point() else tensor for name, tensor in weights.items()
    }
    return StoredWeights(dense, others)


def command_to_take(index: str) -> str:
    """Python that saves an entry of a checkpoint, such as `["state_dict_ema"]`, in a file of its own."""
    return f'torch.save(torch.load(FILE, map_location="cpu", weights_only=False){index}, ANOTHER_FILE)'


def _is_safetensors(path: Path) -> bool:
    """Which of the two formats the first bytes say it is. Raises FileError where it can be neither."""
    if path.is_dir():
        raise FileError(f"`{path}` is a folder, not a file of weights", hint="name the file in it")
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except FileNotFoundError as error:
        raise FileError(f"no such file: `{path}`", hint=f"relative paths start at {Path.cwd()}") from error
    except OSError as error:
        raise FileError(f"`{path}` cannot be read: {error.strerror}", hint="check its permissions") from error
    if not start:
        raise FileError(f"`{path}` is empty", hint="download or save it again")
    if start[_SAFETENSORS_LENGTH_BYTES:].startswith(b"{"):
        return True
    for signature, what, hint in _FOREIGN:
        if start.lstrip().startswith(signature):
            raise FileError(f"`{path}` is {what}", hint=hint)
    return False


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise FileError(f"`{path}` is a damaged safetensors file: {error}", hint="download or save it again") from error


def _read_torch(path: Path) -> Mapping[Any, Any]:
    try:
        with (
            path.open("rb") as file,  # not the path, whose suffix torch would go by
            warnings.catch_warnings(action="ignore"),  # about old formats; what matters comes as an error
            torch.serialization.safe_globals([*_PLAIN_DATA]),
        ):
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+|Can only build [^.]*)", str(error))
        if refused is None or not _may_be_of_torch(path):
            raise _unreadable(path) from error
        found = f"`{refused[1]}`" if refused[1] else refused[2]
        raise FileError(
            f"`{path}` holds Python objects ({found}), not only weights: reading it would run code",
            hint="where you trust it, save its weights alone, where its code can be imported:"
            f" {_ways_to_take(path, refused[1])}",
        ) from error
    except Exception as error:  # a damaged file can make the reader raise anything
        if "TorchScript archive" in str(error):
            raise FileError(f"`{path}` is TorchScript, not weights alone", hint=WEIGHTS_OF_TORCHSCRIPT) from error
        raise _unreadable(path) from error
    if isinstance(stored, Mapping):
        return stored
    raise FileError(
        f"`{path}` holds a {type(stored).__name__}, not a network's weights",
        hint="save the network's state_dict: torch.save(model.state_dict(), FILE)",
    )


def _may_be_of_torch(path: Path) -> bool:
    """Whether a file begins as an archive, or as what `torch.save` wrote before it made archives."""
    with path.open("rb") as file:
        return file.read(4).startswith((b"PK\x03\x04", pickle.PROTO))


def _ways_to_take(path: Path, refused: str | None) -> str:
    """How to save weights alone, of a whole network or of a checkpoint, by what the archive's pickle begins with.

    `refused` is the class, with its module, that stopped the reader; None where something else has.
    """
    of_network = command_to_take(".state_dict()")
    of_checkpoint = (
        f"{command_to_take(_index('state_dict'))}, or whatever its entry is called; where that is the network itself,"
        f" `{_index('net')}.state_dict()` in place of it"
    )
    outermost = _outermost(path)
    if outermost in ("GLOBAL collections.OrderedDict", "EMPTY_DICT None"):
        return of_checkpoint
    if outermost == f"GLOBAL {refused}" and not outermost.startswith(_CONTAINERS_OF_PYTHON):
        return of_network
    return f"of a whole network {of_network}; of a checkpoint {of_checkpoint}"


def _outermost(path: Path) -> str:
    """The first operation of an archive's pickle, which says what all of it is; empty where that is not to be had."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as pickled:
                operations = pickletools.genops(pickled.read(_MOST_OF_A_PICKLE))
                operation, argument, _ = next(each for each in operations if each[0].name not in ("PROTO", "FRAME"))
    except (OSError, ValueError, StopIteration, zipfile.BadZipFile):
        return ""
    return f"{operation.name} {str(argument).replace(' ', '.')}"


def _names_in_archive(path: Path) -> list[str] | None:
    """What lies in a zip archive; None where a file is none, or its table of contents is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile):
        return None


def _unreadable(path: Path) -> FileError:
    names = _names_in_archive(path)
    if names and all(name.endswith(".npy") for name in names):
        return FileError(f"`{path}` holds arrays of numpy's, not tensors", hint=_ARRAYS_TO_WEIGHTS)
    if names and not any(name.endswith("/data.pkl") for name in names):
        return FileError(
            f"`{path}` is a zip archive of {shortened(names)}, not weights", hint="unpack it and name the file in it"
        )
    return FileError(
        f"`{path}` is not a readable safetensors or PyTorch file: damaged, cut off, or of another kind",
        hint="download or save it again; in place of ONNX or another kind, take the checkpoint that it was made from",
    )


def _find_weights(stored: Mapping[Any, Any], *, nesting: int = _MAX_NESTING) -> dict[str, Tensor]:
    """The tensors of a checkpoint, from the container that holds them."""
    for container in _CONTAINERS if nesting else ():
        inner = stored.get(container)
        if isinstance(inner, Mapping) and (weights := _find_weights(inner, nesting=nesting - 1)):
            return weights
    return {str(name): value for name, value in stored.items() if isinstance(value, Tensor)}


def _in_the_only_entry(path: Path, stored: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The weights of a checkpoint that keeps them under a name of its own. Raises FileError for more than one such."""
    found = {
        name: weights
        for name, inner in stored.items()
        if isinstance(inner, Mapping) and (weights := _find_weights(inner))
    }
    if len(found) > 1:
        raise FileError(
            f"`{path}` holds weights in {len(found)} places: {shortened(map(str, found))}",
            hint=f"save those you mean in a file of their own: {command_to_take(_index(next(iter(found))))}; parts of"
            " one network, such as its backbone and its head, all in one, by the names that they have in the network",
        )
    return next(iter(found.values()), {})


def _other_values(
    stored: Mapping[Any, Any], taken: Mapping[str, Tensor], *, index: str = "", nesting: int = _MAX_NESTING
) -> Iterator[str]:
    """Where there are tensors with names and shapes of at least half of those that were taken, and other values."""
    for name, inner in stored.items() if nesting else ():
        if not isinstance(inner, Mapping):
            continue
        place = index + _index(name)
        tensors = by_common_name({str(key): value for key, value in inner.items() if isinstance(value, Tensor)})
        alike = [key for key, value in tensors.items() if key in taken and value.shape == taken[key].shape]
        if 2 * len(alike) < len(taken):
            yield from _other_values(inner, taken, index=place, nesting=nesting - 1)
        elif not all(torch.equal(tensors[key], taken[key]) for key in alike):
            yield place


def _index(name: object) -> str:
    return f'["{name}"]' if isinstance(name, str) else f"[{name!r}]"


def shortened(names: Iterable[str]) -> str:
    """The first few of the names, for messages."""
    shown = [f"`{name}`" for name in names]
    return ", ".join(shown[:_NUM_NAMES_SHOWN]) + (", ..." if len(shown) > _NUM_NAMES_SHOWN else "")
