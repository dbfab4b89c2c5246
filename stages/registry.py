"""Everything a preset names is looked up here: stages, methods, tasks, models, generators, data sets.

All of them, ours included, are installed as entry points. An entry point loads a *spec*: a light object that
names the thing, describes it in a line, brings its schema, and says where the code is. Loading a spec imports no
torch, so a preset can be checked in milliseconds; `Spec.load()` imports the code.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from pydantic import BaseModel

from stages.errors import ConfigError, FileError, SsdkdError
from stages.foreign_code import foreign_place

GROUPS = ("stages", "methods", "tasks", "models", "generators", "datasets")


@dataclass(frozen=True)
class Spec:
    """A named part of a run.

    `target` is "module:attribute" of the code, imported on use. `schema` is the pydantic model of the table the
    part reads, if it reads one. `pattern` makes one spec serve a family of names (`wrn40_2`): the named groups of
    the match are passed to the target as keyword arguments, digits as int, one that takes no part not at all.
    `example` is shown to people. `meant_by` has patterns of unknown names by which this part may be meant, each with
    the hint to give, in which `\\1` is the pattern's first group.
    """

    name: str
    target: str
    summary: str
    schema: type[BaseModel] | None = None
    pattern: str | None = None
    example: str | None = None
    meant_by: Mapping[str, str] = field(default_factory=dict, hash=False)

    def match(self, name: str) -> dict[str, Any] | None:
        """Keyword arguments that `name` stands for, or None where this spec does not serve it."""
        if self.pattern is None:
            return {} if name == self.name else None
        found = re.fullmatch(self.pattern, name)
        if found is None:
            return None
        groups = {key: value for key, value in found.groupdict().items() if value is not None}
        return {key: int(value) if value.isdigit() else value for key, value in groups.items()}

    def load(self) -> Any:
        """Import the code behind the spec. Raises ConfigError where a plugin's cannot be imported."""
        module_name, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (Exception, SystemExit) as error:  # a stranger's import can raise anything
            if self.is_ours:
                raise
            raise ConfigError(
                f"plugin `{self.name}` cannot be loaded: {type(error).__name__}: {error}",
                hint=f"fix or uninstall the package that provides `{self.target}`",
            ) from error

    @property
    def is_ours(self) -> bool:
        """Whether the code is part of ssdkd: what it raises is then a bug of ours."""
        return self.target.startswith("stages.")


@dataclass(frozen=True)
class Found:
    """A spec that serves a name, with the arguments the name carries."""

    spec: Spec
    arguments: dict[str, Any]


@cache
def installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group, ours and others', unloaded."""
    assert group in GROUPS, group
    # Our own parts first, so that a plugin with the same name is an error and not a silent replacement.
    return tuple(sorted(entry_points(group=f"ssdkd.{group}"), key=lambda point: not point.value.startswith("stages.")))


def packages() -> list[str]:
    """The installed packages that something a preset can name comes from, sorted."""
    distributions = [point.dist for group in GROUPS for point in installed(group)]
    return sorted({found.name for found in distributions if found is not None and found.name})


@dataclass(frozen=True)
class Entry:
    """An installed entry point with the spec that it names or, in `problem`, why it names none."""

    point: EntryPoint
    spec: Spec | None
    problem: str | None = None


@cache
def entries(group: str) -> tuple[Entry, ...]:
    """The entry points of a group, loaded. What a stranger's module prints when it is imported goes to stderr."""
    return tuple(_loaded(point) for point in installed(group))


def _loaded(point: EntryPoint) -> Entry:
    try:
        with redirect_stdout(sys.stderr):
            spec = point.load()
    except (Exception, SystemExit) as error:  # a stranger's import can raise anything
        return Entry(point, None, f"`{point.value}` cannot be loaded: {type(error).__name__}: {error}")
    if not isinstance(spec, Spec):
        return Entry(point, None, f"`{point.value}` is a {type(spec).__name__}, not a Spec")
    return Entry(point, spec)


def all_specs(group: str) -> tuple[Spec, ...]:
    """Every installed spec of a group that can be loaded."""
    return tuple(entry.spec for entry in entries(group) if entry.spec is not None)


