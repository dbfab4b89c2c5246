"""Requests and signals are heard at safe points, carried out, and answered."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from run_outputs import At, ask, assert_same_outcome, events, lines, stop_at, tensor_files

from stages.accounts import Accounts
from stages.run_directory import RunDirectory
from stages.run_directory.control import send_request, wait_for_acknowledgement
from stages.trainer import Outcome

PATIENCE_S = 60.0


def test_a_run_is_paused_saved_and_resumed_from_outside(start, out: Path, undisturbed: Path) -> None:
    outcomes: list[Outcome] = []
    run = RunDirectory(out)
    pause = At("distillation_step", lambda: ask(out, "pause", "first"), epoch=3, step=1)
    trainer = threading.Thread(target=lambda: outcomes.append(start(listeners=[pause])))
    trainer.start()
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not run.events_file.exists():
            assert trainer.is_alive()
            assert time.monotonic() < deadline_s
            time.sleep(0.001)
        paused = wait_for_acknowledgement(run, "first", PATIENCE_S)
        assert paused is not None
        assert (paused.accepted, paused.message) == (True, "paused")
        assert run.status() == "paused"
        num_events = len(lines(out))

        saved = wait_for_acknowledgement(run, send_request(run, "checkpoint"), PATIENCE_S)
        assert saved is not None
        assert saved.accepted
        assert run.latest_checkpoint() == run.checkpoint_file(3)
        kinds = [event["kind"] for event in lines(out)[num_events:]]
        assert kinds == ["device", "samples", "checkpoint_saved", "control_acknowledged"], "nothing else goes on"

        again = wait_for_acknowledgement(run, send_request(run, "pause"), PATIENCE_S)
        assert again is not None
        assert again.message == "was paused already"
    finally:
        resume_id = send_request(run, "resume") if trainer.is_alive() else ""
        trainer.join(PATIENCE_S)
    assert not trainer.is_alive()
    resumed = wait_for_acknowledgement(run, resume_id, 0.0)
    assert resumed is not None
    assert resumed.message == "goes on"
    (outcome,) = outcomes
    assert outcome.summary["status"] == run.status() == "done"
    assert_same_outcome(out, undisturbed)


def test_requests_are_answered_in_their_order_with_their_ids(start, out: Path, undisturbed: Path) -> None:
    def ask_for_a_lot() -> None:
        for request_id, action in (("1", "pause"), ("2", "explode"), ("3", "resume"), ("4", "resume")):
            ask(out, action, request_id)
        with (out / "control.jsonl").open("a") as file:
            file.write('nonsense\n{"id": 5}\n')

    start(listeners=[At("stage_finished", ask_for_a_lot, epoch=2, stage="inversion")])
    answers = [(answer["id"], answer["accepted"], answer["message"]) for answer in events(out, "control_acknowledged")]
    assert answers == [
        ("1", True, "paused"),
        ("2", False, "unknown action `explode`; known: pause, resume, checkpoint, stop"),
        ("3", True, "goes on"),
        ("4", True, "was not paused"),
    ]
    assert_same_outcome(out, undisturbed)


def test_stop_while_paused(start, go_on, out: Path, undisturbed: Path) -> None:
    def pause_and_stop() -> None:
        ask(out, "pause")
        ask(out, "stop", "last")

    stopped = start(listeners=[At("distillation_step", pause_and_stop, epoch=2)])
    assert stopped.summary["status"] == "stopped"
    assert [event["id"] for event in events(out, "control_acknowledged")] == ["someone", "last"]
    assert go_on().summary["status"] == "done", "a pause does not outlive its process"
    assert_same_outcome(out, undisturbed)


def test_a_request_after_the_last_safe_point_is_refused(start, out: Path) -> None:
    start(listeners=[At("checkpoint_saved", lambda: ask(out, "checkpoint", "late"), epoch=4)])
    (answer,) = events(out, "control_acknowledged")
    assert (answer["id"], answer["accepted"], answer["message"]) == ("late", False, "the run is over")
    assert lines(out)[-1]["kind"] == "run_finished"


def test_a_request_while_a_run_is_taken_up_is_heard(start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start(listeners=[stop_at(out, epoch=2)])
    from stages import resumption

    real_plan = resumption.plan

    def plan_and_ask(*arguments, **options):
        assert RunDirectory(out).status() == "starting"
        ask(out, "stop", "early")
        return real_plan(*arguments, **options)

    monkeypatch.setattr(resumption, "plan", plan_and_ask)
    assert go_on().summary["status"] == "stopped"
    assert events(out, "control_acknowledged")[-1]["id"] == "early"


def test_waiting_costs_nothing(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("stages.recorder.Accounts", lambda: Accounts(lambda: now_s[0]))

    def work(seconds: float) -> None:
        now_s[0] += seconds

    def sleep(_seconds: float) -> None:
        now_s[0] += 1000.0
        ask(out, "checkpoint")
        ask(out, "resume")

    monkeypatch.setattr("stages.safe_point.sleep", sleep)
    outcome = start(
        listeners=[
            At("inversion_step", lambda: work(2.0), epoch=3),
            At("distillation_step", lambda: (work(5.0), ask(out, "pause")), epoch=3),
        ]
    )
    expected = {"inversion": 2.0, "distillation": 5.0, "evaluation": 0.0, "total": 7.0}
    assert outcome.summary["seconds"] == expected
    # What a resumption would go on with: the checkpoint in the middle of a stage has that stage's time, too.
    at_checkpoint = next(event for event in events(out, "device") if event["epoch"] == 3)
    assert at_checkpoint["seconds"] == expected
    assert {event["stage"]: event["seconds"] for event in events(out, "stage_finished") if event["epoch"] == 3} == {
        "inversion": 2.0,
        "distillation": 5.0,
        "evaluation": 0.0,
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_and_stops(
    start, go_on, out: Path, undisturbed: Path, number: signal.Signals, request: pytest.FixtureRequest
) -> None:
    found = signal.signal(number, before := signal.SIG_DFL)  # whoever started the tests may ignore it
    request.addfinalizer(lambda: signal.signal(number, found))
    stopped = start(listeners=[At("distillation_step", lambda: os.kill(os.getpid(), number), epoch=3)])
    assert (stopped.summary["status"], stopped.error) == ("stopped", None)
    assert signal.getsignal(number) is before
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, undisturbed)


def test_a_second_signal_ends_at_once(
    start, go_on, out: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.safe_point._ECHO_S", -1.0)  # no signal is taken for the one before

    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        start(listeners=[At("distillation_step", interrupt_twice, epoch=3)])
    assert lines(out)[-1]["kind"] == "distillation_step"
    assert RunDirectory(out).status() == "dead"
    go_on()
    assert_same_outcome(out, undisturbed)


def test_a_signal_after_a_request_to_stop_is_the_first_one(start, out: Path) -> None:
    stop = stop_at(out, "distillation_step", epoch=3)
    signal_while_saving = At("samples", lambda: os.kill(os.getpid(), signal.SIGINT), epoch=3)
    assert start(listeners=[stop, signal_while_saving]).summary["status"] == "stopped"
    assert signal_while_saving.has_happened


def test_a_signal_that_is_to_be_ignored_is(start, out: Path, undisturbed: Path) -> None:
    """`nohup` starts a process so: it outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        hang_up = At("distillation_step", lambda: os.kill(os.getpid(), signal.SIGHUP))
        outcome = start(listeners=[hang_up])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert hang_up.has_happened
    assert outcome.summary["status"] == "done"
    assert tensor_files(out) == tensor_files(undisturbed)
