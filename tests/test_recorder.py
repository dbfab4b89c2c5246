"""What the recorder tells of a run's pace, by a clock that is moved by hand."""

from __future__ import annotations

import pytest

from stages import recorder
from stages.accounts import Accounts


def test_a_pause_is_no_idle_time(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    told_s: list[float] = []
    monkeypatch.setattr(recorder, "utilisation", lambda _device, **times: told_s.append(times["elapsed_s"]))
    now_s = 0.0
    accounts = Accounts(lambda: now_s)
    meter = recorder._Meter(make_run(run={"threads": 1}), accounts)
    now_s += 3
    with accounts.waiting():
        now_s += 3600
    meter.utilisation()
    now_s += 2
    meter.utilisation()
    assert told_s == [3, 2]
