"""What the replay buffer holds: how even its classes are, how hard its images, how its priorities are spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len
from textual.content import Content

from ssdkd_cli.dashboard.axes import percent, short
from ssdkd_cli.dashboard.bars import axis_labels, bar_width, grouped, upright_bars
from ssdkd_cli.dashboard.empty_texts import no_buffer
from ssdkd_cli.dashboard.glyphs import BULLET, bar, fit
from ssdkd_cli.dashboard.widgets.panel import Panel, centred, line
from ssdkd_cli.watching.view import BufferView, Histogram, RunView
from stages.buffer.statistics import class_entropy

_MIN_CLASS_COLUMN = 18
_MAX_CLASS_COLUMN = 44


class BufferSummary(Panel):
    """The buffer in one line: size, age, evenness of its classes."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (view.buffer, no_buffer(view))

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:  # noqa: ARG002
        buffer = view.buffer
        if buffer is None:
            return [line((f" {no_buffer(view)}", "$faint"))]
        return [line(*summary_parts(buffer, BULLET))]


def summary_parts(buffer: BufferView, bullet: str) -> list[str | tuple[str, str]]:
    """Size, age and evenness, numbers apart from their words."""
    parts: list[str | tuple[str, str]] = [
        " ",
        (f"{buffer.size:,}", "bold"),
        (f" of {buffer.capacity:,} samples", "$faint"),
    ]
    if buffer.age_mean is not None:
        parts += [
            (f"  {bullet}  age ", "$faint"),
            (f"{short(buffer.age_mean)}", "bold"),
            (f" epochs ({buffer.age_min or 0:.0f} to {buffer.age_max or 0:.0f})", "$faint"),
        ]
    entropy = class_entropy(np.array(buffer.class_counts, dtype=np.int64))
    if entropy is not None:
        parts += [(f"  {bullet}  class entropy ", "$faint"), (f"{entropy:.3f}", "bold")]
    return parts


class ClassBalance(Panel):
    """Samples of each class: a bar beside each name, or upright bars where there are too many names."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        names = view.description.class_names if view.description is not None else None
        return (view.buffer.class_counts if view.buffer is not None else None, names, no_buffer(view))

    def _update_frame(self, view: RunView) -> None:
        counts = view.buffer.class_counts if view.buffer is not None else ()
        self.border_subtitle = f"fewest {min(counts):,}, most {max(counts):,}" if counts else ""

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        counts = view.buffer.class_counts if view.buffer is not None else ()
        if not counts or sum(counts) == 0:
            return centred(no_buffer(view), width, height)
        columns = -(-len(counts) // height)
        column_width = width // columns
        if column_width >= _MIN_CLASS_COLUMN:
            return self._named(view, counts, columns, column_width, height)
        return self._upright(counts, width, height)

    def _named(
        self, view: RunView, counts: Sequence[int], columns: int, column_width: int, height: int
    ) -> list[Content]:
        column_width = min(column_width, _MAX_CLASS_COLUMN)
        names = [view.class_name(index) for index in range(len(counts))]
        name_width = min(max(cell_len(name) for name in names), max(3, column_width // 3), 16)
        number_width = len(f"{max(counts):,}")
        width_of_bar = max(4, column_width - name_width - number_width - 4)
        even = sum(counts) / len(counts)
        rows: list[list[str | tuple[str, str]]] = [[] for _ in range(min(height, -(-len(counts) // columns)))]
        for index, count in enumerate(counts):
            # A class with less than half of its even share stands out by its colour, and by the bar's length.
            style = "$warning" if count < even / 2 else "$line-1"
            rows[index % len(rows)] += [
                (fit(names[index], name_width) + " ", "$foreground"),
                (f"{count:>{number_width},} ", "$faint"),
                (bar(count, max(counts), width_of_bar) + "  ", style),
            ]
        return [line(*row) for row in rows]

    def _upright(self, counts: Sequence[int], width: int, height: int) -> list[Content]:
        values, share = grouped(counts, width)
        bars = upright_bars(values, width=width, height=max(1, height - 1))
        together = f", {share} a bar" if share > 1 else ""
        text = f"classes 0 to {len(counts) - 1}{together}"
        return [*(line((row, "$line-1")) for row in bars), line((text[:width], "$faint"))]


class DifficultyHistogram(Panel):
    """How many images are how hard for the teacher: 1 - p in ten bins."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (view.buffer.difficulty if view.buffer is not None else None, no_buffer(view))

    def _update_frame(self, view: RunView) -> None:
        histogram = view.buffer.difficulty if view.buffer is not None else None
        total = sum(histogram.counts) if histogram is not None else 0
        easy = histogram.counts[0] / total if histogram is not None and total else None
        self.border_subtitle = (
            "" if easy is None else f"{percent(easy, 0)} are easy (below {histogram_edge(histogram)})"
        )

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        histogram = view.buffer.difficulty if view.buffer is not None else None
        if histogram is None or not any(histogram.counts):
            return centred(no_buffer(view), width, height)
        return histogram_lines(histogram, width, height, style="$line-2", every=2)


def histogram_edge(histogram: Histogram | None) -> str:
    """Where the first bin ends."""
    return f"{histogram.edges[1]:g}" if histogram is not None and len(histogram.edges) > 1 else "?"


class PriorityHistogram(Panel):
    """How priorities are spread, and how many samples they amount to."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        buffer = view.buffer
        if buffer is None:
            return (no_buffer(view),)
        return (buffer.priority, buffer.effective_sample_size, buffer.size)

    def _update_frame(self, view: RunView) -> None:
        self.border_subtitle = effective_size_words(view.buffer)

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        histogram = view.buffer.priority if view.buffer is not None else None
        if histogram is None or not any(histogram.counts):
            return centred(no_buffer(view), width, height)
        return histogram_lines(histogram, width, height, style="$line-3", every=3)


def effective_size_words(buffer: BufferView | None) -> str:
    """The effective sample size and its share of the buffer."""
    if buffer is None or buffer.effective_sample_size is None or buffer.size <= 0:
        return ""
    share = percent(buffer.effective_sample_size / buffer.size, 0)
    return f"effective {buffer.effective_sample_size:,.0f} of {buffer.size:,} ({share})"


def histogram_lines(histogram: Histogram, width: int, height: int, *, style: str, every: int) -> list[Content]:
    """Upright bars, equally wide whatever the bins, with the edges of every so many bins below."""
    each = bar_width(len(histogram.counts), width)
    if each < 1 or height < 2:
        return centred("too narrow to draw", width, height)
    bars = upright_bars(histogram.counts, width=width, height=height - 1)
    edges = [
        (index * each, f"{edge:,.0f}" if edge >= 10 else f"{edge:.2g}".replace("e-0", "e-"))
        for index, edge in enumerate(histogram.edges)
        if index % every == 0 or index == len(histogram.edges) - 1
    ]
    return [*(line((row, style)) for row in bars), line((axis_labels(edges, width), "$faint"))]
