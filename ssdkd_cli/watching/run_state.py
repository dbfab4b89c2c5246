"""Where a run stands by the newest event of each kind, and how much of its epochs that is."""

from __future__ import annotations

from ssdkd_cli.watching.view import (
    BufferView,
    DeviceView,
    EvaluationView,
    RunDescription,
    SamplesView,
    StageProgress,
)

_TRAINING = ("inversion", "distillation")


class RunState:
    """What the newest event of each kind says. A checkpoint keeps a shallow copy: every value is replaced whole."""

    def __init__(self) -> None:
        self.epoch = 0
        self.stage: str | None = None
        self.step: int | None = None
        self.num_steps: int | None = None
        """Steps that the running stage has in this epoch."""
        self.compiling: str | None = None
        """What is compiled at present."""
        self.views_judged: tuple[int, int] | None = None
        """How many of how many new images the teacher has seen the views of, while the student waits for that."""
        self.objective = ""
        """What the student minimises, as far as it has been told."""
        self.stages_done: frozenset[str] = frozenset()
        self.buffer: BufferView | None = None
        self.device: DeviceView | None = None
        self.evaluation: EvaluationView | None = None
        self.samples: SamplesView | None = None

    def leave_stage(self) -> None:
        """No stage is at work any more. Something may be compiled all the same, beside it."""
        self.stage = self.step = self.views_judged = None

    def is_epoch_over(self, description: RunDescription) -> bool:
        """Whether all stages of the present epoch are done."""
        return self.stages_done.issuperset(description.stages)

    def epochs_finished(self, description: RunDescription) -> float:
        """Epochs that are over, and of the present one the part that is done: its stages count alike."""
        if self.epoch == 0 or not description.stages:
            return 0.0
        if self.is_epoch_over(description):
            return float(self.epoch)
        counted = [name for name in description.stages if name in _TRAINING] or list(description.stages)
        if self.epoch <= description.warmup_epochs and "inversion" in counted:
            counted = ["inversion"]
        done = float(len(self.stages_done.intersection(counted)))
        if self.stage in counted:
            done += self._step_share(description)
        return self.epoch - 1 + min(done / len(counted), 0.99)

    def progress_of(self, stage: str, description: RunDescription) -> StageProgress:
        """How far one stage of the chain is."""
        warmup = description.warmup_epochs if stage == "distillation" else 0
        total = max(0, description.epochs - warmup)
        is_running = stage == self.stage
        done = float(max(0, self.epoch - 1 - warmup))
        if self.epoch > warmup:
            done += 1.0 if stage in self.stages_done else self._step_share(description) if is_running else 0.0
        return StageProgress(
            stage=stage,
            done=min(done, float(total)),
            total=total,
            is_running=is_running,
            step=self.step if is_running else None,
            num_steps=(self.num_steps if is_running else None) or _num_steps(stage, description),
        )

    def _step_share(self, description: RunDescription) -> float:
        """Part of the running stage that is done."""
        num_steps = self.num_steps or _num_steps(self.stage, description)
        return min(1.0, (self.step + 1) / num_steps) if self.step is not None and num_steps else 0.0


def _num_steps(stage: str | None, description: RunDescription) -> int | None:
    """Steps that a stage usually has in an epoch; None where it has none."""
    if stage == "inversion":
        return description.inversion_steps or None
    return (description.distillation_steps or None) if stage == "distillation" else None
