"""The names that public code has for the parts of networks, in files and in ours.

Weights come wrapped (`module.`) and in families of names; the table below says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

# What wrappers put in front of every name: DataParallel, torch.compile.
_WRAPPER_PREFIX = re.compile(r"^(?:module|_orig_mod)\.")

WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|model|net|network|backbone|encoder)\.)+")
"""What code around a network, too, puts in front of its names: Lightning's modules, for example."""

# What a block of weiaicunzai's ResNets has, by its place in a row with its ReLUs.
_RESIDUAL_FUNCTION = ((0, "conv1"), (1, "bn1"), (3, "conv2"), (4, "bn2"), (6, "conv3"), (7, "bn3"))

# Names that mean the same part in different public code, as (pattern, common name). Both the file's and the
# network's names are translated, so each rule works in both directions and one table serves every network.
_SAME_PART = tuple(
    (re.compile(pattern), common)
    for pattern, common in (
        (WRAPPERS, ""),
        (r"\.(?:module|_orig_mod)\.", "."),  # DataParallel around a part: `features.module.0`
        (r"^(?:block|layer)(\d+)\.layer\.", r"stage\1."),  # WRN: `block1.layer.0`, `layer1.layer.0`
        *((rf"^conv{number + 1}_x\.", f"layer{number}.") for number in range(1, 5)),  # weiaicunzai's ResNets
        *((rf"\.residual_function\.{place}\.", f".{part}.") for place, part in _RESIDUAL_FUNCTION),
        (r"^conv1\.0\.", "conv1."),
        (r"^conv1\.1\.", "bn1."),
        (r"\.(?:downsample|shortcut)\.", ".shortcut."),  # ResNet
        (r"\.(norm|conv)\.([12])\.", r".\1\2."),  # torchvision's DenseNets, as published
        (r"^(?:head\.)?(?:fc|linear|classifier)\.(weight|bias)$", r"head.\1"),
    )
)


def by_common_name(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights under the names that all public code has in common."""
    return {common_name(name): tensor for name, tensor in weights.items()}


def common_name(name: str) -> str:
    """What a part is called whoever names it."""
    for pattern, common in _SAME_PART:
        name = pattern.sub(common, name)
    return name


def without_shared_prefix(stored: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`stored` without what all of its names begin with, such as `student.`, where none of them is known with it."""
    own_names = {common_name(name) for name in expected}
    first_parts = {name.partition(".")[0] for name in stored if "." in name}
    if len(first_parts) != 1 or any(common_name(name) in own_names for name in stored):
        return stored
    shorter = {name.partition(".")[2] or name: tensor for name, tensor in stored.items()}
    return shorter if any(common_name(name) in own_names for name in shorter) else stored


def renamed_for(stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`stored` under the network's own names where they mean the same part, else under its own."""
    own_names: dict[str, list[str]] = {}
    for name in expected:
        own_names.setdefault(common_name(name), []).append(name)
    renamed = {}
    for name, tensor in stored.items():
        candidates = own_names.get(common_name(name), [])
        is_clear = name not in expected and len(candidates) == 1
        if is_clear and candidates[0] not in stored and candidates[0] not in renamed:
            name = candidates[0]
        renamed[name] = tensor
    return renamed


def unwrapped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights without the prefixes of wrappers, where all names have them."""
    while weights and all(_WRAPPER_PREFIX.match(name) for name in weights):
        weights = {_WRAPPER_PREFIX.sub("", name): tensor for name, tensor in weights.items()}
    return weights
