"""A real run on digits in a pseudo-terminal: what a person does with it, from the first screen to the last."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from child_process import run_ssdkd
from scripted_run import lines_of, run_of_lines, whole_run
from terminal import APP_CLOSED, APP_OPENED, TIMEOUT_S, Terminal

from stages.run_directory import RunDirectory

TINY = {
    "run.warmup_epochs": 2,
    "run.checkpoint_every": 1,
    "run.threads": 1,
    "run.device": "cpu",
    "buffer.capacity": 64,
    "inversion.batch_size": 32,
    "inversion.steps": 2,
    "distillation.batch_size": 32,
    "distillation.steps": 2,
    "evaluation.num_holdout": 16,
}


def options(epochs: int) -> list[str]:
    settings = {**TINY, "run.epochs": epochs, "run.eval_every": epochs}
    return [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]


def snapshot(place: Path) -> dict[str, Any]:
    return json.loads(run_ssdkd("watch", "run", "--once", "--json", cwd=place).out)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder whose runs are stopped, whatever becomes of the test."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield tmp_path
    run = RunDirectory(tmp_path / "run")
    if run.is_alive():
        os.kill(run.lock.owner()["pid"], 9)


@pytest.mark.slow
def test_watch_detach_pause_resume_attach_stop_and_resume(place):
    run = RunDirectory(place / "run")

    with Terminal("run", *options(100_000), "--out", "run", place=place) as terminal:
        terminal.wait_for(APP_OPENED)
        terminal.wait_for(b"digits")  # the run's preset, on the dashboard
        terminal.wait_for(lambda: run.latest_checkpoint() is not None)
        owner = run.lock.owner()["pid"]
        assert os.getsid(owner) == owner != terminal.process.pid  # the trainer is a session of its own
        terminal.press("q")
        terminal.wait_for(APP_CLOSED)
        assert terminal.wait_for_exit() == 0
        assert "ssdkd watch run" in terminal.text()

    assert snapshot(place)["status"] == "running"  # the window is closed, the run goes on
    assert run_ssdkd("runs", "pause", "run", cwd=place).code == 0
    assert snapshot(place)["status"] == "paused"
    assert run_ssdkd("runs", "resume", "run", cwd=place).code == 0
    assert snapshot(place)["status"] == "running"
    epoch = snapshot(place)["progress"]["epoch"]

    with Terminal("watch", "run", place=place, size=(80, 24)) as terminal:
        terminal.wait_for(APP_OPENED)
        terminal.wait_for(lambda: (run.events.last() or {}).get("epoch", 0) > epoch)
        terminal.press("p")
        terminal.wait_for(b"PAUSED")  # the screen says so once the run has answered
        assert run.status() == "paused"
        terminal.press("r")
        terminal.wait_for(b"RUNNING")
        assert run.status() == "running"
        terminal.press("x")
        terminal.wait_for(b"Stop this run?")  # asks first
        terminal.press("y")
        terminal.wait_for(lambda: run.status() == "stopped")
        terminal.press("q")
        assert terminal.wait_for_exit() == 0
        assert "goes on" not in terminal.text()
    assert owner == run.lock.owner()["pid"]
    stopped = snapshot(place)

    with Terminal("run", "--resume", "run", place=place) as terminal:
        terminal.wait_for(APP_OPENED)
        terminal.wait_for(lambda: (run.events.last() or {}).get("epoch", 0) > stopped["progress"]["epoch"])
        assert run.lock.owner()["pid"] != owner
        terminal.close()  # the connection is lost
        terminal.process.wait(TIMEOUT_S)
    resumed = snapshot(place)
    assert resumed["status"] == "running"
    assert run_ssdkd("runs", "checkpoint", "run", cwd=place).code == 0

    with Terminal("watch", "run", "--read-only", place=place) as terminal:
        terminal.wait_for(APP_OPENED)
        assert run_ssdkd("runs", "stop", "run", cwd=place).code == 0
        terminal.wait_for(lambda: run.status() == "stopped")
        terminal.press("q")
        assert terminal.wait_for_exit() == 0
    log = [line["kind"] for line in snapshot(place)["log"]]
    assert log.count("run_resumed") == 1
    assert log.count("run_finished") == 2
    assert run_ssdkd("runs", "verify", "run", cwd=place).code == 0


@pytest.mark.slow
def test_a_run_that_ends_while_it_is_watched_gives_its_summary_and_exit_code(place):
    run = RunDirectory(place / "run")
    with Terminal("run", *options(3), "--out", "run", place=place) as terminal:
        terminal.wait_for(APP_OPENED)
        terminal.wait_for(lambda: run.status() == "done")
        terminal.press("q")
        assert terminal.wait_for_exit() == 0
        assert "run: done" in terminal.text()
        assert "student" in terminal.text()
    assert "run: done" in run.trainer_log_file.read_text(encoding="utf-8")
    with Terminal("run", "--resume", "run", place=place) as terminal:  # nothing is left to do
        assert terminal.wait_for_exit() == 0
        assert APP_OPENED not in terminal.output
        assert "run: done" in terminal.text()


@pytest.mark.slow
def test_a_run_stopped_from_its_own_dashboard_ends_with_75(place):
    run = RunDirectory(place / "run")
    with Terminal("run", *options(100_000), "--out", "run", place=place) as terminal:
        terminal.wait_for(APP_OPENED)
        terminal.wait_for(lambda: run.latest_checkpoint() is not None)
        terminal.press("x")
        terminal.wait_for(b"Stop this run?")
        terminal.press("y")
        terminal.wait_for(lambda: run.status() == "stopped")
        terminal.press("q")
        assert terminal.wait_for_exit() == 75
        assert "run: stopped" in terminal.text()
        assert "ssdkd run --resume run" in terminal.text()


def test_a_viewer_that_is_terminated_gives_the_terminal_back(place):
    run_of_lines(place / "run", lines_of(whole_run(3)))
    with Terminal("watch", "run", place=place) as terminal:
        terminal.wait_for(APP_OPENED)
        terminal.wait_for(b"digits")
        terminal.process.terminate()
        assert terminal.wait_for_exit() == 128 + signal.SIGTERM
        assert APP_CLOSED in terminal.output
        assert b"\x1b[?1000l" in terminal.output, "the mouse is the terminal's again"


@pytest.mark.slow
def test_a_viewer_ends_with_its_terminal_even_where_hang_ups_are_ignored(place):
    """As below `nohup`: the screen is gone all the same, and a viewer that stayed would wait for it for ever."""
    run = RunDirectory(place / "run")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Terminal("run", *options(100_000), "--out", "run", place=place) as terminal:
            terminal.wait_for(APP_OPENED)
            terminal.wait_for(lambda: run.latest_checkpoint() is not None)
            terminal.close()
            assert terminal.process.wait(TIMEOUT_S) == -signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)
    assert run.is_alive(), "the run goes on"


@pytest.mark.slow
def test_a_trainer_that_is_killed_while_it_is_watched(place):
    run = RunDirectory(place / "run")
    with Terminal("run", *options(100_000), "--out", "run", place=place) as terminal:
        terminal.wait_for(APP_OPENED)
        terminal.wait_for(lambda: run.latest_checkpoint() is not None)
        os.kill(run.lock.owner()["pid"], 9)
        terminal.wait_for(b"process is gone")
        terminal.press("q")
        assert terminal.wait_for_exit() == 137
        assert "trainer.log" in terminal.text()
    assert snapshot(place)["status"] == "dead"


REFUSED = {
    "unknown key": (["--set", "run.epoch=1"], 2, "run.epochs"),
    "teacher missing": (["--set", "teacher.weights=nowhere.pt"], 3, "nowhere.pt"),
    "no such device": (["--device", "cuda:99"], 4, "cuda:99"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "code", "names"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_is_told_on_the_terminal_and_leaves_nothing(place, arguments, code, names):
    with Terminal("run", *arguments, place=place) as terminal:
        assert terminal.wait_for_exit() == code
        assert APP_OPENED not in terminal.output
        assert names in terminal.text()
        assert "hint" in terminal.text()
    assert list(place.iterdir()) == []
