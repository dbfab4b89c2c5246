"""How times are said."""

from __future__ import annotations

import pytest

from ssdkd_cli.words import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3600, "1 h 00 min"), (4350, "1 h 12 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text
