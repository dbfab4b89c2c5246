"""The presets shipped with ssdkd: TOML files, read as text, and the teachers that go with them.

A preset is a whole run. An overlay (`overlay = true`) sets only what it stands for and goes on top of a
preset: `--preset cifar100-wrn --preset fast5`.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path


def names() -> tuple[str, ...]:
    """All shipped presets and overlays, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def read_text(name: str) -> str:
    """The text of a shipped preset. Raises KeyError for an unknown name."""
    if name not in names():
        raise KeyError(name)
    return (_folder() / f"{name}.toml").read_text(encoding="utf-8")


def is_overlay(name: str) -> bool:
    """Whether a shipped preset only makes sense on top of another."""
    return bool(tomllib.loads(read_text(name)).get("overlay", False))


def summary(name: str) -> str:
    """What a shipped preset is, in a line."""
    return str(tomllib.loads(read_text(name)).get("summary", ""))


def teachers_folder() -> Path:
    """Where the shipped teachers are, as `<model>-<trained_on>.safetensors`."""
    return _folder() / "teachers"


def _folder() -> Path:
    return Path(str(files(__name__)))
