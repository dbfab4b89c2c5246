"""Every key, and what it does to the screen."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from app_pilot import MEDIUM, drive, fill_buffer, press, screen_text, settle, shown, until
from scripted_run import TIME_S, an_epoch, append, evaluation, lines_of, run_of_lines, run_started, samples, whole_run
from textual.binding import Binding
from textual.command import CommandList

from ssdkd_cli.dashboard.app import DashboardApp
from ssdkd_cli.dashboard.bindings import SECTIONS, VIEWS
from ssdkd_cli.dashboard.screens.compare_screen import CompareScreen
from ssdkd_cli.dashboard.screens.confirm_screen import ConfirmScreen
from ssdkd_cli.dashboard.screens.help_screen import HelpScreen
from ssdkd_cli.dashboard.screens.run_screen import RunScreen
from ssdkd_cli.dashboard.themes import THEMES
from ssdkd_cli.dashboard.widgets.chart import ChartPanel
from ssdkd_cli.dashboard.widgets.key_bar import MAX_KEYS, KeyBar
from ssdkd_cli.dashboard.widgets.log_panel import LogPanel
from ssdkd_cli.dashboard.widgets.sample_grid import SampleGrid
from ssdkd_cli.watching import pictures
from ssdkd_cli.watching.feed import RunFeed
from stages import events
from stages.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    run = run_of_lines(tmp_path / "runs" / "a-run", lines_of([*whole_run(8), (evaluation(), 8)]))
    fill_buffer(run)
    (run.path / "config.toml").write_text("[run]\nseed = 0\n[distillation]\nlr = 0.2\n")
    return run


def all_bindings() -> list[Binding]:
    owners = (DashboardApp, RunScreen, HelpScreen, ConfirmScreen, CompareScreen)
    return [binding for owner in owners for binding in owner.__dict__["BINDINGS"]]


def test_every_binding_has_an_id_a_name_and_an_action_that_exists():
    for binding in all_bindings():
        assert binding.id, binding
        assert binding.description, binding
    for owner in (RunScreen, HelpScreen, ConfirmScreen, CompareScreen):
        for binding in owner.__dict__["BINDINGS"]:
            name = binding.action.partition("(")[0]
            target = DashboardApp if name.startswith("app.") else owner
            assert hasattr(target, "action_" + name.removeprefix("app.")), binding
    ids = [binding.id for binding in all_bindings()]
    assert len(ids) == len(set(ids))


def test_the_last_line_holds_at_most_seven_keys_in_every_view(run):
    async def body(app, pilot):
        for number in range(1, len(VIEWS) + 1):
            last_line = (await press(app, pilot, str(number))).splitlines()[-1]
            keys = app.screen.query_one(KeyBar).keys()
            assert 4 <= len(keys) <= MAX_KEYS
            assert all(description in last_line for _, description, _ in keys), "cut off"

    with run.lock.held():
        drive(run, body)


def test_help_names_every_key_and_closes_again(run):
    async def body(app, pilot):
        await press(app, pilot, "question_mark")
        text = str(app.screen.query_one("#help-text").render())
        words = " ".join(text.split())
        box = app.screen.query_one("#help")
        assert max(map(len, text.splitlines())) <= box.scrollable_content_region.width, "nothing is cut"
        rows = [row for row in text.splitlines() if row.startswith(("shift+right", "ctrl+p :"))]
        assert len(rows) == 2
        assert len({row.find(name) for row, name in zip(rows, ("Pan right", "Command palette"), strict=True)}) == 1
        for section in SECTIONS:
            assert section.title in text
            for binding in section.bindings:
                assert binding.description in text
                assert binding.tooltip in words
        assert "the run is over" in text
        await press(app, pilot, "question_mark")
        assert isinstance(app.screen, RunScreen)
        await press(app, pilot, "f1", "f1")
        assert isinstance(app.screen, RunScreen)

    drive(run, body)


@pytest.mark.parametrize("width", [1, 6, 30])
def test_help_on_a_narrow_screen_is_no_error(run, width):
    async def session():
        app = DashboardApp(run)
        async with app.run_test(size=(width, 24)) as pilot:
            await pilot.pause()
            await app.push_screen(HelpScreen())
            assert app.is_running
            app.action_detach()

    asyncio.run(session())


def test_the_palette_offers_every_key_that_works_now_and_does_it(run):
    run_of_lines(run.path.parent / "b-run", lines_of(whole_run(8)))  # to compare with

    async def body(app, pilot):
        commands = {command.title: command for command in app.get_system_commands(app.screen)}
        assert "Charts: Log scale" in commands
        assert "The run: Pause" not in commands, "the run is over"
        await press(app, pilot, "4")
        assert "Charts: Log scale" not in {command.title for command in app.get_system_commands(app.screen)}
        await press(app, pilot, "1", "c")
        elsewhere = {command.title for command in app.get_system_commands(app.screen)}
        assert "Everywhere: Detach" in elsewhere
        assert not any(title.startswith(("Charts", "The run", "Views: Losses")) for title in elsewhere)
        await press(app, pilot, "escape")
        await press(app, pilot, "colon", *"logscale")

        def is_found() -> bool:
            found = app.screen.query_one(CommandList)
            return found.option_count == 1 and "Log scale" in str(found.get_option_at_index(0).prompt)

        await until(pilot, is_found)
        await press(app, pilot, "enter")
        await until(pilot, lambda: app.run_screen.settings.is_log is not None)

    drive(run, body)


def test_q_ends_the_app_without_a_question(run):
    async def body(app, pilot):
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)

    drive(run, body)


def test_what_was_measured_is_not_smoothed(run):
    append(run, lines_of([(evaluation(0.5), 8), (evaluation(0.9), 9)], seq=900))

    async def body(app, pilot):
        text = await press(app, pilot, "2", "s", "s")
        assert "smoothing 0.9" in text
        assert ", smoothed" in text
        text = await press(app, pilot, "5")
        assert "student 90.0 %, teacher 90.0 %" in text, "the last of both, as it was"
        assert "smooth" not in text
        assert "smoothing 0.9" in await press(app, pilot, "s", "2"), "the key did nothing there"

    drive(run, body, size=MEDIUM)


def test_charts_log_smoothing_zoom_cursor_and_enlarging(run):
    async def body(app, pilot):
        assert "log scale, smoothing 0.6" in await press(app, pilot, "2", "l", "s")
        text = await press(app, pilot, "l", "s", "s", "s", "left")
        assert "cursor at epoch 8" in text
        assert "epoch 8: 1.25" in text, "the value of the inversion loss there"
        assert "epoch 7.5" not in text
        text = await press(app, pilot, *["ctrl+left"] * 2, "plus")
        low, high = app.run_screen.settings.x_range
        assert high - low == pytest.approx(3.5)
        await press(app, pilot, "shift+right")
        assert app.run_screen.settings.x_range[0] > low
        text = await press(app, pilot, "0", "tab", "tab", "tab", "enter")
        assert "task" in text
        assert "BN statistics" not in text
        assert max(len(line) for line in text.splitlines()) == 80
        assert text.count("┏") == 1
        assert "BN statistics" in await press(app, pilot, "escape")

    drive(run, body)


def test_charts_of_shares_have_no_log_scale(run):
    async def body(app, pilot):
        assert "l log" in await press(app, pilot, "2")
        text = await press(app, pilot, "5", "l")
        assert "linear scale" not in text, "there is no other to choose"
        assert "l log" not in text
        await press(app, pilot, "2")
        assert app.run_screen.settings.is_log is None, "the key did nothing there"

    drive(run, body, size=MEDIUM)


def test_a_chart_whose_values_span_more_than_a_decade_is_logarithmic_until_told_otherwise(tmp_path):
    told = [(run_started(epochs=9), 0)]
    for epoch in range(1, 9):
        told += [(event, epoch) for event in an_epoch(total_s=epoch, is_warmup=epoch <= 2, loss=100 / epoch**2)]

    async def body(app, pilot):
        await press(app, pilot, "2")
        inversion, task = (
            app.run_screen.query_one(f"#losses-inversion-loss{name}", ChartPanel) for name in ("", "-task")
        )
        assert (inversion.is_log, task.is_log) == (True, False)
        assert inversion.readout() == "15.6, log scale"
        assert "linear scale" in await press(app, pilot, "l")
        assert (inversion.is_log, task.is_log) == (False, False)
        assert "log scale" in await press(app, pilot, "l")
        assert (inversion.is_log, task.is_log) == (True, True)

    drive(run_of_lines(tmp_path / "run", lines_of(told)), body, size=MEDIUM)


def test_second_page_of_losses_on_a_small_screen_only(run):
    async def body(app, pilot):
        assert "learning rate" not in await press(app, pilot, "2")
        assert "learning rate" in await press(app, pilot, "n")

    async def wide(app, pilot):
        assert "learning rate" in await press(app, pilot, "2")

    drive(run, body)
    drive(run, wide, size=MEDIUM)


def test_a_view_is_left_and_opened_again_at_its_first_page(run):
    async def body(app, pilot):
        text = await press(app, pilot, "2", "n", "3", "2")
        assert "page 1 of 2" in text
        assert "BN statistics" in text
        assert "learning rate" not in text

    drive(run, body)


def test_a_term_that_nobody_knew_gets_a_chart(tmp_path):
    told = [*whole_run(3)]
    lines = [line.replace('"loss_task"', '"loss_style":0.7,"loss_task"') for line in lines_of(told)]
    run = run_of_lines(tmp_path / "run", lines)
    assert "style" in shown(run, "2", size=MEDIUM)
    assert "style" not in shown(run, "2")
    text = shown(run, "2", "n", "n")
    assert "page 3 of 3" in text
    assert "style" in text


def test_what_has_not_changed_is_not_drawn_again(run, monkeypatch):
    drawn = []

    async def body(app, pilot):
        await press(app, pilot, "6")
        charts = list(app.run_screen.open_view.query(ChartPanel))
        assert charts
        for chart in charts:
            monkeypatch.setattr(chart, "refresh", lambda *_, **__: drawn.append(1))
        app.run_screen.open_view.show(RunFeed(run).poll())
        assert drawn == []

    drive(run, body)


def test_a_chart_that_joins_is_looked_at_as_the_others_are(tmp_path):
    told = whole_run(3)
    run = run_of_lines(tmp_path / "run", lines_of(told))
    later = lines_of([(event, 4) for event in an_epoch(total_s=9.0)], seq=len(told), time_s=TIME_S + len(told))

    async def body(app, pilot):
        await press(app, pilot, "2", "l", "plus")
        append(run, [line.replace('"loss_task"', '"loss_style":0.7,"loss_task"') for line in later])
        charts = app.run_screen.open_view.query(ChartPanel)
        await until(pilot, lambda: len(charts) < len(app.run_screen.open_view.query(ChartPanel)))
        assert {chart.settings for chart in app.run_screen.open_view.query(ChartPanel)} == {app.run_screen.settings}

    drive(run, body)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
@pytest.mark.parametrize("keys", [("4",), ("4", "f")])
def test_however_much_there_is_to_say_of_samples_their_keys_are_shown(run, width, keys):
    append(run, lines_of([(samples(8), 8)], seq=900))
    text = shown(run, *keys, size=(width, 24))
    (words,) = (line for line in text.splitlines() if "hardest first" in line)
    assert words.endswith("  f a class  o order  +/- size")
    assert "p of the teacher, priority" in words or width < 120
    assert "buffer of epoch 8" in words or width < 200


def test_samples_by_class_page_and_size(run):
    async def body(app, pilot):
        text = await press(app, pilot, "4", "f")
        assert "class cat, hardest first" in text
        grid = app.screen.query_one("#samples-grid", SampleGrid)
        assert {picture.class_index for picture in grid.pictures} == {0}
        priorities = [picture.priority for picture in grid.pictures]
        assert priorities == sorted(priorities, reverse=True)
        assert "page 2 of 2" in await press(app, pilot, "n")
        assert "page 2 of 4" in await press(app, pilot, "a", "n", "n", "N", "N", "n")
        assert "newest first" in await press(app, pilot, "o")
        ages = [picture.age for picture in grid.pictures]
        assert ages == sorted(ages)
        assert ages[0] < ages[-1]
        size = grid.tile_size
        await press(app, pilot, "plus")
        assert grid.tile_size > size
        assert "class emu" in await press(app, pilot, "F")

    with run.lock.held():
        drive(run, body)


def test_pictures_grow_as_far_as_they_fit_and_shrink_at_the_first_key(run):
    async def body(app, pilot):
        await press(app, pilot, "4")
        grid = app.screen.query_one("#samples-grid", SampleGrid)

        def rows() -> int:
            return grid.layout_for(*grid.size).tile_rows

        seen = [rows()]
        for key in ("plus",) * 8 + ("minus",) * 8:
            await press(app, pilot, key)
            seen.append(rows())
        largest = max(seen)
        assert seen[1] > seen[0]
        assert largest <= grid.size.height
        after = seen[9:]
        assert after[0] < largest, "no press is lost on sizes that do not fit"
        assert after == sorted(after, reverse=True)
        assert after[-1] == min(seen)

    drive(run, body)


def test_more_room_leaves_the_last_page_on_the_screen(run):
    async def body(app, pilot):
        assert "page 4 of 4" in await press(app, pilot, "4", "n", "n", "n", "n")
        await pilot.resize_terminal(120, 40)
        await settle(app, pilot)
        grid = app.screen.query_one("#samples-grid", SampleGrid)
        assert f"page {grid.num_pages} of {grid.num_pages}" in screen_text(app)
        assert 1 < grid.num_pages < 4
        assert "0.75" in screen_text(app), "there are pictures on it"
        await pilot.resize_terminal(80, 24)
        await settle(app, pilot)
        assert "page 4 of 4" in screen_text(app)
        await pilot.resize_terminal(200, 60)
        await settle(app, pilot)
        assert "0.75" in screen_text(app)
        assert "page" not in screen_text(app)

    with run.lock.held():
        drive(run, body)


def test_pictures_that_were_asked_for_earlier_do_not_replace_later_ones(run, monkeypatch):
    may_go_on, all_classes_told = threading.Event(), threading.Event()
    read, load = pictures.hardest_pictures, DashboardApp._load_pictures

    def read_slowly(run, *, class_index, **options):
        found = read(run, class_index=class_index, **options)
        if class_index is None:
            assert may_go_on.wait(60)
        return found

    def load_and_note(app, run, class_index, newest_first):
        load(app, run, class_index, newest_first)
        if class_index is None:  # what it tells is in the app's queue by now
            all_classes_told.set()

    async def body(app, pilot):
        await pilot.press("4")  # all classes: their pictures take a while
        await pilot.press("f")
        grid = app.screen.query_one("#samples-grid", SampleGrid)
        await until(pilot, lambda: bool(grid.pictures))
        may_go_on.set()
        await until(pilot, all_classes_told.is_set)
        await settle(app, pilot)
        assert {picture.class_index for picture in grid.pictures} == {0}

    monkeypatch.setattr(pictures, "hardest_pictures", read_slowly)
    monkeypatch.setattr(DashboardApp, "_load_pictures", load_and_note)
    try:
        drive(run, body)
    finally:
        may_go_on.set()


def test_samples_without_a_buffer_say_why(tmp_path):
    async def body(app, pilot):
        assert "no buffer: the run saved none" in await press(app, pilot, "4")

    drive(run_of_lines(tmp_path / "run", lines_of(whole_run(2))), body, size=MEDIUM)


def test_samples_of_a_run_that_diverged_are_not_said_to_be_of_its_last_epoch(tmp_path):
    told = [*whole_run(3)[:-1], (events.Samples(picture="samples/3.png", tiles=()), 3)]

    def shown(status: str) -> str:
        ending = (events.RunFinished(status=status, message="", summary={}), 3)
        text = []

        async def body(app, pilot):
            text.append(await press(app, pilot, "4"))

        drive(run_of_lines(tmp_path / status, lines_of([*told, ending])), body, size=MEDIUM)
        return text[0]

    assert "buffer of epoch 3" in shown("done")
    assert "buffer of epoch" not in shown("diverged")


def test_the_log_scrolls_and_filters(tmp_path):
    told = [(run_started(epochs=60), 0)]
    told += [(events.CheckpointSaved(checkpoint=f"checkpoints/{epoch:02d}"), epoch) for epoch in range(1, 41)]
    told += [(events.Warning(message="beware"), 41)]

    async def body(app, pilot):
        assert "beware" in await press(app, pilot, "7")
        text = await press(app, pilot, "up", "up")
        assert "beware" not in text
        assert "2 lines back" in text
        text = await press(app, pilot, "w")
        assert "checkpoint saved" not in text
        assert "beware" in text
        panel = app.screen.query_one("#log-lines", LogPanel)
        await press(app, pilot, "w", "pageup")
        assert panel.lines_back > 10
        await press(app, pilot, "end")
        assert panel.lines_back == 0

    drive(run_of_lines(tmp_path / "run", lines_of(told)), body)


def test_a_long_line_of_the_log_is_wrapped_and_what_is_read_stays(tmp_path):
    told = [(run_started(epochs=60), 0), (events.Warning(message="word " * 30 + "the last word"), 1)]
    told += [(events.CheckpointSaved(checkpoint=""), epoch) for epoch in range(1, 41)]
    later = [(events.CheckpointSaved(checkpoint=""), epoch) for epoch in range(41, 50)]
    run = run_of_lines(tmp_path / "run", lines_of(told))

    async def body(app, pilot):
        text = await press(app, pilot, "7", "pageup", "pageup", "pageup")
        assert "the last word" in text
        panel = app.screen.query_one("#log-lines", LogPanel)
        back = panel.lines_back
        append(run, lines_of(later, seq=len(told), time_s=TIME_S + len(told)))
        await until(pilot, lambda: panel.lines_back > back)
        assert panel.lines_back == back + len(later)
        assert "the last word" in screen_text(app)

    drive(run, body)


def test_what_is_read_stays_where_the_same_lines_are_read_anew(tmp_path):
    told = [(run_started(epochs=60), 0)]
    told += [(events.CheckpointSaved(checkpoint=""), epoch) for epoch in range(1, 41)]
    run = run_of_lines(tmp_path / "run", lines_of(told))

    async def body(app, pilot):
        await press(app, pilot, "7", "up", "up")
        panel = app.screen.query_one("#log-lines", LogPanel)
        panel.show(RunFeed(run).poll())  # equal lines, other objects
        assert panel.lines_back == 2

    drive(run, body)


def test_themes_in_turn(run):
    async def body(app, pilot):
        seen = [app.theme]
        for _ in THEMES:
            await press(app, pilot, "t")
            seen.append(app.theme)
        assert seen[0] == seen[-1]
        assert set(seen) == {theme.name for theme in THEMES}

    drive(run, body)


def test_the_mouse_opens_views_reads_values_and_zooms(run):
    async def body(app, pilot):
        await pilot.click("#tabs", offset=(18, 0))
        await until(pilot, lambda: app.run_screen.open_view_id == "losses")
        await until(pilot, lambda: app.run_screen.query_one("#losses-inversion-loss", ChartPanel).num_columns > 20)
        await pilot.hover("#losses-inversion-loss", offset=(20, 3))
        await until(pilot, lambda: app.run_screen.settings.cursor_x is not None)
        await pilot.click("#keys", offset=(2, 0))
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))

    drive(run, body)


def make_other(path, settings):
    """A run of six epochs with these settings, to be compared with."""
    run_of_lines(path, lines_of(whole_run(6)))
    (path / "config.toml").write_text(settings)


async def choose_the_other(app, pilot, *, until_said):
    await press(app, pilot, "c")
    await until(pilot, lambda: "dead 6 of 6" in screen_text(app))
    await press(app, pilot, "space")
    await until(pilot, lambda: until_said in screen_text(app))


def test_of_settings_that_cannot_be_read_nothing_is_claimed(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    make_other(tmp_path / "runs" / "other", "[run\n")

    async def body(app, pilot):
        await choose_the_other(app, pilot, until_said="cannot be read")
        assert "no setting differs" not in screen_text(app)

    drive(run, body, size=MEDIUM)


def test_compare_overlays_chosen_runs_and_shows_what_was_set_otherwise(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    make_other(tmp_path / "runs" / "other", "[run]\nseed = 0\n[distillation]\nlr = 0.1\n")

    async def body(app, pilot):
        await choose_the_other(app, pilot, until_said="distillation.lr")
        seen = threading.Event()
        app.screen.post_message(CompareScreen.Compared([run], [], "outdated"))
        app.screen.call_later(seen.set)
        await until(pilot, seen.is_set)
        assert "outdated" not in str(app.screen.query_one("#differences-text").render())
        text = screen_text(app)
        assert "(B) other" in text
        assert "dead, epoch 6 of 6, took" in text, "and how it fared"
        assert "distillation.lr" in text
        assert "B 0.1" in text
        text = await press(app, pilot, "enter")
        await until(pilot, lambda: len(app.overlays) == 1)
        await until(pilot, lambda: "A a-run  B other" in screen_text(app))
        await until(pilot, lambda: "A 1.25, B 1.67" in screen_text(app))  # the inversion loss of both
        assert "student: A 90.0 %" in await press(app, pilot, "5"), "of several runs the student only"
        await press(app, pilot, "c", "a", "enter")
        await until(pilot, lambda: app.overlays == ())

    drive(run, body)


def test_runs_that_are_compared_are_followed(run, monkeypatch, tmp_path):
    monkeypatch.setattr("ssdkd_cli.dashboard.app.SECONDS_BETWEEN_OTHERS", 0.05)
    lines = lines_of(whole_run(6))
    other = run_of_lines(tmp_path / "runs" / "other", lines[: len(lines) // 2])

    async def body(app, pilot):
        app.compare_with([other.path])
        await until(pilot, lambda: "B 3.33" in screen_text(app))
        append(other, lines[len(lines) // 2 :])
        await until(pilot, lambda: "A 1.25, B 1.67" in screen_text(app))

    drive(run, body)


def test_a_run_that_has_said_nothing_yet_is_named(run, tmp_path):
    silent = run_of_lines(tmp_path / "runs" / "silent", [])

    async def body(app, pilot):
        app.compare_with([silent.path])
        await until(pilot, lambda: "nothing to draw yet in silent" in screen_text(app))

    drive(run, body)


def test_nothing_to_compare_with_is_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    async def body(app, pilot):
        await press(app, pilot, "c")
        await until(pilot, lambda: "there is no other run" in " ".join(screen_text(app).split()))

    drive(run_of_lines(Path("alone") / "run", lines_of(whole_run(2))), body, size=MEDIUM)
