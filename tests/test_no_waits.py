"""Between two logged steps nothing makes the host wait for the device: watched on a CPU, operation by operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from operation_tape import NoWaits, WaitError

from stages import optimizers
from stages.distillation.stage import Distillation
from stages.inversion.stage import Inversion
from stages.run import Run

WARMUP = 3


@pytest.fixture(autouse=True)
def _as_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimisers of a CUDA device; nothing is logged, and what passes the watch by is an error of its own."""
    monkeypatch.setattr(optimizers, "is_fused", lambda _device: True)
    monkeypatch.setattr(Run, "should_log", lambda *_: False)

    def refuse(*_: Any) -> None:
        raise WaitError("a value is looked at")

    for name in ("tolist", "numpy", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)


@pytest.mark.parametrize("targets", ["uniform", "balanced", "teacher", "inverse_frequency"])
@pytest.mark.parametrize("epoch", [1, WARMUP, WARMUP + 1])
def test_an_epoch_of_inversion(make_run, fill, targets: str, epoch: int) -> None:
    """The first one, the last of warm-up with its hold-out, and one with an adversary and a full buffer."""
    run = make_run(epoch=epoch, inversion={"targets": targets, "reset_epoch": 0})
    fill(run, 0 if epoch == 1 else 40)
    stage = Inversion(run.config.inversion)
    stage.setup(run)
    with NoWaits():
        stage.run_epoch(run)
    assert run.buffer.size > 0


@pytest.mark.parametrize(
    "settings", [{"calls": 2}, {"class_latents": 1.0, "targets": "balanced"}, {"gamma_start": 0.0}], ids=str
)
def test_an_epoch_of_inversion_beyond_the_paper(make_run, fill, settings: dict[str, Any]) -> None:
    run = make_run(epoch=WARMUP + 1, inversion=settings)
    fill(run, 40)
    stage = Inversion(run.config.inversion)
    stage.setup(run)
    with NoWaits():
        stage.run_epoch(run)
    assert run.num_synthesized > 0


@pytest.mark.parametrize("settings", [{"mix": "mixup"}, {"ema_decay": 0.9}, {"hint_share": 1.0}], ids=str)
def test_an_epoch_of_distillation_beyond_the_paper(make_run, fill, settings: dict[str, Any]) -> None:
    run = make_run(epoch=WARMUP + 1, distillation=settings)
    fill(run, 30)
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    with NoWaits():
        stage.run_epoch(run)
    assert run.num_trained > 0


@pytest.mark.parametrize("num_views", [0, 2])
@pytest.mark.parametrize(
    "settings",
    [{}, {"sampling": "uniform"}, {"weight_loss": True}, {"mix": "cutmix"}, {"loss": "standardized"}],
    ids=str,
)
def test_an_epoch_of_distillation(make_run, fill, settings: dict[str, Any], num_views: int) -> None:
    run = make_run(epoch=WARMUP + 1, distillation={"views": num_views} | settings)
    fill(run, 30)
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    for _epoch in range(2):
        with NoWaits():
            stage.run_epoch(run)
        fill(run, 12)
        run.epoch += 1
    assert run.num_trained == 2 * stage.config.steps * stage.config.batch_size


@pytest.mark.parametrize("eviction", ["oldest", "lowest_priority"])
def test_inserting_and_evicting(make_run, fill, eviction: str) -> None:
    run = make_run(buffer={"eviction": eviction})
    for seed in range(5):
        with NoWaits():
            fill(run, 12, seed=seed)
    assert run.buffer.size == 40


def test_the_watch_sees_a_wait() -> None:
    values = torch.linspace(0, 1, 4)
    waiting = {
        "item": lambda: values.sum().item(),
        "bool": lambda: bool(values.isfinite().all()),
        "nonzero": lambda: (values > 0.5).nonzero(),
        "mask": lambda: values[values > 0.5],
        "write": lambda: values.__setitem__(values > 0.5, torch.zeros(2)),
        "host": lambda: torch.tensor([1.0, 2.0]),
        "unique": lambda: values.unique(),
        "bincount": lambda: torch.bincount(torch.ones(3, dtype=torch.int64)),
        "one draw": lambda: torch.multinomial(values, 1),
        "list": lambda: values.tolist(),
    }
    for name, look in waiting.items():
        with pytest.raises(WaitError), NoWaits():
            print(name, look())
    with NoWaits():
        values[torch.arange(2)] = torch.where(values > 0.5, 1.0, 0.0)[:2]
        torch.multinomial(values + 1, 3, replacement=True)
