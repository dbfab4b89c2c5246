"""`ssdkd watch`: look at a run while it works, or afterwards."""

from __future__ import annotations

import math
import sys
from typing import Annotated

import typer

from ssdkd_cli import console
from ssdkd_cli.charts import glyphs_for
from ssdkd_cli.options import Json
from stages.errors import ConfigError

AnyRun = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="A run directory, a folder of runs, or a name in ./runs; otherwise ./runs."),
]


def watch(
    run: AnyRun = None,
    once: Annotated[bool, typer.Option("--once", help="Print how the run stands as text, and stop.")] = False,
    json: Json = False,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only look: no pause, checkpoint or stop from this screen.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show the dashboard in browsers on this machine, until Ctrl-C.")
    ] = False,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="For --serve [port of localhost].")] = 8000,
) -> int | None:
    """Watch a run: losses, buffer, device time, samples.

    Any run, live or finished, from any terminal. Leaving the dashboard with q never stops the run. Of a folder of runs
    it shows the one at work, otherwise the newest; when that ends, the next one that is at work there. Off a terminal,
    or with --once or --json, one snapshot is printed. NO_COLOR=1 takes the colours away, SSDKD_ASCII=1 draws in ASCII.
    --serve needs the extra `serve` (textual-serve).

    \b
    Example:
      ssdkd watch digits-20260101-120000
    """
    from stages.run_directory.lookup import run_to_watch

    found, folder = run_to_watch(run)
    if serve:
        if json or once:
            raise ConfigError("`--serve` shows a run, `--once` and `--json` print it", hint="leave one of them out")
        from ssdkd_cli.commands.viewing import serve_to_browsers

        return serve_to_browsers(found, run, is_read_only=read_only, port=port)
    if json or once or not console.has_screen():
        from ssdkd_cli.watching.feed import RunFeed
        from ssdkd_cli.watching.snapshot import document, render_text

        view = RunFeed(found).poll(budget_s=math.inf)  # a long history is read to its end
        if json:
            console.print_json(document(view))
        else:
            console.print_text(render_text(view, glyphs=glyphs_for(sys.stdout.encoding)))
        return None
    from ssdkd_cli.commands.viewing import show

    return show(found, folder=folder, is_read_only=read_only)
