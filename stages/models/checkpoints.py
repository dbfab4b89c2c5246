"""Weights in files: safetensors and public PyTorch checkpoints in, safetensors out.

Nothing is unpickled but through `torch.load(weights_only=True)`. Public checkpoints come wrapped
(`state_dict`, `module.`) and in families of names; the tables below say which. All else is a FileError.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from stages.errors import ConfigError, FileError
from stages.tensor_digest import save_with_digest

# Where a training script keeps the weights among its other state, most specific name first.
CONTAINERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params")

# What wrappers put in front of every name: DataParallel, torch.compile.
WRAPPER_PREFIX = re.compile(r"^(?:module|_orig_mod)\.")

# What a block of weiaicunzai's ResNets has, by its place in a row with its ReLUs.
RESIDUAL_FUNCTION = ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"), (6, "conv3"), (7, "bn3"))

# Names that mean the same part in different public code, as (pattern, common name). Both the file's and the
# network's names are translated, so each rule works in both directions and one table serves every network.
SAME_PART = tuple(
    (re.compile(pattern), common)
    for pattern, common in (
        (r"^(?:(?:module|_orig_mod|model|net|network|backbone|encoder)\.)+", ""),
        (r"\.(?:module|_orig_mod)\.", "."),  # DataParallel around a part: `features.module.0`
        (r"^(?:block|layer)(\d+)\.layer\.", r"stage\1."),  # WRN: `block1.layer.0`, `layer1.layer.0`
        *((rf"^conv{number + 1}_x\.", f"layer{number}.") for number in range(1, 5)),  # weiaicunzai's ResNets
        *((rf"\.residual_function\.{place}\.", f".{part}.") for place, part in RESIDUAL_FUNCTION),
        (r"^conv1\.0\.", "conv1."),
        (r"^conv1\.1\.", "bn1."),
        (r"\.(?:downsample|shortcut)\.", ".shortcut."),  # ResNet
        (r"\.(norm|conv)\.([12])\.", r".\1\2."),  # torchvision's DenseNets, as published
        (r"^(?:head\.)?(?:fc|linear|classifier)\.(weight|bias)$", r"head.\1"),
    )
)

# Files that are often taken for weights: (first bytes, what it is, what to do).
FOREIGN = (
    (b"<", "a web page or XML, not weights", "download the file itself, not the page about it"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights", "fetch the file with `git lfs pull`"),
    (b"\x89HDF", "an HDF5 file (Keras?)", "convert it to a PyTorch state_dict first"),
    (b"\x1f\x8b", "gzip-compressed", "unpack it first: `gunzip FILE`"),
)

# What training scripts keep beside the weights, and no code is run for: their settings, and numbers of numpy's.
PLAIN_DATA: tuple[Any, ...] = (
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
)

SAFETENSORS_LENGTH_BYTES = 8  # its JSON header comes after its length
MAX_NESTING = 3
BY_THE_WAY = re.compile(r"(?:^|\.)(?:n_averaged|total_ops|total_params)$")
"""What torch's averaged models and counters of operations leave among the weights."""
NUM_NAMES_SHOWN = 3
BATCH_COUNTER = ".num_batches_tracked"
PARTS_LEFT_OUT = "parts_left_out"
"""The attribute of a network that was built without some parts: how the names of their weights begin in a file."""
NAME_THE_NETWORK = (
    "name the network they belong to by `teacher.model` or `student.model`; `path/to/file.py:factory` takes any"
    " nn.Module"
)
WEIGHTS_OF_TORCHSCRIPT = (
    "name the network itself, and as its file that of"
    ' `torch.save(torch.jit.load(FILE, map_location="cpu").state_dict(), ANOTHER_FILE)`'
)
ALL_ARE_THERE = (
    "all of the network's names are there: if the rest is no part of it (a loss, for example), save the file without"
    " it, `state_dict.pop(NAME)`"
)
BUFFERS_ALONE_ARE_MISSING = (
    "all of its parameters are there: what is missing are buffers, which `register_buffer(..., persistent=False)`"
    " keeps out of files"
)
PROJECTION = re.compile(r"\.(?:downsample|shortcut)\.")
NAME_THE_NETWORK_WITH_PROJECTIONS = (
    "their shortcuts have weights: a CIFAR ResNet of this kind has a name that ends in b, such as `resnet56b`, or in x4"
    " (`resnet32x4`) where one of `layer1` has weights, too"
)
NAME_THE_NETWORK_WITHOUT_PROJECTIONS = (
    "their shortcuts have no weights: a CIFAR ResNet of this kind has a name without the b, such as `resnet56`"
)
NAME_THE_CODE_OF_A_VGG = (
    "a VGG with all of its layers in `features` is not this one, which pools less often: name its own code,"
    " `path/to/vgg.py:FUNCTION`"
)
NAME_A_NETWORK_OF_TORCHVISION = "a first layer of 7 x 7 is that of torchvision's networks: `torchvision:NAME`"
OF_NORMALISATION = re.compile(r"(?:^|[._])(?:(?P<mean>mean|means|mu)|std|stds|sds|sigma)$")
"""What code that normalises its images by itself keeps beside a network's weights."""


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
            f"no weights found in `{path}`: its entries are {_shorten(map(str, stored)) or 'none'}",
            hint="save the network's state_dict: torch.save(model.state_dict(), FILE)",
        )
    others = tuple(_other_values(stored, _by_common_name(weights)))
    weights = _unwrapped(weights)
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


