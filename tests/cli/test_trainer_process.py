"""The trainer as a process of its own, and what its viewer says once either has ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from run_files import append_events, finished, started

from ssdkd_cli import trainer_process
from ssdkd_cli.commands import viewing
from ssdkd_cli.diagnostics import ExitCode
from ssdkd_cli.trainer_process import TrainerProcess, ready_pipe_of_this_process
from stages.run_directory import RunDirectory

CHILD = """
import os, signal, sys
from pathlib import Path
from ssdkd_cli.trainer_process import once_begun, ready_pipe_of_this_process
from stages.events import RunResumed
print("before", flush=True)
begun = once_begun(ready_pipe_of_this_process().tell, Path(sys.argv[1]))
for _ in range(2):
    begun(RunResumed(checkpoint="", checkpoint_seq=0), 0)
print("after", os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, flush=True)
print("and errors", file=sys.stderr, flush=True)
assert "SSDKD_READY_PIPE" not in os.environ and sys.stdin.read() == ""
sys.exit(5)
"""


@pytest.fixture
def trainer_running(monkeypatch):
    """A trainer whose command is a Python text."""

    def start(code: str, *arguments: str) -> TrainerProcess:
        popen = subprocess.Popen
        monkeypatch.setattr(
            trainer_process.subprocess,
            "Popen",
            lambda _, **options: popen([sys.executable, "-c", code, *arguments], **options),
        )
        return TrainerProcess(["run"])

    return start


def test_a_trainer_says_where_its_run_is_and_leaves_the_terminal(trainer_running, tmp_path, capfd):
    trainer = trainer_running(CHILD, str(tmp_path))
    run = trainer.wait_until_ready()
    assert run.path == tmp_path
    assert trainer.exit_code() == 5
    assert capfd.readouterr().out == "before\n"
    said = "after True True\nand errors\n"
    assert (run.trainer_log_file.read_text(), trainer.log_start) == (said, 0)
    again = trainer_running(CHILD, str(tmp_path))
    again.wait_until_ready()
    again.exit_code()
    assert (run.trainer_log_file.read_text(), again.log_start) == (2 * said, len(said))


def test_a_trainer_works_on_where_nobody_waits_for_its_run(trainer_running, tmp_path):
    trainer = trainer_running(CHILD, str(tmp_path))
    os.close(trainer._pipe)  # the terminal was closed meanwhile
    assert trainer.exit_code() == 5
    assert RunDirectory(tmp_path).trainer_log_file.read_text().startswith("after ")


def test_the_last_words_are_of_the_trainer_that_ended_now(tmp_path, capsys):
    run = RunDirectory(tmp_path)
    earlier = "error: no space left\n"
    run.trainer_log_file.write_text(earlier + "epoch 3\n")
    viewing._print_last_words(run, len(earlier))
    assert "no space" not in capsys.readouterr().err
    run.trainer_log_file.write_text(earlier + "epoch 3\nerror: lost\n  hint: other\n")
    viewing._print_last_words(run, len(earlier))
    told = capsys.readouterr().err
    assert "error: lost\n  hint: other\n" in told
    assert "no space" not in told
    run.trainer_log_file.write_text(earlier + "epoch 3\nerror: one\n  hint: a\nerror: two\n  hint: b\n")
    viewing._print_last_words(run, len(earlier))
    assert "error: one\n  hint: a\nerror: two\n  hint: b\n" in capsys.readouterr().err
    bug = "Traceback (most recent call last):\n  in training\nKeyError: 3\nerror: a bug\n  hint: report it\n"
    run.trainer_log_file.write_text(earlier + "epoch 3\nerror: earlier\n" + bug)
    viewing._print_last_words(run, len(earlier))
    told = capsys.readouterr().err
    assert bug in told
    assert "earlier" not in told


def closing_at_once(run: RunDirectory):
    """A dashboard that is closed as soon as it is opened."""
    return viewing._Closed(ExitCode.DONE, run, is_stopping=False)


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [("done", 0, ""), ("stopped", 75, "hint: go on with `ssdkd invert --resume {path}`\n")],
)
def test_a_run_that_ends_under_its_viewer_is_summed_up(
    trainer_running, tmp_path, monkeypatch, capsys, status, code, hint
):
    trainer = trainer_running(CHILD.replace("sys.exit(5)", f"sys.exit({code})"), str(tmp_path))
    run = trainer.wait_until_ready()
    results = {"epochs": 4, "seconds": {"total": 9.0, "inversion": 5.0}, "device": "cpu"}
    append_events(run, [started(), finished(status, **results, images_synthesized=64, buffer_size=64)])
    monkeypatch.setattr(viewing, "_open_dashboard", closing_at_once)
    assert viewing.show_own(run, trainer, command="invert") == code
    told = capsys.readouterr()
    assert f"{tmp_path}: {status}" in told.out
    assert told.err == hint.format(path=tmp_path)


@pytest.mark.parametrize(("shown", "is_stopping"), [(".", False), (".", True), ("another", True)])
def test_a_run_that_goes_on_without_its_viewer_has_no_exit_code_yet(
    trainer_running, tmp_path, monkeypatch, capsys, shown, is_stopping
):
    """Who stopped another run, which was on the screen last, has not stopped their own."""
    trainer = trainer_running(CHILD.replace("sys.exit(5)", "import time; time.sleep(600)"), str(tmp_path))
    run = trainer.wait_until_ready()
    try:
        closed = viewing._Closed(ExitCode.DONE, RunDirectory(tmp_path / shown), is_stopping)
        monkeypatch.setattr(viewing, "_open_dashboard", lambda _run: closed)
        assert viewing.show_own(run, trainer, command="run") == 0
    finally:
        trainer.process.kill()
        trainer.exit_code()
    told = capsys.readouterr()
    is_stopping = is_stopping and shown == "."
    what = "saves everything and stops" if is_stopping else "goes on"
    assert told.err.startswith(f"{tmp_path} {what} without this terminal\n")
    assert f"ssdkd watch {tmp_path}" in told.err
    assert ("runs stop" in told.err) == (not is_stopping)


def test_a_trainer_that_was_killed_at_work_is_told_of(trainer_running, tmp_path, monkeypatch, capsys):
    killed = CHILD.replace("sys.exit(5)", "os.kill(os.getpid(), signal.SIGKILL)")
    trainer = trainer_running(killed, str(tmp_path))
    run = trainer.wait_until_ready()
    trainer.exit_code()
    monkeypatch.setattr(viewing, "_open_dashboard", closing_at_once)
    assert viewing.show_own(run, trainer, command="distill") == 137
    told = capsys.readouterr().err
    assert told.startswith("error: SIGKILL ended the run\n")
    assert f"`ssdkd distill --resume {tmp_path}` goes on from its last checkpoint" in told
    assert "memory" in told
    assert str(run.trainer_log_file) in told


def test_a_trainer_that_is_refused_gives_no_run(trainer_running):
    trainer = trainer_running("import sys; sys.exit(3)")
    assert trainer.wait_until_ready() is None
    assert trainer.exit_code() == 3


def test_a_trainer_imports_nothing_from_the_folder_it_works_in(place, capfd):
    (place / "stages.py").write_text("raise ImportError('not ours')")
    trainer = TrainerProcess(["presets", "ls", "--json"])
    assert trainer.wait_until_ready() is None
    assert trainer.exit_code(timeout_s=60) == 0
    assert "digits" in capfd.readouterr().out


def test_a_trainer_that_was_killed_has_the_code_of_shells(trainer_running):
    trainer = trainer_running("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert trainer.wait_until_ready() is None
    assert trainer.exit_code() == 137


def test_a_trainer_at_work_has_no_exit_code(trainer_running):
    trainer = trainer_running("import time; time.sleep(600)")
    assert trainer.exit_code(timeout_s=0) is None
    trainer.process.kill()
    assert trainer.exit_code() == 137
    os.close(trainer._pipe)


def test_ctrl_c_before_the_run_has_begun_ends_the_trainer_too(trainer_running, tmp_path):
    we_are_ready = tmp_path / "ready"
    trainer = trainer_running(
        "import os, signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(130))\n"
        f"while not os.path.exists({str(we_are_ready)!r}): time.sleep(0.01)\n"
        "os.kill(os.getppid(), signal.SIGINT); time.sleep(600)"
    )
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.wait_until_ready(meanwhile=we_are_ready.touch)
        assert trainer.process.returncode == 130
    finally:
        trainer.process.kill()


def test_without_a_viewer_nobody_is_told(monkeypatch):
    monkeypatch.delenv("SSDKD_READY_PIPE", raising=False)
    before = signal.getsignal(signal.SIGHUP)
    assert ready_pipe_of_this_process() is None
    assert signal.getsignal(signal.SIGHUP) == before
