"""The settings of runs that take a moment: 8x8 digits and networks of a few hundred weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import small_networks
import torch

from stages.config import Config
from stages.models.weights import save_weights
from stages.trainer import Outcome, Plan

MakeConfig = Callable[..., Config]
PlanRun = Callable[..., Plan]
Start = Callable[..., Outcome]

NETWORKS = Path(small_networks.__file__)
PRESET = f"""
[run]
epochs = 4
warmup_epochs = 1
threads = 1
device = "cpu"
precision = "fp32"
checkpoint_every = 2
eval_every = 2
log_every = 1

[task]
num_classes = 10
image_shape = [1, 8, 8]
mean = [0.5]
std = [0.5]
crop_padding = 1
horizontal_flip = false

[teacher]
model = "{NETWORKS}:teacher"

[student]
model = "{NETWORKS}:student"

[inversion]
steps = 2
batch_size = 16
latent_dim = 8

[buffer]
capacity = 40

[distillation]
steps = 3
batch_size = 16

[evaluation]
data = "digits"
num_holdout = 8
"""

PLUS = (
    "student.start=auto",
    "inversion.meta_update=reptile",
    "inversion.calls=2",
    "distillation.lr=auto",
    "distillation.optimizer=muon",
    "distillation.late_loss=standardized",
    "distillation.late_share=0.5",
    "distillation.hint_share=0.6",
)
"""What the `-plus` presets change, but for views and mixing."""


def make_teacher_file(path: Path, factory: str = "teacher", *, seed: int = 0) -> Path:
    """The weights of a teacher that nobody trained."""
    torch.manual_seed(seed)
    save_weights(getattr(small_networks, factory)(num_classes=10), path)
    return path


def untrained(factory: str, folder: Path) -> tuple[str, str]:
    """The settings of another such teacher, whose weights go into a folder."""
    weights = make_teacher_file(folder / f"{factory}.safetensors", factory)
    return f"teacher.model={NETWORKS}:{factory}", f"teacher.weights={weights}"
