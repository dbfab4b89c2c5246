"""Eq. 4-6 against loops, in their limits, and in the long run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stages.buffer.priorities import (
    effective_sample_size,
    importance_sampling_weights,
    sampling_probabilities,
    updated_priority,
)

DELTAS = [0.0, 0.1, 2.5, -0.7, 1e-4, 9.0]
"""Eq. 6 takes absolute values, so one is negative."""


@pytest.mark.parametrize("alpha", [0.3, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("epsilon", [1e-6, 0.05])
def test_sampling_probabilities_against_a_loop(alpha: float, epsilon: float) -> None:
    powers = [(abs(delta) + epsilon) ** alpha for delta in DELTAS]
    expected = [power / sum(powers) for power in powers]
    of_array = sampling_probabilities(np.array(DELTAS), alpha=alpha, epsilon=epsilon)
    of_tensor = sampling_probabilities(torch.tensor(DELTAS), alpha=alpha, epsilon=epsilon)
    np.testing.assert_allclose(of_array, expected, rtol=1e-12)
    np.testing.assert_allclose(of_tensor.numpy(), expected, rtol=1e-5)
    assert of_tensor.dtype == torch.float32
    assert of_tensor.min() > 0  # epsilon keeps a sample of priority 0 reachable


def test_priorities_are_left_as_they_are() -> None:
    array, tensor = np.array(DELTAS), torch.tensor(DELTAS)
    sampling_probabilities(array, alpha=0.6, epsilon=1e-6)
    sampling_probabilities(tensor, alpha=0.6, epsilon=1e-6)
    assert array.tolist() == DELTAS
    assert torch.equal(tensor, torch.tensor(DELTAS))


@pytest.mark.parametrize("alpha", [8.0, 60.0, 100.0])
def test_a_large_alpha_stays_in_range(alpha: float) -> None:
    equal_N = sampling_probabilities(torch.zeros(3), alpha=alpha, epsilon=1e-6)
    torch.testing.assert_close(equal_N, torch.full((3,), 1 / 3))
    far_N = sampling_probabilities(torch.tensor([4.6, 2.0, 0.1]), alpha=alpha, epsilon=1e-6)
    torch.testing.assert_close(far_N.sum(), torch.tensor(1.0))
    assert far_N.argmax() == 0
    assert sampling_probabilities(torch.zeros(1), alpha=alpha, epsilon=1e-6).tolist() == [1.0]


def test_alpha_zero_is_uniform() -> None:
    probability_N = sampling_probabilities(torch.tensor(DELTAS), alpha=0.0, epsilon=1e-6)
    torch.testing.assert_close(probability_N, torch.full((6,), 1 / 6))


@pytest.mark.parametrize("beta", [0.4, 1.0])
def test_importance_sampling_weights_against_a_loop(beta: float) -> None:
    probabilities = [0.5, 0.3, 0.15, 0.05]
    expected = [1 / (4 * probability) ** beta for probability in probabilities]
    weight_B = importance_sampling_weights(np.array(probabilities), num_samples=4, beta=beta)
    np.testing.assert_allclose(weight_B, expected, rtol=1e-12)
    assert weight_B.max() > 1  # not divided by its maximum
    # Divided by it, the weights are those of prioritised replay (Schaul et al. 2016): (P / min P)^-beta.
    schaul = [(probability / min(probabilities)) ** -beta for probability in probabilities]
    np.testing.assert_allclose(weight_B / weight_B.max(), schaul, rtol=1e-12)
    few_B = importance_sampling_weights(np.array(probabilities[:2]), num_samples=4, beta=beta)
    np.testing.assert_allclose(few_B, expected[:2], rtol=1e-12)  # N is the buffer's, not the batch's


def test_weights_are_one_without_bias() -> None:
    probability_B = torch.tensor([0.5, 0.3, 0.2])
    assert torch.equal(importance_sampling_weights(probability_B, num_samples=3, beta=0.0), torch.ones(3))
    uniform_B = torch.full((8,), 1 / 8)
    assert torch.equal(importance_sampling_weights(uniform_B, num_samples=8, beta=0.7), torch.ones(8))


def test_updated_priority_is_weight_times_divergence() -> None:
    updated_B = updated_priority(np.array([1.0, 0.5, 2.0]), np.array([3.0, 3.0, 0.0]))
    assert updated_B.tolist() == [3.0, 1.5, 0.0]


@pytest.mark.parametrize(("alpha", "beta"), [(0.6, 0.4), (1.0, 0.9), (0.3, 1.0)])
def test_priorities_visited_again_and_again_settle(alpha: float, beta: float) -> None:
    """P settles at KL^(alpha / (1 + alpha beta)); each visit multiplies the distance to that by -alpha beta."""
    divergence_N = np.array([0.01, 0.3, 1.0, 4.0, 25.0])
    settled_N = divergence_N ** (alpha / (1 + alpha * beta))
    settled_N /= settled_N.sum()

    def distance(priority_N: np.ndarray) -> np.ndarray:
        error_N = np.log(sampling_probabilities(priority_N, alpha=alpha, epsilon=0.0) / settled_N)
        return error_N - error_N.mean()  # a common factor of all priorities changes no probability

    priority_N = divergence_N.copy()  # delta_0, w = 1
    for _visit in range(6):
        before_N = distance(priority_N)
        probability_N = sampling_probabilities(priority_N, alpha=alpha, epsilon=0.0)
        weight_N = importance_sampling_weights(probability_N, num_samples=5, beta=beta)
        priority_N = updated_priority(weight_N, divergence_N)
        np.testing.assert_allclose(distance(priority_N), -alpha * beta * before_N, atol=1e-9)


def test_effective_sample_size() -> None:
    assert effective_sample_size(torch.full((20,), 1 / 20)) == pytest.approx(20)
    assert effective_sample_size(np.array([0.0, 1.0, 0.0])) == pytest.approx(1)
    assert effective_sample_size(np.array([0.5, 0.25, 0.25])) == pytest.approx(1 / 0.375)
