"""Data on stdout: one JSON document, whole rows, no control codes."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssdkd_cli import console, diagnostics, progress, summary
from ssdkd_cli.commands import launching
from ssdkd_cli.signals import Ending
from stages.errors import ConfigError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_is_strict(capfd):
    console.print_json({"loss": float("nan"), "shares": [0.5, float("inf")], "name": "é"})
    text = capfd.readouterr().out
    assert json.loads(text, parse_constant=pytest.fail) == {"loss": None, "shares": [0.5, None], "name": "é"}


def test_rows_off_a_terminal_are_whole_and_without_header(capfd):
    name = "a-very-long-name-" * 20
    console.print_rows(("name", "what"), [(name, "first"), ("b", "[second]")])
    assert capfd.readouterr().out == f"{name}\tfirst\nb\t[second]\n"


def test_rows_move_no_cursor(monkeypatch, capfd):
    console.print_rows(("name", "what"), [("runs/\x1b[31mred", "a\ttab")])
    assert capfd.readouterr().out == "runs/\\x1b[31mred\ta\\ttab\n"
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    console.print_rows(("name", "what"), [("runs/\x1b[31mred", "")])
    assert "\x1b[31m" not in terminal.getvalue()
    assert "runs/\\x1b[31mred" in terminal.getvalue()


def test_rows_on_a_terminal_have_a_header_and_keep_names_whole(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    console.print_rows(("name", "what"), [("cifar100-wrn-40-1-relaxed", "words and words and words and words")])
    text = terminal.getvalue()
    assert "what" in text.splitlines()[0]
    assert "cifar100-wrn-40-1-relaxed" in text


@pytest.mark.parametrize(("no_color", "expected"), [("", True), ("1", False)])
def test_no_color_is_honoured_on_a_terminal(monkeypatch, no_color, expected):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", no_color)
    console.stderr().print("text", style="red")
    assert ("\x1b[31m" in terminal.getvalue()) is expected


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_a_file_gets_no_control_codes_whatever_the_environment_says(monkeypatch, capfd, name):
    monkeypatch.setenv(name, "1")
    console.stderr().print("text", style="red")
    assert capfd.readouterr().err == "text\n"
    assert not console.stderr().is_interactive


def test_what_is_to_be_copied_is_not_broken_and_moves_no_cursor(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    console.say("  ssdkd inspect-buffer runs/a-long-name-\x1b[2J", is_whole=True)
    assert terminal.getvalue() == "  ssdkd inspect-buffer runs/a-long-name-\\x1b[2J\n"


def test_a_terminal_that_says_it_has_no_columns_breaks_lines_itself(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "0")
    assert console.in_lines("one two", terminal) == "one two"


def test_facts_are_aligned(monkeypatch, capfd):
    facts = [("a", "1"), ("long name", "two words of many"), ("sum", "0123456789abcdef0123456789abcdef")]
    console.print_facts(facts)
    whole = "a          1\nlong name  two words of many\nsum        0123456789abcdef0123456789abcdef\n"
    assert capfd.readouterr().out == whole
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "24")
    console.print_facts(facts)
    assert terminal.getvalue() == whole.replace(" many", "\n           many")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("a line of words that is too long for it", ["a line of words that is", "  too long for it"]),
        ("  - in a list that goes on and on", ["  - in a list that goes", "    on and on"]),
        ("one line\nand another one", ["one line", "and another one"]),
        ("go on with `ssdkd run --resume r` now", ["go on with", "  `ssdkd run --resume r`", "  now"]),
        ("the file some/path/to/a-file.pt is gone", ["the file", "  some/path/to/a-file.pt", "  is gone"]),
        ("sum 0123456789abcdef0123456789abcdef is it", ["sum", "  0123456789abcdef0123456789abcdef", "  is it"]),
        ("what's `half a quote and the rest of it", ["what's `half a quote and", "  the rest of it"]),
        ("don`t break `ssdkd run --seed 1` up", ["don`t break", "  `ssdkd run --seed 1`", "  up"]),
        ("exactly as wide as it is", ["exactly as wide as it is"]),
        ("", [""]),
    ],
)
def test_lines_on_a_terminal_break_at_spaces(monkeypatch, capfd, text, lines):
    """What is longer than a line is left whole, for the terminal to break."""
    diagnostics.note(text)
    assert capfd.readouterr().err == text + "\n"
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(f"sys.{name}", Terminal())
    monkeypatch.setenv("COLUMNS", "24")
    diagnostics.note(text)
    console.say(text)
    assert sys.stderr.getvalue().split("\n")[:-1] == lines
    assert sys.stdout.getvalue() == sys.stderr.getvalue()


def test_errors_and_hints_on_a_terminal_break_at_spaces(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("NO_COLOR", "1")
    diagnostics.report(ConfigError("the key `a` is of no use here", hint="leave it out, or say `--set b=1` instead"))
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue()).splitlines() == [
        "error: the key `a` is of no",
        "  use here",
        "hint: leave it out, or say",
        "  `--set b=1` instead",
    ]


@pytest.mark.parametrize(
    ("terminal_type", "are_terminals", "has_screen"),
    [("xterm", True, True), ("dumb", True, False), (None, True, False), ("xterm", False, False)],
)
def test_a_screen_is_a_terminal_that_is_not_dumb(monkeypatch, terminal_type, are_terminals, has_screen):
    if terminal_type is None:
        monkeypatch.delenv("TERM", raising=False)
    else:
        monkeypatch.setenv("TERM", terminal_type)
    monkeypatch.setattr(console, "is_terminal", lambda _: are_terminals)
    assert console.has_screen() is has_screen


def goes_nowhere(stream):
    return os.path.samestat(os.fstat(stream.fileno()), Path(os.devnull).stat())


def test_where_nobody_reads_any_more_the_rest_goes_nowhere(monkeypatch):
    """A run goes on, and so does its exit code."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        diagnostics.note("heard")
        assert os.read(reading, 100) == b"heard\n"
        os.close(reading)
        for _ in range(2):
            diagnostics.note("not heard")
        assert goes_nowhere(stream)


