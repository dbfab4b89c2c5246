"""What the recorder tells of a run's pace, by a clock that is moved by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from stages import recorder
from stages.accounts import Accounts
from stages.events import EventLog
from stages.run_directory import RunDirectory


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


def test_the_device_is_looked_at_before_the_host_writes_the_report(
    make_run, fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    report_of = recorder.report_of

    def note_report(*args, **settings):
        done.append("report")
        return report_of(*args, **settings)

    monkeypatch.setattr(recorder, "report_of", note_report)
    monkeypatch.setattr(recorder, "utilisation", lambda _device, **_times: done.append("look"))
    run = make_run(run={"threads": 1})
    fill(run, 5)
    directory = RunDirectory.create(tmp_path / "run", "run")
    with directory.events_file.open("ab", buffering=0) as file:
        log = EventLog(file)
        log.listeners.append(lambda event, _epoch: done.append(event.kind))
        meta = SimpleNamespace(alpha=0.6, epsilon=1e-6)
        recorder.Recorder(run, directory, log, buffer_meta=meta).finish_epoch()
    assert done == ["look", "report", "buffer_state", "device"]
