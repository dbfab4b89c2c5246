"""A history of bounded length: however long the run, every peak and dip of it stays to be seen."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from ssdkd_cli.dashboard.view import Curve

MAX_BUCKETS = 1024
"""Two points each: more than any terminal has columns, in 48 KiB."""


class Series:
    """Values over x, kept as buckets of equally many: of each bucket its lowest and its highest value.

    When there are too many buckets, neighbours are merged, so that all of the history has the same resolution.
    """

    def __init__(self, name: str, *, max_buckets: int = MAX_BUCKETS) -> None:
        assert max_buckets % 2 == 0, max_buckets
        self.name = name
        self.num_told = 0
        self._max_buckets = max_buckets
        self._stride = 1  # values in a full bucket
        self._num_in_last = 0
        # Two entries for each bucket, in the order in which they were told; equal for a bucket of one value.
        self._x, self._y, self._seq = array("d"), array("d"), array("q")
        self._curve: Curve | None = None

    @property
    def num_kept(self) -> int:
        """Buckets there are."""
        return len(self._x) // 2

    def append(self, x: float, y: float, seq: int) -> None:
        """Add a value. One that is told again (x falls back) supersedes those at and after its x."""
        if self._x and x < self._x[-1]:
            self._cut(bisect_left(self._x, x))
        self._curve = None
        self.num_told += 1
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

    def _join(self, x: float, y: float, seq: int) -> None:
        """Put a value into the last bucket."""
        first, last = self._y[-2], self._y[-1]
        if min(first, last) <= y <= max(first, last) and first != last:
            return
        # The earlier of the two stays where the new value takes the later one's part.
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
        keep = len(self._seq)
        while keep > 0 and self._seq[keep - 1] > seq:
            keep -= 1
        if keep < len(self._seq):
            self._cut(keep)

    def _cut(self, keep: int) -> None:
        """Keep the first entries only; half a bucket becomes a whole one."""
        self._curve = None
        del self._x[keep:], self._y[keep:], self._seq[keep:]
        if keep % 2:
            self._x.append(self._x[-1])
            self._y.append(self._y[-1])
            self._seq.append(self._seq[-1])
        self._num_in_last = self._stride  # the next value opens a bucket

    def curve(self) -> Curve:
        """What there is to draw; the same object until a value is added."""
        if self._curve is None:
            x, y = array("d"), array("d")
            for index in range(0, len(self._x), 2):
                x.append(self._x[index])
                y.append(self._y[index])
                if self._seq[index + 1] != self._seq[index]:
                    x.append(self._x[index + 1])
                    y.append(self._y[index + 1])
            self._curve = Curve(self.name, x, y, self.num_told)
        return self._curve
