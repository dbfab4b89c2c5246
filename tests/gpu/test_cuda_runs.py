"""Runs on a CUDA device: every preset goes through all stages, recorded, in both precisions, and again after a stop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from told_events import events_of as events
from weight_files import write_varied_weights

import presets
from stages.config import Config, load, with_values
from stages.evaluation.standalone import evaluate_run
from stages.events import Event
from stages.planning.estimate import estimate
from stages.run_directory import RunDirectory
from stages.run_directory.control import send_request
from stages.trainer import Launch, Outcome, execute, plan, resume

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

TINY = {
    "run.epochs": 3,
    "run.warmup_epochs": 2,
    "run.eval_every": 1,
    "inversion.steps": 5,
    "inversion.calls": 1,
    "inversion.batch_size": 64,
    "buffer.capacity": 150,
    "distillation.batch_size": 64,
    "distillation.steps": 6,
    "evaluation.num_holdout": 32,
}


def small(config: Config, folder: Path) -> Config:
    """Three small epochs of a preset, from a teacher that has learned nothing where none is shipped."""
    config = with_values(config, TINY)
    if config.teacher.trained_on != "digits":
        weights = write_varied_weights(folder / "teacher.safetensors", config.teacher.model, config.task)
        config = with_values(config, {"teacher.weights": str(weights), "evaluation.data": "none"})
    return config


def run(config: Config, out: Path, *, device: str = "cuda:0", listeners: Any = (), **launch: Any) -> Outcome:
    config = with_values(config, {"run.device": device})
    return execute(plan(config, Launch(preset_name="test", out=out, **{"command": "run"} | launch)), listeners)


def assert_recorded(out: Path, outcome: Outcome) -> None:
    """Steps were recorded, and nothing gave way."""
    assert outcome.error is None
    assert outcome.summary["status"] == "done"
    assert outcome.summary["seconds"]["setup"] > 0
    assert not [event for event in events(out, "warning") if "recorded" in event["message"]]


@pytest.mark.parametrize("name", [name for name in presets.names() if not presets.is_overlay(name)])
def test_every_preset_runs_on_a_cuda_device(name: str, tmp_path: Path):
    outcome = run(small(load([name]), tmp_path), tmp_path / "run")
    assert_recorded(tmp_path / "run", outcome)
    assert outcome.summary["device"] == "cuda:0"
    assert outcome.summary["buffer_size"] == 150
    assert math.isfinite(outcome.summary["agreement"])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["cifar10-resnet20-paper", "cifar100-wrn"])
def test_recorded_steps_do_what_eager_ones_do(name: str, precision: str, tmp_path: Path):
    """The first losses of both stages, before rounding has grown."""
    config = with_values(small(load([name]), tmp_path), {"run.precision": precision, "run.log_every": 1})
    losses = []
    for acceleration in ("eager", "graphs"):
        out = tmp_path / acceleration
        outcome = run(with_values(config, {"run.acceleration": acceleration}), out)
        assert outcome.error is None
        assert ("setup" in outcome.summary["seconds"]) == (acceleration == "graphs")
        told = events(out, "inversion_step", "distillation_step")
        losses.append([event["loss"] for event in told if event["epoch"] == 1 or event["kind"] == "distillation_step"])
    assert len(losses[0]) == 5 + 6
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


@pytest.mark.parametrize("acceleration", ["eager", "graphs"])
def test_stages_side_by_side_do_what_they_do_one_after_the_other(
    acceleration: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Inversion on a stream and in a thread of its own, recorded or not; a disturbed image would be far off."""
    changes = {"run.epochs": 12, "run.acceleration": acceleration, "inversion.overlap": True, "run.log_every": 1}
    config = with_values(small(load(["cifar10-resnet20-paper"]), tmp_path), changes | {"run.precision": "fp32"})
    losses = []
    for name in ("beside", "alone"):
        if name == "alone":
            monkeypatch.setattr("stages.inversion.overlap.Overlap._is_alone", lambda _self: True)
        assert run(config, tmp_path / name).error is None
        told = events(tmp_path / name, "inversion_step")
        losses.append([event["loss_bn"] for event in told if event["epoch"] > 6])
    assert len(losses[0]) == 6 * 5
    assert losses[0] == pytest.approx(losses[1], rel=0.1)


