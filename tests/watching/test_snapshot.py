"""A run on a page of text, as `ssdkd watch` prints it off a terminal."""

from __future__ import annotations

import re

import pytest
from scripted_run import evaluation, lines_of, run_of_lines, samples, whole_run

from ssdkd_cli.charts import ASCII, BLOCKS
from ssdkd_cli.watching.feed import RunFeed
from ssdkd_cli.watching.snapshot import _evenly, render_text
from stages import events
from stages.run_directory import RunDirectory


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    told = [*whole_run(4), (evaluation(0.9, 0.8), 4), (samples(4), 4)]
    return run_of_lines(tmp_path / "runs" / "a-run", lines_of(told))


def test_the_page_fits_80_columns_and_ascii(run):
    view = RunFeed(run).poll()
    page = render_text(view, glyphs=BLOCKS)
    assert max(map(len, page.splitlines())) <= 80
    plain = render_text(view, glyphs=ASCII)
    assert plain.isascii()
    assert re.search(r"^  student +top-1 90.00%$", plain, re.M)
    assert re.search(r"^  agreement with the teacher +80.00% \(by chance 12.50%\)$", plain, re.M)
    assert re.search(r"\d\d:\d\d:\d\d  epoch 4    top-1 90.0%, synthetic agreement 80.0%$", plain, re.M)
    for words in ("epoch 4 of 4", "4 of 4", "effective sample size", "27 (90.0%)", "1,000", "resident memory (RSS)"):
        assert words in plain


def test_the_time_of_each_stage_and_what_is_left_of_it_are_told(run):
    page = render_text(RunFeed(run).poll(), glyphs=ASCII)
    rows = re.findall(r"^  (\w+) +#+ +(\S+)  (\d+ s)$", page, re.M)
    assert rows == [("inversion", "25.0%", "2 s"), ("distillation", "50.0%", "4 s"), ("other", "25.0%", "2 s")]


def test_of_a_long_curve_values_from_all_of_it_are_drawn_with_the_newest_as_the_last():
    assert _evenly([float(index) for index in range(100)], 10) == [9.0 + 10 * index for index in range(10)]
    assert _evenly([1.0, 2.0], 10) == [1.0, 2.0]


def test_a_page_of_a_run_on_a_gpu_says_so(tmp_path):
    told = [(event, epoch) for event, epoch in whole_run(3) if event.kind != "device"]
    device = events.Device(
        device="cuda:0",
        seconds={"inversion": 10.0, "total": 7200.0},
        utilisation=0.97,
        mem_mib=4321.0,
        images_per_s=48_000.0,
    )
    page = render_text(RunFeed(run_of_lines(tmp_path / "run", lines_of([*told, (device, 3)]))).poll(), glyphs=ASCII)
    assert "2.00 GPU hours" in page
    assert re.search(r"GPU utilisation +97%", page)
    assert re.search(r"GPU memory +4,321 MiB", page)
