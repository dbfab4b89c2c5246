"""`ssdkd presets`: what is shipped, what it comes to, how to start one's own, whether it is right."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten, wrap
from typing import TYPE_CHECKING, Annotated

import typer

from ssdkd_cli import console, diagnostics, options
from stages.errors import ConfigError, FileError
from stages.paths import in_shell, typed_path

if TYPE_CHECKING:
    from stages.settings.key_docs import KeyDoc

_MAX_DEFAULT = 20

app = typer.Typer(no_args_is_help=True, help="List, show, explain, copy and check presets.")


@app.command("ls")
def list_presets(json: options.Json = False) -> None:
    """List the shipped presets. An overlay only changes settings, on top of a preset.

    \b
    Example:
      ssdkd presets ls
    """
    import presets

    rows = [(name, presets.is_overlay(name), presets.summary(name)) for name in presets.names()]
    if json:
        console.print_json([dict(zip(("name", "overlay", "summary"), row, strict=True)) for row in rows])
    elif console.is_terminal(sys.stdout):
        console.print_rows(
            ("preset", "", "what it is"),
            [(name, "overlay" if is_overlay else "", what) for name, is_overlay, what in rows],
        )
    else:
        for name, is_overlay, _ in rows:
            console.print_text(f"{name}\t(overlay)" if is_overlay else name)


@app.command("show")
def show_preset(
    names: Annotated[list[str], typer.Argument(metavar="NAME|FILE...", help="Presets; later ones on top.")],
    overrides: options.Overrides = None,
    json: options.Json = False,
) -> None:
    """Print a resolved preset as TOML.

    Every key with its value, defaults included; the text runs as it is. An overlay by itself is no whole
    preset: its own text is printed.

    \b
    Example:
      ssdkd presets show cifar100-wrn fast5 --set run.epochs=60
    """
    import presets
    from stages.config import DEFAULT_PRESET, load
    from stages.settings.loading import load_presets

    name = names[0]
    if load_presets(names).is_whole:
        text = load(names, overrides or ()).tables_as_toml()
    elif len(names) > 1 or overrides:
        example = f"ssdkd presets show {DEFAULT_PRESET} {in_shell(name)}"
        raise ConfigError(
            f"only overlays were given: {', '.join(names)}",
            hint=f"name the preset they go on first, for example `{example}`",
        )
    else:
        text = presets.read_text(name) if name in presets.names() else typed_path(name).read_text(encoding="utf-8")
    if json:
        console.print_json(tomllib.loads(text))
    else:
        console.print_text(text)


@app.command("cp")
def copy_preset(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped preset.")],
    file: Annotated[
        Path, typer.Argument(parser=typed_path, metavar="FILE", help="A new file, ending in .toml [path].")
    ],
) -> None:
    """Copy a shipped preset into a file of your own.

    To be edited there. Nothing is overwritten.

    \b
    Example:
      ssdkd presets cp cifar100-wrn mine.toml
    """
    import presets
    from stages.config import DEFAULT_PRESET
    from stages.settings.loading import load_presets

    settings = load_presets([name])  # an unknown name is an error with the nearest match
    if name not in presets.names():
        raise ConfigError(f"{name} is a file already", hint="`presets cp` copies a shipped preset (`ssdkd presets ls`)")
    if file.suffix != ".toml":
        raise ConfigError(f"{file} does not end in .toml", hint="`--preset` knows a file by that ending")
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(presets.read_text(name))
    except FileExistsError as error:
        raise ConfigError(f"{file} is there already", hint="choose another name; nothing is overwritten") from error
    except OSError as error:
        raise FileError(f"cannot write {file}: {error.strerror or error}", hint="choose another folder") from error
    diagnostics.note(f"wrote {file}")
    typed = in_shell(file)
    beneath, missing = "", ""
    if not settings.is_whole and "task" in settings.values:
        missing = ", and name the networks (`teacher.model`, `student.model`) and delete `overlay`"
    elif not settings.is_whole:
        beneath = f"--preset {DEFAULT_PRESET} "
    diagnostics.print_hint(
        f"edit it{missing}, then `ssdkd presets check {typed}` and `ssdkd run {beneath}--preset {typed}`"
    )


@app.command("explain")
def explain_keys(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY|TABLE...]", help="Keys, or tables; default: all in short.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Say what keys of a preset mean.

    Which values they take, their defaults, and where those come from: the paper, or an experiment. The tables
    of installed stages, too.

    \b
    Example:
      ssdkd presets explain inversion.steps distillation
    """
    from stages.config import schemas
    from stages.settings.key_docs import OPTIONS, key_docs, option_docs
    from stages.settings.schema import is_key, shown, unknown_key

    known = {table: key_docs(table, schema) for table, schema in schemas().items()}
    by_key = {doc.key: doc for docs in known.values() for doc in docs}
    of_methods = option_docs()
    found: list[KeyDoc] = []
    for key in keys or known:
        parent = ".".join(key.split(".")[:2])  # of a key within a key
        if key.startswith(f"{OPTIONS}."):
            named = [doc for doc in of_methods if doc.key == key]
            if not named:
                raise ConfigError(
                    f"no method that is installed has an option `{key}`",
                    hint=f"`ssdkd presets explain {OPTIONS}` tells of those that there are",
                )
            found += named
            continue
        if key not in known and (parent not in by_key or not is_key(key, schemas())):
            problem = unknown_key(key, schemas())
            raise ConfigError(problem.message, hint=problem.hint)
        if keys and known.get(key) == []:
            diagnostics.note(f"`{key}` has no keys")
        found += known[key] if key in known else [by_key[parent]]
        found += of_methods if key == OPTIONS else []
    if json:
        told = [{"key": doc.key, "takes": doc.takes, "default": doc.default, "text": doc.text} for doc in found]
        console.print_json(told)
    elif keys:
        _print_whole(found)
    else:
        rows = [(doc.key, "" if doc.default is None else shown(doc.default), doc.summary) for doc in found]
        if console.is_terminal(sys.stdout):  # a list of all stages would leave no room for words
            rows = [(key, shorten(default, _MAX_DEFAULT, placeholder=" ..."), what) for key, default, what in rows]
        console.print_rows(("key", "default", "what it is"), rows)


def _print_whole(docs: Sequence[KeyDoc]) -> None:
    """All that is known of some keys, in the width of the terminal."""
    from stages.settings.schema import shown

    width = console.stdout().width if console.is_terminal(sys.stdout) else console.WIDTH_OFF_TERMINAL
    for position, doc in enumerate(docs):
        if position > 0:
            console.say()
        console.say(doc.key + ("" if doc.default is None else f" = {shown(doc.default)}"), style="bold")
        if doc.takes:
            console.say(f"  takes {doc.takes}")
        for paragraph in filter(None, doc.text.split("\n\n")):
            for line in wrap(" ".join(paragraph.split()), min(100, width) - 2, break_on_hyphens=False):
                console.say(f"  {line}")


@app.command("check")
def check_preset(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A preset's file or name [path].")],
) -> None:
    """Check a preset.

    Everything that is wrong with it is reported at once; the exit code is 2 then.

    \b
    Example:
      ssdkd presets check mine.toml
    """
    from stages.planning.preset_check import check

    _, warnings = check(file)
    for warning in warnings:
        diagnostics.warn(warning)
    console.print_text(f"{file}: ok")
