"""Errors to stderr text and exit codes: the only place that writes them.

A mistake of the user's gets `error: what, the value, where` and `hint: what to do`; a traceback is our bug, or one of
code that is not ours, and then it says so.
"""

from __future__ import annotations

import errno
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, suppress
from difflib import get_close_matches
from enum import IntEnum
from pathlib import Path
from typing import Any

import typer

from ssdkd_cli import console
from stages.errors import (
    ConfigError,
    DivergedError,
    FileError,
    MachineError,
    Problem,
    RunInterrupted,
    SsdkdError,
    StorageError,
)


class ExitCode(IntEnum):
    """What the process ends with (part of the command line's contract)."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    FILE = 3
    MACHINE = 4
    DIVERGED = 5
    STOPPED = 75
    """Stopped by a signal with everything saved; resume to go on (EX_TEMPFAIL of sysexits.h)."""
    INTERRUPTED = 130
    """Ctrl-C with nothing to save, or the second one."""


_EXIT_CODES: dict[type[SsdkdError], ExitCode] = {
    ConfigError: ExitCode.USAGE,
    FileError: ExitCode.FILE,
    MachineError: ExitCode.MACHINE,
    DivergedError: ExitCode.DIVERGED,
    StorageError: ExitCode.FAILED,
}

# Typer exports BadParameter but not its base, the class of every mistake on the command line.
UsageError: type[Any] = typer.BadParameter.__mro__[1]


def exit_code_of(error: SsdkdError) -> ExitCode:
    """The exit code that tells a script what kind of failure this was."""
    for kind in type(error).__mro__:
        if kind in _EXIT_CODES:
            return _EXIT_CODES[kind]
    return ExitCode.FAILED


def warn(message: str, *, hint: str | None = None) -> None:
    """Something the user should know that stops nothing: a `warning:` line on stderr."""
    _print_labelled("warning", message, style="bold yellow")
    if hint:
        print_hint(hint)


def print_hint(hint: str) -> None:
    """A `hint:` line on stderr: what to do next."""
    _print_labelled("hint", hint, style="bold cyan")


STOP_IS_COMING = "saving and stopping at the next safe point (Ctrl-C ends it at once)"


def say_that_a_stop_is_coming() -> None:
    """In a signal's handler: straight to the terminal, past whatever was being printed when the signal came."""
    with suppress(OSError):  # that the terminal is gone may be what the signal says
        os.write(2, f"\n{STOP_IS_COMING}\n".encode())


def note(text: str, *, is_whole: bool = False) -> None:
    """A line on stderr for people, neither a warning nor an error; with `is_whole` one that nothing may break."""
    text = console.printable(text)
    console.stderr().print(text if is_whole else console.in_lines(text, sys.stderr), soft_wrap=True)


def report(error: SsdkdError) -> None:
    """`error:` lines on stderr with their hints, all problems of a configuration at once."""
    problems = error.problems if isinstance(error, ConfigError) else (Problem(error.message, error.hint),)
    for problem in problems:
        _print_labelled("error", problem.message, style="bold red")
        if problem.hint:
            print_hint(problem.hint)


def report_interruption(interrupt: KeyboardInterrupt) -> None:
    """What a second Ctrl-C has left of a run, where it ended one."""
    if isinstance(interrupt, RunInterrupted):
        with ignoring_output_errors():
            note(interrupt.message)
            print_hint(interrupt.hint)


