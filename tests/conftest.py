"""What all tests share: a run on networks so small that an epoch takes milliseconds, a small preset, and signals as
they were."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_network import TinyNetwork
from torch import nn

from stages import registry
from stages.buffer.config import BufferConfig
from stages.buffer.replay_buffer import ReplayBuffer
from stages.config import Config, RunTable, StudentTable, TaskTable, TeacherTable
from stages.distillation.config import DistillationConfig
from stages.evaluation.config import EvaluationConfig
from stages.events import Event
from stages.inversion.config import InversionConfig
from stages.machine.recorded_step import Tape
from stages.models.normalized import NormalizedModel
from stages.registry import Spec
from stages.run import Run
from stages.schedule import Schedule
from stages.tasks.classification import Classification

MakeConfig = Callable[..., Config]
MakeRun = Callable[..., Run]
Fill = Callable[..., None]

signal.signal(signal.SIGINT, signal.default_int_handler)
"""Whoever started the tests in the background may ignore it, and what they start would inherit that."""


@pytest.fixture(autouse=True)
def _signals_stay_as_they_were() -> Iterator[None]:
    """A command that has ended leaves some ignored, for its process is over then."""
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


if "PYTEST_XDIST_WORKER" in os.environ:
    # A process for each core: more threads than one would only wait for each other, in what the tests start, too.
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)

CPU = torch.device("cpu")
NUM_CLASSES = 5
IMAGE_SHAPE = (2, 8, 6)

WHOLE_PRESET = """
[run]
epochs = 30
warmup_epochs = 5

[task]
num_classes = 4
image_shape = [3, 16, 24]
mean = [0.5, 0.4, 0.3]
std = [0.2, 0.2, 0.2]

[teacher]
model = "wrn16_1"

[student]
model = "resnet20"
"""


@pytest.fixture(autouse=True)
def _same_number_of_threads() -> Iterator[None]:
    """Whatever a test runs in this process with more threads or fewer, the next one has what it would have alone."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Install a stranger's part in a group, for the length of a test: `install("models", factory)`, or its spec."""
    code = ModuleType("their_code")
    added: dict[str, list[Spec]] = {}
    installed = registry.all_specs
    monkeypatch.setitem(sys.modules, "their_code", code)
    monkeypatch.setattr(registry, "all_specs", lambda group: (*installed(group), *added.get(group, ())))

    def add(group: str, part: Any, name: str = "theirs") -> None:
        if not isinstance(part, Spec):
            setattr(code, name, part)
            part = Spec(name, f"their_code:{name}", "a stranger's")
        added.setdefault(group, []).append(part)

    return add


@pytest.fixture
def make_small_config() -> MakeConfig:
    """A configuration without a file; keyword arguments change a table: `make_small_config(buffer={"capacity": 9})`."""

    def make(**changes: dict[str, Any]) -> Config:
        tables: dict[str, dict[str, Any]] = {
            "run": {"epochs": 7, "warmup_epochs": 3, "seed": 11, "log_every": 1, "eval_every": 2, "precision": "fp32"},
            "task": {
                "num_classes": NUM_CLASSES,
                "image_shape": IMAGE_SHAPE,
                "mean": (0.4, 0.5),
                "std": (0.2, 0.3),
                "crop_padding": 1,
            },
            "inversion": {"batch_size": 12, "steps": 3, "latent_dim": 6},
            "buffer": {"capacity": 40},
            "distillation": {"batch_size": 16, "steps": 3, "temperature": 4.0},
            "evaluation": {"batch_size": 8, "num_holdout": 9},
        }
        for name, values in changes.items():
            tables[name] = tables[name] | values
        return Config(
            run=RunTable(**tables["run"]),
            task=TaskTable(**tables["task"]),
            teacher=TeacherTable(model="tiny"),
            student=StudentTable(model="tiny"),
            inversion=InversionConfig(**tables["inversion"]),
            buffer=BufferConfig(**tables["buffer"]),
            distillation=DistillationConfig(**tables["distillation"]),
            evaluation=EvaluationConfig(**tables["evaluation"]),
            plugin_tables={},
        )

    return make


def roughly_like(teacher: nn.Module) -> nn.Module:
    """A student that agrees with the teacher on some images and not on others."""
    rng = torch.Generator().manual_seed(3)
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.3 * parameter.std() * torch.randn(parameter.shape, generator=rng)
    return student


@pytest.fixture
def make_run(make_small_config: MakeConfig) -> MakeRun:
    """A run's state as it is at the beginning of `epoch`, with an empty buffer; `run.events` is what it emitted."""

    def make(
        *,
        command: str = "run",
        epoch: int = 1,
        teacher: nn.Module | None = None,
        student: nn.Module | None = None,
        device: torch.device = CPU,
        tape: Tape | None = None,
        **changes: dict[str, Any],
    ) -> Run:
        config = make_small_config(**changes)
        torch.manual_seed(5)
        if teacher is None:
            teacher = TinyNetwork(in_channels=IMAGE_SHAPE[0], num_classes=NUM_CLASSES, width=4)
        if student is None:
            student = roughly_like(teacher)
        events: list[Event] = []
        run = Run(
            config=config,
            schedule=Schedule.of(command, config),
            task=Classification(NUM_CLASSES),
            device=device,
            precision="fp32",
            teacher=NormalizedModel.on(device, teacher, config.task).eval().requires_grad_(False),
            student=NormalizedModel.on(device, student, config.task),
            buffer=ReplayBuffer(
                config.buffer, image_shape=IMAGE_SHAPE, label_shape=(), num_classes=NUM_CLASSES, device=device
            ),
            epoch=epoch,
            tape=tape,
            emit=events.append,
        )
        run.events = events
        return run

    return make


@pytest.fixture
def fill() -> Fill:
    """Put random images with random verdicts and priorities into a run's buffer."""

    def fill_buffer(run: Run, num: int, *, seed: int = 0) -> None:
        rng = torch.Generator().manual_seed(seed)
        run.buffer.insert(
            torch.randint(256, (num, *IMAGE_SHAPE), generator=rng, dtype=torch.uint8).to(run.device),
            teacher_class_B=torch.randint(NUM_CLASSES, (num,), generator=rng).to(run.device),
            teacher_prob_B=(torch.rand(num, generator=rng) * 0.8 + 0.2).to(run.device),
            priority_B=(torch.rand(num, generator=rng) * 3).to(run.device),
            target_B=torch.randint(NUM_CLASSES, (num,), generator=rng).to(run.device),
            epoch=run.epoch,
        )

    return fill_buffer


@pytest.fixture
def write(tmp_path: Path):
    """Write a preset file and give its path back."""

    def write_preset(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_preset


@pytest.fixture
def whole(write) -> str:
    """Path of a preset that sets what has no default, and the epochs."""
    return write("whole.toml", WHOLE_PRESET)
