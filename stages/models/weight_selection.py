"""A small network's first weights out of a large one: weight selection (Xu et al., ICLR 2024).

Of networks of one family, layers of the same name are matched. Where the large network has more blocks of a kind in a
row, evenly spaced ones are taken, the first and the last among them; stage by stage, where all stages lie in one row.
Blocks whose code lies in two files are of one kind if they have the same layers in the same order, and the networks the
same rows. What wraps a network does not count. Networks of two families share few names: there layers of one kind are
matched by how deep they lie. Of wider layers evenly spaced channels are taken, the same ones wherever two widths meet,
so that what one layer writes the next one reads; of a narrower one nothing is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stages.models.layers import num_parameters

NUM_CHANNEL_DIMENSIONS = 2
"""Output and input channels; the others are those of kernels, and must be equal."""

ENOUGH_INHERITED = 0.5
"""Share of a network's parameters that come from another one, from which on it begins where that one is, more or less:
with less, `student.start = "auto"` begins at random."""

SHORTCUT = "shortcut"
SAME_PART = {"downsample": SHORTCUT, "convShortcut": SHORTCUT, "linear": "fc", "classifier": "fc"}
"""One name for parts that networks, ours among them, call differently."""

KindOf = Callable[[nn.Module], object]


class Inheritance(NamedTuple):
    """Shares of a network's parameters: those that come from another network, and those that are whole layers of it, as
    they were and in their places."""

    share: float
    whole: float
    only_in_one: str | None = None
    """What some blocks have and their counterparts do not, where most would be whole and in place otherwise: their
    function is lost with it, so nothing counts as whole."""
    is_by_depth: bool = False
    """Whether layers were matched by how deep they lie, for want of common names."""


NOTHING = Inheritance(0.0, 0.0)
"""What two networks without anything in common leave to each other."""


class _Pair(NamedTuple):
    """A layer or block, and its counterpart in another network."""

    own: nn.Module
    other: nn.Module
    is_in_place: bool = True
    """False for a block of another class, and for what is in one: it may compute something else."""

    only_in_one: frozenset[str] = frozenset()
    """What either of two blocks has and the other has not."""


class _Unit(NamedTuple):
    """What of a row is matched as one: a block, or a layer with what belongs to it."""

    layers: list[nn.Module]
    """The block, or the layer and those behind it that have tensors and no kernel, such as batch-norm."""
    num_channels: int | None
    """How many channels come out of the last kernel of the row up to here; None before the first."""


class _Layer(NamedTuple):
    """A layer with tensors of its own, and how deep it lies among those of its kind, from 0 to 1."""

    depth: float
    layer: nn.Module


@torch.no_grad()
def select_weights(small: nn.Module, large: nn.Module) -> Inheritance:
    """Overwrite what of `small` has a counterpart in `large`: parameters and batch-norm statistics."""
    by_name = NOTHING
    for pair in (_Pair(_in_wrappers(small), _in_wrappers(large)), _Pair(small, large)):
        by_name = max(by_name, _take(small, _counterparts_by_name(pair)), key=attrgetter("share"))
        if by_name.share >= ENOUGH_INHERITED:
            return by_name
    by_depth = _take(small, _counterparts_by_depth(small, large))
    if by_depth.share == 0:
        return by_name
    # Layers of another family compute something else where they lie now.
    return Inheritance(max(by_name.share, by_depth.share), 0.0, is_by_depth=True)


def _in_wrappers(network: nn.Module) -> nn.Module:
    """What is in modules that have no parameters beside those of one child: `nn.DataParallel`, a normalisation."""
    while next(network.parameters(recurse=False), None) is None:
        holding = [child for child in network.children() if next(child.parameters(), None) is not None]
        if len(holding) != 1:
            break
        network = holding[0]
    return network


def _take(small: nn.Module, pairs: Iterable[_Pair]) -> Inheritance:
    num_taken = num_whole = 0
    only_in_one: set[str] = set()
    widths: tuple[int, int] | None = None  # channels that the layers before write
    for pair in pairs:
        only_in_one |= pair.only_in_one
        tensors, others = _tensors(pair.own), _tensors(pair.other)
        fits = _fits(tensors, others)
        for own, other in _of_same_name(tensors, others):
            if fits:
                own.copy_(_selected(other, own.shape, _num_pixels(own, other, widths)))
                num_values = own.numel() if isinstance(own, nn.Parameter) else 0
                num_taken += num_values
                num_whole += num_values if pair.is_in_place and own.shape == other.shape else 0
            if own.ndim >= NUM_CHANNEL_DIMENSIONS:
                widths = own.shape[0], other.shape[0]
    num_own = max(1, num_parameters(small))
    if only_in_one and num_whole / num_own >= ENOUGH_INHERITED:
        return Inheritance(num_taken / num_own, 0.0, min(only_in_one))
    return Inheritance(num_taken / num_own, num_whole / num_own)


def _counterparts_by_name(pair: _Pair, *, have_same_rows: bool = False) -> Iterator[_Pair]:
    """Two modules and, in them, those of the same name or place."""
    yield pair
    small, large = pair.own, pair.other
    if _is_row(small) and _is_row(large):
        is_same_code = not {_class(child) for child in small.children()}.isdisjoint(map(_class, large.children()))
        if not is_same_code and not have_same_rows:
            return  # of what lies behind a row of its own only another row of the other's could be the counterpart
        kind_of = _class if is_same_code else _structure
        for child, other in _counterparts_in_row(small, large, kind_of):
            # Rows may differ in their length.
            only_in_one = frozenset() if _is_row(child) else _part_names(child) ^ _part_names(other)
            yield from _counterparts_by_name(_Pair(child, other, pair.is_in_place and is_same_code, only_in_one))
        return
    own, others = _children(small), _children(large)
    have_same_rows = {name for name in own if _is_row(own[name])} == {name for name in others if _is_row(others[name])}
    for name, child in own.items():
        if name in others:
            inner = _Pair(child, others[name], pair.is_in_place)
            yield from _counterparts_by_name(inner, have_same_rows=have_same_rows)


def _is_row(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential | nn.ModuleList)


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """By the common names of parts, where only one has them."""
    children = dict(module.named_children())
    common = {name: SAME_PART.get(name, name) for name in children}
    number = Counter(common.values())
    return {common[name] if number[common[name]] == 1 else name: child for name, child in children.items()}


def _class(layer: nn.Module) -> tuple[object, ...]:
    """What a layer's class is called, and where its code lies.

    A file that is run twice makes its classes twice, and two files may have other classes by the same names.
    """
    code = getattr(type(layer).forward, "__code__", None)
    return type(layer).__module__, type(layer).__qualname__, None if code is None else code.co_filename


def _layer_kind(layer: nn.Module) -> tuple[object, ...]:
    """Of a layer with tensors: its class, its kernel and whether channels are in groups."""
    kernel = max((tensor.shape[NUM_CHANNEL_DIMENSIONS:] for tensor in _tensors(layer).values()), key=len)
    return *_class(layer), kernel, getattr(layer, "groups", 1) > 1


def _structure(block: nn.Module) -> tuple[object, ...]:
    """The layers of a block by name and kind in their order, without those of its shortcut, which not all need."""
    children = {name: child for name, child in _children(block).items() if name != SHORTCUT and _tensors(child)}
    return tuple((name, *_layer_kind(child)) for name, child in children.items()) or _class(block)


def _counterparts_in_row(small: nn.Module, large: nn.Module, kind_of: KindOf) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Layers or blocks of two rows, stage by stage where both have as many."""
    own, others = _stages(small), _stages(large)
    if len(own) != len(others):
        own, others = [list(chain(*own))], [list(chain(*others))]
    for stage, their_stage in zip(own, others, strict=True):
        yield from _spread(stage, their_stage, kind_of)


