"""Files as they should not be: said in words, never a crash, never a stuck screen."""

from __future__ import annotations

import random
import shutil
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from app_pilot import MEDIUM, drive, fill_buffer, press, screen_text, until
from rich.cells import cell_len
from scripted_run import (
    append,
    buffer_state,
    damage,
    evaluation,
    lines_of,
    raw_line,
    run_of_lines,
    run_started,
    samples,
    whole_run,
)

from ssdkd_cli.charts import BLOCKS
from ssdkd_cli.dashboard.widgets.chart import ChartPanel
from ssdkd_cli.dashboard.widgets.notice import notices
from ssdkd_cli.watching.feed import RunFeed
from ssdkd_cli.watching.snapshot import render_text
from stages import events


def words(text: str) -> str:
    return " ".join(text.replace("│", " ").split())


def test_garbage_unknown_kinds_and_newer_schemas_are_told(tmp_path):
    lines = lines_of(whole_run(3))
    lines += ["not json\n", raw_line(kind="telepathy", seq=900), raw_line(kind="device", seq=901, schema=7), '{"torn']
    run = run_of_lines(tmp_path / "run", lines)

    async def body(app, pilot):
        text = words(screen_text(app))
        assert "could not be read" in text
        assert "telepathy" in text
        assert "schema 7" in text
        assert "distillation loss" in text

    with run.lock.held():
        drive(run, body, size=MEDIUM)


def test_more_than_fits_is_counted(tmp_path):
    lines = [*lines_of(whole_run(3)), "not json\n", raw_line(kind="telepathy", seq=900), '{"torn']
    lines.insert(-1, raw_line(kind="device", seq=901, schema=7))

    async def body(app, pilot):
        assert "more)" in screen_text(app)

    drive(run_of_lines(tmp_path / "run", lines), body)


def test_characters_of_two_cells_stay_in_their_columns(tmp_path):
    names = ("고양이", "dog", "とても長いクラスの名前です", "emu")
    counts = (10, 5, 15, 8)
    warning = "학습 이미지가 모두 같은 클래스입니다 " * 4 + "끝입니다"
    told = whole_run(3)
    told[0] = (run_started(run="実験" * 8, class_names=names, num_classes=4), 0)
    told.append((replace(buffer_state(), class_counts=counts), 3))
    told.append((events.Warning(message=warning), 3))
    run = run_of_lines(tmp_path / ("実験" * 8), lines_of(told))

    async def body(app, pilot):
        rows = (await press(app, pilot, "3")).splitlines()
        of_class = [next(row for row in rows if name[:3] in row) for name in names]
        ends = [row.index(f" {count} ") + len(f" {count}") for row, count in zip(of_class, counts, strict=True)]
        assert len({cell_len(row[:end]) for row, end in zip(of_class, ends, strict=True)}) == 1
        log = await press(app, pilot, "7")
        assert words(warning) in words(log)
        assert {cell_len(row) for row in log.splitlines() if row.startswith("│")} == {80}

    drive(run, body)


def test_a_torn_line_waits_for_its_end(tmp_path):
    told = whole_run(3)
    lines = lines_of(told)
    line = lines_of([(events.Warning(message="late but whole"), 3)], seq=len(told))[0]
    run = run_of_lines(tmp_path / "run", [*lines, line[:20]])

    async def body(app, pilot):
        assert "late but whole" not in await press(app, pilot, "7")
        append(run, [line[20:]])
        await until(pilot, lambda: "late but whole" in screen_text(app))

    with run.lock.held():
        drive(run, body)


def test_a_vanished_directory_keeps_what_was_read(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of(whole_run(3)))

    async def body(app, pilot):
        shutil.rmtree(run.path)
        await until(pilot, lambda: "has vanished" in words(screen_text(app)))
        assert "distillation loss" in screen_text(app)
        for key in "234567":
            await press(app, pilot, key)
        text = words(screen_text(app))
        assert "vanished" in text
        assert "process is gone" not in text, "nobody can say"
        assert "--resume" not in text, "there is nothing to go on with"

    drive(run, body, size=MEDIUM)


def test_a_directory_that_never_was_one(tmp_path):
    async def body(app, pilot):
        for key in "1234567":
            assert "the run has left no events" in await press(app, pilot, key)
        await press(app, pilot, "l", "s", "left", "plus", "minus", "0", "enter", "escape", "f", "n")

    drive(tmp_path / "nothing", body)


