"""Files with weights of networks that nobody trained."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.config import TaskTable
from stages.models.build import build_model
from stages.models.weights import save_weights


def write_weights(path: Path, model: str, task: TaskTable, *, seed: int = 0) -> Path:
    """Write first weights of a network, called as in a preset; the path itself."""
    torch.manual_seed(seed)
    save_weights(build_model(model, task=task, where="teacher.model"), path)
    return path
