"""Whole runs on a second device do what they do on the CPU, bit for bit: nothing of them is on the wrong one.

For a process of its own, which `test_second_device.py` starts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from run_outputs import assert_same_outcome, events, stop_at, tensor_files
from second_device import CPU, SECOND, DeviceError
from tiny_runs import PLUS

from stages import optimizers
from stages.config import Config, with_values
from stages.evaluation.standalone import evaluate_run
from stages.planning import resolution
from stages.run_directory import RunDirectory
from stages.schedule import Schedule
from stages.teachers.train import train_teacher
from stages.trainer import Outcome, resume

NAME = "cuda:0"
"""What the device is called in settings, which know no other kind."""


@pytest.fixture(autouse=True)
def _called_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is found by its name, and optimisers are what they are on it, for the CPU's runs too."""

    def resolve(name: str) -> torch.device:
        return SECOND if name == NAME else CPU

    def resolved(config: Config, device: torch.device, schedule: Schedule) -> Config:
        return with_values(as_on_cpu(config, CPU, schedule), {"run.device": NAME if device == SECOND else "cpu"})

    as_on_cpu = resolution.resolved
    monkeypatch.setattr("stages.planning.plan.resolve_device", resolve)
    monkeypatch.setattr("stages.evaluation.standalone.resolve_device", resolve)
    monkeypatch.setattr(resolution, "resolved", resolved)
    monkeypatch.setattr(optimizers, "is_fused", lambda _device: True)


@pytest.fixture
def start_on(start_in, tmp_path: Path) -> Callable[..., Path]:
    """Run a tiny run on a device, by its name; its directory."""

    def start(device: str, *overrides: str, **launch) -> Path:
        out = tmp_path / device.partition(":")[0] / launch.get("command", "run")
        summary = start_in(out, *overrides, f"run.device={device}", **launch).summary
        assert summary["device"] == str(SECOND if device == NAME else CPU)
        return out

    return start


def test_tensors_of_two_devices_do_not_meet() -> None:
    there, here = torch.arange(6.0, device=SECOND), torch.arange(6.0)
    assert (there * 2 + 1).cpu().tolist() == [1, 3, 5, 7, 9, 11]
    for meet in (lambda: there + here, lambda: there[here.long()], lambda: torch.stack([there, here])):
        with pytest.raises((DeviceError, RuntimeError), match=r"two devices|on the same device"):
            meet()


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("distillation.views=3",),
        ("distillation.views=3", "distillation.mix=cutmix", *PLUS),
        ("distillation.mix=mixup", "distillation.ema_decay=0.9", "distillation.recalibration_batches=3"),
        ("inversion.targets=balanced", "inversion.class_latents=1", "inversion.gamma_start=0"),
        ("inversion.targets=inverse_frequency", "distillation.sampling=uniform", "distillation.weight_loss=true"),
        ("inversion.overlap=true", "buffer.eviction=lowest_priority", "inversion.warmup_calls=3"),
        ("evaluation.select_best=true", "run.eval_every=1", "inversion.reset_epoch=2", "inversion.bn_momentum=0"),
    ],
    ids=" ".join,
)
def test_a_run_ends_in_the_same_bits(start_on, overrides: tuple[str, ...]) -> None:
    assert_same_outcome(start_on("cpu", *overrides), start_on(NAME, *overrides))


def test_a_stopped_run_goes_on_there_and_then_here(start_on, start_in, tmp_path: Path) -> None:
    """In the middle of an epoch each time, with cached views, an average, and images made ahead."""
    overrides = ("distillation.views=2", "distillation.ema_decay=0.9", "inversion.overlap=true")
    out = tmp_path / "stopped"
    first, second = (stop_at(out, "distillation_step", epoch=epoch, step=1) for epoch in (2, 3))

    def status(outcome: Outcome) -> str:
        assert outcome.error is None
        return str(outcome.summary["status"])

    assert status(start_in(out, *overrides, f"run.device={NAME}", listeners=[first])) == "stopped"
    assert status(resume(out, listeners=[second])) == "stopped"
    assert status(resume(out, device="cpu")) == "done"
    assert [event["device"] for event in events(out, "run_resumed")] == [str(SECOND), str(CPU)]
    assert_same_outcome(out, start_on("cpu", *overrides))


def test_a_buffer_made_there_is_learnt_from_there(start_on) -> None:
    files = []
    for device in ("cpu", NAME):
        inverted = start_on(device, command="invert")
        distilled = start_on(device, command="distill", buffer=inverted / "buffer.safetensors")
        files.append([tensor_files(path) for path in (inverted, distilled)])
    assert files[0] == files[1]


def test_a_student_is_measured_there(start_on, make_config) -> None:
    run = RunDirectory(start_on(NAME))
    assert evaluate_run(run, make_config(), NAME) == evaluate_run(run, make_config(), "cpu")


def test_a_teacher_is_trained_there(make_config, tmp_path: Path) -> None:
    trained = [
        train_teacher(
            make_config(), out=tmp_path / device.type, device=device, seed=0, split="test", test_split="train", epochs=2
        )
        for device in (CPU, SECOND)
    ]
    assert trained[0].path.read_bytes() == trained[1].path.read_bytes()
    assert trained[0].metrics == trained[1].metrics