def test_a_process_that_dies_is_noticed_and_its_keys_go(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of([*whole_run(3), (events.StageStarted(stage="inversion"), 4)]))

    async def body(app, pilot):
        assert "p Pause" in screen_text(app)
        lock.close()
        await until(pilot, lambda: "process is gone" in screen_text(app))
        await until(pilot, lambda: "p Pause" not in screen_text(app))
        await until(pilot, lambda: "●" not in screen_text(app))  # no stage is at work any more

    with ExitStack() as lock:
        lock.enter_context(run.lock.held())
        drive(run, body)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_lines_leave_every_view_standing(tmp_path, seed):
    rng = random.Random(seed)
    told = [*whole_run(4), (evaluation(), 4), (samples(), 4), (events.Warning(message="careful"), 4)]
    run = run_of_lines(tmp_path / "run", [damage(line, rng) for line in lines_of(told) * 6])
    fill_buffer(run)

    async def body(app, pilot):
        for key in ("2", "l", "s", "left", "n", "3", "n", "4", "f", "5", "6", "7", "1"):
            text = await press(app, pilot, key)
            assert "Help" in text
            assert "\x1b" not in text

    drive(run, body, size=(80, 24) if seed % 2 else MEDIUM)


def test_terms_that_differ_in_a_sign_only_get_a_chart_each(tmp_path):
    lines = lines_of(whole_run(3))
    strange = [line.replace('"loss_bn"', f'"loss{sign}bn"') for sign in "-$." for line in lines]
    run = run_of_lines(tmp_path / "run", [*lines, *strange])

    async def body(app, pilot):
        await press(app, pilot, "2")
        extra = [chart.traces[0].curve for chart in app.run_screen.open_view.query(ChartPanel)][7:]
        assert extra == ["inversion/loss-bn", "inversion/loss$bn", "inversion/loss.bn"]
        await press(app, pilot, "n", "n")
        assert app.is_running

    drive(run, body)


def test_what_a_stage_measures_has_a_chart_by_its_name(tmp_path):
    values = {"mean_norm": 0.5, "recall[/3]": 0.125, "disagreement": 0.25}
    told = [(events.Measured(stage="drift", values=values), epoch) for epoch in (1, 2, 3)]
    run = run_of_lines(tmp_path / "run", lines_of([*whole_run(3), *told]))

    async def body(app, pilot):
        text = await press(app, pilot, "2", "n", "n")
        for title in ("drift: mean norm", "drift: recall[/3]", "drift: disagreement"):
            assert title in text
        charts = list(app.run_screen.open_view.query(ChartPanel))[7:]
        assert [chart.readout() for chart in charts] == ["0.500", "0.125", "0.250"]
        assert not any(chart.is_smoothable for chart in charts)

    drive(run, body)


@pytest.mark.parametrize(("num_finite", "since"), [(2, 3), (0, 1)])
def test_losses_that_are_no_longer_finite_are_told(tmp_path, num_finite, since):
    nan = float("nan")
    told = [(run_started(), 0)]
    for epoch in range(1, 6):
        loss = 1.0 if epoch <= num_finite else nan
        step = events.InversionStep(step=4, num_steps=5, loss=loss, loss_bn=1.0, loss_task=1.0, loss_adversarial=1.0)
        told.append((step, epoch))
    run = run_of_lines(tmp_path / "run", lines_of(told))
    said = f"not finite since epoch {since}"

    async def body(app, pilot):
        assert said in screen_text(app)
        assert said in await press(app, pilot, "2", "s")
        assert "epoch 5: not finite" in await press(app, pilot, "right")

    drive(run, body)
    assert said in render_text(RunFeed(run).poll(), glyphs=BLOCKS)


def test_values_that_no_run_writes_do_not_break_the_charts(tmp_path):
    told = [
        *whole_run(3),
        (
            events.InversionStep(
                step=4, num_steps=5, loss=float("nan"), loss_bn=-1e30, loss_task=1e300, loss_adversarial=0.0
            ),
            4,
        ),
        (events.Device(device="cuda:0", seconds={}, utilisation=None, mem_mib=None, images_per_s=None), 4),
    ]

    async def body(app, pilot):
        for key in ("2", "l", "s", "n", "6", "l", "1"):
            await press(app, pilot, key)
        assert app.is_running

    drive(run_of_lines(tmp_path / "run", lines_of(told)), body)


@pytest.mark.parametrize(("status", "goes_on"), [("diverged", False), ("failed", True)])
def test_what_to_do_about_it_is_said_with_it(tmp_path, monkeypatch, status, goes_on):
    monkeypatch.chdir(tmp_path)
    ending = events.RunFinished(status=status, message="the loss is nan", hint="lower distillation.lr", summary={})
    run = run_of_lines(Path("run"), lines_of([*whole_run(3), (ending, 3)]))
    goes_on = "; `ssdkd run --resume run` goes on with it" if goes_on else ""
    ((_, told), *_) = notices(RunFeed(run).poll())
    assert told == f"the run {status}: the loss is nan (lower distillation.lr{goes_on})"


def test_a_small_screen_says_all_of_why_a_run_failed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # how long a path is that is not the test's own must not matter
    why = "cannot write `a-folder-with-a-name/checkpoints/epoch-000003.safetensors`: No space left on device"
    told = [*whole_run(3), (events.RunFinished(status="failed", message=why, summary={}), 3)]
    run = run_of_lines(Path("run"), lines_of(told))

    async def body(app, pilot):
        text = " ".join((await press(app, pilot, "3")).split())
        assert why in text
        assert "goes on with it" in text

    drive(run, body, size=(80, 24))
