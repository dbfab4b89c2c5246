"""Reading the fields of an event that may lack some, or hold something else than expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

_LARGEST = 1e100
"""No quantity of a run comes near it; a larger number in an event counts as missing, for it would overflow when it is
summed up or drawn."""


def number(event: Mapping[str, Any], name: str) -> float | None:
    """A number that a run may measure, or None."""
    value = event.get(name)
    return float(value) if is_measure(value) else None


def is_measure(value: Any) -> TypeGuard[int | float]:
    """Whether it is a number that a run may measure: finite, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST  # NaN is not


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
