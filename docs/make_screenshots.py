"""Screenshots of the dashboard as SVG files, from a run directory.

    python docs/make_screenshots.py RUN [--out docs] [--compare RUN]

Writes dashboard-overview.svg, -losses.svg, -samples.svg and, with `--compare`, -compare.svg. Whatever state the run is
in is what the pictures show; none of them is touched up.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from pathlib import Path

from ssdkd_cli.dashboard.app import DashboardApp
from stages.run_directory import RunDirectory
from stages.run_directory.lookup import resolve_run

SHOTS: tuple[tuple[str, tuple[int, int], tuple[str, ...]], ...] = (
    ("overview", (132, 42), ()),
    ("losses", (132, 34), ("2", "s", *["left"] * 12)),
    ("samples", (104, 24), ("4",)),
)
"""Name, size in characters, and the keys that are pressed first."""


async def screenshot(
    run: RunDirectory, size: tuple[int, int], keys: Sequence[str], others: Sequence[RunDirectory] = ()
) -> str:
    """The dashboard on a run after some keys, as SVG."""
    app = DashboardApp(run, is_ascii=False)
    async with app.run_test(size=size) as pilot:
        while app.run_view is None or app.run_view.loaded < 1.0:
            await pilot.pause(0.05)
        app.compare_with([other.path for other in others])
        while len(app.overlays) < len(others):
            await pilot.pause(0.05)
        for key in keys:
            await pilot.press(key)
        await pilot.pause(0.5)
        while any(worker.group == "pictures" and not worker.is_finished for worker in app.workers):
            await pilot.pause(0.05)
        await pilot.pause(0.5)
        picture = app.export_screenshot(title=f"ssdkd watch {run.name}")
        app.action_detach()
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the pictures go")
    parser.add_argument("--compare", action="append", default=[], help="a run to lay over the charts; may be repeated")
    arguments = parser.parse_args()
    run = resolve_run(arguments.run)
    others = [resolve_run(text) for text in arguments.compare]
    shots = [(name, size, keys, []) for name, size, keys in SHOTS]
    if others:
        shots.append(("compare", (132, 34), ("2",), others))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, size, keys, laid_over in shots:
        path = arguments.out / f"dashboard-{name}.svg"
        path.write_text(asyncio.run(screenshot(run, size, keys, laid_over)) + "\n", encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
