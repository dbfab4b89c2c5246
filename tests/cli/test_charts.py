"""Bars and sparklines as text."""

from __future__ import annotations

import pytest

from ssdkd_cli.charts import ASCII, BLOCKS, bar, bar_rows, cut, glyphs_for, sparklines


@pytest.mark.parametrize(
    ("value", "expected"), [(0, ""), (8, "████████"), (4, "████"), (0.5, "▌"), (1e-9, "▏"), (3.25, "███▎"), (-1, "")]
)
def test_bar_of_eighths(value, expected):
    assert bar(value, 8, width=8, glyphs=BLOCKS) == expected


def test_bar_in_ascii():
    assert bar(4, 8, width=8, glyphs=ASCII) == "####"


def test_bar_where_all_is_zero():
    assert bar(0, 0, width=8, glyphs=BLOCKS) == ""


def test_rows_share_one_scale_and_line_up():
    rows = bar_rows(["a", "long name"], [1, 2000], width=40, glyphs=ASCII)
    assert rows[0] == "a              1  #"
    assert rows[1] == "long name  2,000  " + "#" * 22


def test_sparkline_goes_from_blank_to_full():
    assert sparklines([0, 1, 4, 8], width=80, glyphs=BLOCKS) == [" ▂▅█"]
    assert sparklines([0, 1, 4, 8], width=3, glyphs=ASCII) == [" :+", "#"]


@pytest.mark.parametrize(
    ("text", "expected"), [("short", "short"), ("a longer name", "a longe…"), ("猫猫猫猫猫", "猫猫猫…")]
)
def test_cut_counts_cells(text, expected):
    assert cut(text, 8, BLOCKS) == expected


@pytest.mark.parametrize(
    ("encoding", "glyphs"), [("utf-8", BLOCKS), ("UTF-8", BLOCKS), ("ascii", ASCII), ("cp437", ASCII)]
)
def test_glyphs_follow_the_stream(encoding, glyphs):
    assert glyphs_for(encoding) is glyphs
