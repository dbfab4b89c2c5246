"""From preset names, files and overrides to one set of values, each with the place it comes from.

Nothing here knows which keys exist: `stages.config` holds the values against the schema.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import presets as shipped_presets
from stages.errors import ConfigError, FileError, Problem
from stages.paths import typed_path

RESOLVED_KEY = "resolved"
"""Says of a preset that nobody chose its values one by one: `stages.config` wrote it, defaults and all."""

_HEADER_KEYS = {
    "extends": "the name of a preset, or a list of names",
    "overlay": "true or false",
    RESOLVED_KEY: "true or false",
    "summary": "a string",
}
"""The only keys of a preset outside its tables, and what each must be."""

_MOST_SHOWN = 100
"""Characters of a line that is no TOML which its error shows."""


@dataclass(frozen=True)
class Settings:
    """The merged tables of one or more presets; `places` says who set each dotted key last."""

    values: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    is_whole: bool = False
    """Whether a preset that is no overlay is among them."""
    resolved: Settings | None = None
    """What the last resolved preset among them sets, by itself."""

    def overlaid(self, values: Mapping[str, Any], *, place: str, is_whole: bool = False) -> Settings:
        """These settings with `values` (nested tables) on top: tables merge, anything else is replaced."""
        places = dict(self.places)
        merged = _merge(self.values, values, prefix="", place=place, places=places)
        return replace(self, values=merged, places=places, is_whole=self.is_whole or is_whole)

    def without(self, key: str) -> Settings:
        """These settings with nothing set for a key `table.name`."""
        table, _, name = key.partition(".")
        rest = {other: value for other, value in self.values.get(table, {}).items() if other != name}
        places = {other: place for other, place in self.places.items() if other != key}
        return replace(self, values={**self.values, table: rest}, places=places)

    def value(self, key: str) -> Any:
        """What was set for a dotted key, not yet validated; None where nothing was."""
        level: Any = self.values
        for part in key.split("."):
            if not isinstance(level, Mapping) or part not in level:
                return None
            level = level[part]
        return level

    def place_of(self, key: str) -> str | None:
        """Where a dotted key, or the nearest table above it, was set last; None where it is a default."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return None


def nested(key: str, value: Any) -> dict[str, Any]:
    """`{"a": {"b": value}}` for the dotted key `a.b`."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def load_presets(names: Sequence[str]) -> Settings:
    """Merge presets in order, later over earlier, each over what it extends.

    A name ending in `.toml` is a file, relative to the current folder, or to the preset that extends it. Raises
    ConfigError with all problems found, FileError for a file that is missing or unreadable.
    """
    problems: list[Problem] = []
    layers = [layer for name in names for layer in _layers(name, folder=Path(), above=(), problems=problems)]
    return _merged(layers, problems)


def load_file(path: Path) -> Settings:
    """The settings of one TOML file of any name, and of what it extends. Raises as `load_presets`."""
    problems: list[Problem] = []
    return _merged(_layers_of(_file_source(path), above=(), problems=problems), problems)


def resolved_tables(text: str) -> dict[str, Any]:
    """The tables in the text of a resolved preset, plugins installed or not. Raises ValueError where it does not parse.

    Other keys above them stay: somebody has put them there.
    """
    document = tomllib.loads(text)
    document.pop(RESOLVED_KEY, None)
    return document


def config_error(problems: Sequence[Problem]) -> ConfigError:
    """One error that carries all problems."""
    if len(problems) == 1:
        return ConfigError(problems[0].message, hint=problems[0].hint)
    return ConfigError(f"{len(problems)} problems in the settings", problems=problems)


@dataclass(frozen=True)
class _Layer:
    """What one file sets by itself."""

    values: Mapping[str, Any]
    place: str
    is_overlay: bool
    is_resolved: bool


@dataclass(frozen=True)
class _Source:
    """A preset's text; `identity` is the same for the same preset, however it was named."""

    identity: str
    place: str
    folder: Path
    text: bytes


def _merged(layers: Sequence[_Layer], problems: Sequence[Problem]) -> Settings:
    if problems:
        raise config_error(problems)
    settings = Settings()
    for layer in layers:
        settings = settings.overlaid(layer.values, place=layer.place, is_whole=not layer.is_overlay)
        if layer.is_resolved:
            settings = replace(settings, resolved=Settings().overlaid(layer.values, place=layer.place))
    return settings