def _stages(row: nn.Module) -> list[list[_Unit]]:
    """What of a row has the same number of output channels, unit by unit."""
    units: list[_Unit] = []
    num_channels = None
    for child in row.children():
        tensors = [tensor for layer in child.modules() for tensor in _tensors(layer).values()]
        kernels = [tensor for tensor in tensors if tensor.ndim >= NUM_CHANNEL_DIMENSIONS]
        if kernels:
            num_channels = kernels[-1].shape[0]
        if tensors and not kernels and units and _tensors(units[-1].layers[0]):
            units[-1].layers.append(child)
        elif tensors:
            units.append(_Unit([child], num_channels))
    return [list(stage) for _, stage in groupby(units, key=attrgetter("num_channels"))]


def _spread(few: list[_Unit], many: list[_Unit], kind_of: KindOf) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Pair each unit of `few` with one of `many` of its kind: evenly spaced, the first with the first, the last with
    the last; one alone with the first. Units that have none are left out."""
    own, theirs = ([kind_of(unit.layers[0]) for unit in units] for units in (few, many))
    for place, (kind, unit) in enumerate(zip(own, few, strict=True)):
        others = [other for other_kind, other in zip(theirs, many, strict=True) if other_kind == kind]
        if not others:
            continue
        index, last = own[:place].count(kind), own.count(kind) - 1
        other = others[round(index * (len(others) - 1) / max(1, last))]
        yield unit.layers[0], other.layers[0]
        behind = {kind_of(layer): layer for layer in other.layers[1:]}
        yield from ((layer, behind[kind_of(layer)]) for layer in unit.layers[1:] if kind_of(layer) in behind)


def _part_names(block: nn.Module) -> frozenset[str]:
    """The layers with tensors in a block, by their names in it."""
    layers = (name for name, layer in block.named_modules() if _tensors(layer))
    return frozenset(".".join(SAME_PART.get(part, part) for part in name.split(".")) for name in layers)


def _counterparts_by_depth(small: nn.Module, large: nn.Module) -> Iterator[_Pair]:
    """For each layer, the one that fits it and lies nearest to its depth; one may serve several."""
    theirs = _layers_by_kind(large)
    for kind, layers in _layers_by_kind(small).items():
        for own in layers:
            fitting = [other for other in theirs.get(kind, []) if _fits(_tensors(own.layer), _tensors(other.layer))]
            if fitting:
                nearest = min(fitting, key=lambda other: abs(other.depth - own.depth))
                yield _Pair(own.layer, nearest.layer)


def _layers_by_kind(network: nn.Module) -> dict[tuple[object, ...], list[_Layer]]:
    """Layers with tensors of their own, in the network's order."""
    found: dict[tuple[object, ...], list[nn.Module]] = defaultdict(list)
    for layer in network.modules():
        if _tensors(layer):
            found[_layer_kind(layer)].append(layer)
    return {
        kind: [_Layer(index / max(1, len(layers) - 1), layer) for index, layer in enumerate(layers)]
        for kind, layers in found.items()
    }


