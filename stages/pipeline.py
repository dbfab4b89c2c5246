"""Algorithm 1 of SSD-KD as a chain of stages, epoch by epoch.

    preset -> [ inversion -> buffer -> distillation -> evaluation ] x epochs -> student

The pipeline knows the order and the place it is at, and nothing of what a stage does. Whatever is to be written or told
goes to the recorder, whoever wants the run to pause or stop is heard at its safe points.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from stages.errors import DivergedError, StorageError
from stages.events import StageFinished, StageStarted
from stages.recorder import Recorder
from stages.run import Run, StopRequested
from stages.stage import Stage

AnyStage = Stage[Any]


class Pipeline:
    """Chains the stages of a run, and goes on where a checkpoint left off."""

    def __init__(self, run: Run, stages: Mapping[str, AnyStage], recorder: Recorder) -> None:
        self.run = run
        self.stages = stages
        self.recorder = recorder
        self._stages_done = 0
        self._is_mid_epoch = False

    def train(self) -> None:
        """Algorithm 1. Raises StopRequested at a safe point, DivergedError, StorageError."""
        run = self.run
        while self._is_mid_epoch or run.epoch < run.schedule.epochs:  # line 2: for e = 1 to E
            if not self._is_mid_epoch:
                run.epoch, self._stages_done, self._is_mid_epoch = run.epoch + 1, 0, True
            for name in list(self.stages)[self._stages_done :]:
                self._run_stage(name)  # lines 4-15: inversion; lines 16-23: distillation; then evaluation
                self._stages_done += 1
                run.safe_point()
            self._check()
            self._is_mid_epoch = False
            self.recorder.finish_epoch()
            if run.epoch % run.config.run.checkpoint_every == 0 or run.is_last_epoch:
                self.save()

    def _run_stage(self, name: str) -> None:
        run, accounts = self.run, self.recorder.accounts
        run.emit(StageStarted(stage=name))
        before_s = accounts.seconds().get(name, 0.0)
        try:
            with accounts.stage(name):
                self.stages[name].run_epoch(run)
        except (StopRequested, DivergedError, StorageError):
            raise
        except Exception:  # whatever a stage, or a stranger's code in it, can raise: it is raised again
            if self.stages[name].only_looks:
                with suppress(Exception):  # what went wrong first is the thing to tell
                    self.save()
            raise
        run.emit(StageFinished(stage=name, seconds=accounts.seconds()[name] - before_s))

    def _check(self) -> None:
        for stage in self.stages.values():
            stage.check(self.run)

    @property
    def epochs_done(self) -> int:
        """Epochs that are over."""
        return self.run.epoch - self._is_mid_epoch

    def save(self) -> None:
        """Write a checkpoint and everything else that a stopped run leaves behind.

        Raises DivergedError where the student is lost: its last good files stay then.
        """
        self._check()
        weights = self.run.student.model.state_dict().values()
        if not all(tensor.isfinite().all() for tensor in weights):
            raise DivergedError(
                f"the student's weights are not finite in epoch {self.run.epoch}",
                hint="lower distillation.lr, or use run.precision=fp32",
            )
        if self._is_mid_epoch:
            self.recorder.emit_device()
        self.recorder.save(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """The run's whole state: where it is, what the stages share, and what each of them owns."""
        run = self.run
        best = run.best_student
        return {
            "epoch": run.epoch,
            "is_mid_epoch": self._is_mid_epoch,
            "stages_done": self._stages_done,
            "num_synthesized": run.num_synthesized,
            "num_trained": run.num_trained,
            "results": run.results.state_dict(),
            "best_student": None if best is None else vars(best),
            "student": run.student.model.state_dict(),
            "buffer": run.buffer.state_dict(),
            "holdout": run.holdout_NCHW,
            "stages": {name: stage.state_dict() for name, stage in self.stages.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`, with the stages set up already."""
        run = self.run
        run.epoch = state["epoch"]
        self._is_mid_epoch = state["is_mid_epoch"]
        self._stages_done = state["stages_done"]
        run.num_synthesized = state["num_synthesized"]
        run.num_trained = state["num_trained"]
        run.load_results(state["results"], state["best_student"])
        run.student.model.load_state_dict(state["student"])
        run.buffer.load_state_dict(state["buffer"])
        if state["holdout"] is not None:
            run.holdout_NCHW = state["holdout"].to(run.device)
        for name, stage in self.stages.items():
            stage.load_state_dict(state["stages"][name])