def _merge(
    below: Mapping[str, Any], above: Mapping[str, Any], *, prefix: str, place: str, places: dict[str, str]
) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        key = prefix + name
        places[key] = place
        if isinstance(value, Mapping):
            table = merged.get(name)
            value = _merge(
                table if isinstance(table, Mapping) else {},
                value,
                prefix=f"{key}.",
                place=place,
                places=places,
            )
        merged[name] = value
    return merged


def _layers(name: str, *, folder: Path, above: tuple[_Source, ...], problems: list[Problem]) -> list[_Layer]:
    """The layers of a preset, lowest first; `above` are the presets that led to it by `extends`."""
    try:
        source = _find(name, folder=folder, extended_by=above[-1].place if above else None)
    except ConfigError as error:
        problems.extend(error.problems)
        return []
    return _layers_of(source, above=above, problems=problems)


def _layers_of(source: _Source, *, above: tuple[_Source, ...], problems: list[Problem]) -> list[_Layer]:
    chain = (*above, source)
    if source.identity in (other.identity for other in above):
        circle = " -> ".join(other.place for other in chain)
        problems.append(Problem(f"presets extend each other in a circle: {circle}", "remove one `extends`"))
        return []
    try:
        values = tomllib.loads(source.text.decode("utf-8-sig"))  # some editors begin a file with a mark
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, numbers or nesting without end
        problems.append(_not_toml(source, error))
        return []
    header = {key: values.pop(key) for key in _HEADER_KEYS if key in values}
    for key, value in header.items():
        if not _fits_header(key, value):
            message = f"`{key}` in {source.place} must be {_HEADER_KEYS[key]}, not {value!r}"
            problems.append(Problem(message, "correct it there: it stands above the first table"))
            return []
    extended = header.get("extends", [])
    layers = []
    for name in [extended] if isinstance(extended, str) else extended:
        layers += _layers(name, folder=source.folder, above=chain, problems=problems)
    is_overlay, is_resolved = header.get("overlay", False), header.get(RESOLVED_KEY, False)
    return [*layers, _Layer(values, source.place, is_overlay, is_resolved)]


def _not_toml(source: _Source, error: Exception) -> Problem:
    """Where a file is no TOML: with the line, where the parser names one."""
    message, hint = f"{source.place} is not valid TOML: {error}", "correct the file there"
    place = re.search(r"\(at line (\d+), column \d+\)$", str(error))
    if place is not None:
        lines = source.text.decode("utf-8-sig", errors="replace").split("\n")  # as TOML has them
        line = lines[int(place[1]) - 1].strip()
        message += f": {line if len(line) <= _MOST_SHOWN else line[:_MOST_SHOWN] + '...'}"
        if re.search(r"=\s*[+-]?\.\d", line):
            hint = "a number has a digit before its point: `0.1`"
        elif "Invalid value" in str(error):
            hint = 'text has quotes, a list brackets, yes is `true`, no `false`: `model = "vgg11"`, `mean = [0.5]`'
        elif "Expected '='" in str(error):
            hint = 'a key and its value are written `model = "vgg11"`'
    return Problem(message, hint)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _fits_header(key: str, value: Any) -> bool:
    if key == "extends" and isinstance(value, list):
        return all(isinstance(name, str) for name in value)
    return isinstance(value, bool if key in ("overlay", RESOLVED_KEY) else str)


def _find(name: str, *, folder: Path, extended_by: str | None) -> _Source:
    if name.endswith(".toml"):
        return _file_source(folder / typed_path(name), extended_by=extended_by)
    known = shipped_presets.names()
    if name not in known:
        file = f"{name}.toml"
        near = [file] if _is_file(folder / file) else get_close_matches(name, known, n=1)
        hint = f"did you mean `{near[0]}`?" if near else "`ssdkd presets ls` lists them; a file ends in .toml"
        where = f" in `extends` of {extended_by}" if extended_by else ""
        raise ConfigError(f"unknown preset `{name}`{where}", hint=hint)
    text = shipped_presets.read_text(name).encode("utf-8")
    return _Source(identity=f"preset {name}", place=f"{name}.toml", folder=folder, text=text)


def _file_source(path: Path, *, extended_by: str | None = None) -> _Source:
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        where = f" (`extends` of {extended_by})" if extended_by else ""
        raise FileError(
            f"cannot read preset file {path}{where}: {reason}",
            hint="a path ends in .toml and starts at the file that extends it, or at the current folder; "
            "a shipped preset is named without .toml (`ssdkd presets ls`)",
        ) from error
    return _Source(identity=str(path.resolve()), place=str(path), folder=path.parent, text=text)
