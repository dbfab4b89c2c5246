"""Equal settings give equal files, and nothing but settings that matter changes the student."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from run_outputs import TENSOR_FILES, all_files, lines, tensor_files
from safetensors import safe_open
from safetensors.torch import load_file

from stages.checkpoint import load_checkpoint
from stages.config import from_file
from stages.run_directory import RunDirectory
from stages.trainer import Launch, execute, plan


def test_equal_runs_give_equal_bytes(start, out: Path, undisturbed: Path) -> None:
    torch.manual_seed(99)  # whatever was drawn before
    torch.rand(7)
    start()
    assert set(tensor_files(out)) == set(TENSOR_FILES)
    assert all_files(out) == all_files(undisturbed)
    pictures = [path.name for path in sorted((out / "samples").iterdir())]
    assert pictures == ["epoch-000002.png", "epoch-000004.png"]
    for name in pictures:
        assert (out / "samples" / name).read_bytes() == (undisturbed / "samples" / name).read_bytes()


def test_tensor_files_hold_neither_times_nor_paths(undisturbed: Path) -> None:
    for path in undisturbed.rglob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        assert str(undisturbed) not in str(metadata)
        assert "time" not in str(metadata)


@pytest.mark.parametrize(
    "overrides",
    [
        ['run.stages=["inversion", "distillation"]'],
        ["run.eval_every=1"],
        ["evaluation.data=none"],
        ["evaluation.select_best=true", "run.eval_every=1"],
        ["run.checkpoint_every=1", "run.log_every=3"],
        ["evaluation.num_holdout=0"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_looking_at_the_student_does_not_change_it(start, out: Path, undisturbed: Path, overrides: list[str]) -> None:
    assert start(*overrides).summary["status"] == "done"
    assert (out / "student.safetensors").read_bytes() == (undisturbed / "student.safetensors").read_bytes()


def test_another_seed_gives_another_student(start, out: Path, undisturbed: Path) -> None:
    start("run.seed=1")
    for name, content in tensor_files(out).items():
        assert content != (undisturbed / name).read_bytes(), name


def test_a_plan_can_be_carried_out_twice(make_config, tmp_path: Path, undisturbed: Path) -> None:
    planned = plan(make_config(), Launch(command="run", preset_name="tiny", out=tmp_path / "first"))
    execute(planned)
    (tmp_path / "first").rename(tmp_path / "second")
    execute(planned)
    assert all_files(tmp_path / "first") == all_files(tmp_path / "second") == all_files(undisturbed)


def test_the_settings_of_a_run_repeat_it(start, out: Path, undisturbed: Path) -> None:
    config = from_file(undisturbed / "config.toml")
    assert (config.run.device, config.run.precision, config.run.threads) == ("cpu", "fp32", 1)
    assert config.run.acceleration == "eager"
    execute(plan(config, Launch(command="run", preset_name="again", out=out)))
    assert all_files(out) == all_files(undisturbed)


def test_the_files_of_a_run(undisturbed: Path) -> None:
    assert sorted(path.name for path in undisturbed.iterdir()) == [
        "buffer.safetensors",
        "checkpoints",
        "config.toml",
        "events.jsonl",
        "holdout.safetensors",
        "manifest.json",
        "run.lock",
        "samples",
        "student.safetensors",
    ]
    checkpoints = [path.name for path in RunDirectory(undisturbed).checkpoints()]
    assert checkpoints == ["epoch-000002.safetensors", "epoch-000004.safetensors"]
    manifest = RunDirectory(undisturbed).manifest()
    assert {"versions", "git_revision", "machine", "teacher_sha256", "seed", "command_line"} <= manifest.keys()


def test_best_student_is_kept_apart_if_asked_for(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.0, 0.5, 0.9, 0.9])  # of the teacher, then of the student in epochs 2, 3 and 4

    def measure(*_arguments: object, **_options: object) -> dict[str, float]:
        return {"top1": next(scores)}

    monkeypatch.setattr("stages.evaluation.stage.measure", measure)
    start("evaluation.select_best=true", "run.eval_every=1", "run.checkpoint_every=1")
    third = load_checkpoint(RunDirectory(out).checkpoint_file(3))["student"]
    best = load_file(out / "student-best.safetensors")
    assert best.keys() == third.keys()
    assert all(torch.equal(best[name], third[name]) for name in best)
    assert not torch.equal(best["linear.weight"], load_file(out / "student.safetensors")["linear.weight"])


def test_events_tell_the_run(undisturbed: Path) -> None:
    told = lines(undisturbed)
    assert [event["seq"] for event in told] == list(range(len(told)))
    assert all(event["schema"] == 1 for event in told)
    assert told[0]["kind"] == "run_started"
    assert (told[0]["epochs"], told[0]["warmup_epochs"], told[0]["seed"]) == (4, 1, 0)
    assert told[-1]["kind"] == "run_finished"
    third = [event["kind"] for event in told if event["epoch"] == 3]
    assert third == [
        *("stage_started", "inversion_step", "inversion_step", "stage_finished"),
        *("stage_started", *["distillation_step"] * 3, "stage_finished"),
        *("stage_started", "stage_finished", "buffer_state", "device"),
    ]
    assert [event["epoch"] for event in told if event["kind"] == "evaluation"] == [2, 4]
    assert [event["epoch"] for event in told if event["kind"] == "checkpoint_saved"] == [2, 4]
    assert not [event for event in told if event["kind"] == "distillation_step" and event["epoch"] == 1]
