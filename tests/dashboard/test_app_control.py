"""Pause, resume, checkpoint, stop: asked of the run from the screen, with an answer or a visible time-out."""

from __future__ import annotations

import threading

import pytest
from app_pilot import TIMEOUT_S, drive, press, screen_text, until
from played_trainer import played_trainer
from scripted_run import lines_of, run_of_lines, whole_run
from textual.events import Key

from ssdkd_cli.dashboard.screens.confirm_screen import ConfirmScreen
from stages.errors import MachineError
from stages.run_directory import RunDirectory, control


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return run_of_lines(tmp_path / "a-run", lines_of(whole_run(4)))


def test_pause_and_resume_are_acknowledged(run):
    async def body(app, pilot):
        await press(app, pilot, "p")
        await until(pilot, lambda: app.run_view.status == "paused")
        await until(pilot, lambda: "pause it is" in screen_text(app))
        await until(pilot, lambda: "PAUSED" in screen_text(app))
        await until(pilot, lambda: "r Resume" in screen_text(app) and "p Pause" not in screen_text(app))
        await press(app, pilot, "r")
        await until(pilot, lambda: app.run_view.status == "running")

    with played_trainer(run) as asked:
        drive(run, body)
    assert asked == ["pause", "resume"]


def test_stop_asks_first(run):
    async def body(app, pilot):
        await press(app, pilot, "x")
        assert isinstance(app.screen, ConfirmScreen)
        await press(app, pilot, "enter")
        assert not isinstance(app.screen, ConfirmScreen), "No has the focus"
        await press(app, pilot, "x", "escape", "x", "y")
        await until(pilot, lambda: "stop it is" in screen_text(app))

    with played_trainer(run) as asked:
        drive(run, body)
    assert asked == ["stop"]


@pytest.mark.parametrize("on_top", ["x", "question_mark"])
def test_q_leaves_from_what_lies_on_top_too(run, on_top):
    async def body(app, pilot):
        await press(app, pilot, on_top)
        assert app.screen is not app.run_screen
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)

    with played_trainer(run) as asked:
        drive(run, body)
    assert asked == []


@pytest.mark.parametrize(("key", "character"), [("c", "c"), ("colon", ":")])
def test_what_is_typed_after_q_is_not_heard(run, key, character):
    async def body(app, pilot):
        for event in (Key("q", "q"), Key(key, character)):  # the second before the first has been acted on
            app.post_message(event)
        await until(pilot, lambda: not app.is_running)

    with played_trainer(run) as asked:
        drive(run, body)
    assert asked == []


def test_a_refusal_is_shown(run):
    async def body(app, pilot):
        await press(app, pilot, "k")
        await until(pilot, lambda: "checkpoint was refused: not now" in screen_text(app))

    with played_trainer(run, accepts=False):
        drive(run, body)


def test_no_answer_is_a_visible_time_out(run, monkeypatch):
    has_waited_enough = threading.Event()

    def wait_in_vain(*_arguments, **_options):
        has_waited_enough.wait(TIMEOUT_S)

    monkeypatch.setattr(control, "wait_for_acknowledgement", wait_in_vain)

    async def body(app, pilot):
        await press(app, pilot, "p", "p")
        await until(pilot, lambda: "pausing" in screen_text(app).splitlines()[0])
        has_waited_enough.set()
        await until(pilot, lambda: "no answer to `pause` within 7 s" in " ".join(screen_text(app).split()))
        await until(pilot, lambda: "pausing" not in screen_text(app).splitlines()[0])

    with run.lock.held():
        drive(run, body, answer_timeout_s=7.0)
    assert run.control_file.read_text().count("\n") == 1, "asked once, though the key was pressed twice"


@pytest.mark.parametrize("answer", ["refused", "accepted", "none", "not sent"])
def test_a_run_that_was_asked_to_stop_is_known_to(run, monkeypatch, answer):
    acknowledged = None if answer == "none" else control.Acknowledgement(answer == "accepted", "said so")
    monkeypatch.setattr(control, "wait_for_acknowledgement", lambda *_, **__: acknowledged)
    send_request, has_tried = control.send_request, threading.Event()

    def send(*arguments):
        has_tried.set()
        if answer == "not sent":
            raise MachineError("cannot write")
        return send_request(*arguments)

    monkeypatch.setattr(control, "send_request", send)

    async def body(app, pilot):
        await press(app, pilot, "x", "n")
        assert not app.is_stopping
        await press(app, pilot, "x", "y")
        await until(pilot, lambda: has_tried.is_set() and app._pending == [])
        assert app.is_stopping == (answer in ("accepted", "none"))

    with run.lock.held():
        drive(run, body)


def test_leaving_does_not_wait_for_an_answer(run):
    async def body(app, pilot):
        await press(app, pilot, "p")
        await pilot.press("q")
        await until(pilot, lambda: not app.is_running)

    with run.lock.held():
        drive(run, body, answer_timeout_s=3600.0)


def test_a_request_to_a_run_that_ends_meanwhile_says_so(run, monkeypatch):
    def end(*_arguments, **_options):
        monkeypatch.setattr(RunDirectory, "is_alive", lambda _: False)

    monkeypatch.setattr(control, "wait_for_acknowledgement", end)

    async def body(app, pilot):
        await press(app, pilot, "x", "y")
        await until(pilot, lambda: "no answer to `stop`: the run's" in screen_text(app))
        assert not app.is_stopping

    with run.lock.held():
        drive(run, body)


@pytest.mark.parametrize("is_live", [True, False])
def test_no_control_keys_when_read_only_or_over(run, is_live):
    async def body(app, pilot):
        text = await press(app, pilot, "p", "k", "x", "r")
        assert not any(key in text for key in ("Pause", "Checkpoint", "Stop", "Resume"))
        assert ("read-only" in text) == is_live
        assert not isinstance(app.screen, ConfirmScreen)
        assert not any(command.title.startswith("The run: P") for command in app.get_system_commands(app.screen))

    if is_live:
        with run.lock.held():
            drive(run, body, read_only=True)
    else:
        drive(run, body)
    assert not run.control_file.exists()
