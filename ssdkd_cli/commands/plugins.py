"""`ssdkd plugins`: what a run can be made of, ours and what other packages bring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import typer

from ssdkd_cli import console, options

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

app = typer.Typer(no_args_is_help=True, help="List what a preset can name, ours and others'.")


@dataclass(frozen=True)
class Plugin:
    """One entry point, loaded or not."""

    group: str
    name: str
    example: str | None
    """A name that it serves, where it serves many."""
    summary: str | None
    package: str | None
    version: str | None
    error: str | None


@app.command("ls")
def list_plugins(json: options.Json = False) -> None:
    """List all that a preset can name, and which package brings it.

    \b
    Example:
      ssdkd plugins ls
    """
    plugins = list(find_plugins())
    if json:
        console.print_json([asdict(plugin) for plugin in plugins])
        return
    console.print_rows(
        ("group", "name", "package", "what it is"),
        [
            (
                plugin.group,
                plugin.example or plugin.name,
                f"{plugin.package or '?'} {plugin.version or ''}".rstrip(),
                plugin.summary or "" if plugin.error is None else f"cannot be loaded: {plugin.error}",
            )
            for plugin in plugins
        ],
    )


def find_plugins() -> Iterator[Plugin]:
    """All installed entry points; one that cannot be loaded says why and spoils nothing else."""
    from stages import registry

    for group in registry.GROUPS:
        taken: set[str] = set()
        for point in registry.installed(group):
            plugin = _describe(group, point)
            if plugin.error is None and plugin.name in taken:
                plugin = replace(plugin, error="another plugin of this group has the same name")
            taken.add(plugin.name)
            yield plugin


def _describe(group: str, point: EntryPoint) -> Plugin:
    from stages.registry import Spec, loaded

    name, example, summary, error = point.name, None, None, None
    try:
        spec = loaded(point)
        if isinstance(spec, Spec):
            name, example, summary = spec.name, spec.example, spec.summary
        else:
            error = f"`{point.value}` is a {type(spec).__name__}, not a Spec"
    except (Exception, SystemExit) as problem:  # a stranger's import can do anything
        error = f"{type(problem).__name__}: {problem}"
    package = point.dist
    return Plugin(
        group=group,
        name=name,
        example=example,
        summary=summary,
        package=package.name if package is not None else None,
        version=package.version if package is not None else None,
        error=error,
    )
