"""What is in a replay buffer, in numbers: class balance, difficulty, priorities, age. No torch.

Legend: N samples, K classes, P sampling probabilities.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.buffer.priorities import effective_sample_size, sampling_probabilities

NUM_DIFFICULTY_BINS = 10
# Priorities are KL divergences and spread over decades: each bin is as wide as all those below it together.
NUM_PRIORITY_BINS = 16


def class_entropy(counts_K: npt.NDArray[np.int64]) -> float | None:
    """H / ln K of the class shares: 1 is even, 0 a single class. None without samples or for K = 1."""
    total = counts_K.sum()
    if total == 0 or len(counts_K) < 2:
        return None
    share = counts_K[counts_K > 0] / total
    return max(0.0, float(-(share * np.log(share)).sum() / np.log(len(counts_K))))


def priority_edges(highest: float) -> npt.NDArray[np.float64]:
    """Bin edges 0, m / 2^15, ..., m / 2, m for the highest priority m (1 where that is 0)."""
    doublings = np.arange(NUM_PRIORITY_BINS - 1, -1, -1)
    return np.concatenate([[0.0], (highest if highest > 0 else 1.0) / 2.0**doublings])


def buffer_report(
    *,
    teacher_class: npt.NDArray[np.int64],
    teacher_prob: npt.NDArray[np.float32],
    priority: npt.NDArray[np.float32],
    age: npt.NDArray[np.int32],
    num_classes: int,
    alpha: float,
    epsilon: float,
) -> dict[str, Any]:
    """Counts, entropy and histograms as plain numbers, ready for JSON.

    Shapes: priority, age [N]; teacher_class, teacher_prob [N] or, in dense tasks, [N, H, W] (by pixel).
    Costs O(N). Keys: class_counts [K]; class_entropy = H / ln K; difficulty, counts and edges of 1 - p_T in ten bins on
    [0, 1]; priority, with min, mean, max, effective_sample_size, counts, edges; age, with min, mean, max in
    epochs. What an empty buffer does not have is None.
    """
    counts_K = np.bincount(teacher_class.reshape(-1), minlength=num_classes)
    difficulty = np.clip(1.0 - teacher_prob.reshape(-1).astype(np.float64), 0.0, 1.0)
    difficulty_edges = np.arange(NUM_DIFFICULTY_BINS + 1) / NUM_DIFFICULTY_BINS
    is_empty = len(priority) == 0
    edges = priority_edges(0.0 if is_empty else float(priority.max()))
    probability_N = sampling_probabilities(priority.astype(np.float64), alpha=alpha, epsilon=epsilon)
    return {
        "class_counts": counts_K.tolist(),
        "class_entropy": class_entropy(counts_K),
        "difficulty": {"counts": _counts(difficulty, difficulty_edges), "edges": difficulty_edges.tolist()},
        "priority": {
            **_spread(priority),
            "effective_sample_size": None if is_empty else effective_sample_size(probability_N),
            "counts": _counts(priority.astype(np.float64), edges),
            "edges": edges.tolist(),
        },
        "age": _spread(age),
    }


def _counts(values_N: npt.NDArray[np.float64], edges: npt.NDArray[np.float64]) -> list[int]:
    """Values in [low, high) of each bin, in the last one in [low, high]; all lie between the first and the last edge.

    As `numpy.histogram`, which sorts the values and takes ten times as long.
    """
    num_below = [*(int(np.count_nonzero(values_N < edge)) for edge in edges[:-1]), len(values_N)]
    return [high - low for low, high in pairwise(num_below)]


def _spread(values_N: npt.NDArray[Any]) -> dict[str, float | None]:
    if len(values_N) == 0:
        return {"min": None, "mean": None, "max": None}
    return {
        "min": values_N.min().item(),
        "mean": float(values_N.mean(dtype=np.float64)),
        "max": values_N.max().item(),
    }
