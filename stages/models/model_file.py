"""What can be known of `path/to/file.py:factory` without running the file, and without torch."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from stages.errors import FileError, Problem
from stages.paths import in_shell, typed_path


def problem_of(path: str, factory: str) -> Problem | None:
    """Why the file could not give a network: it is missing, is no Python, or nothing in it is called `factory`."""
    try:
        file = typed_path(path)
        text = file.read_bytes() if file.is_file() else None
    except FileError as error:
        return Problem(error.message, error.hint)
    except OSError as error:
        return Problem(f"`{path}` cannot be read: {error.strerror}", "check its permissions")
    if text is None:
        return no_such_file(path)
    try:
        names = _names_in(text)
    except (SyntaxError, ValueError, RecursionError) as error:  # ValueError: a null character
        return Problem(
            f"`{path}` is not valid Python: {error}", f"`python {in_shell(path)}` should run without an error"
        )
    if factory in names or "*" in names or "__getattr__" in names:
        return None
    return no_such_function(path, factory, names)


def no_such_file(path: str | Path) -> Problem:
    """What to say where the file is missing."""
    moved = "put it back where it was, or name its new place"
    return Problem(
        f"no such file: `{path}`", moved if Path(path).is_absolute() else f"relative paths start at {Path.cwd()}"
    )


def no_such_function(path: str, factory: str, functions: Iterable[str]) -> Problem:
    """What to say where the file has only `functions`."""
    near = get_close_matches(factory, functions, n=1)
    return Problem(
        f"`{path}` has no function `{factory}`" if factory else f"`{path}` is named without a function",
        f"write `{path}:{near[0]}`" if near else f"write `{path}:NAME`; NAME is called with num_classes",
    )


def _names_in(text: bytes) -> set[str]:
    """The names that a module binds, and `*` where it imports all of another's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever runs the file hears of them
        tree = ast.parse(text)
    names = _BoundNames()
    names.visit(tree)
    return names.found


class _BoundNames(ast.NodeVisitor):
    """Collects names bound by a module's own statements, not within its functions and classes."""

    def __init__(self) -> None:
        self.found: set[str] = set()

    def _take(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.found.add(node.name)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _take

    def visit_Name(self, node: ast.Name) -> None:
        """A name that is assigned to."""
        if isinstance(node.ctx, ast.Store):
            self.found.add(node.id)

    def visit_alias(self, node: ast.alias) -> None:
        """A name that is imported."""
        self.found.add((node.asname or node.name).partition(".")[0])
