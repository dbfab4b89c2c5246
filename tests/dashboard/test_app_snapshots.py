"""How the dashboard looks in each state of a run, as text in `snapshots/`.

After a wanted change: `SSDKD_WRITE_SNAPSHOTS=1 pytest tests/dashboard/test_app_snapshots.py`, then read the diff.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from app_pilot import LARGE, MEDIUM, SMALL, drive, fill_buffer, press, screen_text, shown
from scripted_run import TIME_S, append, evaluation, lines_of, run_of_lines, run_started, samples, whole_run

from ssdkd_cli.dashboard.bindings import VIEWS
from stages import events
from stages.run_directory import RunDirectory

FOLDER = Path(__file__).parent / "snapshots"
STATES = ("empty", "warming-up", "running", "paused", "failed", "dead", "done")
TOLD = [*whole_run(8), (evaluation(0.95, 0.85), 8), (samples(8), 8)]


@pytest.fixture(autouse=True)
def same_everywhere(tmp_path, monkeypatch):
    """Times in the log and paths in hints do not depend on the machine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("NO_COLOR", raising=False)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def make_state(state: str, stack: ExitStack) -> RunDirectory:
    """A run in that state; a live one is locked until the stack is left."""
    path = Path("runs/a-run")
    if state == "empty":
        run = run_of_lines(path, [])
        run.path.joinpath("run.lock").touch()
    elif state == "warming-up":
        run = run_of_lines(path, lines_of([*whole_run(10)[:11], (events.StageStarted(stage="inversion"), 2)]))
    else:
        # Told of ten epochs, so that a run that goes on has some to go.
        run = run_of_lines(path, lines_of([(run_started(epochs=10), 0), *TOLD[1:]]))
        fill_buffer(run)
    if state == "paused":
        acknowledged = events.ControlAcknowledged(id="1", action="pause", accepted=True, message="paused")
        append(run, lines_of([(acknowledged, 8)], seq=len(TOLD), time_s=TIME_S + len(TOLD)))
    elif state in ("failed", "done"):
        message = "no space left on the disk for runs/a-run/checkpoints" if state == "failed" else "done"
        ending = events.RunFinished(status=state, message=message)
        append(run, lines_of([(ending, 8)], seq=len(TOLD), time_s=TIME_S + len(TOLD)))
    if state in ("empty", "warming-up", "running", "paused"):
        stack.enter_context(run.lock.held())
    return run


def compare(name: str, text: str) -> None:
    path = FOLDER / f"{name}.txt"
    if os.environ.get("SSDKD_WRITE_SNAPSHOTS"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8"), f"differs from {path.name}"


@pytest.mark.parametrize("size", [SMALL, MEDIUM], ids=["80x24", "120x40"])
@pytest.mark.parametrize("state", STATES)
def test_the_overview_of_each_state(state, size):
    with ExitStack() as stack:
        text = shown(make_state(state, stack), size=size)
    compare(f"{state}-{size[0]}x{size[1]}", text)


def test_every_view_is_whole_on_a_small_screen():
    async def body(app, pilot):
        for number, (view, _) in enumerate(VIEWS[1:], start=2):
            compare(f"view-{view}-80x24", await press(app, pilot, str(number)))

    with ExitStack() as stack:
        drive(make_state("running", stack), body)


def test_a_large_screen_shows_everything_at_once():
    with ExitStack() as stack:
        text = shown(make_state("running", stack), size=LARGE)
    compare("running-200x60", text)


def test_ascii_mode_sends_nothing_else(monkeypatch):
    async def body(app, pilot):
        compare("running-ascii-80x24", screen_text(app))
        for keys in ("2", "3", "4", "5", "question_mark"), ("escape", "colon"):
            for key in keys:
                assert (await press(app, pilot, key)).isascii()

    monkeypatch.setenv("SSDKD_ASCII", "1")
    with ExitStack() as stack:
        drive(make_state("running", stack), body)


def colours(app):
    styles = [segment.style for strip in app.screen._compositor.render_strips() for segment in strip]
    return {style.color for style in styles if style} | {style.bgcolor for style in styles if style}


WITHOUT_COLOUR = {state: (SMALL, f"{state}-80x24") for state in STATES}  # the same text as with colours
WITHOUT_COLOUR["pictures"] = (MEDIUM, "running-no-colour-120x40")


@pytest.mark.parametrize("state", WITHOUT_COLOUR)
def test_without_colour_every_cell_has_the_terminals_own(state, monkeypatch):
    size, name = WITHOUT_COLOUR[state]

    async def body(app, pilot):
        assert {colour.name for colour in colours(app) if colour} == {"default"}
        text = screen_text(app)
        assert "▀" not in text, "pictures are drawn in shades of characters"
        compare(name, text)

    monkeypatch.setenv("NO_COLOR", "1")
    with ExitStack() as stack:
        drive(make_state("running" if state == "pictures" else state, stack), body, size=size)


def test_an_empty_no_color_counts_as_none(monkeypatch):
    async def body(app, pilot):
        assert len({style for style in colours(app) if style}) > 3
        assert {triplet for colour in colours(app) if colour and (triplet := colour.triplet) and len(set(triplet)) > 1}

    monkeypatch.setenv("NO_COLOR", "")
    with ExitStack() as stack:
        drive(make_state("running", stack), body)