def test_both_losses_of_the_student_are_recorded(tmp_path: Path):
    """The late one replaces the first in the middle of the run: a second recording in the memory of the others."""
    changes = {"run.epochs": 12, "run.log_every": 1, "distillation.views": 2}
    config = with_values(small(load(["cifar100-wrn-plus"]), tmp_path), changes)
    losses = []
    for acceleration in ("eager", "graphs"):
        out = tmp_path / acceleration
        assert_recorded(out, run(with_values(config, {"run.acceleration": acceleration}), out))
        told = events(out, "distillation_step")
        assert {event["objective"] for event in told} == {"kl", "standardized"}
        losses.append([event["loss"] for event in told if event["objective"] == "standardized"])
    assert len(losses[0]) == 18
    assert all(map(math.isfinite, losses[1]))
    assert losses[1] == pytest.approx(losses[0], rel=0.5), "of runs that have drifted apart for nine epochs"


def test_all_that_goes_beyond_the_paper_at_once_beside_inversion(tmp_path: Path):
    changes = {"run.epochs": 8, "inversion.overlap": True, "distillation.views": 2, "distillation.ema_decay": 0.9}
    config = with_values(small(load(["cifar100-wrn-plus"]), tmp_path), changes)
    assert_recorded(tmp_path / "run", run(config, tmp_path / "run"))


def test_images_are_made_first_and_learned_from_later(tmp_path: Path):
    config = small(load(["digits"]), tmp_path)
    assert run(config, tmp_path / "made", command="invert").summary["buffer_size"] == 150
    buffer = RunDirectory(tmp_path / "made").buffer_file
    learned = run(config, tmp_path / "learned", command="distill", buffer=buffer)
    assert learned.summary["status"] == "done"
    document = evaluate_run(RunDirectory(tmp_path / "learned"), load(["digits"]), "cuda:0")
    assert document["student"]["top1"] == pytest.approx(learned.summary["student"]["top1"], abs=0.01)


@pytest.mark.parametrize("name", ["cifar10-resnet20", "cifar100-wrn-plus"])
def test_an_estimate_is_not_of_the_time_that_libraries_take_to_load(name: str, tmp_path: Path):
    weights = write_varied_weights(tmp_path / "teacher.safetensors", load([name]).teacher.model, load([name]).task)
    changes = {"teacher.weights": str(weights), "evaluation.data": "none", "run.device": "cuda:0"}
    planned = plan(
        with_values(load([name]), changes),
        Launch(command="run", preset_name="test", out=tmp_path / "run", is_dry_run=True),
    )
    first, again = estimate(planned).seconds, estimate(planned).seconds
    assert sum(first.values()) < 3 * sum(again.values())


def test_the_device_learns_what_the_cpu_learns(tmp_path: Path):
    changes = {"run.epochs": 50, "run.warmup_epochs": 15, "run.precision": "fp32"}
    config = with_values(load(["digits"]), changes)
    top1 = {
        device: run(config, tmp_path / device.replace(":", ""), device=device).summary["student"]["top1"]
        for device in ("cpu", "cuda:0")
    }
    assert top1["cpu"] > 0.9
    assert top1["cuda:0"] == pytest.approx(top1["cpu"], abs=0.05)


def test_a_stopped_run_goes_on(tmp_path: Path):
    """In the middle of distillation, with everything recorded; and then on a CPU."""
    out = tmp_path / "run"
    config = with_values(small(load(["digits"]), tmp_path), {"run.epochs": 6, "run.log_every": 1})

    def stop(event: Event, epoch: int) -> None:
        if (event.kind, epoch) == ("distillation_step", next_stop) and event.step == 4:
            send_request(RunDirectory(out), "stop")

    next_stop = 4
    assert run(config, out, listeners=[stop]).summary["status"] == "stopped"
    next_stop = 5
    assert resume(out, listeners=[stop]).summary["status"] == "stopped"
    outcome = resume(out, device="cpu")
    assert (outcome.summary["status"], outcome.summary["epochs"], outcome.summary["device"]) == ("done", 6, "cpu")
    steps = [(event["epoch"], event["step"]) for event in events(out, "distillation_step")]
    assert steps == [(epoch, step) for epoch in (3, 4, 5, 6) for step in range(6)]


def test_bf16_is_taken_where_the_device_has_it(tmp_path: Path):
    planned = plan(
        small(load(["cifar10-resnet20"], ["run.device=cuda:0"]), tmp_path),
        Launch(command="run", preset_name="test", out=tmp_path / "run"),
    )
    expected = "bf16" if torch.cuda.get_device_capability(0) >= (8, 0) else "fp32"
    assert planned.config.run.precision == expected
