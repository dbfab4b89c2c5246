"""Training with recorded steps is training, bit for bit: on a CPU, with a tape that plays what a CUDA graph does."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from operation_tape import OperationTape
from same_values import assert_same
from torch import nn

from stages import optimizers
from stages.distillation.stage import Distillation
from stages.inversion.stage import Inversion
from stages.machine.recorded_step import NUM_REHEARSALS
from stages.run import Run

NUM_EPOCHS = 7
STEPS = 4


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimisers of a CUDA device."""
    monkeypatch.setattr(optimizers, "is_fused", lambda _device: True)


def with_dropout(run: Run) -> None:
    run.student.model.linear = nn.Sequential(nn.Dropout(0.3), run.student.model.linear)


def train(run: Run, *, epochs: int = NUM_EPOCHS) -> dict[str, Any]:
    """All that a run of inversion and distillation leaves behind."""
    inversion, distillation = Inversion(run.config.inversion), Distillation(run.config.distillation)
    for stage in (inversion, distillation):
        stage.setup(run)
    for run.epoch in range(1, epochs + 1):
        for stage in (inversion, distillation):
            stage.run_epoch(run)
        for stage in (inversion, distillation):
            stage.check(run)
    return copy.deepcopy(
        {
            "student": run.student.state_dict(),
            "buffer": run.buffer.state_dict(),
            "holdout": run.holdout_NCHW,
            "stages": [inversion.state_dict(), distillation.state_dict()],
            "events": [vars(event) for event in run.events],
        }
    )


CASES = {
    "paper": {},
    "bf16": {},
    "printed L_BN": {"inversion": {"bn_momentum": 0.0, "bn_weight": 1.0}},
    "standardized L_BN": {"inversion": {"bn_loss": "standardized"}},
    "teacher's targets": {"inversion": {"targets": "teacher", "gamma": 1.0}},
    "no adversary": {"inversion": {"adversarial_weight": 0.0}},
    "cached views": {"distillation": {"views": 2}},
    "weighted loss": {"distillation": {"weight_loss": True, "momentum": 0.0}},
    "annealed gamma": {"inversion": {"gamma_start": 0.0}},
    "latents of a class": {"inversion": {"class_latents": 1.0, "targets": "balanced"}},
    "standardised logits": {"distillation": {"loss": "standardized"}},
    "standardised in the end": {"distillation": {"late_loss": "standardized", "late_share": 0.5}},
    "muon": {"distillation": {"optimizer": "muon"}},
    "hints": {"distillation": {"hint_share": 0.5, "optimizer": "muon"}},
    "mixed and averaged": {"distillation": {"mix": "cutmix", "ema_decay": 0.9}},
    "uniform": {"distillation": {"sampling": "uniform"}, "buffer": {"eviction": "lowest_priority"}},
}


@pytest.mark.parametrize("case", CASES)
def test_recorded_steps_train_the_same_student(make_run, case: str) -> None:
    changes = {name: dict(table) for name, table in CASES[case].items()}
    for name, table in (("inversion", {"steps": STEPS}), ("distillation", {"steps": STEPS, "lr": 0.05})):
        changes[name] = table | changes.get(name, {})
    outcomes = []
    for tape in (None, OperationTape()):
        run = make_run(epoch=0, tape=tape, **changes)
        run.precision = "bf16" if case == "bf16" else "fp32"
        with_dropout(run)
        outcomes.append(train(run))
    assert_same(outcomes[1], outcomes[0])

    # Inversion without and with the student, the teacher's look and the student's update in each of its ways.
    num_recorded = 4 - (case == "no adversary") + (case in ("standardised in the end", "hints"))
    assert tape.num_recorded == num_recorded
    # Of cached views two of each full batch of 12: three in the buffer of 40 after warm-up, one in each epoch after.
    num_looks = 2 * (3 + 3) if case == "cached views" else 4 * STEPS
    num_steps = (NUM_EPOCHS + 4) * STEPS + num_looks
    assert tape.num_played == num_steps - num_recorded * NUM_REHEARSALS
    assert not [event for event in run.events if event.kind == "warning"]
