"""The base of every table of a preset, and how a table's own rules report the keys they concern."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

AUTO = "auto"
"""The value of a key that is to be chosen for what else is known: the machine, the networks, the other keys."""

RULE_ERROR = "preset_rule"
"""Type of the pydantic error that `rule_error` makes."""


class Table(BaseModel):
    """A frozen table of a preset. Unknown keys, wrong types, NaN and infinity are errors; nothing is coerced.

    A preset's values are taken as JSON has them: a tuple is a list there, a path or the member of an enum its text.
    The docstring below a field is what `ssdkd presets explain` says of its key.
    A stranger's stage or method derives its schema from this class too.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    hints_at_unknown: ClassVar[Mapping[str, str]] = {}
    """What to say of keys that the table has not and that people try."""


def follows(rule: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """A default that follows from other values of the table; None where one of these was refused.

    Early versions of pydantic ask for the default even then.
    """

    @wraps(rule)
    def default(table: dict[str, Any]) -> Any:
        try:
            return rule(table)
        except KeyError:
            return None

    return default


def rule_error(table: Table, *keys: str, message: str, hint: str) -> PydanticCustomError:
    """The error a table raises when values that are fine alone contradict each other.

    `keys` are the keys of the table that are involved, the one to blame first. They are told with their
    values; `message` says what is wrong with these together.
    """
    values = {key: getattr(table, key) for key in keys}
    context: dict[str, Any] = {"values": values, "message": message, "hint": hint}
    return PydanticCustomError(RULE_ERROR, "{message}", context)
