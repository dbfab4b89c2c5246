"""What a run hears between two steps: signals, first and second ones, a lost terminal, requests."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from stages.accounts import Accounts
from stages.errors import StorageError
from stages.run import StopRequested
from stages.run_directory.control import Request
from stages.safe_point import SafePoint


def recorder_of(**parts: Any) -> Any:
    """As much of a recorder as a safe point needs."""
    return SimpleNamespace(accounts=Accounts(), tell_now_and_then=lambda: None, **parts)


@pytest.fixture
def safe_point():
    before = signal.getsignal(signal.SIGHUP)
    yield SafePoint(recorder_of(), SimpleNamespace(poll=list), save=lambda: None)
    signal.signal(signal.SIGHUP, before)


def test_a_hang_up_asks_for_a_stop(safe_point):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with safe_point.listening_to_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        with pytest.raises(StopRequested):
            safe_point()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL


def test_a_checkpoint_that_cannot_be_saved_is_refused():
    answers = []
    requests = [Request(id=str(number), action="checkpoint") for number in range(2)]

    def save():
        raise StorageError("no space left", hint="free some")

    safe_point = SafePoint(recorder_of(emit=answers.append), SimpleNamespace(poll=lambda: requests), save=save)
    safe_point()
    assert [(answer.id, answer.accepted, answer.message) for answer in answers] == [
        ("0", False, "no space left"),
        ("1", False, "no space left"),
    ]


def test_the_first_signal_is_answered_at_once_and_once(monkeypatch):
    told = []
    now_s = [100.0]
    monkeypatch.setattr("stages.safe_point.monotonic", lambda: now_s[0])
    safe_point = SafePoint(
        recorder_of(),
        SimpleNamespace(poll=list),
        save=lambda: None,
        on_signal=lambda: told.append("saving"),
    )
    with safe_point.listening_to_signals():
        os.kill(os.getpid(), signal.SIGINT)
        assert told == ["saving"]
        now_s[0] += 0.3
        os.kill(os.getpid(), signal.SIGINT)  # the same key press, passed on by whoever started this process
        now_s[0] += 5
        os.kill(os.getpid(), signal.SIGTERM)  # nobody insists by these: shells and launchers send them twice
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StopRequested):
            safe_point()
    assert told == ["saving"]


def test_a_hang_up_that_is_ignored_stays_ignored(safe_point):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with safe_point.listening_to_signals():
        os.kill(os.getpid(), signal.SIGHUP)
        safe_point()
        os.kill(os.getpid(), signal.SIGTERM)  # the other signals are heard all the same
        with pytest.raises(StopRequested):
            safe_point()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
