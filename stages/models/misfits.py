"""What to say of weights that do not fit a network: which setting disagrees, or whose they may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from stages.errors import ConfigError, FileError
from stages.models.public_names import WRAPPERS, common_name
from stages.models.weight_file import shortened

_NAME_THE_NETWORK = (
    "name the network they belong to by `teacher.model` or `student.model`; `path/to/file.py:factory` takes any"
    " nn.Module"
)
_ALL_ARE_THERE = (
    "all of the network's names are there: if the rest is no part of it (a loss, for example), save the file without"
    " it, `state_dict.pop(NAME)`"
)
_BUFFERS_ALONE_ARE_MISSING = (
    "all of its parameters are there: what is missing are buffers, which `register_buffer(..., persistent=False)`"
    " keeps out of files"
)
_SAVE_THE_STATISTICS = (
    "all of its parameters are there: what is missing are statistics of batch-norms, without which it answers nothing."
    " Save `model.state_dict()`, and not `model.named_parameters()`"
)
_NO_CLASSIFIER_IS_THERE = (
    "all but its last layer is there: where that is the classifier, these are weights of a backbone alone, which names"
    " no classes"
)
_OF_TIMM = re.compile(r"(?:patch_embed|conv_stem|stages\.\d+\.blocks|cls_token)(?:\.|$)")
"""How some names begin in networks of timm, and none in those of torchvision."""
_NAME_A_NETWORK_OF_TIMM = (
    "names such as these are timm's: let a function in a Python file return `timm.create_model('NAME',"
    " num_classes=num_classes)`, and name it by `path/to/file.py:factory`"
)
_PROJECTION = re.compile(r"\.(?:downsample|shortcut)\.")
_NAME_THE_NETWORK_WITH_PROJECTIONS = (
    "their shortcuts have weights: a CIFAR ResNet of this kind has a name that ends in b, such as `resnet56b`, or in x4"
    " (`resnet32x4`) where one of `layer1` has weights, too"
)
_NAME_THE_NETWORK_WITHOUT_PROJECTIONS = (
    "their shortcuts have no weights: a CIFAR ResNet of this kind has a name without the b, such as `resnet56`"
)
_NAME_THE_CODE_OF_A_VGG = (
    "a VGG with all of its layers in `features` is not this one, which pools less often: name its own code,"
    " `path/to/vgg.py:FUNCTION`"
)
_NAME_A_NETWORK_OF_TORCHVISION = "a first layer of 7 x 7 is that of torchvision's networks: `torchvision:NAME`"
_WRAP_ONE_LOGIT = (
    "one logit z says as much as two, [-z / 2, z / 2]: build the network in a Python file, in one that answers with"
    " these, name it by `path/to/file.py:factory` and set task.num_classes=2"
)
_OF_NORMALISATION = re.compile(r"(?:^|[._])(?:(?P<mean>mean|means|mu)|std|stds|sds|sigma)$")
"""What code that normalises its images by itself keeps beside a network's weights."""


def other_network(path: Path, model: nn.Module, *, missing: list[str], unexpected: Mapping[str, Tensor]) -> FileError:
    """The error for names that do not fit, with the likeliest reason as its hint."""
    parts = [
        f"{len(names)} {kind} ({shortened(names)})"
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
    if not unexpected:
        return _hint_at_missing(list(own), parameters, missing)
    if not missing:
        return _hint_at_unexpected(own, unexpected)
    if missing[0].startswith("block0.") and all(name.startswith(("features.", "classifier.")) for name in unexpected):
        return _NAME_THE_CODE_OF_A_VGG
    if any(_OF_TIMM.match(WRAPPERS.sub("", name)) for name in unexpected):
        return _NAME_A_NETWORK_OF_TIMM
    of_missing, of_unexpected = _first_parts(missing), _first_parts(unexpected)
    if of_missing == of_unexpected and len(of_missing) == 1:
        return _hint_at_another_part(*of_missing)
    return _NAME_THE_NETWORK


def _hint_at_missing(own: list[str], parameters: Mapping[str, nn.Parameter], missing: list[str]) -> str:
    if all(_PROJECTION.search(name) for name in missing):
        return _NAME_THE_NETWORK_WITHOUT_PROJECTIONS
    if set(missing) == {name for name in own if _layer_of(name) == _layer_of(own[-1])}:
        return _NO_CLASSIFIER_IS_THERE
    if any(name in parameters for name in missing):
        return _NAME_THE_NETWORK
    is_statistics = any(name.endswith((".running_mean", ".running_var")) for name in missing)
    return _SAVE_THE_STATISTICS if is_statistics else _BUFFERS_ALONE_ARE_MISSING


def _hint_at_unexpected(own: Mapping[str, Tensor], unexpected: Mapping[str, Tensor]) -> str:
    if all(_PROJECTION.search(name) for name in unexpected):
        return _NAME_THE_NETWORK_WITH_PROJECTIONS
    if all(_OF_NORMALISATION.search(name) for name in unexpected):
        return _hint_at_normalisation(unexpected)
    parts = _first_parts(unexpected)
    if len(parts) == 1 and _is_a_network_like(own, unexpected):
        return _hint_at_two_networks(*parts)
    return _NAME_THE_NETWORK if parts & _first_parts(own) else _ALL_ARE_THERE


def _first_parts(names: Iterable[str]) -> set[str]:
    return {WRAPPERS.sub("", name).partition(".")[0] for name in names}


def _is_a_network_like(own: Mapping[str, Tensor], others: Iterable[str]) -> bool:
    """Whether most of a network's names are among those of others, behind their first part."""
    common = {common_name(name) for name in own}
    return 2 * len(common & {common_name(name.partition(".")[2]) for name in others}) > len(common)


def _hint_at_two_networks(prefix: str) -> str:
    those = f'{{name: value for name, value in state_dict.items() if name.startswith("{prefix}.")}}'
    return (
        f"weights of two such networks are in it, one under `{prefix}.` (an average of the other, say): save those you"
        f" mean alone, these by `{those}`"
    )


def _hint_at_another_part(part: str) -> str:
    return (
        f"all but `{part}` fits, in place of which there is another part (a classifier of one's own, say): build the"
        " network with it in a Python file, and name that, `path/to/file.py:factory`"
    )


def _hint_at_normalisation(found: Mapping[str, Tensor]) -> str:
    """Where the file's network had normalised its images, which ours are before they come to it."""
    values = {
        "task.mean" if _OF_NORMALISATION.search(name)["mean"] else "task.std": value.flatten().tolist()  # type: ignore[index]
        for name, value in found.items()
    }
    told = " and ".join(f"{key}={[round(value, 4) for value in values[key]]}" for key in sorted(values))
    return (
        f"the network they are of normalised its images by itself: set {told}, as here, and save the file without them,"
        " `state_dict.pop(NAME)`"
    )


def misfit(
    path: Path, misfits: list[str], *, stored: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> FileError | ConfigError:
    """Which setting disagrees, where only the last or only the first layer does; else another network."""
    names = list(expected)
    got, want = stored[misfits[0]].shape, expected[misfits[0]].shape
    is_last_layer = {_layer_of(name) for name in misfits} == {_layer_of(names[-1])}
    if is_last_layer and len(got) > 0 and got[1:] == want[1:] and got[0] == 1:
        return ConfigError(f"`{path}` has one logit, the preset says {want[0]} classes", hint=_WRAP_ONE_LOGIT)
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
        hint=_NAME_A_NETWORK_OF_TORCHVISION if is_of_torchvision else _NAME_THE_NETWORK,
    )


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]
