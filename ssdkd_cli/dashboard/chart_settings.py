"""How charts are looked at: scale, smoothing, the part of the run in view, the cursor. View state, nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ssdkd_cli.watching.view import epoch_text

SMOOTHING_WEIGHTS = (0.0, 0.6, 0.9, 0.98)
_MIN_SPAN_EPOCHS = 0.05
_ZOOM_STEP = 2.0
_PAN_STEP = 0.25
"""Share of the view that one step moves it by."""

Range = tuple[float, float]


@dataclass(frozen=True)
class ChartSettings:
    """Shared by all charts of the screen. `x_range` is None while all of the run is in view."""

    is_log: bool | None = None
    """None leaves it to each chart, whose values may span decades or not."""
    smoothing: float = 0.0
    x_range: Range | None = None
    cursor_x: float | None = None
    whole_x: Range | None = None
    """All of the run, as long as it was when zooming began: zoomed out to that, a run that has grown is whole again."""

    def reset(self) -> ChartSettings:
        """All of the run, no cursor."""
        return replace(self, x_range=None, cursor_x=None, whole_x=None)

    def with_next_smoothing(self) -> ChartSettings:
        """Smoother, and after the smoothest not at all."""
        index = SMOOTHING_WEIGHTS.index(self.smoothing)
        return replace(self, smoothing=SMOOTHING_WEIGHTS[(index + 1) % len(SMOOTHING_WEIGHTS)])

    def zoomed(self, full: Range, *, inwards: bool, around: float | None = None) -> ChartSettings:
        """Half or twice as much of the x axis, around the cursor (or the middle), within `full`."""
        low, high = self.x_range or full
        centre = around if around is not None else self.cursor_x
        if centre is None or not low <= centre <= high:
            centre = (low + high) / 2
        factor = 1 / _ZOOM_STEP if inwards else _ZOOM_STEP
        if inwards and (high - low) * factor < _MIN_SPAN_EPOCHS:
            return self
        low, high = centre - (centre - low) * factor, centre + (high - centre) * factor
        if not inwards and self.whole_x is not None and low <= self.whole_x[0] and self.whole_x[1] <= high:
            return replace(self, x_range=None, whole_x=None)
        return self._with_range(low, high, full)

    def panned(self, full: Range, steps: float) -> ChartSettings:
        """The view moved along the x axis by so many quarters of itself, as far as `full` goes."""
        low, high = self.x_range or full
        shift = (high - low) * _PAN_STEP * steps
        shift = min(max(shift, full[0] - low), full[1] - high)
        return self._with_range(low + shift, high + shift, full)

    def _with_range(self, low: float, high: float, full: Range) -> ChartSettings:
        """What of `full` lies between `low` and `high`; all of it where next to nothing does.

        The view may come from a chart whose curves end elsewhere.
        """
        low, high = max(low, full[0]), min(high, full[1])
        is_all = (low <= full[0] and high >= full[1]) or high - low < _MIN_SPAN_EPOCHS
        if is_all:
            return replace(self, x_range=None, whole_x=None)
        return replace(self, x_range=(low, high), whole_x=self.whole_x or full)

    def with_cursor_moved(self, full: Range, share: float) -> ChartSettings:
        """The cursor moved by a share of the view; it enters at the right end, and the view follows it."""
        low, high = self.x_range or full
        if self.cursor_x is None:
            return replace(self, cursor_x=high)
        x = min(max(self.cursor_x + (high - low) * share, full[0]), full[1])
        moved = replace(self, cursor_x=x)
        if low <= x <= high:
            return moved
        return moved._with_range(*((x, x + high - low) if x < low else (x - high + low, x)), full)

    def words(self, *, has_log_scale: bool = True, is_smoothable: bool = True) -> str:
        """What is set, in words, for charts that may have a logarithmic scale, or may be smoothed, or not."""
        said = ["log scale" if self.is_log else "linear scale"] if has_log_scale and self.is_log is not None else []
        if self.smoothing and is_smoothable:
            said.append(f"smoothing {self.smoothing:g}")
        if self.x_range is not None:
            low, high = map(epoch_text, self.x_range)
            said.append(f"epochs {low} to {high} (0: whole run)")
        if self.cursor_x is not None:
            said.append(f"cursor at epoch {epoch_text(self.cursor_x)}")
        return ", ".join(said)
