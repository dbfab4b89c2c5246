"""Driving the dashboard without a terminal: open it on a run, press keys, read the screen as text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from buffer_files import make_contents, write_buffer
from scripted_run import TIME_S
from textual.pilot import Pilot

from ssdkd_cli.dashboard.app import DashboardApp
from ssdkd_cli.dashboard.widgets.key_bar import KeyBar
from stages.run_directory import RunDirectory

TIMEOUT_S = 60.0

SMALL, MEDIUM, LARGE = (80, 24), (120, 40), (200, 60)
Body = Callable[[DashboardApp, Pilot[None]], Awaitable[Any]]


def drive(run: RunDirectory | Path, body: Body, *, size: tuple[int, int] = SMALL, **options: Any) -> Any:
    """What `body` returns, called with the app as soon as it shows the run."""

    async def session() -> Any:
        app = DashboardApp(run, **{"clock": lambda: TIME_S + 60.0} | options)
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: app.run_view is not None)
            await settle(app, pilot)
            try:
                return await body(app, pilot)
            finally:
                app.action_detach()

    return asyncio.run(session())


async def until(pilot: Pilot[None], is_so: Callable[[], bool]) -> None:
    """Let the app go on until something holds; for long on a machine that has other things to do."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s, "it did not come to pass"
        await pilot.pause(0.02)


async def look_again(app: DashboardApp, pilot: Pilot[None], *, times: int = 3) -> None:
    """Let the app look at its run some more times: whatever must not happen would have happened by then."""
    for _ in range(times):
        before = app.run_view
        await until(pilot, lambda before=before: app.run_view is not before)
    await settle(app, pilot)


async def settle(app: DashboardApp, pilot: Pilot[None]) -> None:
    """Let all that was begun come to its end, and draw it: threads that read, keys that come and go."""
    await pilot.pause()
    await until(pilot, lambda: not _is_reading(app) and _has_its_pictures(app) and _has_its_keys(app))
    await pilot.pause()


def _is_reading(app: DashboardApp) -> bool:
    groups = ("pictures", "diff", "candidates")
    return any(worker.group in groups and not worker.is_finished for worker in app.workers)


def _has_its_pictures(app: DashboardApp) -> bool:
    """Whether the pictures on the screen, if any, have been asked for."""
    screen = app.run_screen
    return screen is None or not screen.wants_pictures() or app._pictures_wanted is not None


def _has_its_keys(app: DashboardApp) -> bool:
    """Whether the last line shows the keys that work now."""
    bars = app.screen.query(KeyBar)
    return not bars or bars.first().render().plain.rstrip()[:80] in screen_text(app).splitlines()[-1]


async def press(app: DashboardApp, pilot: Pilot[None], *keys: str) -> str:
    """Press keys one after the other; the screen afterwards."""
    for key in keys:
        await pilot.press(key)
        await settle(app, pilot)
    return screen_text(app)


def screen_text(app: DashboardApp) -> str:
    """The screen as lines of text without trailing blanks."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


def shown(run: RunDirectory | Path, *keys: str, size: tuple[int, int] = SMALL, **options: Any) -> str:
    """The screen of a run after some keys."""

    async def body(app: DashboardApp, pilot: Pilot[None]) -> str:
        return await press(app, pilot, *keys)

    return drive(run, body, size=size, **options)


def fill_buffer(
    run: RunDirectory, *, num_samples: int = 30, class_names: tuple[str, ...] = ("cat", "dog", "emu")
) -> None:
    """A buffer of grey gradients: classes in turn, priorities falling from the last to the first."""
    ramp = np.linspace(0, 255, 64).reshape(1, 8, 8).astype(np.uint8)
    images = np.stack([np.roll(ramp, index, axis=2) for index in range(num_samples)])
    index = np.arange(num_samples)
    classes = index % len(class_names)
    columns = {"images": images, "teacher_class": classes, "target": classes, "teacher_prob": 0.75, "priority": index}
    meta = {"num_classes": len(class_names), "class_names": class_names, "capacity": 100}
    write_buffer(run.buffer_file, make_contents(num_samples, **columns, age=index[::-1] // 10, **meta))
