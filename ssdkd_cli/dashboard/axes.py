"""Axes of a chart: what range they span, where their ticks are, and how numbers are said in few characters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_STEPS = (1.0, 2.0, 5.0, 10.0)
_HEADROOM = 0.05
"""Share of the range that is left free above and below a line."""

_LEAST = 1e-100
"""What is smaller counts as zero: a range must not be too small for its own arithmetic."""


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, linear or logarithmic (then both are above zero)."""

    low: float
    high: float
    is_log: bool = False

    def place(self, values: Floats) -> Floats:
        """Where values lie on the axis: 0 at `low`, 1 at `high`; NaN for those a logarithm does not have."""
        values = np.asarray(values, dtype=np.float64)
        if not self.is_log:
            return (values - self.low) / (self.high - self.low)
        with np.errstate(divide="ignore", invalid="ignore"):
            logarithm = np.where(values > 0, np.log10(values), np.nan)
        low, high = math.log10(self.low), math.log10(self.high)
        return np.asarray((logarithm - low) / (high - low))

    def ticks(self, most: int) -> list[float]:
        """Round values on the axis, rising: about `most` at the most, but two at least, or nobody can read it."""
        if self.is_log:
            decades = _decades(self.low, self.high)
            if len(decades) >= 2:
                return decades[:: -(-len(decades) // max(2, most))]
        return _round_values(self.low, self.high, max(2, most))


def scale_of(values: Floats, *, is_log: bool = False) -> Scale | None:
    """The axis that shows all finite values with some room; None where there is none to show."""
    values = values[np.isfinite(values)]
    if is_log:
        values = values[values > _LEAST]
    if len(values) == 0:
        return None
    low, high = (0.0 if abs(end) <= _LEAST else end for end in (float(values.min()), float(values.max())))
    if is_log:
        room = max((high / low) ** _HEADROOM, 1.1)
        return Scale(low / room, high * room, is_log=True)
    room = (high - low) * _HEADROOM or abs(high) * 0.1 or 1.0
    # A quantity that is never negative gets no axis below zero.
    return Scale(low - room if low < 0 or low - room >= 0 else 0.0, high + room)


def _decades(low: float, high: float) -> list[float]:
    return [10.0**power for power in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _round_values(low: float, high: float, most: int) -> list[float]:
    raw = (high - low) / most
    magnitude = 10.0 ** math.floor(math.log10(raw))
    first = last = 0
    # The least step that is wide enough; a narrower one where it finds less than two values between the ends.
    widest = next(index for index, factor in enumerate(_STEPS) if factor * magnitude >= raw * (1 - 1e-9))
    for index in range(widest, -1, -1):
        step = _STEPS[index] * magnitude
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last > first:
            break
    return [index * step for index in range(first, last + 1)]


def short(value: float | None) -> str:
    """A number with about three digits in at most seven characters; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 999_500 or size < 1e-3:  # what would be rounded to 1,000k, too
        return f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Labels of an axis without trailing zeros, with as many digits as tell each tick from the next."""
    step = min((right - left for left, right in pairwise(ticks)), default=0.0)
    largest = max(map(abs, ticks), default=0.0)
    # On a linear axis all are written alike; decades differ too much for that.
    is_even = len(ticks) > 2 and ticks[-1] - ticks[0] < (len(ticks) - 0.5) * step
    return [_tick_label(value, step, largest if is_even else abs(value)) for value in ticks]


def _tick_label(value: float, step: float, size: float) -> str:
    """A value of an axis on which neighbours lie `step` apart, written as one of `size` is."""
    if value == 0 or abs(value) < step * 1e-6:
        return "0"
    last_digit = math.floor(math.log10(step) + 1e-9) if step > 0 else math.floor(math.log10(abs(value))) - 2
    if size >= 1e6 or size < 1e-3:
        digits = max(0, math.floor(math.log10(abs(value)) + 1e-9) - last_digit)
        mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
        return f"{_without_zeros(mantissa)}e{int(exponent)}"
    if size >= 1e4:
        return _without_zeros(f"{value / 1e3:.{max(0, 3 - last_digit)}f}") + "k"
    return _without_zeros(f"{value:.{max(0, -last_digit)}f}")


def _without_zeros(digits: str) -> str:
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash where there is none."""
    return "-" if share is None or not math.isfinite(share) else f"{share * 100:.{digits}f} %"
