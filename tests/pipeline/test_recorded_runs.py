"""Whole runs whose steps are recorded: on a CPU, with a tape that plays what a CUDA graph does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from operation_tape import OperationTape
from run_outputs import At, assert_same_outcome, events, stop_at, warnings

from stages import optimizers, resumption
from stages.machine import cuda_tape
from stages.machine.device import num_usable_cpus
from stages.planning import resolution
from stages.run_directory import RunDirectory
from stages.schedule import Schedule

GRAPHS = "run.acceleration=graphs"


@pytest.fixture
def tapes(monkeypatch: pytest.MonkeyPatch) -> list[OperationTape]:
    """Make the CPU a device whose steps can be recorded, with the optimisers of a CUDA device; its tapes so far."""
    made: list[OperationTape] = []

    def make_tape(_device: torch.device) -> OperationTape:
        made.append(OperationTape())
        return made[-1]

    monkeypatch.setattr(optimizers, "is_fused", lambda _device: True)
    for name in ("machine.device.has_graphs", "planning.beginning.can_record"):
        monkeypatch.setattr(f"stages.{name}", lambda _device: True)
    monkeypatch.setattr("stages.planning.beginning.CudaTape", make_tape)
    return made


@pytest.mark.parametrize(
    ("precision", "optimizer"), [("fp32", "sgd"), ("bf16", "sgd"), ("fp32", "muon"), ("bf16", "muon")]
)
def test_a_recorded_run_gives_the_bytes_of_an_eager_one(
    start, out: Path, tapes, precision: str, optimizer: str
) -> None:
    overrides = (f"run.precision={precision}", f"distillation.optimizer={optimizer}", "run.epochs=6")
    start(*overrides, "run.acceleration=eager", out=out.with_name("eager"))
    assert tapes == []
    summary = start(*overrides).summary  # "auto": graphs where they can be had
    assert_same_outcome(out, out.with_name("eager"))
    assert warnings(out) == []
    (tape,) = tapes
    assert tape.num_recorded == 3  # the adversary takes part from the first epoch, the only one of warm-up
    assert tape.num_played == (6 * 2 - 3) + 2 * (5 * 3 - 3)

    # What recording cost is told by itself, and the time is no stage's.
    seconds = summary["seconds"]
    assert 0 < seconds["setup"] < seconds["total"]
    assert sum(value for name, value in seconds.items() if name != "total") <= seconds["total"]
    assert events(out, "device")[-1]["seconds"].keys() == seconds.keys()


def test_cached_views_are_recorded_too(start, out: Path, tapes) -> None:
    overrides = ("distillation.views=4", "distillation.mix=cutmix", "run.epochs=5", "evaluation.data=none")
    start(*overrides, "run.acceleration=eager", out=out.with_name("eager"))
    start(*overrides)
    assert_same_outcome(out, out.with_name("eager"))
    (tape,) = tapes
    assert tape.num_recorded == 3  # the inversion step, the look at new images, the student's update
    num_new = 16 * 4 + 16  # in the first epoch of four there are two calls' images
    assert tape.num_played == (5 * 2 - 3) + (num_new // 16 * 4 - 3) + (4 * 3 - 3)


@pytest.mark.parametrize("overlap", ["false", "true"])
def test_a_recorded_run_is_resumed_from_every_safe_point(start, go_on, out: Path, tapes, overlap: str) -> None:
    overrides = (
        GRAPHS,
        "run.epochs=4",
        "evaluation.data=none",
        "inversion.steps=5",
        "distillation.steps=5",
        f"inversion.overlap={overlap}",
    )
    start(*overrides, out=out.with_name("undisturbed"))

    def stops() -> list[At]:
        return [stop_at(out), stop_at(out, "distillation_step", nth=5)]

    outcome = start(*overrides, listeners=stops())
    while outcome.summary["status"] == "stopped":
        outcome = go_on(*stops())
    assert len(tapes) > 6
    assert sum(tape.num_played for tape in tapes[1:]) > 0
    assert_same_outcome(out, out.with_name("undisturbed"))


def test_graphs_that_cannot_be_had_are_told(start, out: Path, undisturbed: Path) -> None:
    assert start(GRAPHS).summary["status"] == "done"
    (warning,) = warnings(out)
    assert "run.acceleration is graphs" in warning["message"]
    assert "cpu" in warning["message"]
    assert 'acceleration = "eager"' in (out / "config.toml").read_text(encoding="utf-8")
    assert_same_outcome(out, undisturbed)


@pytest.mark.parametrize(("acceleration", "is_told"), [("auto", True), ("graphs", True), ("eager", False)])
def test_a_process_in_which_a_recording_has_failed_tells_its_next_run(
    make_config, monkeypatch: pytest.MonkeyPatch, acceleration: str, is_told: bool
) -> None:
    monkeypatch.setattr(resolution, "resolve_precision", lambda *_: "fp32")
    wanted = make_config(f"run.acceleration={acceleration}")
    device, schedule = torch.device("cuda", 0), Schedule.of("run", wanted)

    def told() -> list[str]:
        config = resolution.resolved(wanted, device, schedule)
        found = resolution.warnings_of(wanted, config, device, schedule, is_resumption=False)
        return [warning for warning in found if "a recording has failed on cuda:0" in warning]

    assert told() == []
    monkeypatch.setattr(cuda_tape, "_failed", {device: []})
    assert len(told()) == is_told


def test_a_student_that_cannot_be_recorded_learns_all_the_same(start, out: Path, tapes, tmp_path: Path) -> None:
    """Its forward pass looks at a value and branches."""
    source = tmp_path / "branching.py"
    source.write_text(
        "import small_networks\n"
        "class Branching(small_networks.SmallNetwork):\n"
        "    def forward(self, images_BCHW):\n"
        "        logits_BK = super().forward(images_BCHW)\n"
        "        return logits_BK if logits_BK.detach().sum() < 1e9 else 0 * logits_BK\n"
        "def student(num_classes):\n"
        "    return Branching(num_classes=num_classes, width=4, dropout=0.2)\n",
        encoding="utf-8",
    )
    overrides = (f"student.model={source}:student", "run.epochs=5")
    start(*overrides, "run.acceleration=eager", out=out.with_name("eager"))
    assert start(*overrides, GRAPHS).summary["status"] == "done"
    assert_same_outcome(out, out.with_name("eager"))
    told = [warning["message"] for warning in warnings(out)]
    assert [message.partition(" is not recorded")[0] for message in told] == [
        "the inversion step",
        "the student's update",
    ]
    assert all(message.endswith("it waits for the device") for message in told)
    assert tapes[-1].num_recorded == 1  # the teacher's looks


@pytest.mark.parametrize(
    ("began_on", "device", "automatic", "expected"),
    [
        ("cuda:0", "cpu", ["run.acceleration"], "auto"),
        ("cpu", "cuda:1", ["distillation.lr", "run.acceleration"], "auto"),
        ("cuda:0", "cpu", [], "graphs"),
        ("cuda:0", "cuda:1", ["run.acceleration"], "graphs"),
        ("cpu", None, ["run.acceleration"], "graphs"),
        ("cpu", "auto", ["run.acceleration"], "graphs"),
        ("cuda:0", "auto", ["run.acceleration"], "auto"),
    ],
)
def test_on_another_kind_of_device_a_resumed_run_is_accelerated_anew(
    make_config, monkeypatch, began_on: str, device: str | None, automatic: list[str], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # "auto" is the CPU here
    config = make_config(f"run.device={began_on}", GRAPHS)
    resumed = resumption.for_this_machine(config, {"automatic": automatic}, device)
    assert resumed.run.acceleration == expected


def test_on_fewer_cpus_a_resumed_run_takes_what_there_are(make_config) -> None:
    most = num_usable_cpus()
    config = make_config(f"run.threads={most + 1}")
    assert resumption.for_this_machine(config, {"automatic": ["run.threads"]}, "auto").run.threads == "auto"
    assert resumption.for_this_machine(config, {"automatic": []}, "auto").run.threads == most + 1
    fitting = make_config(f"run.threads={most}")
    assert resumption.for_this_machine(fitting, {"automatic": ["run.threads"]}, "auto").run.threads == most


def test_that_acceleration_was_automatic_is_written_down(start, out: Path) -> None:
    start("run.acceleration=auto")
    assert "run.acceleration" in RunDirectory(out).manifest()["automatic"]
    start("run.acceleration=eager", out=out.with_name("eager"))
    assert "run.acceleration" not in RunDirectory(out.with_name("eager")).manifest()["automatic"]
