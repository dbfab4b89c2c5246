"""Equal settings give equal files, and nothing but settings that matter changes the student."""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from run_outputs import TENSOR_FILES, all_files, events, last_state, lines, tensor_files
from safetensors import safe_open
from safetensors.torch import load_file
from same_values import assert_same

from stages.buffer.file import read_buffer
from stages.buffer.statistics import buffer_report
from stages.checkpoint import load_checkpoint
from stages.config import from_file
from stages.evaluation import stage as evaluation
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
    files = tensor_files(out)
    assert files.keys() == set(TENSOR_FILES)
    for name, content in files.items():
        assert content != (undisturbed / name).read_bytes(), name


def test_a_plan_can_be_carried_out_twice(plan_run, tmp_path: Path, undisturbed: Path) -> None:
    planned = plan_run(out=tmp_path / "first")
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


def test_the_manifest_says_what_a_run_was_made_with(start, out: Path, teacher_file: Path) -> None:
    typed = ("ssdkd", "run", "--preset", "tiny")
    start("run.seed=5", command_line=typed)
    manifest = RunDirectory(out).manifest()
    assert (manifest["command"], manifest["preset"], manifest["command_line"]) == ("run", "tiny", list(typed))
    assert manifest["seed"] == 5
    assert manifest["teacher_file"] == str(teacher_file)
    assert manifest["teacher_sha256"] == hashlib.sha256(teacher_file.read_bytes()).hexdigest()
    assert manifest["versions"]["torch"] == version("torch")
    assert manifest["versions"]["python"] == platform.python_version()
    assert manifest["machine"]["threads"] == 1
    assert manifest["machine"]["device"]


def test_best_student_is_kept_apart_if_asked_for(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.0, 0.5, 0.9, 0.9])  # of the teacher, then of the student in epochs 2, 3 and 4

    def measure(*_arguments: object, **_options: object) -> dict[str, float]:
        return {"top1": next(scores)}

    monkeypatch.setattr("stages.evaluation.stage.measure", measure)
    summary = start("evaluation.select_best=true", "run.eval_every=1", "run.checkpoint_every=1").summary
    third = load_checkpoint(RunDirectory(out).checkpoint_file(3))["student"]
    best = load_file(out / "student-best.safetensors")
    assert best.keys() == third.keys()
    assert all(torch.equal(best[name], third[name]) for name in best)
    assert not torch.equal(best["linear.weight"], load_file(out / "student.safetensors")["linear.weight"])
    label = "best, selected on labelled data"
    assert summary["best_student"] == {"selection": label, "epoch": 3, "top1": 0.9}
    with safe_open(out / "student-best.safetensors", framework="pt") as file:
        notes = file.metadata()
    assert (notes["selection"], notes["epoch"], notes["top1"]) == (label, "3", "0.9")


def test_the_student_that_is_measured_and_written_is_the_one_that_is_delivered(start, out: Path, monkeypatch) -> None:
    """Here the average of the weights, which the trained student is not."""
    measured: list[dict[str, torch.Tensor]] = []
    real_measure, real_compare = evaluation.measure, evaluation.compare_with_teacher

    def note(network: torch.nn.Module) -> None:
        measured.append({name: value.clone() for name, value in network.model.state_dict().items()})

    def measure(network, *arguments, **options):
        note(network)
        return real_measure(network, *arguments, **options)

    def compare(teacher, student, *arguments, **options):
        note(student)
        return real_compare(teacher, student, *arguments, **options)

    monkeypatch.setattr(evaluation, "measure", measure)
    monkeypatch.setattr(evaluation, "compare_with_teacher", compare)
    start("distillation.ema_decay=0.9", "evaluation.select_best=true", "run.eval_every=4")
    state = last_state(out)
    average = state["stages"]["distillation"]["delivery"]["average"]
    assert not torch.equal(average["linear.weight"], state["student"]["linear.weight"])
    assert_same(load_file(out / "student.safetensors"), average)
    assert_same(load_file(out / "student-best.safetensors"), average)
    _teacher, *students = measured
    assert len(students) == 2, "on real images, and on the hold-out"
    for student in students:
        assert_same(student, average)


def test_events_tell_what_is_in_the_buffer(undisturbed: Path) -> None:
    stored = read_buffer(undisturbed / "buffer.safetensors")
    *_, told = events(undisturbed, "buffer_state")
    report = buffer_report(
        teacher_class=stored.teacher_class,
        teacher_prob=stored.teacher_prob,
        priority=stored.priority,
        age=stored.age,
        num_classes=10,
        alpha=stored.meta.alpha,
        epsilon=stored.meta.epsilon,
    )
    del report["class_entropy"]
    of_file = json.loads(json.dumps(report))
    # One is of torch's powers, the other of NumPy's: on some processors they differ in the last bit.
    size = of_file["priority"].pop("effective_sample_size")
    assert told["priority"].pop("effective_sample_size") == pytest.approx(size, rel=1e-12)
    assert {name: told[name] for name in report} == of_file
    assert stored.age.max() > stored.age.min()

    *_, samples = events(undisturbed, "samples")
    tiles = sorted((tile["class"], tile["probability"], tile["priority"]) for tile in samples["tiles"])
    rows = zip(stored.teacher_class.tolist(), stored.teacher_prob.tolist(), stored.priority.tolist(), strict=True)
    assert tiles == sorted(rows), "all 40: there is room for 64"


def test_of_uniform_sampling_every_sample_counts(start, out: Path) -> None:
    start("distillation.sampling=uniform")
    *_, told = events(out, "buffer_state")
    assert told["priority"]["effective_sample_size"] == pytest.approx(told["size"])
    assert read_buffer(out / "buffer.safetensors").meta.alpha == 0


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
