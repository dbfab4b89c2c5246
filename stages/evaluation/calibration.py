"""Whether a network is as sure as it is right. No labels are needed: right is what the teacher says.

Legend: N predictions, M bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

NUM_BINS = 15
"""As in Guo et al. 2017, and in most work since."""


class CalibrationError:
    r"""Expected calibration error of Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), Eq. 3.

        ECE = sum_m (n_m / N) |acc(m) - conf(m)|

    over 15 equally wide bins ((m - 1) / 15, m / 15] of the confidence; acc is the share of right predictions in a bin,
    conf their mean confidence. In [0, 1]: 0 is a network that is right as often as it says. Accumulates over batches.
    With few predictions chance alone makes it positive: a few hundredths at 256.
    """

    def __init__(self, device: torch.device) -> None:
        # One row each: number of predictions, how many are right, sum of confidences. fp64: adding up loses nothing.
        self._sums_3M = torch.zeros(3, NUM_BINS, dtype=torch.float64, device=device)

    def update(self, confidence: Tensor, is_right: Tensor) -> None:
        """Add predictions: confidence float in [0, 1] and is_right bool, of the same shape."""
        confidence_N = confidence.reshape(-1).double()
        # A confidence of exactly m / 15 belongs to the bin below; rounding may lift one above 1.
        bin_N = ((confidence_N * NUM_BINS).ceil().long() - 1).clamp(0, NUM_BINS - 1)
        ones_N = torch.ones_like(confidence_N)
        self._sums_3M.index_add_(1, bin_N, torch.stack([ones_N, is_right.reshape(-1).double(), confidence_N]))

    def result(self) -> float:
        """The error of all that was added; there must be something."""
        num_M, right_M, confidence_M = self._sums_3M
        return float((right_M - confidence_M).abs().sum() / num_M.sum())
