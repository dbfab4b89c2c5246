"""Where an error comes from: our code, or a network of the user's, a plugin, a library that one of these brought."""

from __future__ import annotations

import re
import sys
import traceback
from functools import cache
from importlib import metadata

from stages.errors import MisuseError

_OURS = frozenset({"ssdkd_cli", "stages", "presets"})


def foreign_place(error: BaseException) -> str | None:
    """`FILE:LINE` of the code that `error` comes from, where that is not part of ssdkd; else None.

    That is the innermost call outside of Python itself and the libraries that ssdkd needs, such as torch: what they
    refuse is the caller's doing. So is what ssdkd itself refuses by a MisuseError.
    """
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        file = frame.f_code.co_filename
        if package in _OURS:
            if isinstance(error, MisuseError):
                continue
            return None
        is_written = package != "" and not file.startswith("<")  # not made by a program
        if is_written and package not in sys.stdlib_module_names and package not in _libraries():
            return f"{file}:{line}"
    return None


@cache
def _libraries() -> frozenset[str]:
    """The packages that ssdkd needs, and those that these need, by the names they are imported by."""
    needed: set[str] = set()
    waiting = ["ssdkd"]
    while waiting:
        name = waiting.pop()
        if name in needed:
            continue
        needed.add(name)
        waiting += _requirements(name)
    return frozenset(
        package
        for package, distributions in metadata.packages_distributions().items()
        if not needed.isdisjoint(map(_canonical, distributions))
    )


def _requirements(name: str) -> list[str]:
    """What a package needs in any case; nothing where it is not installed (it is for another system)."""
    try:
        texts = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []
    names = [re.match(r"[\w.-]+", text) for text in texts if not re.search(r"\bextra\s*==", text)]
    return [_canonical(found[0]) for found in names if found is not None]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
