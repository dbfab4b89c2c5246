"""What a run has imported by its first step, and by its end: seconds differ between machines, modules do not."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
from child_process import run_python

from ssdkd_cli.torch_import import import_torch

# `ssdkd` as typed, in a process of its own; which modules were there, and how much processor time was used, when the
# first inversion step was over; and which modules at the end.
OBSERVED = """
import gc, json, os, sys, time
from ssdkd_cli.main import main
from stages import events

at_first_step = {}
emit = events.EventLog.emit

def emit_and_look(self, event, *, epoch):
    emit(self, event, epoch=epoch)
    if isinstance(event, events.InversionStep) and not at_first_step:
        at_first_step.update(modules=list(sys.modules), cpu_s=time.process_time(), num_frozen=gc.get_freeze_count())

events.EventLog.emit = emit_and_look
code = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump({"code": code, "first": at_first_step, "end": list(sys.modules), "collects": gc.isenabled()}, file)
"""

SMALL = {
    **{
        "run.epochs": 2,
        "run.warmup_epochs": 1,
        "run.threads": 1,
        "run.device": "cpu",
        "run.log_every": 1,
        "run.checkpoint_every": 1,
    },
    **{"inversion.steps": 1, "inversion.batch_size": 4, "distillation.steps": 1, "distillation.batch_size": 4},
    **{"buffer.capacity": 8, "evaluation.num_holdout": 2},
}

NEVER = {"torchvision", "torch._dynamo", "torch._inductor", "torch.onnx", "sympy", "textual"}
"""Each costs as much as a good part of torch, or belongs to another process."""

ONLY_FOR_PICTURES = {"matplotlib", "PIL"}


def observe(tmp_path: Path, *arguments: str) -> dict:
    report = tmp_path / "report.json"
    run_python("-c", OBSERVED, report, *arguments, environment={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    return json.loads(report.read_text())


def run_options(preset: str, out: Path, **changes: object) -> list[str]:
    values = SMALL | changes
    return [
        *("run", "--no-tui", "--preset", preset, "--out", str(out)),
        *(text for key, value in values.items() for text in ("--set", f"{key}={value}")),
    ]


@pytest.mark.parametrize("preset", ["digits", "cifar100-wrn"])
def test_a_run_and_its_resumption_import_nothing_they_do_not_need(tmp_path: Path, preset: str) -> None:
    out = tmp_path / "run"
    report = observe(tmp_path, *run_options(preset, out))
    assert report["code"] == 0
    first, end = set(report["first"]["modules"]), set(report["end"])
    assert {"torch", "stages.inversion.generator_inversion", "stages.data.dataset"} <= first
    assert first & (NEVER | ONLY_FOR_PICTURES) == set()
    assert end & NEVER == set()
    assert report["first"]["num_frozen"] > 100_000
    assert report["collects"] is True

    (out / "checkpoints" / "epoch-000002.safetensors").unlink()
    events = (out / "events.jsonl").read_text().splitlines(keepends=True)
    (out / "events.jsonl").write_text("".join(line for line in events if '"epoch":2' not in line))
    report = observe(tmp_path, "run", "--no-tui", "--resume", str(out))
    assert report["code"] == 0
    assert "torch" in report["first"]["modules"]  # it took a step
    assert set(report["end"]) & NEVER == set()


def test_torch_is_imported_with_the_collector_at_rest() -> None:
    program = (
        "import gc; from ssdkd_cli.torch_import import import_torch\n"
        "before = gc.get_stats()[2]['collections']; import_torch(); import sys; assert 'torch' in sys.modules\n"
        "print(gc.get_stats()[2]['collections'] - before, gc.isenabled(), gc.get_freeze_count() > 100_000)\n"
        "gc.disable(); import_torch(); print(gc.isenabled())"
    )
    assert run_python("-c", program).out.split() == ["0", "True", "True", "False"]


def test_where_torch_is_there_nothing_is_touched() -> None:
    import torch  # noqa: F401

    num_frozen = gc.get_freeze_count()
    import_torch()
    assert (gc.get_freeze_count(), gc.isenabled()) == (num_frozen, True)


@pytest.mark.slow
def test_the_first_step_comes_soon(tmp_path: Path) -> None:
    report = observe(tmp_path, *run_options("digits", tmp_path / "run", **{"inversion.batch_size": 128}))
    # Processor time: on a busy machine the clock on the wall measures the neighbours. About 2 s, 4 s where Python may
    # keep no bytecode.
    assert report["first"]["cpu_s"] < 8


@pytest.mark.parametrize("command", ["run --dry-run", "run --out x", "doctor", "runs ls"])
def test_a_current_folder_that_is_gone(tmp_path: Path, command: str) -> None:
    arguments = command.split()
    script = f"import os, sys; from ssdkd_cli.main import main; os.rmdir(os.getcwd()); sys.exit(main({arguments!r}))"
    (tmp_path / "gone").mkdir()
    done = run_python("-c", script, cwd=tmp_path / "gone", expected_code=4)
    assert done.err == "error: the current folder is gone\nhint: `cd` to one that is there\n"
