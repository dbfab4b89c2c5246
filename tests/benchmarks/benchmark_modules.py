"""The modules of a folder of `benchmarks/`, which are scripts that find one another beside themselves."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def import_beside(folder: str, *names: str) -> list[ModuleType]:
    """Import modules of `benchmarks/<folder>`; other folders may have modules of the same names."""
    path = BENCHMARKS / folder
    own = [file.stem for file in path.glob("*.py")]
    others = {name: sys.modules.pop(name) for name in own if name in sys.modules}
    sys.path.insert(0, str(path))
    try:
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.remove(str(path))
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(others)
