"""What stands where there is nothing to draw: it says whether something is still to come."""

from __future__ import annotations

from dataclasses import replace

import pytest
from app_pilot import shown
from scripted_run import buffer_state, device, evaluation, lines_of, run_of_lines, run_started

from ssdkd_cli.dashboard.empty_texts import (
    NO_REAL_DATA,
    NOTHING_MEASURED,
    no_agreement,
    no_buffer,
    no_device,
    no_evaluation,
    no_pace,
    no_real_results,
    no_step,
)
from ssdkd_cli.watching.feed import RunFeed
from stages import events
from stages.run_directory import RunDirectory

DONE = events.RunFinished(status="done", message="done")


def view_of(path, *told, is_live=False, **header):
    lines = lines_of([(run_started(**header), 0), *told])
    run = run_of_lines(path / "run", lines)
    if not is_live:
        return RunFeed(run).poll()
    with run.lock.held():
        return RunFeed(run).poll()


@pytest.mark.parametrize(
    ("epoch", "header", "said"),
    [
        (2, {"warmup_epochs": 2}, "distillation begins after the warm-up"),
        (1, {"warmup_epochs": 0}, "no distillation step yet"),
        (3, {"warmup_epochs": 2}, "no distillation step yet"),
        (3, {"warmup_epochs": 0, "stages": ["inversion"]}, "this run has no distillation"),
    ],
)
def test_distillation_that_has_not_begun(tmp_path, epoch, header, said):
    view = view_of(tmp_path, (events.StageStarted(stage="inversion"), epoch), is_live=True, **header)
    assert no_step(view, "distillation") == said


def test_a_stage_that_a_finished_run_never_had(tmp_path):
    view = view_of(tmp_path, (DONE, 10), command="distill", stages=["distillation"], warmup_epochs=0)
    assert no_step(view, "inversion") == "this run has no inversion"
    assert no_step(view, "distillation") == "the run ended before the first step of distillation"
    assert no_evaluation(view) == "this run is not evaluated"


@pytest.mark.parametrize(("is_live", "said"), [(True, "not evaluated yet"), (False, "the run ended before its first")])
def test_before_the_first_evaluation(tmp_path, is_live, said):
    view = view_of(tmp_path, (device(1.0), 1), is_live=is_live)
    assert no_real_results(view).startswith(said)


@pytest.mark.parametrize(
    ("is_live", "said"),
    [(True, "counted when the first epoch is over"), (False, "the run ended before its first epoch was over")],
)
def test_a_buffer_that_nobody_has_counted_is_not_called_empty(tmp_path, is_live, said):
    view = view_of(tmp_path / "first", (events.StageStarted(stage="inversion"), 1), is_live=is_live)
    assert no_buffer(view) == said
    assert no_buffer(view_of(tmp_path / "second", (buffer_state(), 1))) == "the buffer is empty so far"


@pytest.mark.parametrize(
    ("is_live", "said"),
    [(True, "timed when the first epoch is over"), (False, "the run ended before its first epoch was over")],
)
def test_a_device_that_nobody_has_timed(tmp_path, is_live, said):
    view = view_of(tmp_path / "first", (events.StageStarted(stage="inversion"), 1), is_live=is_live)
    assert no_device(view) == no_pace(view) == said
    timed = view_of(tmp_path / "second", (replace(device(1.0), utilisation=None), 1))
    assert (no_device(timed), no_pace(timed)) == ("not measured on this device", "no step was counted")


def test_the_views_of_a_run_that_is_over_promise_nothing(tmp_path):
    told = [(run_started(), 0), (replace(device(1.0), utilisation=None), 1), (DONE, 10)]
    run = run_of_lines(tmp_path / "run", lines_of(told))
    assert "not measured on this device" in shown(run, "6", size=(120, 40))
    for key in ("3", "6"):
        for size in ((80, 24), (120, 40)):
            assert "nothing yet" not in shown(run, key, size=size)


def test_a_run_without_real_data_is_not_told_to_wait_for_any(tmp_path):
    view = view_of(tmp_path, (evaluation(None), 1), is_live=True)
    assert no_real_results(view) == NO_REAL_DATA


def test_where_neither_accuracy_nor_agreement_is_measured_none_is_promised(tmp_path):
    view = view_of(tmp_path, (events.Evaluation(real=None, synthetic=None), 1), is_live=True)
    assert no_real_results(view) == NOTHING_MEASURED


def test_where_only_the_teacher_was_measured_that_is_said(tmp_path):
    told = events.Evaluation(real={"student": None, "teacher": {"top1": 0.9, "num_samples": 10}}, synthetic=None)
    view = view_of(tmp_path, (told, 1), is_live=False)
    assert no_real_results(view) == "only the teacher was measured: no student learns here"
    assert no_agreement(view) == "agreement is not measured in this run"
    assert [line.text for line in view.log][-1] == "teacher top-1 90.0%"
    assert "only the teacher was measured" in shown(RunDirectory(tmp_path / "run"), size=(132, 42))


def test_the_screen_of_a_finished_inversion_says_that_there_is_no_distillation(tmp_path):
    told = [(run_started(command="invert", stages=["inversion"], warmup_epochs=0), 0), (buffer_state(), 1), (DONE, 10)]
    run = run_of_lines(tmp_path / "run", lines_of(told))
    text = shown(run)
    assert "this run has no distillation" in text
    assert "this run is not evaluated" in text
    assert "warm-up" not in text


def test_the_history_of_accuracy_says_that_there_is_no_real_data(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of([(run_started(), 0), (evaluation(None), 1)]))
    assert shown(run, "5").count("no real data") == 2