def find(group: str, name: str, *, where: str) -> Found:
    """The spec that serves `name`; `where` is the preset key the name was read from.

    Raises ConfigError with the nearest match where there is none, and where there are two. Of plugins that cannot be
    loaded nobody knows the names that they serve: they are told of where there is none.
    """
    matches = [(spec, spec.match(name)) for spec in all_specs(group)]
    found = [Found(spec, arguments) for spec, arguments in matches if arguments is not None]
    if len(found) > 1:
        served_by = " and ".join(f"`{each.spec.target}`" for each in found)
        raise ConfigError(f"`{name}` in `{where}` is served by {served_by}", hint="uninstall one, or rename it")
    if found:
        return found[0]
    broken = [
        f"the plugin `{entry.point.name}` of ssdkd.{group}: {entry.problem}"
        for entry in entries(group)
        if entry.problem is not None
    ]
    hint = "; ".join([_hint(name, group), *broken])
    raise ConfigError(f"unknown name `{name}` in `{where}`", hint=hint)


def build(group: str, name: str, *arguments: Any, where: str, takes: str = "", **named: Any) -> Any:
    """What the code of the spec that serves `name` makes of these arguments and those that the name carries.

    `where` is the preset key the name was read from; `takes` is the positional arguments in words. Raises ConfigError
    where nothing serves the name, and where a stranger's code cannot be imported or raises anything else than an error
    of `stages.errors`; FileError where a file may not be read. What else our own code raises is a bug of ours.
    """
    found = find(group, name, where=where)
    carried = {} if group == "stages" else found.arguments  # a stage has one name alone
    make = found.spec.load()
    try:
        return make(*arguments, **carried, **named)
    except SsdkdError:
        raise
    except Exception as error:  # a stranger's code can raise anything
        if isinstance(error, PermissionError) and error.filename is not None:
            raise FileError(
                f"`{where}` = `{name}`: no access to {error.filename}: {error.strerror}",
                hint="you may not read it, or not enter a folder above it",
            ) from error
        if found.spec.is_ours:
            raise
        place = foreign_place(error)
        raise ConfigError(
            f"`{where}` = `{name}` cannot be built: {type(error).__name__}: {error}"
            + (f" ({place})" if place is not None else ""),
            hint=f"`{found.spec.target}` is called with {', '.join(filter(None, [takes, *named, *carried]))}",
        ) from error


def _hint(name: str, group: str) -> str:
    """What may have been meant by a name that nothing serves."""
    spelled_otherwise = _spelled_otherwise(name, group)
    meant = [
        found.expand(hint)
        for spec in all_specs(group)
        for pattern, hint in spec.meant_by.items()
        for spelling in _spellings(name)
        if (found := re.fullmatch(pattern, spelling)) is not None
    ]
    if meant and not spelled_otherwise:
        return meant[0]
    shown = [spec.example or spec.name for spec in all_specs(group)]
    near = spelled_otherwise or get_close_matches(name, shown, n=1, cutoff=0.5)
    if not near:
        return f"known: {', '.join(shown)}; packages can bring more (entry points of the group ssdkd.{group})"
    # Names of networks are near to many that are not ours.
    others = " Any other network is `torchvision:NAME` or `path/to/file.py:factory`" if group == "models" else ""
    return f"did you mean `{near[0]}`?{others}"


def _spelled_otherwise(name: str, group: str) -> list[str]:
    """`name` as a spec serves it, where only case, separators or an ending differ: `WRN-40-2`, `vgg16_bn`."""
    without_ending = _spellings(re.sub(r"_bn$", "", name.lower()))
    return [each for each in without_ending if any(spec.match(each) is not None for spec in all_specs(group))][:1]


def _spellings(name: str) -> list[str]:
    """A name in small letters, and with other separators or none."""
    plain = name.lower()
    joined = re.sub(r"(?<=[a-z])[-_ ]+(?=\d)", "", plain)
    return [plain, joined, re.sub(r"[- ]", "_", joined), re.sub(r"[- ]", "_", plain)]
