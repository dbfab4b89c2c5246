"""The expected calibration error against a plain reading of its definition, and at its limits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

from stages.evaluation.calibration import CalibrationError

CPU = torch.device("cpu")


def measured(confidence: Sequence[float], is_right: Sequence[bool], *, batch_size: int = 1000) -> float:
    error = CalibrationError(CPU)
    for start in range(0, len(confidence), batch_size):
        batch = slice(start, start + batch_size)
        error.update(torch.tensor(confidence[batch], dtype=torch.float64), torch.tensor(is_right[batch]))
    return error.result()


def by_definition(confidence: np.ndarray, is_right: np.ndarray, num_bins: int = 15) -> float:
    """Guo et al. 2017, Eq. 3, bin by bin."""
    edges = np.linspace(0, 1, num_bins + 1)
    error = 0.0
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(is_right[inside].mean() - confidence[inside].mean())
    return error


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
@pytest.mark.parametrize("power", [0.3, 1.0, 3.0])
def test_against_the_definition(power: float, batch_size: int) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(500) ** power
    is_right = rng.random(500) < confidence**2
    expected = by_definition(confidence, is_right)
    assert expected > 0.05
    assert measured(confidence.tolist(), is_right.tolist(), batch_size=batch_size) == pytest.approx(expected, rel=1e-9)


def test_by_hand() -> None:
    # Bin (14/15, 1]: two of three right at .95, .95, .98; bin (7/15, 8/15]: none of one right at .5.
    error = measured([0.95, 0.95, 0.98, 0.5], [True, False, True, False])
    assert error == pytest.approx((abs(2 - 2.88) + 0.5) / 4)


def test_an_edge_belongs_to_the_bin_below() -> None:
    # .4 is 6/15: alone in its bin it is off by .6, with .41 in one bin the two would make up for each other.
    assert measured([0.4, 0.41], [True, False]) == pytest.approx((0.6 + 0.41) / 2)


@pytest.mark.parametrize(("is_right", "expected"), [(True, 0.0), (False, 1.0)])
def test_limits_of_a_network_that_is_sure(is_right: bool, expected: float) -> None:
    assert measured([1.0] * 5, [is_right] * 5) == expected


def test_a_confidence_of_nothing_or_rounded_above_one_counts() -> None:
    assert measured([0.0], [False]) == 0.0
    assert measured([1.0 + 1e-7], [True]) == pytest.approx(0.0, abs=1e-6)


def test_dense_predictions_count_one_by_one() -> None:
    rng = np.random.default_rng(1)
    confidence, is_right = rng.random((4, 3, 5)), rng.random((4, 3, 5)) < 0.5
    error = CalibrationError(CPU)
    error.update(torch.from_numpy(confidence), torch.from_numpy(is_right))
    assert error.result() == pytest.approx(by_definition(confidence.ravel(), is_right.ravel()))
