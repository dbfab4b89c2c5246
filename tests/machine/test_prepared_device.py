"""Whoever computes on a device prepares it: fp32 is fp32 there, and what a thread allocates lies on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from stages.config import Config, load
from stages.evaluation.standalone import evaluate_weights
from stages.teachers.report import report_teacher
from stages.teachers.train import train_teacher
from stages.trainer import Launch, plan

CPU = torch.device("cpu")

WORK: dict[str, Callable[[Config, Path], object]] = {
    "stages.planning.plan": lambda config, out: plan(config, Launch(command="run", preset_name="digits", out=out)),
    "stages.evaluation.standalone": lambda config, out: evaluate_weights(out, config, "cpu"),
    "stages.teachers.report": lambda config, _: report_teacher(config, CPU),
    "stages.teachers.train": lambda config, out: train_teacher(config, out=out, device=CPU, seed=0),
}


class PreparedError(Exception):
    """Ends the work as soon as it has prepared its device."""


@pytest.mark.parametrize("module", WORK)
def test_whoever_computes_prepares_the_device(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(device: torch.device) -> None:
        raise PreparedError(device.type)

    monkeypatch.setattr(f"{module}.prepare_device", prepare)
    with pytest.raises(PreparedError, match="cpu"):
        WORK[module](load(["digits"], ["run.threads=1", "run.device=cpu"]), tmp_path / "out")
