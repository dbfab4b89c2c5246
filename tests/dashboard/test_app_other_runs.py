"""Another run in place of the one on the screen: chosen by hand, or the next of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from app_pilot import drive, look_again, press, screen_text, settle, until
from scripted_run import an_epoch, append, evaluation, lines_of, run_of_lines, run_started, whole_run

from ssdkd_cli.dashboard.screens.compare_screen import CompareScreen
from ssdkd_cli.dashboard.views import Losses
from ssdkd_cli.dashboard.widgets.chart import ChartPanel
from ssdkd_cli.dashboard.widgets.sample_grid import SampleGrid
from stages import events
from stages.run_directory import RunDirectory

END = lines_of([(events.RunFinished(status="done", summary={}, message=""), 4)], seq=1000)


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr("ssdkd_cli.dashboard.app.SECONDS_BETWEEN_OTHERS", 0.05)


@pytest.fixture
def first(tmp_path) -> RunDirectory:
    return run_of_lines(tmp_path / "group" / "seed-0", lines_of(whole_run(4)))


@pytest.fixture
def second(tmp_path) -> RunDirectory:
    told = [(run_started(seed=1, epochs=6), 0), *whole_run(6)[1:], (evaluation(0.5), 6)]
    return run_of_lines(tmp_path / "group" / "seed-1", lines_of(told))


@pytest.fixture
def lock(first) -> Iterator[ExitStack]:
    """The lock of the first run, held until it is closed."""
    with ExitStack() as lock:
        lock.enter_context(first.lock.held())
        yield lock


def test_a_run_of_the_list_is_opened_in_place_of_this_one(first, second):
    async def body(app, pilot):
        app.compare_with([second.path])
        await until(pilot, lambda: len(app.overlays) == 1)
        await press(app, pilot, "5", "f", "c")
        await until(pilot, lambda: "dead 6 of 6" in screen_text(app))
        await press(app, pilot, "o")
        await until(pilot, lambda: app.run_view is not None and app.run_view.path == second.path)
        await until(pilot, lambda: app.overlays == ())
        await settle(app, pilot)
        text = screen_text(app)
        assert "seed-1" in text.splitlines()[0]
        assert "seed-0" not in text
        assert "50.0 %" in text, "the view that was open is open still, and shows the other run"
        append(first, END)  # news of a run that is not on the screen any more
        append(second, lines_of([(evaluation(0.75), 6)], seq=500))
        await until(pilot, lambda: "75.0 %" in screen_text(app))
        assert app.run_view.path == second.path
        await press(app, pilot, "c")
        await until(pilot, lambda: "seed-0" in screen_text(app))

    drive(first, body, size=(120, 40))


def test_values_at_the_cursor_are_of_one_epoch(first, second):
    async def body(app, pilot):
        app.compare_with([second.path])
        await until(pilot, lambda: len(app.overlays) == 1)
        chart = app.run_screen.query_one("#losses-inversion-loss", ChartPanel)
        await press(app, pilot, "2")
        app.run_screen.settings = replace(app.run_screen.settings, cursor_x=4.0)
        await settle(app, pilot)
        assert re.fullmatch(r"A [\d.]+, B [\d.]+", chart.readout()), "the line below the charts has the epoch"
        assert "cursor at epoch 4" in screen_text(app)
        app.run_screen.settings = replace(app.run_screen.settings, cursor_x=5.75)
        await settle(app, pilot)
        assert re.fullmatch(r"A -, B [\d.]+", chart.readout()), "the first has but 4 epochs"

    drive(first, body, size=(120, 40))


def test_another_run_is_read_from_its_newest_line_and_its_first_page(first, tmp_path):
    told = [(run_started(seed=1, epochs=60), 0)]
    told += [(events.Warning(message=f"said in {epoch}"), epoch) for epoch in range(1, 61)]
    other = run_of_lines(tmp_path / "group" / "seed-1", lines_of(told))
    lines = [
        line.replace('"loss_task"', '"loss_style":0.7,"loss_task"')
        for line in lines_of([(event, 5) for event in an_epoch(total_s=9.0)], seq=500)
    ]

    async def body(app, pilot):
        losses = app.run_screen.query_one("#losses", Losses)
        await press(app, pilot, "2")
        await until(pilot, lambda: losses.num_pages == 3)
        await press(app, pilot, "n", "n", "enter", "7", "up", "up", "2", "n", "n", "enter")
        app.run_screen.query_one("#samples-grid", SampleGrid).page = 5
        app.open_run(other)
        await until(pilot, lambda: app.run_view is not None and app.run_view.path == other.path)
        await settle(app, pilot)
        assert losses.num_pages == 2, "the term that only the first has is gone"
        assert "page 1 of 2" in screen_text(app)
        assert "no step yet" in screen_text(app) or "before the first step" in screen_text(app), "the charts are there"
        assert "said in 60" in await press(app, pilot, "7")
        assert app.run_screen.query_one("#samples-grid", SampleGrid).page == 0

    append(first, lines)
    drive(first, body)


def test_what_is_asked_of_the_run_on_the_screen_is_asked_of_no_other(first, second):
    async def body(app, pilot):
        await press(app, pilot, "p")
        await until(pilot, lambda: "pausing" in screen_text(app))
        app.open_run(second)
        await until(pilot, lambda: app.run_view is not None and "pausing" not in screen_text(app))
        assert app.possible_requests() == ()

    with first.lock.held():
        drive(first, body)
    assert first.control_file.read_text().count("pause") == 1
    assert not second.control_file.exists() or not second.control_file.read_text()


def test_the_next_run_of_the_folder_follows_the_one_that_ends_on_the_screen(first, second, lock):
    async def body(app, pilot):
        await until(pilot, lambda: app.run_view.status == "running")
        with second.lock.held():
            await look_again(app, pilot)
            assert app.run_view.path == first.path, "two at work: the one on the screen stays"
            append(first, END)
            lock.close()
            await until(pilot, lambda: app.run_view is not None and app.run_view.path == second.path)
            await until(pilot, lambda: "seed-0 has ended, seed-1 is at work" in screen_text(app))

    drive(first, body, folder=first.path.parent)


def test_an_open_dialog_is_not_pulled_away(first, second, lock):
    async def body(app, pilot):
        await until(pilot, lambda: app.run_view.status == "running")
        await press(app, pilot, "c")
        with second.lock.held():
            append(first, END)
            lock.close()
            await until(pilot, lambda: app.run_view.status == "done")
            await look_again(app, pilot)
            assert isinstance(app.screen, CompareScreen)
            assert app.run_directory.path == first.path
            await press(app, pilot, "escape")
            await until(pilot, lambda: app.run_directory.path == second.path)

    drive(first, body, folder=first.path.parent)


def test_a_run_that_is_resumed_does_not_follow_itself(first, lock, monkeypatch):
    looked = []

    def resumed_right_after_it_was_found_dead(folder: Path) -> RunDirectory:
        looked.append(folder)
        return RunDirectory(folder / first.name)

    async def body(app, pilot):
        await until(pilot, lambda: app.run_view.status == "running")
        opened = app.run_directory
        lock.close()
        await until(pilot, lambda: len(looked) > 2)
        await settle(app, pilot)
        assert app.run_directory is opened

    monkeypatch.chdir(first.path.parent)
    monkeypatch.setattr("ssdkd_cli.dashboard.app.run_at_work", resumed_right_after_it_was_found_dead)
    drive(first, body, folder=Path())


@pytest.mark.parametrize("has_folder", [True, False])
def test_a_run_that_was_over_when_it_was_opened_stays(first, second, has_folder):
    said = []

    async def body(app, pilot):
        app.notify = lambda text, **_: said.append(text)
        with second.lock.held():
            await (until(pilot, lambda: said) if has_folder else look_again(app, pilot))
        assert app.run_view.path == first.path
        assert said == ([f"{second.name} is at work: c lists it"] if has_folder else [])

    append(first, END)
    drive(first, body, folder=first.path.parent if has_folder else None)


def test_a_run_that_was_named_stays_when_it_ends(first, second, lock):
    async def body(app, pilot):
        await until(pilot, lambda: app.run_view.status == "running")
        with second.lock.held():
            append(first, END)
            lock.close()
            await until(pilot, lambda: app.run_view.status == "done")
            await look_again(app, pilot)
            assert app.run_view.path == first.path

    drive(first, body)
