"""Models from a Python file of the user's: `path/to/file.py:factory`, called with num_classes if it takes that.

The file runs as any import does: it is the user's own code, named by the user. It may import what lies beside
it. What it prints goes to stderr, because stdout carries data only.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from stages.errors import ConfigError, FileError
from stages.models.model_file import no_such_file, no_such_function
from stages.paths import in_shell, typed_path


def model_from_file(
    *, path: str, factory: str, num_classes: int, in_channels: int, image_size: tuple[int, int]
) -> nn.Module:
    """Call `factory(num_classes=...)` of the file at `path`, or `factory()` if that is all it takes.

    Raises FileError where the file is missing, fails, must be given more, or gives no nn.Module; ConfigError where it
    has no such function.
    """
    del in_channels, image_size  # such a network is made for one kind of image
    file = typed_path(path)
    with _neighbours_importable(file.resolve().parent), contextlib.redirect_stdout(sys.stderr):
        module = _import_file(file)
        function = getattr(module, factory, None)
        if not callable(function):
            functions = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
            problem = no_such_function(path, factory, functions)
            raise ConfigError(problem.message, hint=problem.hint)
        arguments = {"num_classes": num_classes} if _takes(function, "num_classes") else {}
        _refuse_more_arguments(function, file, factory, known=arguments)
        try:
            model = function(**arguments)
        except (Exception, SystemExit) as error:  # the user's code can raise anything
            call = ", ".join(f"{name}={value}" for name, value in arguments.items())
            raise FileError(
                f"`{factory}({call})` of `{path}` failed: {_describe(error, path)}",
                hint="the function is called with num_classes only, or nothing, and returns the network",
            ) from error
    if not isinstance(model, nn.Module):
        raise FileError(
            f"`{factory}` of `{path}` returned a {type(model).__name__}, not a torch.nn.Module",
            hint="the function is called with num_classes only, or nothing, and returns the network",
        )
    return model


def _refuse_more_arguments(
    function: Callable[..., object], file: Path, factory: str, *, known: Mapping[str, object]
) -> None:
    """Raise FileError where it must be given more than is known; many classes of networks take their depth or width."""
    missing = [name for name in _required(function) if name not in known]
    if not missing:
        return
    given = ", ".join([*(f"{name}=..." for name in missing), *(f"{name}={name}" for name in known)])
    raise FileError(
        f"`{factory}` of `{file}` must be given {', '.join(f'`{name}`' for name in missing)}, which nobody knows here",
        hint=f"write a file beside it, and name that: `from {file.stem} import {factory}`, then"
        f" `def teacher({', '.join(known)}): return {factory}({given})`",
    )


def _required(function: Callable[..., object]) -> list[str]:
    """Parameters without a default value, as far as they are known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [each.name for each in parameters if each.default is each.empty and each.kind not in variadic]


def _takes(function: Callable[..., object], name: str) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # of some that are written in C nobody knows
        return True
    return name in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        problem = no_such_file(path)
        raise FileError(problem.message, hint=problem.hint)
    name = f"ssdkd_model_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    has_gradients = torch.is_grad_enabled()
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        del sys.modules[name]
        raise FileError(
            f"`{path}` cannot be imported: {_describe(error, str(path))}",
            hint=_hint_at_import(path, error),
        ) from error
    finally:
        torch.set_grad_enabled(has_gradients)  # scripts that only ever ask a network turn them off for good
    return module


def _hint_at_import(path: Path, error: BaseException) -> str:
    if "relative import" in str(error):
        return "name a file beside the package, with `from PACKAGE.MODULE import FUNCTION` in it"
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return f"install what it imports where ssdkd is (`{in_shell(sys.executable)} -c 'import {error.name}'` tells)"
    return f"`python {in_shell(path)}` should run without an error"


_neighbours: set[str] = set()
"""Names of modules that were imported from beside a model file."""


@contextlib.contextmanager
def _neighbours_importable(folder: Path) -> Iterator[None]:
    """Let a file import what lies beside it, whatever is called so beside another; leave sys.path as it was."""
    path_before, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(folder))
    elsewhere = {name: sys.modules[name] for name in _neighbours & known if not _lies_beside(folder, name)}
    for name in elsewhere:
        del sys.modules[name]
    try:
        yield
    finally:
        sys.path[:] = path_before
        _neighbours.update(name for name in set(sys.modules) - known if _lies_beside(folder, name))
        for name, module in elsewhere.items():
            sys.modules.setdefault(name, module)


def _lies_beside(folder: Path, name: str) -> bool:
    """Whether a module was found in the folder itself, and not in an environment that lies in it."""
    place = folder.joinpath(*name.split("."))
    file = getattr(sys.modules[name], "__file__", None)
    return file is not None and Path(file) in (place.with_suffix(".py"), place / "__init__.py")


def _describe(error: BaseException, path: str) -> str:
    """The error and the last line of the user's file that it passed through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).resolve() == Path(path).resolve()
    ]
    where = f" (line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {error}{where}"
