"""Priorities of buffered samples: Eq. 4-6 of SSD-KD.

Legend: N buffered samples, B drawn samples. delta is the priority, P the probability of being drawn, w the
importance-sampling weight. The functions are plain arithmetic and take tensors and numpy arrays alike, so that a
run and a report on its file use the same equations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

ArrayT = TypeVar("ArrayT", "Tensor", "npt.NDArray[Any]")
"""A `torch.Tensor` or a `numpy.ndarray` of float."""


def sampling_probabilities(priority_N: ArrayT, *, alpha: float, epsilon: float) -> ArrayT:
    r"""P_i(x) = (|delta_i(x)| + eps)^alpha / sum_x' (|delta_i(x')| + eps)^alpha, SSD-KD Eq. (6).

    Shapes: [N] float -> [N], sums to 1. alpha = 0 is uniform sampling; epsilon > 0 keeps every sample reachable,
    as far as the type has numbers so small: (epsilon / largest delta)^alpha.
    Differs from the paper: nothing; its text says that sampling "reuses the same intermediate values as phi(x)", its
    equations have no phi in them. Costs O(N) time and one array of N.
    """
    probability_N: ArrayT = abs(priority_N)
    probability_N += epsilon
    if len(probability_N) > 0:
        probability_N /= probability_N.max()  # so that no power leaves the type's range
    probability_N **= alpha
    probability_N /= probability_N.sum()
    return probability_N


def importance_sampling_weights(probability_B: ArrayT, *, num_samples: int, beta: float) -> ArrayT:
    r"""w_i(x) = (N P_i(x))^-beta, SSD-KD Eq. (5).

    Shapes: [B] float in (0, 1] -> [B]. `num_samples` is N, the present size of the buffer. 1 everywhere under
    uniform sampling or beta = 0. Differs from the paper: nothing, N is not defined there; unlike Schaul et al. 2016 not
    divided by its maximum.
    """
    weight_B: ArrayT = (num_samples * probability_B) ** -beta
    return weight_B


def updated_priority(weight_B: ArrayT, divergence_B: ArrayT) -> ArrayT:
    r"""delta_i(x) = w_{i-1}(x) KL(f_t(x) || f_s(x)), SSD-KD Eq. (4), with w_{-1} = 1 for a new sample.

    Shapes: [B], [B] -> [B], >= 0. Visited again and again, delta settles where P is proportional to
    KL^(alpha / (1 + alpha beta)); each visit multiplies the distance to that by -alpha beta, so alpha beta < 1.
    """
    priority_B: ArrayT = weight_B * divergence_B
    return priority_B


def effective_sample_size(probability_N: ArrayT) -> float:
    """1 / sum P^2 (Kish): how many equally likely samples would be drawn with the same variety. In [1, N]."""
    return float(1.0 / (probability_N**2).sum())
