"""The documents of `ssdkd evaluate`, from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from weight_files import write_weights

import presets
from stages.config import Config, load
from stages.errors import ConfigError, FileError, MachineError
from stages.evaluation.standalone import evaluate_run, evaluate_weights
from stages.files.file_digest import sha256_of
from stages.machine.device import num_usable_cpus
from stages.models.build import build_model
from stages.models.normalized import NormalizedModel
from stages.run_directory import RunDirectory

KEYS = ["task", "data", "split", "student", "teacher", "agreement"]
METRICS = {"top1", "top5", "loss", "num_samples"}
TEACHER = presets.teachers_folder() / "wrn16_2-digits.safetensors"


def config(*overrides: str) -> Config:
    return load(["digits"], ["run.threads=1", *overrides])


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that has learnt nothing."""
    path = tmp_path_factory.mktemp("student") / "student.safetensors"
    return write_weights(path, "wrn10_1", config().task, seed=1)


@pytest.fixture(scope="module")
def holdout() -> torch.Tensor:
    return torch.randint(256, (30, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def run(tmp_path: Path, student: Path, holdout: torch.Tensor) -> RunDirectory:
    run = RunDirectory.create(tmp_path / "run", "unused")
    run.student_file.write_bytes(student.read_bytes())
    save_file({"images": holdout}, run.holdout_file)
    return run


def network(name: str, weights: Path) -> NormalizedModel:
    model = build_model(name, task=config().task, where="student.model")
    model.load_state_dict(load_file(weights))
    return NormalizedModel.on(torch.device("cpu"), model, config().task).eval()


def test_a_run_of_a_larger_machine_is_measured_with_the_cpus_there_are(run: RunDirectory, monkeypatch) -> None:
    asked_for: list[int] = []
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "set_num_threads", asked_for.append)
    evaluate_run(run, config("run.threads=4096"), "cpu")
    evaluate_run(run, config("run.threads=1"), "cpu")
    assert asked_for == [num_usable_cpus(), 1]


@torch.no_grad()
def test_a_run_is_compared_with_its_teacher_on_its_hold_out(run: RunDirectory, student: Path, holdout) -> None:
    document = evaluate_run(run, config(), "cpu")
    assert list(document) == KEYS
    assert (document["task"], document["data"], document["split"]) == ("classification", "digits", "test")
    assert set(document["student"]) == set(document["teacher"]) == METRICS
    assert document["teacher"]["top1"] > 0.9 > 0.4 > document["student"]["top1"]
    one, other = network("wrn16_2", TEACHER)(holdout), network("wrn10_1", student)(holdout)
    assert document["agreement"] == pytest.approx((one.argmax(1) == other.argmax(1)).double().mean().item())


def test_batches_do_not_matter(run: RunDirectory) -> None:
    one, other = (evaluate_run(run, config(f"evaluation.batch_size={size}"), "cpu") for size in (7, 1000))
    assert one["student"] == pytest.approx(other["student"], rel=1e-5)
    assert one["agreement"] == other["agreement"]


def test_a_run_without_a_hold_out_has_no_agreement(run: RunDirectory) -> None:
    run.holdout_file.unlink()
    document = evaluate_run(run, config(), "cpu")
    assert document["agreement"] is None
    assert document["teacher"] is not None


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_damaged_hold_out_is_named(run: RunDirectory, content: bytes | None) -> None:
    if content is None:
        save_file({"pictures": torch.zeros(1)}, run.holdout_file)
    else:
        run.holdout_file.write_bytes(content)
    with pytest.raises(FileError, match=r"holdout\.safetensors is damaged"):
        evaluate_run(run, config(), "cpu")


def test_a_run_is_not_compared_with_another_teacher_unnoticed(run: RunDirectory, tmp_path: Path) -> None:
    weights = tmp_path / "teacher.safetensors"
    weights.write_bytes(TEACHER.read_bytes())
    own = config(f"teacher.weights={weights}")
    run.config_file.write_text(own.to_toml())
    run.manifest_file.write_text(json.dumps({"teacher_sha256": sha256_of(weights)}))
    assert evaluate_run(run, own, "cpu")["teacher"] is not None
    write_weights(weights, "wrn16_2", own.task)
    with pytest.raises(FileError, match="is not the teacher that this run had") as refusal:
        evaluate_run(run, own, "cpu")
    assert "teacher.weights" in (refusal.value.hint or "")
    assert evaluate_run(run, config(f"teacher.weights={TEACHER}"), "cpu")["teacher"]["top1"] > 0.9


def test_a_run_without_a_student(run: RunDirectory) -> None:
    run.student_file.unlink()
    with pytest.raises(FileError, match="holds no student yet"):
        evaluate_run(run, config(), "cpu")
    run.manifest_file.write_text(json.dumps({"command": "invert"}))
    with pytest.raises(FileError, match="made a buffer and no student") as refusal:
        evaluate_run(run, config(), "cpu")
    assert f"`ssdkd distill --buffer {run.path}`" in str(refusal.value.hint)


def test_weights_agree_with_themselves() -> None:
    """Without a run there is no hold-out: the agreement is that on the real images."""
    document = evaluate_weights(TEACHER, config("student.model=wrn16_2"), "cpu")
    assert list(document) == KEYS
    assert document["agreement"] == 1.0
    assert document["student"] == document["teacher"]


def test_weights_of_the_teacher_are_told_from_those_of_another_network() -> None:
    with pytest.raises(FileError, match=r"are of the teacher's network, `wrn16_2`, not of the student's") as refusal:
        evaluate_weights(TEACHER, config(), "cpu")
    (override,) = str(refusal.value.hint).rpartition("--set ")[2:]
    assert evaluate_weights(TEACHER, config(override), "cpu")["agreement"] == 1.0


def test_another_split(student: Path) -> None:
    test, train = (evaluate_weights(student, config(f"evaluation.split={name}"), "cpu") for name in ("test", "train"))
    assert (test["split"], train["split"]) == ("test", "train")
    assert test["student"]["num_samples"] + train["student"]["num_samples"] == 1797


@pytest.mark.parametrize(
    "overrides", [["teacher.weights=nowhere.pt"], ["teacher.trained_on=nothing"]], ids=["named", "auto"]
)
def test_weights_need_no_teacher(student: Path, overrides: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    document = evaluate_weights(student, config(*overrides), "cpu")
    assert document["student"]["num_samples"] == 364
    assert (document["teacher"], document["agreement"]) == (None, None)


def test_a_teacher_that_is_there_but_damaged_is_told(student: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(TEACHER.read_bytes()[:1000])
    with pytest.raises(FileError, match=r"damaged\.safetensors"):
        evaluate_weights(student, config(f"teacher.weights={damaged}"), "cpu")


def test_what_cannot_be_measured(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"`evaluation\.data` is none"):
        evaluate_weights(student, config("evaluation.data=none"), "cpu")
    with pytest.raises(FileError, match="another network"):
        evaluate_weights(student, config("student.model=wrn16_2"), "cpu")
    with pytest.raises(FileError, match="nowhere"):
        evaluate_weights(student, config("evaluation.data=imagefolder", "evaluation.root=nowhere"), "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match="no such device"):
        evaluate_weights(student, config(), "cuda:0")


def test_fp32_whatever_the_run_was_trained_in(student: Path) -> None:
    plain = evaluate_weights(student, config("run.precision=fp32"), "cpu")
    assert evaluate_weights(student, config("run.precision=bf16"), "cpu") == plain
