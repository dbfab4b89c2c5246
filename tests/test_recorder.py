"""What the recorder tells of a run's pace, by a clock that is moved by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from hand_clock import HandClock

from stages import events, recorder
from stages.accounts import Accounts
from stages.buffer.replay_buffer import ReplayBuffer
from stages.events import EventLog
from stages.run_directory import RunDirectory
from stages.safe_point import SafePoint


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


def test_images_per_second_are_those_since_the_last_look_by_the_time_of_training(make_run) -> None:
    """Images that were trained on, by the seconds of inversion and distillation: neither evaluation nor idle time."""
    now = HandClock()
    accounts, run = Accounts(now), make_run(run={"threads": 1})
    meter = recorder._Meter(run, accounts)
    assert meter.images_per_s() is None
    for stage, num_images, seconds in (("inversion", 24, 0.5), ("distillation", 40, 1.5), ("evaluation", 0, 7)):
        with accounts.stage(stage):
            now.now_s += seconds
            run.num_trained += num_images
    assert meter.images_per_s() == 32
    assert meter.images_per_s() is None
    with accounts.stage("distillation"):
        now.now_s += 4
        run.num_trained += 10
    assert meter.images_per_s() == 2.5


def test_a_cpu_is_in_use_by_the_share_of_the_runs_threads(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    now, cpu = HandClock(), HandClock(100)
    monkeypatch.setattr(recorder, "time", SimpleNamespace(process_time=cpu))
    meter = recorder._Meter(make_run(run={"threads": 4}), Accounts(now))
    for elapsed_s, used_s, share in ((10, 10, 0.25), (2, 6, 0.75), (1, 5, 1)):
        now.now_s += elapsed_s
        cpu.now_s += used_s
        assert meter.utilisation() == share
    assert meter.utilisation() is None


def test_in_a_long_epoch_the_accounts_are_told_once_a_minute(
    make_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = HandClock(1000.0)
    monkeypatch.setattr(recorder, "time", SimpleNamespace(perf_counter=now, process_time=now))
    told_at_s: list[float] = []
    directory = RunDirectory.create(tmp_path / "run", "run")
    with directory.events_file.open("ab", buffering=0) as file:
        log = EventLog(file)
        log.listeners.append(lambda event, _epoch: told_at_s.append(now.now_s - 1000))
        told = recorder.Recorder(make_run(run={"threads": 1}), directory, log, buffer_meta=SimpleNamespace())
        point = SafePoint(told, SimpleNamespace(poll=list), save=lambda: None)
        for _ in range(30):
            now.now_s += 7
            point()
    assert told_at_s == [63, 126, 189]
    assert {event["kind"] for event in directory.events.newest_first(events.Device.kind)} == {"device"}


def test_the_device_is_looked_at_before_the_host_writes_the_report(
    make_run, fill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    report = ReplayBuffer.report

    def note_report(*args, **settings):
        done.append("report")
        return report(*args, **settings)

    monkeypatch.setattr(ReplayBuffer, "report", note_report)
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
