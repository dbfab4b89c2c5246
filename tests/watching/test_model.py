"""What events add up to: histories, progress, time left, resumptions; and what charts do with the curves."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from scripted_run import TIME_S, an_epoch, buffer_state, device, evaluation, lines_of, run_started, samples, whole_run

from ssdkd_cli.dashboard.curves import point_at, smoothed
from ssdkd_cli.watching.model import MAX_LOG_LINES, MAX_MEASURED, MAX_SERIES, RunModel
from ssdkd_cli.watching.pace import Pace
from ssdkd_cli.watching.series import Series
from ssdkd_cli.watching.view import Curve, DeviceView, LogLine, RunView, title_of
from stages import events


def model_of(told, **options) -> RunModel:
    model = RunModel(Path("a-run"))
    for line in lines_of(told, **options):
        model.add(json.loads(line))
    return model


def points(curve: Curve) -> list[tuple[float, float]]:
    return list(zip(curve.x, curve.y, strict=True))


# -- series ------------------------------------------------------------------------------------------------------


def told_to(series: Series, values) -> Series:
    for index, value in enumerate(values):
        series.append(float(index), value, index)
    return series


def test_a_short_series_is_kept_whole():
    values = [random.Random(1).random() for _ in range(100)]
    curve = told_to(Series("a"), values).curve()
    assert points(curve) == [(float(index), value) for index, value in enumerate(values)]
    assert curve.last == values[-1]


@pytest.mark.parametrize("num_values", [33, 64, 65, 127, 128, 129, 1000, 4097])
def test_a_thinned_series_keeps_order_extremes_and_true_points(num_values):
    rng = random.Random(num_values)
    values = [rng.gauss(0, 1) for _ in range(num_values)]
    curve = told_to(Series("a", max_buckets=32), values).curve()
    assert len(curve) <= 65, "two of each bucket, and the newest"
    assert all(left < right for left, right in pairwise(curve.x))
    assert all(values[int(x)] == y for x, y in points(curve))
    assert (min(curve.y), max(curve.y)) == (min(values), max(values))


def test_a_thinned_series_has_the_lowest_and_highest_value_of_every_bucket():
    rng = random.Random(0)
    values = [*(rng.random() for _ in range(1023)), 2.0]  # the newest, which is there in any case, is the highest
    curve = told_to(Series("a", max_buckets=32), values).curve()
    for start in range(0, 1024, 32):
        part = [y for x, y in points(curve) if start <= x < start + 32]
        assert sorted(part) == [min(values[start : start + 32]), max(values[start : start + 32])]


def test_one_peak_among_many_quiet_values_stays():
    series = Series("a")
    for index in range(100_000):
        series.append(float(index), 9.0 if index == 54_321 else 1.0, index)
    assert (54_321.0, 9.0) in points(series.curve())


@pytest.mark.parametrize("num_kept", [0, 1, 10, 39, 40])
def test_what_a_resumption_supersedes_is_dropped_from_a_whole_series(num_kept):
    series = told_to(Series("a"), [float(index) for index in range(40)])
    series.drop_after(num_kept - 1)
    assert list(series.curve().y) == [float(index) for index in range(num_kept)]
    series.append(float(num_kept), -1.0, 99)
    assert series.curve().last == -1.0
    assert len(series.curve()) == num_kept + 1


@pytest.mark.parametrize("num_kept", [1, 100, 501, 999])
def test_what_a_resumption_supersedes_is_dropped_from_a_thinned_series(num_kept):
    rng = random.Random(num_kept)
    series = told_to(Series("a", max_buckets=16), [rng.random() for _ in range(1000)])
    series.drop_after(num_kept - 1)
    assert all(x < num_kept for x in series.curve().x)
    before = points(series.curve())
    for index in range(num_kept, 3000):
        series.append(float(index), 2.0 if index == num_kept else 0.5, index)
    curve = series.curve()
    assert all(left < right for left, right in pairwise(curve.x))
    assert (float(num_kept), 2.0) in points(curve)
    assert len(before) <= 32


@pytest.mark.parametrize("num_told", [33, 100, 501, 999])
def test_the_newest_value_is_in_the_curve_of_a_thinned_series(num_told):
    values = [float(index % 7) for index in range(num_told)]
    series = told_to(Series("a", max_buckets=16), values)
    for kept in (num_told, num_told - 1):  # and not once it is superseded
        series.drop_after(kept - 1)
        curve = series.curve()
        assert kept < num_told or points(curve)[-1] == (float(kept - 1), values[kept - 1])
        assert curve.x[-1] <= kept - 1
        assert all(left < right for left, right in pairwise(curve.x))


def test_what_is_told_again_supersedes_by_its_place():
    series = told_to(Series("a"), [1.0, 2.0, 3.0, 4.0])
    series.append(2.0, 9.0, 50)
    assert points(series.curve()) == [(0.0, 1.0), (1.0, 2.0), (2.0, 9.0)]


def test_gaps_stay_where_they_are_when_a_series_is_thinned():
    values = [1.0] * 1000
    values[200:300] = [math.nan] * 100
    values[995:] = [math.nan] * 5
    curve = told_to(Series("a", max_buckets=32), values).curve()
    assert [x for x, y in points(curve) if math.isnan(y)] == [200.0, 299.0, 995.0, 999.0]
    assert curve.not_finite_since == 995
    assert all(left <= right for left, right in pairwise(curve.x))


def test_gaps_are_superseded_as_values_are():
    values = [1.0, math.nan, math.nan, 4.0, math.nan]
    by_event, by_place = told_to(Series("a"), values), told_to(Series("a"), values)
    by_event.drop_after(1)
    assert points(by_event.curve()) == [(0.0, 1.0), (1.0, pytest.approx(math.nan, nan_ok=True))]
    by_place.append(1.0, 7.0, 9)
    assert points(by_place.curve()) == [(0.0, 1.0), (1.0, 7.0)]
    by_event.append(2.0, math.nan, 9)
    assert by_event.curve().not_finite_since == 1


def test_gaps_are_bounded():
    series = told_to(Series("a", max_buckets=8), [1.0, math.nan] * 500)
    assert len(series.curve()) <= 32
    assert series.curve().not_finite_since is not None


def test_a_curve_is_made_once():
    series = told_to(Series("a"), [1.0, 2.0])
    assert series.curve() is series.curve()
    before = series.curve()
    series.append(2.0, 3.0, 2)
    assert series.curve() is not before


# -- curves ------------------------------------------------------------------------------------------------------


def curve_of(*y: float) -> Curve:
    return Curve("a", [float(index) for index in range(len(y))], list(y))


def test_smoothing_leaves_a_constant_and_weight_zero_changes_nothing():
    curve = curve_of(3.0, 3.0, 3.0)
    assert smoothed(curve, 0.9).y == pytest.approx([3.0, 3.0, 3.0])
    assert smoothed(curve_of(1.0, 5.0), 0.0) == curve_of(1.0, 5.0)


def test_smoothing_is_the_weighted_mean_of_the_past():
    y, weight = [4.0, 1.0, 7.0, 2.0], 0.6
    for last in range(4):
        weights = [weight ** (last - index) for index in range(last + 1)]
        expected = sum(w * value for w, value in zip(weights, y, strict=False)) / sum(weights)
        assert smoothed(curve_of(*y), weight).y[last] == pytest.approx(expected, rel=1e-12)


def test_smoothing_goes_on_behind_a_gap():
    assert smoothed(curve_of(3.0, math.nan, 3.0), 0.6).y == pytest.approx([3.0, math.nan, 3.0], nan_ok=True)


@pytest.mark.parametrize(("x", "nearest"), [(-9.0, 0.0), (0.4, 0.0), (0.5, 1.0), (1.2, 1.0), (7.0, 2.0)])
def test_the_point_at_the_cursor_is_the_nearest(x, nearest):
    assert point_at(curve_of(5.0, 6.0, 7.0), x) == (nearest, 5.0 + nearest)
    assert point_at(curve_of(), x) is None


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("inversion/loss_bn", "BN statistics"),
        ("inversion/loss_total_variation", "total variation"),
    ],
)
def test_curves_have_titles(name, title):
    assert title_of(name) == title


# -- the model ---------------------------------------------------------------------------------------------------


def test_every_loss_term_of_both_stages_has_a_curve():
    model = model_of(whole_run(4))
    assert [name for name in model.curves() if name.startswith(("inversion", "distillation"))] == [
        *("inversion/loss", "inversion/loss_bn", "inversion/loss_task", "inversion/loss_adversarial"),
        *("distillation/loss", "distillation/lr", "distillation/agreement"),
    ]
    curves = model.curves()
    assert points(curves["inversion/loss_bn"]) == [(1.0, 1.0), (2.0, 1 / 2), (3.0, 1 / 3), (4.0, 1 / 4)]
    # Steps lie within their epoch: 4 steps in the third are at 2.25, 2.5, 2.75 and 3.
    assert list(curves["distillation/loss"].x) == [2.25, 2.5, 2.75, 3.0, 3.25, 3.5, 3.75, 4.0]


def test_a_loss_term_of_a_plugin_has_a_curve_too():
    model = RunModel(Path("a-run"))
    line = {"schema": 1, "kind": "inversion_step", "seq": 1, "epoch": 1, "step": 0, "loss": 1.0, "loss_style": 2.5}
    model.add(line)
    assert model.curves()["inversion/loss_style"].last == 2.5


def test_what_a_stage_measures_has_a_curve():
    measured = [
        (events.Measured(stage="drift", values={"distance": epoch / 2, "a/b": 1.0}), epoch) for epoch in (0, 1, 2)
    ]
    model = model_of([(run_started(), 0), *measured])
    assert points(model.curves()["drift/distance"]) == [(0.0, 0.0), (1.0, 0.5), (2.0, 1.0)]
    assert model.curves()["drift/a/b"].last == 1.0
    assert not model.unknown_kinds


def test_what_stages_tell_is_sorted_by_stage():
    measured = [(events.Measured(stage=stage, values={"x": 1.0}), 0) for stage in ("drift", "inversion", "device")]
    view = RunView(Path("a-run"), "a-run", "done", "done", curves=model_of([*measured, *whole_run(4)]).curves())
    found = view.curves_of_stages()
    assert list(found) == ["inversion", "distillation", "drift"]
    assert [curve.name for curve in found["drift"]] == ["drift/x"]
    assert [curve.name for curve in found["inversion"]][:2] == ["inversion/x", "inversion/loss"]


@pytest.mark.parametrize("value", [math.nan, -math.inf, 1e300, None, "much", True])
def test_a_measured_value_that_is_no_number_leaves_a_gap(value):
    told = [(events.Measured(stage="drift", values={"x": x}), 3 + index) for index, x in enumerate((1.0, value))]
    curve = model_of([(run_started(), 0), *told]).curves()["drift/x"]
    assert (curve.last, curve.not_finite_since) == (None, 4)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e300, 1e308])
def test_what_no_run_can_measure_leaves_a_gap(value):
    steps = [events.DistillationStep(step=0, loss=loss, lr=0.1, agreement=0.5) for loss in (1.0, value, 3.0)]
    curves = model_of([(run_started(), 0), *((step, 3 + index) for index, step in enumerate(steps))]).curves()
    assert list(curves["distillation/loss"].y) == pytest.approx([1.0, math.nan, 3.0], nan_ok=True)
    assert len(curves["distillation/lr"]) == 3


def test_a_run_whose_losses_are_no_longer_finite_says_since_when():
    told = [(run_started(), 0)]
    told += [
        (events.InversionStep(step=4, num_steps=5, loss=loss, loss_bn=math.nan, loss_task=1.0, loss_adversarial=1.0), e)
        for e, loss in enumerate([3.0, 2.0, *[math.nan] * 4], start=1)
    ]
    curves = model_of(told).curves()
    loss = curves["inversion/loss"]
    assert (loss.last, loss.not_finite_since, loss.x[-1]) == (None, 3, 6.0)
    assert curves["inversion/loss_bn"].not_finite_since == 1
    assert (curves["inversion/loss_task"].last, curves["inversion/loss_task"].not_finite_since) == (1.0, None)


def test_what_is_not_measured_has_no_curve():
    without = events.Device(device="cpu", seconds={}, utilisation=None, mem_mib=None, images_per_s=None)
    assert model_of([(run_started(), 0), (without, 1)]).curves() == {}


def test_real_accuracy_and_synthetic_agreement_stay_apart():
    model = model_of([*whole_run(4), (evaluation(0.9, 0.8), 4)])
    assert model.state.evaluation.student == {"top1": 0.9, "loss": 0.1, "num_samples": 7.0}
    assert model.state.evaluation.agreement == 0.8
    names = [name for name in model.curves() if name.startswith(("real", "synthetic"))]
    assert names == [
        *("real/student.top1", "real/student.loss", "real/teacher.top1", "real/teacher.loss"),
        "synthetic/agreement",
    ]


def test_without_real_data_there_is_no_accuracy():
    model = model_of([*whole_run(4), (evaluation(None, 0.8), 4)])
    measured = model.state.evaluation
    assert (measured.student, measured.teacher, measured.agreement) == ({}, {}, 0.8)
    assert not any(name.startswith("real") for name in model.curves())


def test_the_buffer_as_it_is_and_how_it_moved():
    model = model_of([*whole_run(3), (buffer_state(60), 4)])
    buffer = model.state.buffer
    assert (buffer.epoch, buffer.size, buffer.capacity, buffer.class_counts) == (4, 60, 100, (10, 5, 45))
    assert buffer.difficulty.counts == (60, *[0] * 9)
    assert (buffer.priority.counts, buffer.priority.edges) == ((1, 59), (0.0, 1.0, 2.0))
    assert (buffer.priority_mean, buffer.effective_sample_size, buffer.age_mean) == (0.5, 54.0, 1.5)
    assert points(model.curves()["priority/effective_sample_size"])[-2:] == [(3.0, 27.0), (4.0, 54.0)]
    assert list(model.curves()["buffer/size"].y) == [30.0, 30.0, 30.0, 60.0]


def test_a_histogram_that_does_not_fit_itself_is_not_shown():
    state = buffer_state()
    broken = events.BufferState(**(vars(state) | {"difficulty": {"counts": [1, 2], "edges": [0.0, 1.0]}}))
    model = model_of([(run_started(), 0), (broken, 1)])
    assert model.state.buffer.difficulty is None
    assert model.state.buffer.priority is not None


def test_device_time_has_the_words_of_its_device():
    on_cpu, on_gpu = (model_of([(device(7200.0, name), 1)]).state.device for name in ("cpu", "cuda:1"))
    assert (on_cpu.utilisation_label, on_cpu.memory_label) == ("CPU time of the run's threads", "resident memory (RSS)")
    assert (on_gpu.utilisation_label, on_gpu.memory_label) == ("GPU utilisation", "GPU memory")
    assert (on_gpu.hours_label, on_gpu.hours) == ("GPU hours", 2.0)
    assert "GPU" not in on_cpu.hours_label
    assert on_gpu.shares == {"inversion": 0.25, "distillation": 0.5, "evaluation": 0.0, "other": 0.25}


def test_the_time_that_a_run_took_is_what_its_summary_says():
    """What came after the last account of the times, such as an epoch that diverged, is in it alone."""
    seconds = {"inversion": 3.0, "distillation": 4.0, "setup": 1.0, "total": 10.0}
    ending = events.RunFinished(status="diverged", message="", summary={"seconds": seconds})
    told = [(run_started(), 0), (device(5.0), 1)]
    took = model_of([*told, (ending, 2)]).state.device
    assert (took.total_s, took.seconds["distillation"]) == (10.0, 4.0)
    assert "total" not in took.seconds
    assert model_of([*told, (events.RunFinished(status="diverged", message=""), 2)]).state.device.total_s == 5.0


def test_shares_without_time_are_none():
    assert DeviceView("cpu", {"inversion": 0.0}, 0.0, None, None, None).shares == {}


def test_samples_have_the_names_of_their_classes():
    model = model_of([(run_started(), 0), (samples(4), 4)])
    assert model.state.samples.picture == Path("a-run/samples/epoch-000004.png")
    assert [tile.class_name for tile in model.state.samples.tiles] == ["cat", "dog", "emu"]
    unnamed = model_of([(run_started(class_names=None), 0), (samples(4), 4)])
    assert [tile.class_name for tile in unnamed.state.samples.tiles] == ["0", "1", "2"]


def test_the_log_tells_what_happened():
    told = [
        (run_started(), 0),
        (events.Warning(message="no batch-norm", hint="use another"), 0),
        (events.CompilationStarted(what="the teacher"), 1),
        (events.CompilationFinished(what="the teacher", seconds=12.4), 1),
        *((event, 1) for event in an_epoch(total_s=1.0)),
        (events.CheckpointSaved(checkpoint="checkpoints/epoch-000001.safetensors"), 1),
        (events.ControlAcknowledged(id="0", action="checkpoint", accepted=True, message="checkpoint saved"), 1),
        (events.ControlAcknowledged(id="1", action="pause", accepted=True, message="paused"), 1),
        (events.ControlAcknowledged(id="2", action="stop", accepted=False, message="not now"), 1),
        (evaluation(0.5, 0.25), 1),
        (events.RunResumed(checkpoint="checkpoints/epoch-000001.safetensors", checkpoint_seq=12, device="cuda:0"), 0),
        (events.RunFinished(status="failed", message="disk full", hint="free some space"), 1),
    ]
    log = model_of(told).log
    assert [(line.kind, line.level, line.text) for line in log] == [
        ("run_started", "info", "started: run digits, 10 epochs, cpu"),
        ("warning", "warning", "no batch-norm (hint: use another)"),
        ("compilation_finished", "info", "compiled the teacher, 12 s"),
        ("checkpoint_saved", "info", "checkpoint saved"),
        ("control_acknowledged", "info", "paused"),
        ("control_acknowledged", "warning", "stop: not now"),
        ("evaluation", "info", "top-1 50.0%, synthetic agreement 25.0%"),
        ("run_resumed", "info", "resumed from checkpoints/epoch-000001.safetensors, on cuda:0"),
        ("run_finished", "error", "failed: disk full (hint: free some space)"),
    ]
    assert log[0].time_s == TIME_S


@pytest.mark.parametrize("time_s", [None, -1e18, 1e30, 9e99])
def test_a_time_that_no_calendar_has_is_dashes(time_s):
    assert LogLine(time_s, 1, "warning", "warning", "beware").time_of_day == "--:--:--"


def upto(epochs: int) -> list:
    """A run of ten epochs, so many of which are over."""
    return [(event, epoch) for event, epoch in whole_run(10) if epoch <= epochs]


# -- progress ----------------------------------------------------------------------------------------------------


def test_progress_before_the_first_word_and_before_the_first_epoch():
    assert RunModel(Path("a-run")).progress() is None
    progress = model_of([(run_started(), 0)]).progress()
    assert (progress.epoch, progress.share, progress.left_s, progress.is_warmup) == (0, 0.0, None, False)


def test_progress_within_an_epoch():
    told = [*upto(4), *((event, 5) for event in an_epoch(total_s=0.0)[:6])]
    progress = model_of(told).progress()
    inversion, distillation, evaluation_ = progress.stages
    assert (progress.epoch, progress.epochs) == (5, 10)
    assert (inversion.done, inversion.total, inversion.is_running) == (5.0, 10, False)
    # Two epochs of eight are done, and two steps of four in the third; warm-up does not count.
    assert (distillation.done, distillation.total, distillation.step, distillation.num_steps) == (2.5, 8, 1, 4)
    assert distillation.is_running
    assert distillation.share == 2.5 / 8
    assert evaluation_.done == 4.0
    assert progress.share == pytest.approx((4 + 0.75) / 10)


def test_an_epoch_whose_student_has_learnt_is_not_over_before_it_is_measured():
    told = [*upto(4), *((event, 5) for event in an_epoch(total_s=0.0)[:-4])]
    model = model_of([*told, (events.StageStarted(stage="evaluation"), 5)])
    assert model.num_finished == 4
    assert model.progress().share == pytest.approx((4 + 0.99) / 10)


def test_of_a_warm_up_epoch_inversion_is_all():
    begun = [(events.StageStarted(stage="inversion"), 2)]
    begun += [
        (events.InversionStep(step=1, num_steps=5, loss=1.0, loss_bn=1.0, loss_task=0.5, loss_adversarial=0.0), 2)
    ]
    assert model_of([*upto(1), *begun]).progress().share == pytest.approx((1 + 2 / 5) / 10)


def test_a_done_inversion_is_not_in_warm_up_any_more():
    """All its epochs are: no student learns."""
    invert = {"command": "invert", "stages": ["inversion", "evaluation"], "epochs": 2, "warmup_epochs": 2}
    told = [(run_started(**invert), 0), *whole_run(2)[1:]]
    assert model_of(told).progress().is_warmup
    assert not model_of([*told, (events.RunFinished(status="done", message="done"), 2)]).progress().is_warmup


def test_a_done_run_is_at_its_end_and_a_stopped_one_where_it_was():
    done = model_of([*whole_run(10), (events.RunFinished(status="done", message="done"), 10)]).progress()
    assert (done.share, done.left_s, [stage.share for stage in done.stages]) == (1.0, None, [1.0] * 3)
    told = upto(4)
    stopped = model_of([*told, (events.RunFinished(status="stopped", message="stopped"), 4)]).progress()
    assert (stopped.share, stopped.left_s) == (0.4, None)


def test_the_time_left_needs_an_epoch_of_each_kind():
    in_warmup = model_of(upto(2)).progress()
    assert in_warmup.left_s is None
    # Four epochs are over, the last of which took 3 s: six more to go.
    assert model_of(upto(4)).progress().left_s == pytest.approx(6 * 3.0)


def test_the_time_left_goes_by_the_accounts_and_not_by_the_clock():
    told = upto(4)
    model = RunModel(Path("a-run"))
    for index, line in enumerate(lines_of(told)):
        model.add({**json.loads(line), "time_s": TIME_S + 1000.0 * index * (-1) ** index})
    assert model.progress().left_s == pytest.approx(6 * 3.0)


def test_an_epoch_that_makes_something_once_does_not_lengthen_the_time_left():
    pace = Pace()
    for epoch, total_s in enumerate((0.0, 150.0, 170.0, 192.0)):
        pace.account(epoch, total_s, warmup_epochs=0)
    assert pace.seconds_left(0, 10) == pytest.approx(220.0)
    pace.account(4, 212.0, warmup_epochs=0)
    assert pace.seconds_left(0, 10) == pytest.approx(200.0)


def test_when_the_time_left_will_be_known_is_said():
    pace = Pace()
    assert pace.timed_after(1, warmup_epochs=2) == 3
    assert pace.timed_after(1, warmup_epochs=0) == 2, "the first epoch has no beginning that was accounted"
    pace.account(1, 1.0, warmup_epochs=2)
    pace.account(2, 2.0, warmup_epochs=2)
    assert pace.timed_after(3, warmup_epochs=2) == 3
    pace.forget_position()
    assert pace.timed_after(3, warmup_epochs=2) == 4, "it was taken up in its midst"


def test_a_run_says_when_it_will_be_over_unless_it_is_paused():
    model = model_of(whole_run(4)[:2])
    assert (model.progress().left_s, model.progress().timed_after) == (None, 3)
    told = [(run_started(epochs=6), 0), *whole_run(4)[1:]]
    model = model_of(told)
    progress = model.progress()
    assert (progress.left_s, progress.timed_after) == (pytest.approx(6.0), None)
    assert progress.ends_s == pytest.approx(TIME_S + len(told) - 1 + 6)
    paused = events.ControlAcknowledged(id="1", action="pause", accepted=True, message="")
    assert model_of([*told, (paused, 5)]).progress().ends_s is None


def test_accounts_in_the_midst_of_an_epoch_stand_there():
    told = [(run_started(epochs=6), 0), *whole_run(3)[1:]]
    in_epoch = [
        (events.StageStarted(stage="inversion"), 4),
        (events.StageFinished(stage="inversion", seconds=1.0), 4),
        (events.StageStarted(stage="distillation"), 4),
        (events.DistillationStep(step=1, loss=1.0, lr=0.1, agreement=0.5), 4),
        (device(6.5), 4),
    ]
    model = model_of([*told, *in_epoch])
    steps = model.description.distillation_steps
    assert points(model.curves()["device/images_per_s"])[-1][0] == pytest.approx(3 + 0.5 + 0.5 * min(1.0, 2 / steps))
    assert model.state.device.total_s == 6.5
    left = 6 - model.curves()["device/images_per_s"].x[-1]
    assert model.progress().left_s == pytest.approx(left * 3.0), "what it took so far is not timed as a whole epoch"


def test_pace_times_each_kind_of_epoch_apart():
    pace = Pace()
    for epoch, total_s in ((1, 10.0), (2, 11.0), (3, 16.0), (4, 21.0)):
        pace.account(epoch, total_s, warmup_epochs=2)
    assert pace.seconds_left(3, 2) == pytest.approx(3 * 1.0 + 2 * 5.0)
    assert pace.seconds_left(0, 0) == 0.0


def test_pace_takes_epochs_that_were_not_told_one_by_one_as_their_mean():
    pace = Pace()
    for epoch, total_s in ((2, 2.0), (12, 52.0)):
        pace.account(epoch, total_s, warmup_epochs=2)
    assert pace.seconds_left(0, 1) == pytest.approx(5.0)
    pace.account(5, 1.0, warmup_epochs=2)  # accounts that fall say nothing
    assert pace.seconds_left(0, 1) == pytest.approx(5.0)


def test_pace_says_nothing_by_epochs_of_both_kinds_at_once():
    pace = Pace()
    pace.account(1, 1.0, warmup_epochs=2)
    pace.account(6, 20.0, warmup_epochs=2)
    assert pace.seconds_left(0, 1) is None
    pace.account(7, 25.0, warmup_epochs=2)
    assert pace.seconds_left(0, 1) == pytest.approx(5.0)


# -- resumptions -------------------------------------------------------------------------------------------------


def resumed_run() -> tuple[list, list]:
    """A run that died in its fifth epoch and went on from the third; and one that was never interrupted."""
    told = whole_run(6)
    upto_3, after = [item for item in told if item[1] <= 3], [item for item in told if item[1] > 3]
    checkpoint = (events.CheckpointSaved(checkpoint="checkpoints/epoch-000003.safetensors"), 3)
    lost = [item for item in after if item[1] <= 5][:-4]
    resumed = events.RunResumed(checkpoint="checkpoints/epoch-000003.safetensors", checkpoint_seq=len(upto_3) - 1)
    return [*upto_3, checkpoint, *lost, (resumed, 0), *after], [*upto_3, checkpoint, *after]


def test_a_resumption_supersedes_what_came_after_its_checkpoint():
    interrupted, plain = (model_of(told) for told in resumed_run())
    assert {name: points(curve) for name, curve in interrupted.curves().items()} == {
        name: points(curve) for name, curve in plain.curves().items()
    }
    assert replace(interrupted.progress(), ends_s=None) == replace(plain.progress(), ends_s=None)
    assert (interrupted.state.buffer, interrupted.state.device) == (plain.state.buffer, plain.state.device)


def test_right_after_a_resumption_the_run_stands_at_its_checkpoint():
    told, _ = resumed_run()
    at = next(index for index, (event, _) in enumerate(told) if event.kind == "run_resumed")
    model = model_of(told[: at + 1])
    state = model.state
    assert (state.epoch, state.buffer.epoch, state.device.total_s, state.stage) == (3, 3, 5.0, None)
    assert model.progress().share == pytest.approx(3 / 6)
    assert max(model.curves()["inversion/loss"].x) == 3.0


def test_a_resumption_without_a_checkpoint_begins_anew():
    told = [*whole_run(4), (events.RunResumed(checkpoint="", checkpoint_seq=0), 0)]
    model = model_of(told)
    assert (model.state.epoch, model.state.buffer, model.curves(), model.description.epochs) == (0, None, {}, 4)
    assert "no checkpoint" in model.log[-1].text


def test_a_resumption_ends_the_pause_and_the_end():
    told = [
        (run_started(), 0),
        (events.ControlAcknowledged(id="1", action="pause", accepted=True, message=""), 1),
        (events.RunFinished(status="stopped", message="stopped"), 1),
    ]
    model = model_of(told)
    assert model.is_paused
    assert model.ending["status"] == "stopped"
    model = model_of([*told, (events.RunResumed(checkpoint="", checkpoint_seq=0), 0)])
    assert not model.is_paused
    assert model.ending is None


# -- bounds ------------------------------------------------------------------------------------------------------


def test_everything_is_bounded():
    model = RunModel(Path("a-run"))
    for seq in range(3000):
        base = {"schema": 1, "seq": seq, "epoch": seq, "time_s": TIME_S}
        model.add({**base, "kind": "warning", "message": "x"})
        model.add({**base, "kind": f"kind-{seq}"})
        model.add({**base, "kind": "control_acknowledged", "id": str(seq), "action": "pause", "accepted": True})
        model.add({**base, "kind": "inversion_step", "step": 0, f"loss_{seq}": 1.0, "loss": 1.0})
    assert len(model.log) == MAX_LOG_LINES
    assert len(model.curves()) == MAX_SERIES
    assert len(model.unknown_kinds) <= MAX_SERIES
    assert len(model.curves()["inversion/loss"]) <= 2048


def test_a_stage_that_measures_much_leaves_room_for_the_run():
    told = [(events.Measured(stage="drift", values={str(index): 1.0 for index in range(1000)}), 0), *whole_run(4)]
    model = model_of(told)
    assert sum(name.startswith("drift/") for name in model.curves()) == MAX_MEASURED
    assert {name for name in model.curves() if not name.startswith("drift/")} == set(model_of(whole_run(4)).curves())


def test_where_the_student_minimises_something_else_the_log_says_so():
    def step(number: int, objective: str | None) -> tuple[events.Event, int]:
        return events.DistillationStep(step=number, loss=1.0, lr=0.1, agreement=0.5, objective=objective), 1

    told = [(run_started(), 0), step(0, None), step(1, "kl"), step(2, None), step(3, "kl"), step(4, "standardized")]
    said = [line.text for line in model_of(told).log if "minimises" in line.text]
    assert said == ["the student minimises `standardized` now: its loss is on another scale than before"]
