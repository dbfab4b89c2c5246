"""Bars and sparklines as text, with block characters where the stream can carry them and ASCII elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

REPORT_WIDTH = 80
"""Columns that a report is laid out for, on wider screens and off a terminal too."""

ASCII_VARIABLE = "SSDKD_ASCII"

_MAX_LABEL = 18


@dataclass(frozen=True)
class Glyphs:
    """What charts are drawn with: `eighths` of a cell from little to full, `levels` from low to high."""

    eighths: str
    levels: str
    ellipsis: str
    plus_minus: str


BLOCKS = Glyphs(eighths="▏▎▍▌▋▊▉█", levels="▁▂▃▄▅▆▇█", ellipsis="…", plus_minus="±")
ASCII = Glyphs(eighths="#", levels=".:-=+*%#", ellipsis="~", plus_minus="+-")


def wants_ascii(encoding: str) -> bool:
    """Whether to draw in ASCII: asked for by SSDKD_ASCII, or all that the encoding can carry."""
    return os.environ.get(ASCII_VARIABLE, "") not in ("", "0") or not encoding.lower().startswith("utf")


def glyphs_for(encoding: str) -> Glyphs:
    """Block characters for a stream in any UTF, ASCII for all others and where the user asks for it."""
    return ASCII if wants_ascii(encoding) else BLOCKS


def bar(value: float, highest: float, *, width: int, glyphs: Glyphs) -> str:
    """A bar of at most `width` cells, full for `highest`; anything above zero shows at least a sliver."""
    if value <= 0 or highest <= 0:
        return ""
    steps = len(glyphs.eighths)
    length = max(1, round(min(value / highest, 1.0) * width * steps))
    whole, part = divmod(length, steps)
    return glyphs.eighths[-1] * whole + (glyphs.eighths[part - 1] if part else "")


def bar_rows(labels: Sequence[str], counts: Sequence[int], *, width: int, glyphs: Glyphs) -> list[str]:
    """One line for each label: the label, its count, and a bar. All bars share one scale."""
    from rich.cells import cell_len

    shown = [cut(label, _MAX_LABEL, glyphs) for label in labels]
    label_width = max(cell_len(label) for label in shown)
    numbers = [f"{count:,}" for count in counts]
    number_width = max(len(number) for number in numbers)
    bar_width = max(8, width - label_width - number_width - 4)
    highest = max(counts)
    return [
        f"{label}{' ' * (label_width - cell_len(label))}  {number:>{number_width}}  "
        f"{bar(count, highest, width=bar_width, glyphs=glyphs)}".rstrip()
        for label, number, count in zip(shown, numbers, counts, strict=True)
    ]


def sparklines(values: Sequence[float], *, width: int, glyphs: Glyphs) -> list[str]:
    """One character for each value, from zero to the highest, in lines of `width`; zero is a blank."""
    highest = max(values)
    steps = len(glyphs.levels)
    text = "".join(
        glyphs.levels[min(steps - 1, int(value / highest * steps))] if value > 0 else " " for value in values
    )
    return [text[start : start + width] for start in range(0, len(text), width)]


def cut(text: str, width: int, glyphs: Glyphs) -> str:
    """`text` in at most `width` cells, marked where something was cut off."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(text) <= width:
        return text
    return set_cell_size(text, width - len(glyphs.ellipsis)).rstrip() + glyphs.ellipsis
