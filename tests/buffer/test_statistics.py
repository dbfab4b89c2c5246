from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from buffer_rows import make_rows

from stages.buffer.file import BufferContents
from stages.buffer.statistics import buffer_report, class_entropy, priority_edges


def report_of(rows: BufferContents, **changes: Any) -> dict[str, Any]:
    settings = {"num_classes": 4, "alpha": 0.6, "epsilon": 1e-6} | changes
    return buffer_report(
        teacher_class=rows.teacher_class,
        teacher_prob=rows.teacher_prob,
        priority=rows.priority,
        age=rows.age,
        **settings,
    )


def with_priority(values: list[float]) -> BufferContents:
    rows = make_rows(len(values))
    rows.priority[:] = values
    return rows


def test_class_counts_against_counting() -> None:
    rows = make_rows()
    counts = [sum(1 for value in rows.teacher_class if value == index) for index in range(6)]
    assert report_of(rows, num_classes=6)["class_counts"] == counts


def test_dense_labels_are_counted_by_pixel() -> None:
    rows = make_rows(3, label_shape=(6, 5))
    report = report_of(rows)
    assert sum(report["class_counts"]) == 3 * 6 * 5
    assert sum(report["difficulty"]["counts"]) == 3 * 6 * 5
    assert sum(report["priority"]["counts"]) == 3


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([5, 5, 5, 5], 1.0),
        ([20, 0, 0, 0], 0.0),
        ([1, 1, 0, 0], 0.5),  # ln 2 / ln 4
        ([2, 1, 1], 1.5 * math.log(2) / math.log(3)),
    ],
)
def test_class_entropy(counts: list[int], expected: float) -> None:
    entropy = class_entropy(np.array(counts))
    assert entropy == pytest.approx(expected, abs=1e-12)
    assert math.copysign(1.0, entropy) == 1.0  # a report does not say -0.0


def test_class_entropy_is_undefined_for_nothing() -> None:
    assert class_entropy(np.array([0, 0])) is None
    assert class_entropy(np.array([3])) is None


def test_difficulty_is_in_ten_bins_of_one_minus_probability() -> None:
    rows = make_rows(6)
    rows.teacher_prob[:] = [1.0, 0.95, 0.55, 0.05, 0.0, 0.55]
    difficulty = report_of(rows)["difficulty"]
    assert difficulty["edges"] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert difficulty["counts"] == [2, 0, 0, 0, 2, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("num", [0, 1, 5000])
def test_histograms_against_numpy(num: int) -> None:
    rows = make_rows(num, seed=3)
    rows.teacher_prob[: num // 4] = np.float32(0.7)  # 1 - p is at an edge, to the last bit or nearly
    rows.teacher_prob[num // 4 : num // 2] = np.float32(0.2)  # and here in float64 below it, in float32 above
    report = report_of(rows)
    for name, values in {"priority": rows.priority, "difficulty": 1 - rows.teacher_prob.astype(np.float64)}.items():
        counts, _ = np.histogram(values.astype(np.float64), bins=report[name]["edges"])
        assert report[name]["counts"] == counts.tolist(), name


def test_probability_that_rounds_above_one_is_counted() -> None:
    rows = make_rows(2)
    rows.teacher_prob[:] = np.float32(1.0000001)
    assert report_of(rows)["difficulty"]["counts"][0] == 2


def test_effective_sample_size_against_its_definition() -> None:
    rows = make_rows()
    weights = [(float(value) + 1e-3) ** 0.7 for value in rows.priority]
    expected = sum(weights) ** 2 / sum(weight**2 for weight in weights)
    report = report_of(rows, alpha=0.7, epsilon=1e-3)
    assert report["priority"]["effective_sample_size"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("priority", "alpha", "expected"),
    [
        ([0.1, 5.0, 2.0, 0.0], 0.0, 4.0),  # alpha 0: uniform
        ([3.0, 3.0, 3.0, 3.0], 1.0, 4.0),  # all alike: uniform
        ([0.0, 0.0, 0.0, 0.0], 0.6, 4.0),  # epsilon keeps every sample in reach
        ([1e6, 0.0, 0.0, 0.0], 1.0, 1.0),  # one takes all
        ([1e-30, 1e-30, 1e-30, 1e-30], 0.6, 4.0),
    ],
)
def test_effective_sample_size_in_the_limits(priority: list[float], alpha: float, expected: float) -> None:
    report = report_of(with_priority(priority), alpha=alpha)
    assert report["priority"]["effective_sample_size"] == pytest.approx(expected, abs=1e-6)


def test_priority_spread() -> None:
    priority = report_of(with_priority([0.5, 0.25, 1.0]))["priority"]
    assert (priority["min"], priority["max"]) == (0.25, 1.0)
    assert priority["mean"] == pytest.approx(1.75 / 3)


def test_priority_bins_double_and_hold_everything() -> None:
    priority = report_of(with_priority([8.0, 7.9, 4.0, 3.9, 1.0, 0.0]))["priority"]
    assert priority["edges"] == [0.0, *(8.0 / 2**halvings for halvings in range(15, -1, -1))]
    # [4, 8] holds 8, 7.9 and 4; [2, 4) holds 3.9; [1, 2) holds 1; the first bin reaches down to 0.
    assert priority["counts"][-3:] == [1, 1, 3]
    assert priority["counts"][0] == 1


@pytest.mark.parametrize("highest", [0.0, 1e-45, 1e-6, 3.7, 3e38])
def test_priority_edges_rise(highest: float) -> None:
    edges = priority_edges(highest)
    assert (np.diff(edges) > 0).all()
    assert edges[-1] == (highest or 1.0)


def test_age() -> None:
    rows = make_rows(4)
    rows.age[:] = [7, 3, 3, 0]
    assert report_of(rows)["age"] == {"min": 0, "mean": 3.25, "max": 7}


def test_empty_buffer() -> None:
    report = report_of(make_rows(0))
    assert report["class_counts"] == [0, 0, 0, 0]
    assert report["class_entropy"] is None
    assert report["priority"]["effective_sample_size"] is None
    assert sum(report["priority"]["counts"]) == sum(report["difficulty"]["counts"]) == 0


@pytest.mark.parametrize("num", [0, 1, 30])
def test_report_is_plain_json(num: int) -> None:
    report = report_of(make_rows(num))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
