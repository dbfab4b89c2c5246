"""What charts do with curves before they draw them: smoothing, and the value under the cursor. Pure functions."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import replace

from ssdkd_cli.watching.view import Curve


def smoothed(curve: Curve, weight: float) -> Curve:
    """The exponential moving average; `weight` in [0, 1) is how much of the past stays, 0 changes nothing.

    The average is divided by the sum of its weights, so that it starts at the first value and not at zero. Gaps stay
    gaps, and the average goes on behind them.
    """
    assert 0 <= weight < 1, weight
    if weight == 0:
        return curve
    average, total = 0.0, 0.0
    averages = []
    for value in curve.y:
        if math.isnan(value):
            averages.append(value)
            continue
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        averages.append(average / total)
    return replace(curve, y=averages)


def point_at(curve: Curve, x: float) -> tuple[float, float] | None:
    """The point (x, y) nearest to `x`, the later of two; y is NaN in a gap. None of an empty curve."""
    if not len(curve):
        return None
    right = min(bisect_left(curve.x, x), len(curve) - 1)
    left = max(0, right - 1)
    nearest = left if x - curve.x[left] < curve.x[right] - x else right
    return curve.x[nearest], curve.y[nearest]
