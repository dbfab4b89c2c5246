"""Where text goes: stdout carries data, stderr everything else.

Rich is imported on first use, so that `ssdkd --help` does not pay for it. Consoles take text literally (no
`[bold]` markup, no emoji codes): what a user typed is never interpreted. Off a terminal there are no colours,
and no line is wrapped or cut; on one, lines are broken at spaces, and no command in backticks within.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import IO, TYPE_CHECKING, Any, cast

from ssdkd_cli.words import escaped
from stages.events import finite

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Column

WIDTH_OFF_TERMINAL = 1000
"""Wide enough that no table of ours is cut where nobody's screen sets the limit."""

_TOGETHER = re.compile(r"(?<!\w)`[^`]*`(?!\w)| {2,}")
"""What no line break may be in: commands, and the spaces that put one thing below another."""

_reserved: IO[str] | None = None


@contextmanager
def reserved_stdout() -> Iterator[None]:
    """Within this context stdout is for this module alone; what a network of the user's prints goes to stderr."""
    global _reserved
    before, _reserved = _reserved, _data_stream()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _reserved = before


def _data_stream() -> IO[str]:
    return sys.stdout if _reserved is None else _reserved


def stdout() -> Console:
    """The console for data and for reports that people asked for."""
    return _console(_data_stream())


def stderr() -> Console:
    """The console for progress, warnings and errors."""
    return _console(sys.stderr)


def is_terminal(stream: IO[str] | None) -> bool:
    """Whether a person is at the other end of the stream; None is one that was closed."""
    return stream is not None and stream.isatty()


def has_screen() -> bool:
    """Whether a full-screen program can run here: keys come in, and all output goes to a terminal that is not dumb.

    Or to a browser, for which a server has set textual's own variable.
    """
    if "TEXTUAL_DRIVER" in os.environ:
        return True
    is_dumb = os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
    return not is_dumb and all(is_terminal(stream) for stream in (sys.stdin, sys.stdout, sys.stderr))


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """The one JSON document of a command with `--json`, on stdout; NaN and infinity become null."""
    _data_stream().write(json.dumps(finite(document), indent=2, allow_nan=False) + "\n")


def print_text(text: str) -> None:
    """Data as it is, on stdout, with a final newline."""
    _data_stream().write(text if text.endswith("\n") else text + "\n")


def printable(text: str) -> str:
    """`text` with control characters but line breaks and tabs written as escapes."""
    return escaped(text, keep="\n\t")


def in_lines(text: str, stream: IO[str], *, indent: int = 2) -> str:
    """`text` in lines that fit the terminal that `stream` is, if it is one; lines after a break are indented further.

    Lines are broken at spaces: not within a word or a path without spaces, nor within a command in backticks, which
    could not be copied then. What of these is longer than a line is left to the terminal.
    """
    width = _console(stream).width
    if width < 1 or not is_terminal(stream):
        return text
    return "\n".join(_broken(line, width, min(indent, width // 2)) for line in text.split("\n"))


def _broken(line: str, width: int, indent: int) -> str:
    margin = " " * (len(line) - len(line.lstrip(" ")) + indent)
    held_together = _TOGETHER.sub(lambda found: found[0].replace(" ", "\0"), line)
    lines = textwrap.wrap(
        held_together, width, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines).replace("\0", " ")


def say(text: str = "", *, style: str = "", is_whole: bool = False, indent: int = 2) -> None:
    """A line on stdout for people, without control characters and as `in_lines` breaks it.

    `is_whole` is for a line that ends in a path, or is itself a command, to copy.
    """
    text = printable(text)
    text = text if is_whole else in_lines(text, _data_stream(), indent=indent)
    stdout().print(text, style=style, soft_wrap=True)


def print_facts(facts: Iterable[tuple[str, str]]) -> None:
    """Pairs of a name and what is to be said of it, a line each, the second column aligned."""
    facts = list(facts)
    width = max((len(name) for name, _ in facts), default=0) + 2
    for name, value in facts:
        say(f"{name:<{width}}{value}", indent=width - (len(name) - len(name.lstrip(" "))))


def print_rows(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table for people on a terminal; elsewhere one row a line, columns separated by tabs, no header."""
    rows = [[escaped(cell) for cell in row] for row in rows]
    if not is_terminal(_data_stream()):
        for row in rows:
            print_text("\t".join(row))
        return
    from rich.table import Column

    # The last column is prose and may wrap; a name that is cut is of no use.
    columns = [
        Column(title, overflow="fold", no_wrap=position < len(header) - 1) for position, title in enumerate(header)
    ]
    print_table(columns, rows)


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """A table for people, on a terminal or not, without control characters."""
    from rich.table import Table

    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*map(escaped, row))
    stdout().print(table)


@cache
def _console_class() -> type[Console]:
    from rich.console import Console

    class PatientConsole(Console):
        """Rich's console ends the process when nobody reads its output any more; this one drops the rest of it."""

        def on_broken_pipe(self) -> None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.file.fileno())
            os.close(nowhere)

    return PatientConsole


class _Stream:
    """A stream that reports a terminal that is gone (EIO) as a closed pipe, so that Rich handles both alike."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._told_as_broken_pipe():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._told_as_broken_pipe():
            self._stream.flush()

    @contextmanager
    def _told_as_broken_pipe(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno != errno.EIO or not stat.S_ISCHR(os.fstat(self._stream.fileno()).st_mode):
                raise  # EIO of a disk is a failure
            raise BrokenPipeError(errno.EPIPE, error.strerror) from error


def _console(stream: IO[str]) -> Console:
    # Rich would believe FORCE_COLOR and the like, and send control codes into files.
    is_seen = is_terminal(stream)
    return _console_class()(
        file=cast("IO[str]", _Stream(stream)),
        width=None if is_seen else WIDTH_OFF_TERMINAL,
        force_terminal=is_seen,
        force_interactive=None if is_seen else False,
        markup=False,
        emoji=False,
        highlight=False,
    )
