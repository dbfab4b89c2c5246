"""`ssdkd plugins`: what a run can be made of, ours and what other packages bring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import typer

from ssdkd_cli import console, options

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
                plugin.error or plugin.summary or "",
            )
            for plugin in plugins
        ],
    )


def find_plugins() -> Iterator[Plugin]:
    """All installed entry points; one that cannot be loaded says why and spoils nothing else."""
    from stages import registry

    for group in registry.GROUPS:
        taken: set[str] = set()
        for entry in registry.entries(group):
            plugin = Plugin(
                group=group,
                name=entry.point.name,
                example=None,
                summary=None,
                package=None if entry.point.dist is None else entry.point.dist.name,
                version=None if entry.point.dist is None else entry.point.dist.version,
                error=entry.problem,
            )
            if entry.spec is not None:
                spec = entry.spec
                error = "another plugin of this group has the same name" if spec.name in taken else None
                plugin = replace(plugin, name=spec.name, example=spec.example, summary=spec.summary, error=error)
                taken.add(spec.name)
            yield plugin
