"""`--train-teacher`: trained where it is missing, kept, and told as it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import presets
from stages.errors import ConfigError, FileError, MachineError
from stages.teachers import obtain, train
from stages.teachers.obtain import ensure_teacher
from stages.teachers.resolve import teacher_file
from stages.trainer import Launch, plan

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shipped teachers, a cache of its own, and training that is over after two epochs."""
    monkeypatch.setattr(presets, "teachers_folder", lambda: tmp_path / "shipped")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    real_train = train.train_teacher
    monkeypatch.setattr(obtain, "train_teacher", lambda config, **options: real_train(config, epochs=2, **options))


@pytest.fixture
def told() -> list[tuple[int, int]]:
    return []


def progress_into(told: list[tuple[int, int]]):
    def progress(epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        assert loss > 0
        assert 0 <= accuracy <= 1
        told.append((epoch, epochs))

    return progress


def test_a_missing_teacher_is_trained_once_and_then_found(make_config, told) -> None:
    config = make_config("teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1")
    with pytest.raises(FileError):
        teacher_file(config)
    ensure_teacher(config, CPU, progress_into(told))
    assert told == [(1, 2), (2, 2)]
    content = teacher_file(config).read_bytes()
    ensure_teacher(config, CPU, progress_into(told))
    assert len(told) == 2
    assert teacher_file(config).read_bytes() == content


def test_of_two_that_train_it_at_once_the_first_is_kept(make_config) -> None:
    """A run may have begun with it; the second takes it, too."""
    config = make_config("teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1")
    path = obtain.cached_teacher_file(config)
    ensure_teacher(config, CPU, lambda *_: path.write_bytes(b"the other's"))
    assert path.read_bytes() == b"the other's"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_system_without_second_names_keeps_the_teacher(make_config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    config = make_config("teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1")
    monkeypatch.setattr("stages.teachers.train.os.link", refuse)
    ensure_teacher(config, CPU, lambda *_: None)
    assert list(teacher_file(config).parent.iterdir()) == [teacher_file(config)]


def test_a_link_to_a_teacher_that_is_gone_is_replaced(make_config, tmp_path: Path) -> None:
    config = make_config("teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1")
    path = obtain.cached_teacher_file(config)
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "cleaned_away.safetensors")
    ensure_teacher(config, CPU, lambda *_: None)
    assert teacher_file(config).stat().st_size > 0
    assert list(path.parent.iterdir()) == [path]


def test_a_plan_trains_it_if_asked_to(make_config, told) -> None:
    config = make_config("teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1")
    launch = Launch(command="run", preset_name="small", train_teacher=True)
    planned = plan(config, launch, training_progress=progress_into(told))
    assert planned.teacher.path == teacher_file(config)
    assert len(told) == 2


@pytest.mark.parametrize(("has_splits", "split"), [(True, "test"), (True, "train"), (False, "test")])
def test_a_plan_tells_where_the_teacher_learns_what_it_is_measured_on(
    make_config, tmp_path: Path, has_splits: bool, split: str
) -> None:
    """The part that teachers learn, or a folder without parts."""
    for part in ("train", "test") if has_splits else (".",):
        for label in range(10):
            folder = tmp_path / "images" / part / str(label)
            folder.mkdir(parents=True)
            Image.new("L", (8, 8), label).save(folder / "0.png")
    data = ["evaluation.data=imagefolder", f"evaluation.root={tmp_path / 'images'}", f"evaluation.split={split}"]
    config = make_config("teacher.trained_on=mine", "run.threads=1", *data)
    planned = plan(config, Launch(command="run", preset_name="small", train_teacher=True))
    told = "student and teacher will be measured on the images that the teacher is trained on"
    assert (told in planned.warnings) == (not has_splits or split == "train")
    again = plan(config, Launch(command="run", preset_name="small", train_teacher=True))
    assert told not in again.warnings, "it is there by now, and nobody knows what it has learnt"


def test_a_plan_checks_what_it_can_before(make_config, told, tmp_path: Path) -> None:
    """Nobody waits for 200 epochs to hear of a typing error."""
    settings = ["teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1"]
    launch = Launch(command="run", preset_name="small", train_teacher=True)
    with pytest.raises(FileError, match=r"nowhere\.py"):
        plan(make_config(*settings, "student.model=nowhere.py:net"), launch, training_progress=progress_into(told))
    buffer = tmp_path / "buffer.safetensors"
    distill = Launch(command="distill", preset_name="small", train_teacher=True, buffer=buffer)
    with pytest.raises(FileError, match=r"buffer\.safetensors"):
        plan(make_config(*settings), distill, training_progress=progress_into(told))
    with pytest.raises(ConfigError, match=r"`distillation\.lr_min` is 0\.5"):
        plan(
            make_config(*settings, "distillation.lr=auto", "distillation.lr_min=0.5"),
            launch,
            training_progress=progress_into(told),
        )
    assert told == []


def test_a_teacher_that_is_there_needs_no_data(make_config, told, tmp_path: Path) -> None:
    mine = tmp_path / "mine.safetensors"
    mine.touch()
    ensure_teacher(make_config(f"teacher.weights={mine}"), CPU, progress_into(told))
    assert told == []


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["teacher.weights=mine.pt"], ConfigError, "mine.pt is missing, and a trained one would not go there"),
        (["teacher.trained_on=digits"], ConfigError, "needs real, labelled data"),
        (["evaluation.data=digits"], ConfigError, "does not say which data its teacher learns"),
        (
            ["teacher.trained_on=x", "evaluation.data=imagefolder", "evaluation.root=nowhere"],
            FileError,
            "nowhere",
        ),
    ],
)
def test_what_cannot_be_trained(make_config, told, overrides: list[str], error, message: str) -> None:
    with pytest.raises(error, match=message) as refusal:
        ensure_teacher(make_config(*overrides), CPU, progress_into(told))
    assert refusal.value.hint
    assert told == []


