"""A chart as rows of text with roles: lines, axes with labels, marks and a cursor. Knows no widget and no colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

import numpy as np
import numpy.typing as npt

from ssdkd_cli.dashboard.axes import Scale, scale_of, tick_labels
from ssdkd_cli.dashboard.canvas import BRAILLE, Canvas, Cell, cell_index

Floats = npt.NDArray[np.float64]
Piece = tuple[str, str]
"""Text and the role it is drawn in: `line-1`, `raw-1`, `axis`, `label`, `cursor`, `mark`, or empty."""

_MIN_ROWS_WITH_X_LABELS = 4
_ROWS_PER_TICK = 3
_MORE_TICKS = 8
_COLUMNS_PER_TICK = 9
_MIN_COLUMNS = 6
"""Labels of the y axis give way to a plotting area of so many columns."""


@dataclass(frozen=True)
class Line:
    """One line of a chart: points in order of x. NaN in `y` is a gap.

    `letter` stands at its end and tells it from its neighbours; `is_points` leaves the points unconnected;
    `has_markers` puts a dot on every point, for lines of few.
    """

    x: Floats
    y: Floats
    role: str
    letter: str = ""
    is_points: bool = False
    has_markers: bool = False


@dataclass(frozen=True)
class Mark:
    """A place on the x axis that has a name, the end of the warm-up for example."""

    x: float
    label: str


@dataclass(frozen=True)
class Plot:
    """What is to be drawn. `x_range` is the part of the x axis in view."""

    lines: Sequence[Line]
    x_range: tuple[float, float]
    is_log: bool = False
    marks: Sequence[Mark] = ()
    cursor_x: float | None = None
    cell: Cell = BRAILLE
    empty_text: str = "nothing yet"
    x_name: str = ""
    """What the x axis counts; written below its left end where there is room."""


@dataclass(frozen=True)
class Drawing:
    """Rows of pieces, and where the plotting area lies, so that a mouse position becomes an x."""

    rows: list[list[Piece]]
    left: int = 0
    num_columns: int = 0

    def x_at(self, column: int, x_range: tuple[float, float]) -> float:
        """The x value under a column of the drawing, cut off at the ends of the axis."""
        share = (column - self.left + 0.5) / max(1, self.num_columns)
        return x_range[0] + min(1.0, max(0.0, share)) * (x_range[1] - x_range[0])


def draw(plot: Plot, width: int, height: int) -> Drawing:
    """The chart in exactly `height` rows of `width` columns."""
    if width < 8 or height < 2:
        return Drawing([[(" " * width, "")] for _ in range(height)])
    scale = _y_scale(plot)
    if scale is None:
        return Drawing(_empty(plot.empty_text, width, height))
    has_x_labels = height >= _MIN_ROWS_WITH_X_LABELS
    num_rows = height - 1 if has_x_labels else height
    labels = _y_labels(scale, num_rows, plot.cell)
    if any(width - len(text) - 1 < _MIN_COLUMNS for text in labels.values()):
        labels = {}
    gutter = max((len(text) for text in labels.values()), default=0) + 1
    num_columns = width - gutter
    cells = _cells(plot, scale, num_rows, num_columns)
    rows: list[list[Piece]] = []
    for row in range(num_rows):
        text = labels.get(row, "")
        pieces = [(text.rjust(gutter - 1), "label"), ("┤" if text else "│", "axis")]
        rows.append(pieces + _joined(cells[row]))
    if has_x_labels:
        rows.append(_x_labels(plot, gutter, num_columns))
    return Drawing(rows, left=gutter, num_columns=num_columns)


def _y_scale(plot: Plot) -> Scale | None:
    low, high = plot.x_range
    visible = [line.y[(line.x >= low) & (line.x <= high)] for line in plot.lines]
    if not visible or not any(np.isfinite(values).any() for values in visible):
        visible = [line.y for line in plot.lines]
    return scale_of(np.concatenate(visible), is_log=plot.is_log) if visible else None


def _empty(text: str, width: int, height: int) -> list[list[Piece]]:
    rows: list[list[Piece]] = [[(" " * width, "")] for _ in range(height)]
    told = wrap(text, max(1, width))[:height]
    above = (height - len(told)) // 2
    rows[above : above + len(told)] = [[(row.center(width), "label")] for row in told]
    return rows


def _y_labels(scale: Scale, num_rows: int, cell: Cell) -> dict[int, str]:
    """Labels by row, in two rows at least: more ticks are asked for where they fall into the same one."""
    fewest = max(2, num_rows // _ROWS_PER_TICK)
    labels: dict[int, str] = {}
    for most in range(fewest, fewest + _MORE_TICKS):
        labels.clear()
        ticks = scale.ticks(most)
        places = num_rows - 1 - cell_index(scale.place(np.array(ticks)), num_rows, cell.rows)
        # Of ticks that fall into one row every second one is left out, or every third: what is left is even.
        every = next((n for n in range(1, len(ticks)) if len(set(places[::n])) == len(places[::n])), 1)
        for row, text in zip(places[::every].tolist(), tick_labels(ticks)[::every], strict=True):
            labels.setdefault(row, text)
        if len(labels) >= 2:
            break
    return labels


def _cells(plot: Plot, scale: Scale, num_rows: int, num_columns: int) -> list[list[Piece]]:
    x_scale = Scale(*plot.x_range)
    canvas = Canvas(num_rows, num_columns, plot.cell)
    # What stands at a point: row, column, character and role.
    markers: list[tuple[int, int, str, str]] = []
    ends: list[tuple[int, int, str, str]] = []
    for index, line in enumerate(plot.lines):
        y = scale.place(line.y)
        x = x_scale.place(line.x)
        if line.is_points:
            canvas.draw_points(x, y, index)
        else:
            canvas.draw_line(x, y, index)
        inside = (x >= 0) & (x <= 1) & np.isfinite(y)
        rows = (num_rows - 1 - cell_index(y[inside], num_rows, plot.cell.rows)).tolist()
        columns = cell_index(x[inside], num_columns, plot.cell.columns).tolist()
        if line.has_markers:
            markers += [(row, column, "•", line.role) for row, column in zip(rows, columns, strict=True)]
        if line.letter and rows:
            ends.append((rows[-1], min(num_columns - 1, columns[-1] + 1), line.letter, f"{line.role} strong"))
    cells: list[list[Piece]] = [
        [(character, plot.lines[owner].role if owner >= 0 else "") for character, owner in row]
        for row in canvas.cells()
    ]
    for row, column, character, role in markers:
        cells[row][column] = (character, role)
    _draw_marks(plot, x_scale, cells)
    for row, column, character, role in ends:
        cells[row][column] = (character, role)
    return cells


def _draw_marks(plot: Plot, x_scale: Scale, cells: list[list[Piece]]) -> None:
    """Marks and the cursor go behind the lines: only empty cells take them."""
    num_columns = len(cells[0])
    upright = [(mark.x, "┊", "mark", mark.label) for mark in plot.marks]
    if plot.cursor_x is not None:
        upright.append((plot.cursor_x, "│", "cursor", ""))
    for x, character, role, label in upright:
        share = float(x_scale.place(np.array([x]))[0])
        if not 0 <= share <= 1:
            continue
        column = int(cell_index(np.array(share), num_columns, plot.cell.columns))
        for row in cells:
            if row[column][0] == " " or row[column][1] == "mark":
                row[column] = (character, role)
        if role == "mark":
            _write_beside(column, label, cells)


def _write_beside(column: int, label: str, cells: list[list[Piece]]) -> None:
    """The name of a mark at its left or right, above or below, where no line is in the way; else nowhere."""
    for row in (cells[0], cells[-1]):
        for start in (column - len(label) - 1, column + 2):
            span = range(start, start + len(label))
            if start >= 0 and span.stop <= len(row) and all(row[at][0] == " " for at in span):
                for at, character in zip(span, label, strict=True):
                    row[at] = (character, "mark")
                return


def _joined(cells: list[Piece]) -> list[Piece]:
    """Neighbours of one role as one piece: a row has few pieces then, and is quick to show."""
    pieces: list[Piece] = []
    text, role = "", cells[0][1] if cells else ""
    for character, own in cells:
        if own != role and character != " ":
            if text:
                pieces.append((text, role))
            text, role = character, own
        else:
            text += character
    pieces.append((text, role))
    return pieces


def _x_labels(plot: Plot, gutter: int, num_columns: int) -> list[Piece]:
    low, high = plot.x_range
    row = [" "] * num_columns
    free_from = 0
    scale = Scale(low, high)
    ticks = scale.ticks(max(2, num_columns // _COLUMNS_PER_TICK))
    columns = cell_index(scale.place(np.array(ticks)), num_columns, plot.cell.columns).tolist()
    for column, text in zip(columns, tick_labels(ticks), strict=True):
        at = column - len(text) // 2
        at = min(max(0, at), num_columns - len(text))
        if at >= free_from and len(text) <= num_columns:
            row[at : at + len(text)] = text
            free_from = at + len(text) + 2
    text = " " * gutter + "".join(row)
    if plot.x_name and text[: len(plot.x_name) + 1].isspace():
        text = plot.x_name + text[len(plot.x_name) :]
    return [(text, "label")]
