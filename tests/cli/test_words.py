"""How times, metrics and settings are said."""

from __future__ import annotations

import pytest

from ssdkd_cli.words import duration, precise_duration, setting_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3600, "1 h 00 min"), (4350, "1 h 12 min")],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.44, "8.4 s"), (59.94, "59.9 s"), (59.96, "1 min 00 s"), (4213.7, "1 h 10 min")]
)
def test_short_times_are_told_to_a_tenth(seconds, text):
    assert precise_duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "true"), (0.5, "0.5"), ("auto", "auto"), ([1, False], "[1, false]"), ([], "[]")],
)
def test_settings_read_as_in_a_preset(value, text):
    assert setting_text(value) == text
