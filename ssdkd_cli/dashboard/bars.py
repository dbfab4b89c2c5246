"""Upright bars as rows of text: histograms, and counts of more classes than there are lines."""

from __future__ import annotations

from collections.abc import Sequence

from ssdkd_cli.charts import BLOCKS


def bar_width(num_bars: int, width: int) -> int:
    """Cells of each bar with its gap; 0 where even one cell each is too wide."""
    return min(8, width // num_bars) if num_bars > 0 else 0


def upright_bars(values: Sequence[float], *, width: int, height: int) -> list[str]:
    """Bars side by side in `height` rows of `width` cells, all on one scale that starts at zero.

    Whatever is above zero shows at least a sliver. The bars must fit: `bar_width(len(values), width) >= 1`.
    """
    each = bar_width(len(values), width)
    assert each >= 1, (len(values), width)
    thick = each - 1 if each >= 3 else each
    levels = BLOCKS.levels
    highest = max(values, default=0)
    eighths = [
        0 if value <= 0 or highest <= 0 else max(1, round(value / highest * height * len(levels))) for value in values
    ]
    rows = []
    for row in range(height):
        below = (height - 1 - row) * len(levels)
        cells = (" " if length <= below else levels[min(len(levels), length - below) - 1] for length in eighths)
        rows.append("".join((cell * thick).ljust(each) for cell in cells).ljust(width))
    return rows


def grouped(values: Sequence[int], most: int) -> tuple[list[float], int]:
    """At most `most` means of neighbours in place of the values, and how many neighbours share one."""
    if most <= 0:
        return [], 1
    share = -(-len(values) // most)
    return [
        sum(values[start : start + share]) / len(values[start : start + share])
        for start in range(0, len(values), share)
    ], share


def axis_labels(labels: Sequence[tuple[int, str]], width: int) -> str:
    """Texts under the columns they belong to, the last one above all; those that would touch another are left out."""
    row = [" "] * width
    for column, text in [*labels[-1:], *labels[:-1]]:
        at = min(max(0, column - len(text) // 2), max(0, width - len(text)))
        if at + len(text) <= width and not "".join(row[max(0, at - 1) : at + len(text) + 1]).strip():
            row[at : at + len(text)] = text
    return "".join(row)
