"""Errors become text on stderr and an exit code, in one style."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from ssdkd_cli import console, diagnostics
from stages.errors import (
    ConfigError,
    DivergedError,
    FileError,
    MachineError,
    Problem,
    SsdkdError,
    StorageError,
)


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), 2),
        (FileError("x"), 3),
        (MachineError("x"), 4),
        (DivergedError("x"), 5),
        (StorageError("x"), 1),
        (SsdkdError("x"), 1),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error, code, capfd):
    assert diagnostics.run_command(raising(error)) == code
    assert capfd.readouterr().out == ""


def test_an_input_that_is_over_is_no_ctrl_c(call, monkeypatch):
    """Typer takes it for the end of what it had asked for."""

    def read(*_arguments, **_options):
        raise EOFError("Ran out of input")

    monkeypatch.setattr("presets.names", read)
    result = call("presets", "ls")
    assert result.code == 1
    assert "EOFError: Ran out of input" in result.err
    assert "Abort" not in result.err.splitlines()[-3]


def test_a_child_of_a_known_error_has_its_parents_code():
    class OddFileError(FileError):
        pass

    assert diagnostics.exit_code_of(OddFileError("x")) == 3


def test_what_a_command_returns_is_the_exit_code():
    assert diagnostics.run_command(lambda: 75) == 75
    assert diagnostics.run_command(lambda: None) == 0


def test_an_error_is_two_lines_that_are_not_wrapped(capfd):
    message = "a long story " * 30
    diagnostics.report(FileError(message.strip(), hint="do this"))
    assert capfd.readouterr().err == f"error: {message.strip()}\nhint: do this\n"


def test_all_problems_of_a_configuration_are_told(capfd):
    problems = [Problem("first", "one"), Problem("second"), Problem("third", "three")]
    diagnostics.report(ConfigError("3 problems", problems=problems))
    assert capfd.readouterr().err.splitlines() == [
        *("error: first", "hint: one"),
        "error: second",
        *("error: third", "hint: three"),
    ]


def test_what_a_user_typed_is_neither_markup_nor_a_control_code(capfd):
    diagnostics.report(FileError("no [bold]file[/bold] :smile: \x1b[31mred\x07"))
    assert capfd.readouterr().err == "error: no [bold]file[/bold] :smile: \\x1b[31mred\\x07\n"


def test_an_unexpected_exception_is_our_bug(capfd):
    assert diagnostics.run_command(lambda: console.print_text(None)) == 1
    error = capfd.readouterr().err
    assert "Traceback" in error
    assert "AttributeError: 'NoneType'" in error
    assert "error: this is a bug in ssdkd" in error


def test_an_exception_of_somebody_elses_code_is_not(capfd):
    assert diagnostics.run_command(raising(ZeroDivisionError("oops"))) == 1
    error = capfd.readouterr().err
    assert "Traceback" in error
    *_, error_line, hint_line = error.splitlines()
    line = raising.__code__.co_firstlineno + 2
    assert error_line == f"error: ZeroDivisionError: oops ({__file__}:{line}, which is no part of ssdkd)"
    assert hint_line.startswith("hint: correct it there")
    assert "bug in ssdkd" not in error


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["rnu"], "no such command `rnu`", "did you mean `run`?"),
        (["presets", "shw"], "no such command `shw`", "did you mean `show`?"),
        (["qqqqq"], "no such command `qqqqq`", "`ssdkd --help` lists them"),
        (["run", "--sed", "1"], "no such option `--sed`", "did you mean `--seeds`?"),
        (["run", "--no-tiu"], "no such option `--no-tiu`", "did you mean `--no-tui`?"),
        (["run", "--preset"], "option '--preset' requires an argument", "`--help` after the command shows"),
        (["evaluate"], "missing argument 'RUN|WEIGHTS'", "`ssdkd evaluate --help` shows what it takes"),
        (["run", "digits"], "unexpected extra argument", "a preset is named by an option: `--preset digits`"),
        (["run", "mine.toml"], "unexpected extra argument", "a preset is named by an option: `--preset mine.toml`"),
        (["run", "run.seed=3"], "unexpected extra argument", "an option of its own: `--set run.seed=3`"),
        (["run", "--seeds", "0", "1"], "unexpected extra argument", "`ssdkd run --help` shows what it takes"),
        (["run", "a", "b"], "unexpected extra argument", "`ssdkd run --help` shows what it takes"),
        (["doctor", "digits"], "unexpected extra argument", "`ssdkd doctor --help` shows what it takes"),
    ],
)
def test_mistakes_on_the_command_line_itself(call, arguments, error, hint):
    result = call(*arguments)
    assert result.code == 2
    assert result.out == ""
    error_line, hint_line = result.err.splitlines()
    assert error_line.startswith("error: ")
    assert error in error_line
    assert hint_line.startswith("hint: ")
    assert hint in hint_line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_no_bug_of_ours():
    command = [sys.executable, "-m", "ssdkd_cli", "presets", "show", "digits"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: cannot write the output: No space left on device",
        "hint: free some space",
    ]


def test_a_name_that_is_not_text_is_shown_escaped(capfd):
    assert diagnostics.run_command(lambda: console.print_text("folder-\udcff")) == 0
    assert capfd.readouterr().out == "folder-\\udcff\n"


def test_a_reader_who_has_seen_enough_hears_nothing():
    program = [sys.executable, "-m", "ssdkd_cli", "presets", "show", "digits"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(program, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    os.close(writing)
    assert done.stderr == ""
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "redirection", "code"),
    [("presets show nope", "2>&-", 2), ("presets show nope", "2>&1 >&- | true", 2), ("presets ls", ">&-", 0)],
)
def test_the_exit_code_tells_also_where_nobody_reads(arguments: str, redirection: str, code: int):
    command = f"set -o pipefail; {shlex.quote(sys.executable)} -m ssdkd_cli {arguments} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


def test_no_file_takes_the_place_of_a_stream_that_the_shell_closed(tmp_path: Path) -> None:
    """What is written to stderr, a stop's message for one, would go into it: a run's lock."""
    opened = tmp_path / "opened"
    code = f"""
import os, pathlib
import ssdkd_cli.main as main
from ssdkd_cli.__main__ import main as begin
main.main = lambda: pathlib.Path({str(opened)!r}).write_text(str(os.open(os.devnull, os.O_RDONLY)))
begin()
"""
    shell = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- >&- 2>&-"
    subprocess.run(["sh", "-c", shell], check=True)
    assert int(opened.read_text()) > 2
