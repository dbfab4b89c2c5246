"""The whole state of a run in one file: tensors as safetensors, everything else as JSON in its metadata.

The file holds no times and no paths, and its metadata is one JSON text under one key (safetensors keeps no order among
keys), so equal runs give equal bytes. Nothing in it is ever unpickled. It is written a few MiB at a time: nothing of a
large buffer is copied whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from stages.errors import FileError
from stages.files.atomic_file import write_atomically
from stages.files.tensor_digest import DIGEST_KEY, digest, tensor_data
from stages.files.tensor_file import file_pieces

SCHEMA_VERSION = 1

_LARGE_BYTES = 2**24
_METADATA_KEY = "ssdkd_checkpoint"
_TENSOR = "__tensor__"
_PAIRS = "__pairs__"
"""How a tensor and a dictionary with keys that are not text are written in the JSON part."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a nested state of dicts, lists, tensors and JSON values (NaN and infinity among them). Atomic.

    Costs the disk's time, and the memory of a piece. Raises StorageError (disk full).
    """
    tensors: dict[str, Tensor] = {}
    skeleton = _taken_apart(state, "", tensors)
    document = {"schema": SCHEMA_VERSION, "state": skeleton, DIGEST_KEY: _digest(skeleton, tensors)}
    metadata = json.dumps(document, sort_keys=True)
    data = {name: tensor_data(tensor) for name, tensor in tensors.items()}
    write_atomically(path, file_pieces(data, metadata={_METADATA_KEY: metadata}))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote, tensors on the CPU.

    Large tensors are mapped: the file is held until the last of them is gone. All are read once, for their digest.
    Raises FileError where the file is missing, damaged, or of another kind or a newer version.
    """
    hint = "put it aside to go on from the checkpoint before; `ssdkd runs verify` looks at all files of the run"
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: _unless_large(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 - not a dict
        document = json.loads(metadata[_METADATA_KEY])
        version, skeleton = document["schema"], {**document["state"]}
        is_whole = document.get(DIGEST_KEY) == _digest(skeleton, tensors)
    except FileNotFoundError as error:
        raise FileError(f"no such checkpoint: {path}", hint=hint) from error
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is damaged: {error}", hint=hint) from error
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise FileError(f"{path} is not a checkpoint of a run", hint=hint) from error
    if version != SCHEMA_VERSION:
        raise FileError(
            f"{path} has checkpoint schema {version}, this version reads {SCHEMA_VERSION}",
            hint="use the version of ssdkd that wrote it",
        )
    if not is_whole:
        raise FileError(
            f"{path} is damaged: it is not what was written (its sha256 is another one, or lost)", hint=hint
        )
    return {key: _put_together(item, tensors) for key, item in skeleton.items()}


def _unless_large(tensor: Tensor) -> Tensor:
    """A copy of a tensor that is mapped: a few numbers that somebody keeps must not hold a file of gigabytes."""
    return tensor if tensor.nbytes > _LARGE_BYTES else tensor.clone()


def _taken_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        assert path not in tensors, f"two tensors of the state would be called {path}"
        tensors[path] = value
        return {_TENSOR: path}
    if isinstance(value, dict):
        parts = [(key, _taken_apart(item, f"{path}/{key}", tensors)) for key, item in value.items()]
        if all(isinstance(key, str) for key in value):
            return dict(parts)
        return {_PAIRS: [list(part) for part in parts]}
    if isinstance(value, list | tuple):
        return [_taken_apart(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _digest(skeleton: Any, tensors: dict[str, Tensor]) -> str:
    return digest(tensors, text=json.dumps(skeleton, sort_keys=True))


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if _TENSOR in value:
        return tensors[value[_TENSOR]]
    if _PAIRS in value:
        return {key: _put_together(item, tensors) for key, item in value[_PAIRS]}
    return {key: _put_together(item, tensors) for key, item in value.items()}
