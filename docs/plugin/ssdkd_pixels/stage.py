"""A stage that measures something in each epoch, shows it, and goes on in a resumed run where it was."""

from typing import Any

import torch
from torch import Tensor

from ssdkd_pixels.spec import ForgettingTable
from stages.api import Measured, Run, Stage, agreement, evaluating


class Forgetting(Stage[ForgettingTable]):
    """Which held-out images the student names as the teacher does, and an epoch ago did not, or the other way round."""

    only_looks = True  # nothing is learnt here

    def setup(self, run: Run) -> None:
        """No epoch has been looked at."""
        self._agreed_N: Tensor | None = None

    def run_epoch(self, run: Run) -> None:
        """Tell of the difference to the epoch before."""
        if run.holdout_NCHW is None:  # made at the end of warm-up, and never trained on
            return
        before_N, self._agreed_N = self._agreed_N, self._agreement(run, run.holdout_NCHW)
        if before_N is not None:
            forgotten, learnt = (before_N & ~self._agreed_N), (self._agreed_N & ~before_N)
            values = {"forgotten": float(forgotten.float().mean()), "learnt": float(learnt.float().mean())}
            run.emit(Measured(stage="forgetting", values=values))

    @torch.no_grad()
    def _agreement(self, run: Run, images_NCHW: Tensor) -> Tensor:
        """On the CPU, where `load_state_dict` gets it, too."""
        with evaluating(run.student):
            batches = images_NCHW.split(self.config.batch_size)
            return torch.cat([agreement(run.teacher(batch), run.student(batch)) for batch in batches]).cpu()

    def state_dict(self) -> dict[str, Any]:
        """What the next epoch is compared with."""
        return {} if self._agreed_N is None else {"agreed": self._agreed_N}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`, after `setup`."""
        self._agreed_N = state.get("agreed")
