"""A network's weights: from a file of any public layout into it, and from it into safetensors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from stages.errors import FileError
from stages.files.tensor_digest import save_with_digest
from stages.models.misfits import misfit, other_network
from stages.models.public_names import common_name, renamed_for, unwrapped, without_shared_prefix
from stages.models.weight_file import command_to_take, read_weights

_BY_THE_WAY = re.compile(r"(?:^|\.)(?:n_averaged|total_ops|total_params)$")
"""What torch's averaged models and counters of operations leave among the weights."""
_BATCH_COUNTER = ".num_batches_tracked"
PARTS_LEFT_OUT = "parts_left_out"
"""The attribute of a network that was built without some parts: how the names of their weights begin in a file."""


def load_weights(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Fill a network from a file of any public layout; the network is untouched unless everything fits.

    Batch counters may be missing (files older than them), and weights of parts that the network says it was built
    without (`PARTS_LEFT_OUT`) are passed over. Returns where else in the file there are weights for it
    (`StoredWeights.others`). Raises ConfigError where the file only disagrees with the preset's number of classes or
    channels, FileError where it is another network's or holds NaN.
    """
    expected = model.state_dict()
    read = read_weights(path)
    stored = without_shared_prefix(read.weights, expected)
    stored = {name: tensor for name, tensor in stored.items() if name in expected or not _BY_THE_WAY.search(name)}
    left_out: tuple[str, ...] = getattr(model, PARTS_LEFT_OUT, ())
    weights = {
        name: tensor
        for name, tensor in renamed_for(stored, expected).items()
        if not common_name(name).startswith(left_out)
    }
    missing = [name for name in expected if name not in weights and not name.endswith(_BATCH_COUNTER)]
    unexpected = [name for name in weights if name not in expected]
    if missing or unexpected:
        raise other_network(path, model, missing=missing, unexpected={name: weights[name] for name in unexpected})
    misfits = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    if misfits:
        raise misfit(path, misfits, stored=weights, expected=expected)
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
        f" (EMA) is often what its author measured; where you trust the file: {command_to_take(index)}"
        for index in others
    )


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network's weights as safetensors, atomically; equal weights give equal bytes."""
    save_with_digest(path, unwrapped(model.state_dict()))
