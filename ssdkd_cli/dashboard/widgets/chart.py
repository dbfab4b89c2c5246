"""A chart of curves over the epochs: the run's own and those of the runs it is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive

from ssdkd_cli.dashboard.axes import short
from ssdkd_cli.dashboard.canvas import ASCII, BRAILLE
from ssdkd_cli.dashboard.chart_settings import ChartSettings, Range
from ssdkd_cli.dashboard.curves import point_at, smoothed
from ssdkd_cli.dashboard.glyphs import cut
from ssdkd_cli.dashboard.plot import Drawing, Line, Mark, Plot, draw
from ssdkd_cli.dashboard.widgets.panel import Panel, line
from ssdkd_cli.watching.comparison import LETTERS
from ssdkd_cli.watching.view import Curve, RunView, epoch_text

_MAX_MARKED_POINTS = 24
_DECADE = 10.0


@dataclass(frozen=True)
class Trace:
    """A curve of a chart: its name in `RunView.curves`, and what it is called where a chart has several."""

    curve: str
    label: str = ""


def not_finite(epoch: int) -> str:
    """What stands in place of the newest value."""
    return f"not finite since epoch {epoch}"


def style_of(role: str) -> str:
    """A role of `plot.Piece` as a style of the theme."""
    name, _, strength = role.partition(" ")
    styles = {"axis": "$frame", "label": "$faint", "cursor": "$accent", "mark": "$faint", "raw": "$raw", "": ""}
    style = styles.get(name, f"${name}")
    return f"bold {style}" if strength else style


class ChartPanel(Panel, can_focus=True):
    """Draws its traces in the part of the run that the settings say, with a readable value at the cursor."""

    settings: reactive[ChartSettings] = reactive(ChartSettings, init=False)

    class Pointed(Message):
        """The mouse is over the chart at `x` epochs."""

        def __init__(self, chart: ChartPanel, x: float) -> None:
            super().__init__()
            self.chart = chart
            self.x = x

    class Scrolled(Pointed):
        """The wheel was turned there."""

        def __init__(self, chart: ChartPanel, x: float, *, inwards: bool) -> None:
            super().__init__(chart, x)
            self.inwards = inwards

    def __init__(
        self,
        title: str,
        traces: Sequence[Trace],
        *,
        empty_text: Callable[[RunView], str],
        factor: float = 1.0,
        unit: str = "",
        is_log_allowed: bool = True,
        is_smoothable: bool = False,
        id: str | None = None,
    ) -> None:
        super().__init__(title, id=id)
        self.traces = tuple(traces)
        self.factor = factor
        self.unit = unit
        self.is_log_allowed = is_log_allowed
        self.is_smoothable = is_smoothable
        """Whether it shows what jitters from step to step; a measured accuracy is what it is."""
        self.empty_text = empty_text
        """Says of a view why a chart without curves has none."""
        self._drawing = Drawing([])
        self._smoothed: dict[tuple[int, int], tuple[Curve, float, Curve]] = {}

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        others = [other.curves.get(trace.curve) for other in self.dashboard.overlays for trace in self.traces]
        description = view.description
        return (
            *(view.curves.get(trace.curve) for trace in self.traces),
            *others,
            description.warmup_epochs if description is not None else 0,
            self.empty_text(view),
        )

    # -- what is in view -------------------------------------------------------------------------------------

    def runs(self) -> list[Mapping[str, Curve]]:
        """The curves of the run on the screen, then those of the runs it is compared with."""
        if self.run_view is None:
            return []
        return [self.run_view.curves, *(overlay.curves for overlay in self.dashboard.overlays)]

    @property
    def num_columns(self) -> int:
        """Columns of the plotting area."""
        return max(1, self._drawing.num_columns)

    def curves(self) -> list[tuple[int, int, Curve]]:
        """Run's position, trace's position and curve, of all that have points; of several runs one trace only."""
        runs = self.runs()
        traces = [(index, trace) for index, trace in enumerate(self.traces) if any(trace.curve in run for run in runs)]
        return [
            (position, index, curve)
            for position, run in enumerate(runs)
            for index, trace in (traces[:1] if len(runs) > 1 else traces)
            if (curve := run.get(trace.curve)) is not None and len(curve) > 0
        ]

    @property
    def is_log(self) -> bool:
        """Whether its y axis is logarithmic: as the settings say, else where its values span more than a decade."""
        if not self.is_log_allowed or self.settings.is_log is not None:
            return self.is_log_allowed and bool(self.settings.is_log)
        values = np.concatenate([np.empty(0), *(np.asarray(curve.y) for _, _, curve in self.curves())])
        values = values[np.isfinite(values)]
        return len(values) > 0 and bool(0 < _DECADE * values.min() < values.max())

    @property
    def smoothing(self) -> float:
        """How much it is smoothed: what the settings say, where it may be."""
        return self.settings.smoothing if self.is_smoothable else 0.0

    def _smooth(self, position: int, index: int, curve: Curve) -> Curve:
        """The curve as the settings want it; computed once for each state of the curve."""
        known = self._smoothed.get((position, index))
        if known is None or known[0] is not curve or known[1] != self.smoothing:
            known = (curve, self.smoothing, smoothed(curve, self.smoothing))
            self._smoothed[position, index] = known
        return known[2]

    def full_range(self) -> Range:
        """The part of the x axis that holds every point."""
        curves = [curve for _, _, curve in self.curves()]
        if not curves:
            return (0.0, 1.0)
        low, high = min(curve.x[0] for curve in curves), max(curve.x[-1] for curve in curves)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    # -- drawing ---------------------------------------------------------------------------------------------

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        settings = self.settings
        plot = Plot(
            lines=self._lines(),
            x_range=settings.x_range or self.full_range(),
            is_log=self.is_log,
            marks=self._marks(view),
            cursor_x=settings.cursor_x,
            cell=ASCII if self.dashboard.is_ascii else BRAILLE,
            empty_text=self._empty_words(view),
            x_name="epoch",
        )
        self._drawing = draw(plot, width, height)
        return [line(*((text, style_of(role)) for text, role in row)) for row in self._drawing.rows]

    def _empty_words(self, view: RunView) -> str:
        """Why there is no line, for a chart whose curves have nothing to draw."""
        curves = [curve for _, _, curve in self.curves()]
        if not curves:
            return self.empty_text(view)
        if any(curve.not_finite_since is None for curve in curves):
            return "no value above zero: there is no logarithm"
        return not_finite(min(curve.not_finite_since or 0 for curve in curves))

    def _lines(self) -> list[Line]:
        drawn_behind: list[Line] = []
        drawn_before: list[Line] = []
        several_runs = len(self.runs()) > 1
        # The run on the screen is drawn last, above the others.
        for position, index, curve in reversed(self.curves()):
            x = np.asarray(curve.x)
            smooth_y = np.asarray(self._smooth(position, index, curve).y) * self.factor
            color = 1 + (position if several_runs else index) % len(LETTERS)
            if self.smoothing:
                drawn_behind.append(Line(x, np.asarray(curve.y) * self.factor, "raw", is_points=True))
            name = LETTERS[position] if several_runs else self.traces[index].label[:1]
            drawn_before.append(
                Line(x, smooth_y, f"line-{color}", letter=name, has_markers=len(x) <= _MAX_MARKED_POINTS)
            )
        return drawn_behind + drawn_before

    def _marks(self, view: RunView) -> list[Mark]:
        if view.description is None or not 0 < view.description.warmup_epochs < view.description.epochs:
            return []
        low, high = self.settings.x_range or self.full_range()
        warmup = float(view.description.warmup_epochs)
        return [Mark(warmup, "warm-up")] if low < warmup < high else []

    def _update_frame(self, view: RunView) -> None:  # noqa: ARG002
        self._update_readout()

    def _update_readout(self) -> None:
        self.border_subtitle = cut(self.readout(), max(4, self.size.width - 4))

    def readout(self) -> str:
        """The newest values, or those at the cursor, in words."""
        cursor = self.settings.cursor_x
        several_runs = len(self.runs()) > 1
        values = []
        at, label = None, ""
        for position, index, curve in self.curves():
            point = point_at(self._smooth(position, index, curve), curve.x[-1] if cursor is None else cursor)
            if point is None:
                continue
            at, y = (point[0] if at is None else at), point[1] * self.factor
            is_elsewhere = cursor is not None and not curve.x[0] - 0.5 <= cursor <= curve.x[-1] + 0.5
            label = self.traces[index].label
            name = LETTERS[position] if several_runs else label
            if several_runs and is_elsewhere:
                said = "-"  # this run has no point at the cursor
            elif math.isfinite(y):
                said = f"{short(y)}{self.unit}"
            elif cursor is None and curve.not_finite_since is not None:
                said = not_finite(curve.not_finite_since)
            else:
                said = "not finite"
            values.append(f"{name} {said}".strip())
        if at is None:
            return ""
        # The values of several runs leave no room for the epoch; the line below the charts tells it.
        facts = [f"epoch {epoch_text(at)}"] if cursor is not None and not several_runs else []
        if several_runs and label:
            facts.append(label)
        how = (", smoothed" if self.smoothing else "") + (", log scale" if self.is_log else "")
        return ": ".join([*facts, ", ".join(values)]) + how

    def watch_settings(self) -> None:
        """Another scale, zoom or cursor: another picture."""
        if self.run_view is not None:
            self._update_readout()
        self.refresh()

    def on_resize(self) -> None:
        """The readout is cut to the frame."""
        if self.run_view is not None:
            self._update_readout()

    # -- the mouse -------------------------------------------------------------------------------------------

    def _x_at(self, event: events.MouseEvent) -> float | None:
        if self._drawing.num_columns == 0:
            return None
        column = event.get_content_offset_capture(self).x
        return self._drawing.x_at(column, self.settings.x_range or self.full_range())

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """The cursor follows the mouse."""
        if (x := self._x_at(event)) is not None:
            self.post_message(self.Pointed(self, x))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Zoom in."""
        self._scroll(event, inwards=True)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Zoom out."""
        self._scroll(event, inwards=False)

    def _scroll(self, event: events.MouseEvent, *, inwards: bool) -> None:
        event.stop()
        event.prevent_default()
        if (x := self._x_at(event)) is not None:
            self.post_message(self.Scrolled(self, x, inwards=inwards))