def _fits(own: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    pairs = list(_of_same_name(own, other))
    return bool(pairs) and all(_can_select(mine, theirs) for mine, theirs in pairs)


def _tensors(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's own parameters and statistics, without those of layers in it."""
    named = chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False))
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


def _of_same_name(own: dict[str, Tensor], others: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    return ((tensor, others[name]) for name, tensor in own.items() if name in others)


def _can_select(own: Tensor, other: Tensor) -> bool:
    channels, kernel = slice(NUM_CHANNEL_DIMENSIONS), slice(NUM_CHANNEL_DIMENSIONS, None)
    return (
        own.ndim == other.ndim
        and own.shape[kernel] == other.shape[kernel]
        and all(few <= many for few, many in zip(own.shape[channels], other.shape[channels], strict=True))
    )


def _num_pixels(own: Tensor, other: Tensor, widths: tuple[int, int] | None) -> int:
    """How many neighbouring inputs of a linear layer are of one channel: more than one behind a flattened map."""
    if own.ndim != NUM_CHANNEL_DIMENSIONS or widths is None:
        return 1
    pixels = {divmod(tensor.shape[1], width) for tensor, width in zip((own, other), widths, strict=True)}
    num, rest = min(pixels)
    return num if len(pixels) == 1 and rest == 0 else 1


def _selected(large: Tensor, shape: torch.Size, num_pixels: int) -> Tensor:
    for dimension, (few, many) in enumerate(zip(shape, large.shape, strict=True)):
        size = num_pixels if dimension == 1 else 1
        starts = torch.arange(few // size, device=large.device) * (many // size) // (few // size) * size
        indices = (starts[:, None] + torch.arange(size, device=large.device)).flatten()
        large = large.index_select(dimension, indices)
    return large
