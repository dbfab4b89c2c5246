"""A history of bounded length: however long the run, every peak and dip of it stays to be seen."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

from ssdkd_cli.watching.view import Curve

MAX_BUCKETS = 1024
"""Two points each: more than any terminal has columns, in 48 KiB."""


@dataclass
class _Gap:
    """Values next to each other that are not finite: where the first and the last of them lie."""

    first_x: float
    last_x: float
    first_seq: int
    last_seq: int


class Series:
    """Values over x, kept as buckets of equally many: of each bucket its lowest and its highest value.

    When there are too many buckets, neighbours are merged, so that all of the history has the same resolution.
    Of values that are not finite it is kept where they lie.
    """

    def __init__(self, name: str, *, max_buckets: int = MAX_BUCKETS) -> None:
        assert max_buckets % 2 == 0, max_buckets
        self.name = name
        self._max_buckets = max_buckets
        self._stride = 1  # values in a full bucket
        self._num_in_last = 0
        # Two entries for each bucket, in the order in which they were told; equal for a bucket of one value.
        self._x, self._y, self._seq = array("d"), array("d"), array("q")
        self._gaps: list[_Gap] = []
        self._is_in_gap = False  # the newest value is not finite
        self._newest: tuple[float, float, int] | None = None  # of the finite ones; its bucket may not have kept it
        self._curve: Curve | None = None

    def append(self, x: float, y: float, seq: int) -> None:
        """Add a value. One that is told again (x falls back) supersedes those at and after its x."""
        if self._x and x < self._x[-1]:
            self._cut(bisect_left(self._x, x))
        if self._gaps and x < self._gaps[-1].last_x:
            self._cut_gaps(sum(gap.first_x < x for gap in self._gaps))
        self._curve = None
        if not math.isfinite(y):
            self._append_gap(x, seq)
            return
        self._is_in_gap = False
        self._newest = (x, y, seq)
        if 0 < self._num_in_last < self._stride:
            self._num_in_last += 1
            self._join(x, y, seq)
            return
        if len(self._x) == 2 * self._max_buckets:
            self._merge_neighbours()
        for values, value in ((self._x, x), (self._y, y)):
            values.append(value)
            values.append(value)
        self._seq.append(seq)
        self._seq.append(seq)
        self._num_in_last = 1

    def _append_gap(self, x: float, seq: int) -> None:
        if self._is_in_gap:
            self._gaps[-1].last_x, self._gaps[-1].last_seq = x, seq
            return
        self._is_in_gap = True
        self._num_in_last = self._stride  # no bucket reaches over a gap
        if len(self._gaps) == self._max_buckets:
            del self._gaps[::2]
        self._gaps.append(_Gap(x, x, seq, seq))

    def _join(self, x: float, y: float, seq: int) -> None:
        """Put a value into the last bucket."""
        first, last = self._y[-2], self._y[-1]
        if min(first, last) <= y <= max(first, last) and first != last:
            return
        # Of lowest and highest, that one is replaced which the new value exceeds; the other one is the earlier now.
        keep = -2 if first == last or (y > last) == (last > first) else -1
        self._x[-2], self._y[-2], self._seq[-2] = self._x[keep], self._y[keep], self._seq[keep]
        self._x[-1], self._y[-1], self._seq[-1] = x, y, seq

    def _merge_neighbours(self) -> None:
        x, y, seq = array("d"), array("d"), array("q")
        for start in range(0, len(self._x), 4):
            four = range(start, start + 4)
            low = min(four, key=self._y.__getitem__)
            high = max(four, key=self._y.__getitem__)
            for index in sorted((low, high)):
                x.append(self._x[index])
                y.append(self._y[index])
                seq.append(self._seq[index])
        self._x, self._y, self._seq = x, y, seq
        self._stride *= 2
        self._num_in_last = self._stride

    def drop_after(self, seq: int) -> None:
        """Forget the values told after event `seq`: a resumption supersedes them."""
        if self._newest is not None and self._newest[2] > seq:
            self._curve = self._newest = None
        keep = len(self._seq)
        while keep > 0 and self._seq[keep - 1] > seq:
            keep -= 1
        if keep < len(self._seq):
            self._cut(keep)
        if self._gaps and self._gaps[-1].last_seq > seq:
            self._cut_gaps(sum(gap.first_seq <= seq for gap in self._gaps))

    def _cut(self, keep: int) -> None:
        """Keep the first entries only; half a bucket becomes a whole one."""
        self._curve = self._newest = None
        del self._x[keep:], self._y[keep:], self._seq[keep:]
        if keep % 2:
            self._x.append(self._x[-1])
            self._y.append(self._y[-1])
            self._seq.append(self._seq[-1])
        self._num_in_last = self._stride  # the next value opens a bucket
        self._is_in_gap = bool(self._gaps) and (not self._seq or self._gaps[-1].first_seq > self._seq[-1])

    def _cut_gaps(self, keep: int) -> None:
        """Keep the first gaps only; of the last one its beginning."""
        del self._gaps[keep:]
        if self._gaps:
            last = self._gaps[-1]
            last.last_x, last.last_seq = last.first_x, last.first_seq
        self._cut(len(self._seq))

    def curve(self) -> Curve:
        """What there is to draw; the same object until a value is added."""
        if self._curve is None:
            x, y = array("d"), array("d")
            gaps = iter([*self._gaps, None])
            gap = next(gaps)
            last_seq = None
            for at, value, seq in self._points():
                while gap is not None and gap.first_seq < seq:
                    _draw_gap(gap, x, y)
                    gap = next(gaps)
                if seq != last_seq:
                    x.append(at)
                    y.append(value)
                last_seq = seq
            while gap is not None:
                _draw_gap(gap, x, y)
                gap = next(gaps)
            self._curve = Curve(self.name, x, y)
        return self._curve

    def _points(self) -> Iterator[tuple[float, float, int]]:
        """x, value and seq of what was kept, and of the newest value."""
        yield from zip(self._x, self._y, self._seq, strict=True)
        if self._newest is not None:
            yield self._newest


def _draw_gap(gap: _Gap, x: array[float], y: array[float]) -> None:
    for at in dict.fromkeys((gap.first_x, gap.last_x)):
        x.append(at)
        y.append(math.nan)
