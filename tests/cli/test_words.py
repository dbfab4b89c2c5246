"""How times, metrics and settings are said."""

from __future__ import annotations

import pytest

from ssdkd_cli.words import (
    duration,
    escaped,
    format_metric,
    headline,
    is_count,
    is_near_chance,
    is_share,
    precise_duration,
    setting_text,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.2, "0 s"), (59.4, "59 s"), (125, "2 min 05 s"), (3600, "1 h 00 min"), (4350, "1 h 12 min")),
        *((172_799, "47 h 59 min"), (200_000, "2 d 7 h")),
        *((None, "-"), (-1, "-"), (float("nan"), "-"), (float("inf"), "-"), (1e12, "-")),
    ],
)
def test_durations_read_as_people_say_them(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.44, "8.4 s"), (9.94, "9.9 s"), (9.96, "10 s"), (4213.7, "1 h 10 min"), (None, "-"), (-1, "-")],
)
def test_short_times_are_told_to_a_tenth(seconds, text):
    assert precise_duration(seconds) == text


@pytest.mark.parametrize(
    ("metric", "value", "text", "kind"),
    [
        ("num_samples", 10_000, "10,000", "count"),
        ("loss", 0.37414, "0.3741", "measure"),
        ("top1", 0.9263, "92.63%", "share"),
        ("miou", 0.384, "38.40%", "share"),
        ("miou", None, "-", "share"),
    ],
)
def test_metrics_are_shares_but_for_the_loss_and_the_count(metric, value, text, kind):
    assert format_metric(metric, value) == text
    assert (is_count(metric), is_share(metric)) == (kind == "count", kind == "share")


@pytest.mark.parametrize(
    ("metrics", "text"),
    [({"top1": 0.9, "loss": 0.1}, "top-1 90.00%"), ({"loss": None, "top1": 0.9}, ""), ({}, ""), (None, "")],
)
def test_the_headline_is_the_metric_that_a_task_names_first(metrics, text):
    assert headline(metrics) == text


@pytest.mark.parametrize(
    ("agreement", "by_chance", "is_near"),
    [
        (0.96, 0.957, True),
        (0.9, 0.24, False),
        (0.2, 0.3, True),
        (0.34, 0.25, False),
        (0.32, 0.25, True),
        (0.1, None, False),
    ],
)
def test_agreement_near_chance_says_next_to_nothing(agreement, by_chance, is_near):
    assert is_near_chance(agreement, by_chance) == is_near


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (True, "true"), (0.5, "0.5"), ("auto", "auto"), ([1, False], "[1, false]"), ([], "[]")],
)
def test_settings_read_as_in_a_preset(value, text):
    assert setting_text(value) == text


def test_text_from_a_file_moves_no_cursor():
    assert escaped("a\x1b[2Jb\r\n\x9b") == "a\\x1b[2Jb\\r\\n\\x9b"
    assert escaped("a\x1b\n", keep="\n") == "a\\x1b\n"
    assert escaped("Möwe") == "Möwe"
