"""Reading the fields of an event that may lack some, or hold something else than expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from ssdkd_cli.dashboard.view import Histogram

_MOST = 1e100
"""No quantity of a run is larger, and what is would overflow in the arithmetic of charts."""


def number(event: Mapping[str, Any], name: str) -> float | None:
    """A number that a run may measure, or None."""
    value = event.get(name)
    return float(value) if _is_measure(value) else None


def _is_measure(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_MOST < value < _MOST  # NaN is not


def whole(event: Mapping[str, Any], name: str) -> int:
    """A whole number; 0 where there is none."""
    value = event.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53 else 0


def text(event: Mapping[str, Any], name: str) -> str:
    """A text; empty where there is none."""
    value = event.get(name)
    return value if isinstance(value, str) else ""


def mapping(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A table; empty where there is none."""
    value = event.get(name)
    return value if isinstance(value, Mapping) else {}


def numbers(event: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a table, by name."""
    return {name: value for name in event if (value := number(event, name)) is not None}


def items(event: Mapping[str, Any], name: str) -> list[Any]:
    """A list; empty where there is none."""
    value = event.get(name)
    return value if isinstance(value, list) else []


def histogram(event: Mapping[str, Any]) -> Histogram | None:
    """Counts and edges that fit each other, or None."""
    counts, edges = items(event, "counts"), items(event, "edges")
    is_whole = all(isinstance(count, int) and 0 <= count < _MOST for count in counts)
    if not counts or len(edges) != len(counts) + 1 or not is_whole or not all(map(_is_measure, edges)):
        return None
    return Histogram(tuple(counts), tuple(float(edge) for edge in edges))