def test_a_terminal_that_goes_under_a_bar_does_not_end_what_the_bar_shows(monkeypatch):
    terminal, program = pty.openpty()
    with os.fdopen(program, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with progress.training_display() as listener:
            listener(1, 3, 0.5, 0.9)
            assert os.read(terminal, 1)
            os.close(terminal)
            listener(2, 3, 0.4, 0.9)
        diagnostics.note("and so on")
        assert goes_nowhere(stream)


class FailingDisk(io.StringIO):
    def __init__(self, file, number):
        super().__init__()
        self.fileno = file.fileno
        self.number = number

    def write(self, _text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_failing_disk_is_no_reader_that_has_gone(monkeypatch, tmp_path, number):
    with (tmp_path / "report").open("w") as file:
        monkeypatch.setattr(sys, "stdout", FailingDisk(file, number))
        with pytest.raises(OSError, match=re.escape(os.strerror(number))):
            console.stdout().print("a line")
        monkeypatch.setattr(sys, "stderr", FailingDisk(file, number))
        times = iter([0.0, 1e9, 2e9, 3e9])
        with progress.training_display(clock=lambda: next(times)) as listener:
            listener(1, 3, 0.5, 0.9)  # a teacher in training goes on


def test_a_reader_that_has_gone_changes_no_exit_code(monkeypatch, tmp_path):
    """`ssdkd run --no-tui | tee log` and Ctrl-C, which ends tee, too."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        outcome = SimpleNamespace(
            summary={"status": "stopped", "epochs": 3, "run": "r", "seconds": {}}, error=None, run_directory=tmp_path
        )
        monkeypatch.setattr(summary, "print_summary", lambda *_: console.say("a summary"))
        assert launching._finish(outcome, launching.LaunchRequest(command="run"), Ending()) == 75