def test_a_dry_run_checks_what_training_would_need_and_trains_nothing(make_config, told, tmp_path: Path) -> None:
    launch = Launch(command="run", preset_name="small", train_teacher=True, is_dry_run=True)
    settings = ["teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1"]
    planned = plan(make_config(*settings), launch, training_progress=progress_into(told))
    assert any("is trained first on digits" in warning for warning in planned.warnings)
    assert planned.describe()["teacher_file"].startswith(str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match="needs real, labelled data"):
        plan(make_config("teacher.trained_on=digits"), launch)
    assert told == []
    assert not (tmp_path / "cache").exists()

    held_out = "the images that the teacher is trained on"
    assert not any(held_out in warning for warning in planned.warnings)
    on_training_images = plan(make_config(*settings, "evaluation.split=train"), launch)
    assert any(held_out in warning for warning in on_training_images.warnings)

    ensure_teacher(make_config(*settings), CPU, progress_into(told))  # once it is there, it is looked at as ever
    planned = plan(make_config(*settings), launch)
    assert len(planned.teacher.sha256) == 64
    assert planned.teacher.warnings == ()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder in which nobody can make a file")
def test_a_folder_that_cannot_be_written_is_told_before_training(make_config, told) -> None:
    with pytest.raises(MachineError, match="cannot write into the folder /proc"):
        train.train_teacher(
            make_config("evaluation.data=digits", "run.threads=1"),
            out=Path("/proc/teacher.safetensors"),
            device=CPU,
            seed=0,
            epochs=1,
            progress=progress_into(told),
        )
    assert told == []


def test_a_place_that_cannot_be_made_is_told_before_training(make_config, told, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the cache would be")
    config = make_config("teacher.trained_on=digits", "evaluation.data=digits", "run.threads=1")
    with pytest.raises(MachineError, match="cannot write into the folder"):
        ensure_teacher(config, CPU, progress_into(told))
    assert told == []
