"""Lines drawn with characters: eight dots a cell in braille, two a cell in ASCII.

    R C cells down and across; D E dots down and across

A canvas knows dots and owners, nothing of what they mean. The last line drawn through a cell owns it, so what
matters most is drawn last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Bit of each dot of a braille cell, rows from top to bottom (Unicode block 2800).
_BRAILLE_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_BRAILLE_START = 0x2800
# By the dots (upper, lower) of an ASCII cell.
_ASCII_CELLS = " '.:"


@dataclass(frozen=True)
class Cell:
    """How many dots a character holds."""

    rows: int
    columns: int


BRAILLE = Cell(rows=4, columns=2)
ASCII = Cell(rows=2, columns=1)


def cell_index(share: Floats, num_cells: int, num_dots: int) -> npt.NDArray[np.int64]:
    """Which of so many cells, of `num_dots` dots each, the dot at `share` in [0, 1] of their length lies in.

    Whatever stands beside a line (a tick, a letter at its end) is placed by this, for it is how lines are drawn.
    """
    dot = np.rint(np.clip(share, 0, 1) * (num_cells * num_dots - 1)).astype(np.int64)
    return np.asarray(dot // num_dots)


class Canvas:
    """A grid of `rows` by `columns` characters, empty at first."""

    def __init__(self, rows: int, columns: int, cell: Cell = BRAILLE) -> None:
        self.rows, self.columns, self.cell = rows, columns, cell
        self.num_dots_down, self.num_dots_across = rows * cell.rows, columns * cell.columns
        self._dots_DE = np.zeros((self.num_dots_down, self.num_dots_across), dtype=bool)
        self._owner_RC = np.full((rows, columns), -1, dtype=np.int64)

    def draw_line(self, x: Floats, y: Floats, owner: int) -> None:
        """A line through points in order of x.

        Shapes: [N], [N]; 0 is left and bottom, 1 right and top. What lies outside is cut off, and NaN in `y` breaks the
        line. Of many points in one dot column the whole span shows, so no spike is lost however many points there are.
        """
        if len(x) == 0 or self._owner_RC.size == 0:
            return
        low, high = self._spans(x * (self.num_dots_across - 1), y * (self.num_dots_down - 1))
        for column in np.flatnonzero(~np.isnan(low)):
            bottom, top = low[column], high[column]
            # The column reaches for its left neighbour (NaN in a gap), so that steep lines have no gaps.
            previous_low, previous_high = (low[column - 1], high[column - 1]) if column > 0 else (np.nan, np.nan)
            if bottom > previous_high + 1:
                bottom = previous_high + 1
            elif top < previous_low - 1:
                top = previous_low - 1
            self._draw_span(int(column), int(bottom), int(top), owner)

    def draw_points(self, x: Floats, y: Floats, owner: int) -> None:
        """Single dots that nothing connects; coordinates as in `draw_line`."""
        column = np.rint(x * (self.num_dots_across - 1))
        level = np.rint(y * (self.num_dots_down - 1))
        inside = (column >= 0) & (column < self.num_dots_across) & (level >= 0) & (level < self.num_dots_down)
        rows = self.num_dots_down - 1 - level[inside].astype(np.int64)
        columns = column[inside].astype(np.int64)
        self._dots_DE[rows, columns] = True
        self._owner_RC[rows // self.cell.rows, columns // self.cell.columns] = owner

    def _spans(self, column: Floats, level: Floats) -> tuple[Floats, Floats]:
        """Lowest and highest level in each dot column, NaN where the line does not pass."""
        low = np.full(self.num_dots_across, np.nan)
        first, last = max(0, int(np.ceil(column[0]))), min(self.num_dots_across - 1, int(np.floor(column[-1])))
        if first <= last:
            between = np.arange(first, last + 1)
            low[first : last + 1] = np.interp(between, column, level)
        high = low.copy()
        nearest = np.rint(column)
        inside = (nearest >= 0) & (nearest < self.num_dots_across)
        at = nearest[inside].astype(np.int64)
        np.fmin.at(low, at, level[inside])
        np.fmax.at(high, at, level[inside])
        return np.rint(low), np.rint(high)

    def _draw_span(self, column: int, bottom: int, top: int, owner: int) -> None:
        bottom, top = max(0, bottom), min(self.num_dots_down - 1, top)
        if bottom > top:
            return
        first, last = self.num_dots_down - 1 - top, self.num_dots_down - 1 - bottom
        self._dots_DE[first : last + 1, column] = True
        cells = slice(first // self.cell.rows, last // self.cell.rows + 1)
        self._owner_RC[cells, column // self.cell.columns] = owner

    def cells(self) -> list[list[tuple[str, int]]]:
        """Row by row, the character of each cell and its owner (-1 where nothing was drawn)."""
        shape = (self.rows, self.cell.rows, self.columns, self.cell.columns)
        dots = self._dots_DE.reshape(shape).transpose(0, 2, 1, 3)
        if self.cell == BRAILLE:
            codes = (dots * _BRAILLE_BITS).sum(axis=(2, 3)) + _BRAILLE_START
            characters = [[chr(code) for code in row] for row in codes.tolist()]
        else:
            codes = (dots * np.array([[1], [2]])).sum(axis=(2, 3))
            characters = [[_ASCII_CELLS[code] for code in row] for row in codes.tolist()]
        owners = self._owner_RC.tolist()
        return [
            [(character, owner) if owner >= 0 else (" ", -1) for character, owner in zip(row, owner_row, strict=True)]
            for row, owner_row in zip(characters, owners, strict=True)
        ]