def load_weights(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Fill a network from a file of any public layout; the network is untouched unless everything fits.

    Batch counters may be missing (files older than them), and weights of parts that the network says it was built
    without (`PARTS_LEFT_OUT`) are passed over. Returns where else in the file there are weights for it
    (`StoredWeights.others`). Raises ConfigError where the file only disagrees with the preset's number of classes or
    channels, FileError where it is another network's or holds NaN.
    """
    expected = model.state_dict()
    read = read_weights(path)
    stored = _without_shared_prefix(read.weights, expected)
    stored = {name: tensor for name, tensor in stored.items() if name in expected or not BY_THE_WAY.search(name)}
    left_out: tuple[str, ...] = getattr(model, PARTS_LEFT_OUT, ())
    weights = {
        name: tensor
        for name, tensor in _rename(stored, expected).items()
        if not _common_name(name).startswith(left_out)
    }
    missing = [name for name in expected if name not in weights and not name.endswith(BATCH_COUNTER)]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        raise _other_network(path, model, missing=missing, unexpected={name: weights[name] for name in unexpected})
    misfits = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    if misfits:
        raise _misfit(path, misfits, stored=weights, expected=expected)
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise FileError(
                f"`{name}` in `{path}` holds NaN or infinity",
                hint="take an earlier checkpoint of the network",
            )
    model.load_state_dict({**expected, **weights})
    return read.others


def warnings_of_others(path: Path, others: Sequence[str]) -> tuple[str, ...]:
    """What to say of other weights for a network that `load_weights` has passed over."""
    return tuple(
        f"{path} also holds other weights of this network, {index}, which were not taken, though an average of weights"
        f" (EMA) is often what its author measured; where you trust the file: {_command_to_take(index)}"
        for index in others
    )


def _command_to_take(index: str) -> str:
    """Python that saves an entry of a checkpoint, such as `["state_dict_ema"]`, in a file of its own."""
    return f'torch.save(torch.load(FILE, map_location="cpu", weights_only=False){index}, ANOTHER_FILE)'


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, atomically; equal weights give equal bytes."""
    save_with_digest(path, _unwrapped(model.state_dict()))


def _unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the prefixes of wrappers, where all names have them."""
    while weights and all(WRAPPER_PREFIX.match(name) for name in weights):
        weights = {WRAPPER_PREFIX.sub("", name): tensor for name, tensor in weights.items()}
    return weights


def sha256_of(path: Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    if start[SAFETENSORS_LENGTH_BYTES:].startswith(b"{"):
        return True
    for signature, what, hint in FOREIGN:
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
            torch.serialization.safe_globals([*PLAIN_DATA]),
        ):
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)|(Unsupported operand \d+|Can only build [^.]*)", str(error))
        if refused is None:
            raise _unreadable(path) from error
        found = f"`{refused[1]}`" if refused[1] else refused[2]
        raise FileError(
            f"`{path}` holds Python objects ({found}), not only weights: reading it would run code",
            hint="where you trust it, save its weights alone, where its code can be imported: of a checkpoint"
            f" {_command_to_take(_index('state_dict'))}, or whatever its entry is called; of a whole network"
            f" {_command_to_take('.state_dict()')}, in an entry {_command_to_take(_index('net') + '.state_dict()')}",
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


def _unreadable(path: Path) -> FileError:
    return FileError(
        f"`{path}` is not a readable safetensors or PyTorch file: damaged, cut off, or of another kind",
        hint="download or save it again",
    )


def _find_weights(stored: Mapping[Any, Any], *, nesting: int = MAX_NESTING) -> dict[str, Tensor]:
    """The tensors of a checkpoint, from the container that holds them."""
    for container in CONTAINERS if nesting else ():
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
            f"`{path}` holds weights in {len(found)} places: {_shorten(map(str, found))}",
            hint=f"save those you mean in a file of their own: {_command_to_take(_index(next(iter(found))))}; parts of"
            " one network, such as its backbone and its head, all in one, by the names that they have in the network",
        )
    return next(iter(found.values()), {})


def _other_values(
    stored: Mapping[Any, Any], taken: Mapping[str, Tensor], *, index: str = "", nesting: int = MAX_NESTING
) -> Iterator[str]:
    """Where there are tensors with names and shapes of at least half of those that were taken, and other values."""
    for name, inner in stored.items() if nesting else ():
        if not isinstance(inner, Mapping):
            continue
        place = index + _index(name)
        tensors = _by_common_name({str(key): value for key, value in inner.items() if isinstance(value, Tensor)})
        alike = [key for key, value in tensors.items() if key in taken and value.shape == taken[key].shape]
        if 2 * len(alike) < len(taken):
            yield from _other_values(inner, taken, index=place, nesting=nesting - 1)
        elif not all(torch.equal(tensors[key], taken[key]) for key in alike):
            yield place


def _by_common_name(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {_common_name(name): tensor for name, tensor in weights.items()}


def _index(name: object) -> str:
    return f'["{name}"]' if isinstance(name, str) else f"[{name!r}]"


def _common_name(name: str) -> str:
    for pattern, common in SAME_PART:
        name = pattern.sub(common, name)
    return name


def _without_shared_prefix(stored: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`stored` without what all of its names begin with, such as `student.`, where none of them is known with it."""
    own_names = {_common_name(name) for name in expected}
    first_parts = {name.partition(".")[0] for name in stored if "." in name}
    if len(first_parts) != 1 or any(_common_name(name) in own_names for name in stored):
        return stored
    shorter = {name.partition(".")[2] or name: tensor for name, tensor in stored.items()}
    return shorter if any(_common_name(name) in own_names for name in shorter) else stored


def _rename(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`stored` under the network's own names where they mean the same part, else under its own."""
    own_names: dict[str, list[str]] = {}
    for name in expected:
        own_names.setdefault(_common_name(name), []).append(name)
    renamed = {}
    for name, tensor in stored.items():
        candidates = own_names.get(_common_name(name), [])
        is_clear = name not in expected and len(candidates) == 1
        if is_clear and candidates[0] not in stored and candidates[0] not in renamed:
            name = candidates[0]
        renamed[name] = tensor
    return renamed


def _other_network(path: Path, model: nn.Module, *, missing: list[str], unexpected: Mapping[str, Tensor]) -> FileError:
    parts = [
        f"{len(names)} {kind} ({_shorten(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected))
        if names
    ]
    own = model.state_dict()
    return FileError(
        f"the weights in `{path}` are of another network: of {len(own)} names " + ", ".join(parts),
        hint=_hint_at_names(own, dict(model.named_parameters()), missing=missing, unexpected=unexpected),
    )


def _hint_at_names(
    own: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    *,
    missing: list[str],
    unexpected: Mapping[str, Tensor],
) -> str:
    if not missing and all(PROJECTION.search(name) for name in unexpected):
        return NAME_THE_NETWORK_WITH_PROJECTIONS
    if not unexpected and all(PROJECTION.search(name) for name in missing):
        return NAME_THE_NETWORK_WITHOUT_PROJECTIONS
    is_vgg = all(name.startswith(("features.", "classifier.")) for name in unexpected)
    if missing and missing[0].startswith("block0.") and is_vgg:
        return NAME_THE_CODE_OF_A_VGG
    if not missing and all(OF_NORMALISATION.search(name) for name in unexpected):
        return _hint_at_normalisation(unexpected)
    parts = {name.partition(".")[0] for name in own}
    if not missing and not any(name.partition(".")[0] in parts for name in unexpected):
        return ALL_ARE_THERE
    is_statistics = any(name.endswith((".running_mean", ".running_var")) for name in missing)
    if not unexpected and not is_statistics and not any(name in parameters for name in missing):
        return BUFFERS_ALONE_ARE_MISSING
    return NAME_THE_NETWORK


def _hint_at_normalisation(found: Mapping[str, Tensor]) -> str:
    """Where the file's network had normalised its images, which ours are before they come to it."""
    values = {
        "task.mean" if OF_NORMALISATION.search(name)["mean"] else "task.std": value.flatten().tolist()  # type: ignore[index]
        for name, value in found.items()
    }
    told = " and ".join(f"{key}={[round(value, 4) for value in values[key]]}" for key in sorted(values))
    return (
        f"the network they are of normalised its images by itself: set {told}, as here, and save the file without them,"
        " `state_dict.pop(NAME)`"
    )


def _shorten(names: Iterable[str]) -> str:
    shown = [f"`{name}`" for name in names]
    return ", ".join(shown[:NUM_NAMES_SHOWN]) + (", ..." if len(shown) > NUM_NAMES_SHOWN else "")


def _misfit(
    path: Path, misfits: list[str], *, stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> FileError | ConfigError:
    """Which setting disagrees, where only the last or only the first layer does; else another network."""
    names = list(expected)
    got, want = stored[misfits[0]].shape, expected[misfits[0]].shape
    is_last_layer = {_layer_of(name) for name in misfits} == {_layer_of(names[-1])}
    if is_last_layer and len(got) > 0 and got[1:] == want[1:]:
        return ConfigError(
            f"`{path}` has {got[0]} classes, the preset says {want[0]}",
            hint=f"name a preset for {got[0]} classes or another file, or --set task.num_classes={got[0]} and, where"
            " it learned other data, task.mean, task.std and evaluation.data",
        )
    if misfits == names[:1] and len(got) == 4 and (got[0], got[2:]) == (want[0], want[2:]):
        return ConfigError(
            f"`{path}` takes images of {got[1]} channels, the preset says {want[1]}",
            hint="set task.image_shape, task.mean and task.std to what the network was trained on",
        )
    is_of_torchvision = misfits == names[:1] and got[2:] == (7, 7)
    return FileError(
        f"the weights in `{path}` are of another network: {len(misfits)} shapes differ, "
        f"`{misfits[0]}` is {list(got)}, expected {list(want)}",
        hint=NAME_A_NETWORK_OF_TORCHVISION if is_of_torchvision else NAME_THE_NETWORK,
    )


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]
