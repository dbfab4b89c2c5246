"""Characters that the dashboard draws with, and what stands for them where the terminal shows nothing but ASCII.

Widgets draw with blocks and lines in any case; `AsciiFilter` puts likenesses of the same width in their place. Only
curves and pictures are drawn in another way, for braille cells and coloured half blocks have no likeness.
"""

from __future__ import annotations

import unicodedata

from rich.cells import set_cell_size
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

from ssdkd_cli import charts

BULLET = "·"
LINE_DONE, LINE_LEFT = "━", "─"
FILLS = "█▓▒░·"
"""Textures of the parts of a bar, told apart without colour, in ASCII too."""

STATUS_MARKS = {
    "starting": "◌",
    "running": "●",
    "paused": "‖",
    "stopped": "■",
    "failed": "✗",
    "diverged": "✗",
    "dead": "✗",
    "done": "✓",
}
LEVEL_MARKS = {"info": " ", "warning": "!", "error": "✗"}


def bar(value: float, highest: float, width: int) -> str:
    """A horizontal bar of at most `width` cells, padded to it."""
    return charts.bar(value, highest, width=width, glyphs=charts.BLOCKS).ljust(width)[:width]


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells."""
    return charts.cut(text, max(0, width), charts.BLOCKS) if width > 1 else text[: max(0, width)]


def fit(text: str, width: int) -> str:
    """`text` in `width` cells, cut or padded: some characters take two of them, some none."""
    return set_cell_size(cut(text, width), width)


# Likenesses, in as many cells, of what our panels and the widgets of the toolkit draw with.
_TABLE = str.maketrans(
    dict.fromkeys("─╌╍┄┅┈┉╴╶╸╺╾╼▔‒–—·", "-")
    | dict.fromkeys("━═▓", "=")
    | dict.fromkeys("│┃║╵╷╹╻▏▎▍▌▐▕▖▗▘▝", "|")
    | dict.fromkeys("┊╎╏┆┇┋░", ":")
    | dict.fromkeys("┌┐└┘╭╮╰╯┏┓┗┛╔╗╚╝├┤┬┴┼┠┨┝┥╋┣┫┳┻╟╢╠╣╤╧╞╡▒", "+")
    | dict.fromkeys("▁▂", "_")
    | dict.fromkeys("▃▄▅", "=")
    | dict.fromkeys("█▉▊▋▇▆▀▙▛▜▟▚▞■▪◼", "#")
    | dict.fromkeys("●◉⬤", "*")
    | dict.fromkeys("•◌○", "o")
    | {"✓": "+", "✔": "+", "✗": "X", "✘": "X", "→": ">", "←": "<", "↑": "^", "↓": "v", "▲": "^", "▼": "v", "▶": ">"}
    | {"×": "x", "±": "~", "…": "~", "δ": "d", "‖": "=", "▸": ">", "▾": "v", "🔎": "> ", "\u00a0": " "}
)


# Control characters, and those that turn the direction of writing, none of which takes a cell.
_COMMANDS = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)])


class HarmlessFilter(LineFilter):
    """Leaves out control characters: what a file or a folder's name holds never commands the terminal."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        """The segments without control characters."""
        return [
            segment
            if segment.control or segment.text.isprintable()
            else Segment(segment.text.translate(_COMMANDS), segment.style)
            for segment in segments
        ]


class AsciiFilter(LineFilter):
    """Nothing but ASCII reaches the terminal, whoever drew it; every character keeps its width."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:  # noqa: ARG002
        """The segments with every other character replaced by its likeness."""
        return [
            segment if segment.control or segment.text.isascii() else Segment(as_ascii(segment.text), segment.style)
            for segment in segments
        ]


def as_ascii(text: str) -> str:
    """`text` in ASCII, in as many cells; letters lose their accents, what has no likeness becomes "?"."""
    return "".join(
        character if character.isascii() else _ascii_letter(character) for character in text.translate(_TABLE)
    )


def _ascii_letter(character: str) -> str:
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    if len(plain) == 1 and plain.isprintable():
        return plain
    if unicodedata.combining(character):
        return ""
    return "??" if unicodedata.east_asian_width(character) in "WF" else "?"
