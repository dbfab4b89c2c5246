"""A run's config.toml holds from any folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import NETWORKS

from stages.config import from_file
from stages.teachers.resolve import cached_teacher_file
from stages.trainer import Launch, plan, resume


def test_relative_paths_are_kept_absolute(start, teacher_file: Path, tmp_path: Path, monkeypatch):
    shutil.copy(teacher_file, tmp_path / "mine.safetensors")
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = ("teacher.weights=mine.safetensors", "evaluation.data=none", "evaluation.root=images")
    assert start(*settings, out=Path("run")).error is None

    monkeypatch.chdir("/")
    kept = from_file(tmp_path / "run" / "config.toml")
    assert kept.teacher.weights == str(tmp_path / "mine.safetensors")
    assert kept.evaluation.root == str(tmp_path / "images")
    plan(kept, Launch(command="run", preset_name="tiny", out=tmp_path / "again"))  # finds all it needs


def test_a_cached_teacher_of_a_file_is_found_from_any_folder(
    make_config, start, teacher_file: Path, tmp_path: Path, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copy(NETWORKS, tmp_path / "net.py")
    settings = ("teacher.model=net.py:teacher", "teacher.weights=auto", "teacher.trained_on=stripes")
    cached = cached_teacher_file(make_config(*settings))
    cached.parent.mkdir(parents=True)
    shutil.copy(teacher_file, cached)
    assert start(*settings, out=Path("run")).error is None

    monkeypatch.chdir("/")
    kept = from_file(tmp_path / "run" / "config.toml")
    assert (kept.teacher.model, kept.teacher.weights) == (f"{tmp_path}/net.py:teacher", str(cached))
    assert resume(tmp_path / "run").summary["status"] == "done"
    plan(kept, Launch(command="run", preset_name="tiny", out=tmp_path / "again"))


@pytest.mark.parametrize(
    ("given", "kept"),
    [("wrn10_1", "wrn10_1"), ("torchvision:resnet18", "torchvision:resnet18"), ("nets/a.py:f", "{here}/nets/a.py:f")],
)
def test_a_model_from_a_file_is_anchored_too(given: str, kept: str, tmp_path: Path, monkeypatch):
    from stages.planning.resolution import anchored_model

    monkeypatch.chdir(tmp_path)
    assert anchored_model(given) == kept.format(here=tmp_path)
