"""`ssdkd run` on a terminal: what starts a trainer as a process of its own, and what it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ssdkd_cli import console
from ssdkd_cli.commands.launching import LaunchRequest, arguments_of


@pytest.fixture(autouse=True)
def _on_a_terminal(monkeypatch) -> None:
    monkeypatch.setattr(console, "has_screen", lambda: True)


def test_the_dashboard_for_several_seeds_is_refused(call):
    result = call("run", "--tui", "--seeds", "0,1")
    assert result.code == 2
    assert "--seeds" in result.err


@pytest.mark.parametrize(
    "options",
    [
        ["--no-tui"],
        ["--json"],
        ["--dry-run"],
        ["--estimate"],
        ["--seeds", "0,1"],
        ["--json", "--tui"],
        ["--dry-run", "--tui"],
    ],
    ids=" ".join,
)
def test_what_stays_in_the_process_that_was_started(call, monkeypatch, options):
    monkeypatch.setattr("ssdkd_cli.commands.launching.TrainerProcess", None)  # starting one would fail
    result = call("run", "--set", "teacher.weights=nowhere.pt", *options)
    assert result.code == 3
    assert "nowhere.pt" in result.err


def test_on_a_terminal_the_trainer_is_asked_for_the_same(call, monkeypatch):
    asked = []

    class Asked:
        def __init__(self, arguments):
            asked.append(arguments)

        def wait_until_ready(self, *, meanwhile):
            meanwhile()

        def exit_code(self):
            return 4

        def killed_by(self):
            return None

    monkeypatch.setattr("ssdkd_cli.commands.launching.TrainerProcess", Asked)
    assert call("run", "--set", "run.epochs=30", "--out", "new", "--device", "cpu").code == 4
    assert asked == [["run", "--no-tui", "--set", "run.epochs=30", "--out", "new", "--device", "cpu"]]
    assert call("run", "--set", "run.epoch=30").code == 2  # refused at once
    assert call("run", "--resume", "nowhere").code == 3
    assert len(asked) == 1


def test_the_arguments_ask_for_the_same_again():
    request = LaunchRequest(
        command="distill",
        preset=["a", "b.toml"],
        overrides=["x=1", "y = [2, 3]"],
        out=Path("a folder"),
        device="cpu",
        buffer="-odd",
        train_teacher=True,
    )
    assert arguments_of(request) == [
        *("distill", "--no-tui", "--preset", "a", "--preset", "b.toml", "--set", "x=1", "--set", "y = [2, 3]"),
        *("--buffer", "-odd", "--out", "a folder", "--device", "cpu", "--train-teacher"),
    ]
    assert arguments_of(LaunchRequest(command="run", resume="r", tui=True)) == ["run", "--no-tui", "--resume", "r"]


def test_a_trainer_that_is_killed_before_its_first_word_is_told_of(call, monkeypatch):
    start = subprocess.Popen
    monkeypatch.setattr(
        subprocess,
        "Popen",
        lambda _arguments, **options: start([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **options),
    )
    result = call("run", "--out", "new")
    assert result.code == 137
    assert "SIGKILL ended the run before it had begun" in result.err
    assert "ssdkd doctor" in result.err