def run_command(command: Callable[[], object]) -> int:
    """Call `command`, report what goes wrong, and return the exit code of the process."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell (`2>&-`): what is written there goes nowhere
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The name of a folder need not be text: it is shown escaped rather than not at all.
        sys.stdout.reconfigure(errors="backslashreplace")
    code = _call(command)
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is still buffered must go somewhere, or the interpreter complains when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return code or _report_output(error)
    return code


def _call(command: Callable[[], object]) -> int:
    """What `command` returns or raises, as an exit code."""
    try:
        result = command()
        return result if isinstance(result, int) else ExitCode.DONE
    except SsdkdError as error:
        with ignoring_output_errors():
            report(error)
        return exit_code_of(error)
    except UsageError as error:
        with ignoring_output_errors():
            _report_usage(error)
        return ExitCode.USAGE
    except typer.Abort as abort:  # Typer raises it for any EOFError, as if its own prompt had met it
        if isinstance(abort.__cause__, EOFError):
            return _report_unexpected(abort.__cause__)
        return ExitCode.INTERRUPTED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            return _report_output(error)
        if isinstance(error, PermissionError) and _is_the_users(error):
            return ExitCode.FILE
        return _report_unexpected(error)


def _is_the_users(error: PermissionError) -> bool:
    """Report a PermissionError, unless a network or plugin that was called raised it; whether it was reported."""
    from stages.foreign_code import foreign_place

    if foreign_place(error) is not None:
        return False
    hint = "you may not read it, write it, or enter a folder above it"
    with ignoring_output_errors():
        report(FileError(f"no access to {error.filename or 'a file'}: {error.strerror}", hint=hint))
    return True


def ignoring_output_errors() -> AbstractContextManager[None]:
    """Within this context it does not matter if stdout or stderr cannot be written (nobody reads them, the disk is
    full): the exit code tells how the command ended."""
    return suppress(OSError)


def _report_unexpected(error: Exception) -> ExitCode:
    """Print the traceback, and below it whose bug it is: ssdkd's, or that of a network or plugin that it called."""
    from stages.foreign_code import foreign_place

    traceback.print_exception(error)
    place = foreign_place(error)
    if place is None:
        _print_labelled("error", "this is a bug in ssdkd, not a mistake of yours", style="bold red")
        print_hint("please report it with the lines above and what `ssdkd doctor` prints")
    else:
        told = f"{type(error).__name__}: {error} ({place}, which is no part of ssdkd)"
        _print_labelled("error", told, style="bold red")
        print_hint("correct it there; the lines above say how ssdkd came to call it")
    return ExitCode.FAILED


def _report_output(error: OSError) -> ExitCode:
    """Report that output could not be written, unless its reader closed the pipe (`| head -1`)."""
    if error.errno != errno.EPIPE:
        report(StorageError(f"cannot write the output: {error.strerror}", hint="free some space"))
    return ExitCode.FAILED


def _report_usage(error: Any) -> None:
    """A mistake on the command line itself, in the style of all others, with the nearest match."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "ssdkd"
    if type(error).__name__ == "NoArgsIsHelpError":  # no command was given, and the message is the help text
        sys.stderr.write(error.message + "\n")
        return
    option = getattr(error, "option_name", None)
    unknown_command = re.match(r"No such command '(.*?)'", error.message)
    if unknown_command:
        name = unknown_command[1]
        known = context.command.list_commands(context) if context is not None else []
        report(ConfigError(f"no such command `{name}`", hint=_nearest(name, known, f"{path} --help")))
    elif option is not None and error.message.lower().startswith("no such option"):
        known = context.command.params if context is not None else []
        known = [text for parameter in known for text in (*parameter.opts, *parameter.secondary_opts)]
        report(ConfigError(f"no such option `{option}`", hint=_nearest(option, known, f"{path} --help")))
    else:
        message = error.format_message().rstrip(".")
        message = message[:1].lower() + message[1:]
        shown = "`--help` after the command" if context is None else f"`{path} --help`"
        hint = f"{shown} shows what it takes"
        surplus = re.fullmatch(r"got unexpected extra argument\(?s?\)? \((\S+)\)", message)
        if surplus and context is not None:
            hint = _option_for(surplus[1], {text for each in context.command.params for text in each.opts}) or hint
        report(ConfigError(message, hint=hint))


def _option_for(word: str, options: Collection[str]) -> str | None:
    """What to say of a word too many that is what an option takes; None where it is not."""
    import presets

    if "--preset" in options and (word.endswith(".toml") or word in presets.names()):
        return f"a preset is named by an option: `--preset {word}`"
    if "--set" in options and re.match(r"[\w.]+=", word):
        return f"each setting has an option of its own: `--set {word}`"
    return None


def _nearest(name: str, known: Sequence[str], help_command: str) -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f"did you mean `{near[0]}`?"
    return f"`{help_command}` lists them"


def _print_labelled(label: str, text: str, *, style: str) -> None:
    """`label: text` on stderr, on a terminal in lines that fit it."""
    from rich.text import Text

    line = Text(console.in_lines(f"{label}: {console.printable(text)}", sys.stderr))
    line.stylize(style, 0, len(label) + 1)
    console.stderr().print(line, soft_wrap=True)
