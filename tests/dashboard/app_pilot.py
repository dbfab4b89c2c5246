"""Driving the dashboard without a terminal: open it on a run, press keys, read the screen as text."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from scripted_run import TIME_S
from textual.pilot import Pilot

from ssdkd_cli.dashboard.app import DashboardApp
from stages.buffer.file import BufferContents, BufferMeta, write_buffer
from stages.run_directory import RunDirectory

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
    """Let the app go on until something holds."""
    for _ in range(400):
        if is_so():
            return
        await pilot.pause(0.02)
    raise AssertionError("it did not come to pass")


async def settle(app: DashboardApp, pilot: Pilot[None]) -> None:
    """Let threads that read pictures or settings come to their end, and draw what they found."""
    await pilot.pause()
    reading = [worker for worker in app.workers if worker.group in ("pictures", "diff", "candidates")]
    if reading:
        await app.workers.wait_for_complete(reading)
    await pilot.pause()


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
    classes = np.arange(num_samples) % len(class_names)
    write_buffer(
        run.buffer_file,
        BufferContents(
            images=images,
            teacher_class=classes.astype(np.int64),
            teacher_prob=np.full(num_samples, 0.75, dtype=np.float32),
            priority=np.arange(num_samples, dtype=np.float32),
            age=(np.arange(num_samples)[::-1] // 10).astype(np.int32),
            target=classes.astype(np.int64),
            meta=BufferMeta(
                task="classification",
                num_classes=len(class_names),
                class_names=class_names,
                mean=(0.5,),
                std=(0.5,),
                capacity=100,
                alpha=0.6,
                epsilon=1e-6,
                teacher_sha256="0" * 64,
            ),
        ),
    )
