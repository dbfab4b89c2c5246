"""Which file `teacher.weights` means, and what is said where there is none."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from child_process import run_python

import presets
from stages.config import Config
from stages.errors import ConfigError, FileError
from stages.teachers.load import load_teacher
from stages.teachers.resolve import cached_teacher_file, teacher_file

MakeConfig = Callable[..., Config]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder in the place of the shipped teachers; the user's cache is empty too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "shipped"
    folder.mkdir()
    monkeypatch.setattr(presets, "teachers_folder", lambda: folder)
    return folder


def test_a_named_file_is_that_file(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.touch()
    assert teacher_file(make_config(f"teacher.weights={path}")) == path


def test_home_is_understood(make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.pth").touch()
    assert teacher_file(make_config("teacher.weights=~/mine.pth")) == tmp_path / "mine.pth"


@pytest.mark.parametrize(("kind", "what"), [("nothing", "does not exist"), ("folder", "is a folder")])
def test_a_named_file_must_be_one(make_config: MakeConfig, tmp_path: Path, kind: str, what: str) -> None:
    path = tmp_path / "mine.pth"
    if kind == "folder":
        path.mkdir()
    with pytest.raises(FileError, match=what) as caught:
        teacher_file(make_config(f"teacher.weights={path}"))
    assert str(path) in caught.value.message
    assert f"relative paths start at {Path.cwd()}" in str(caught.value.hint)


def test_a_network_that_is_built_with_its_weights_is_saved_by_the_command_of_the_hint(
    make_config: MakeConfig, shipped: Path, tmp_path: Path
) -> None:
    file = tmp_path / "my_net.py"
    file.write_text(
        "from torch import nn\n\ndef build(num_classes=10):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    with pytest.raises(FileError, match="nothing says which data") as caught:
        teacher_file(make_config(f"teacher.model={file}:build"))
    found = re.search(r"`python (-c .*)`$", str(caught.value.hint))
    assert found is not None
    run_python(*shlex.split(found[1]), cwd=tmp_path)
    config = make_config(f"teacher.model={file}:build", f"teacher.weights={tmp_path / 'teacher.pth'}")
    assert load_teacher(config, torch.device("cpu")).path == tmp_path / "teacher.pth"

    with pytest.raises(FileError) as caught:
        teacher_file(make_config("teacher.model=wrn16_1"))
    assert "python -c" not in str(caught.value.hint)


def test_auto_takes_the_shipped_one_before_the_cached(make_config: MakeConfig, shipped: Path) -> None:
    config = make_config("teacher.trained_on=digits")
    cached = cached_teacher_file(config)
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert teacher_file(config) == cached
    (shipped / "wrn10_1-digits.safetensors").touch()
    assert teacher_file(config) == shipped / "wrn10_1-digits.safetensors"


def test_the_cache_moves_with_the_environment(make_config: MakeConfig, shipped: Path, tmp_path: Path) -> None:
    path = cached_teacher_file(make_config("teacher.trained_on=digits"))
    assert path == tmp_path / "cache" / "ssdkd" / "teachers" / "wrn10_1-digits.safetensors"


def test_auto_without_a_file_says_three_ways(make_config: MakeConfig, shipped: Path) -> None:
    with pytest.raises(FileError, match=r"wrn10_1-digits\.safetensors") as caught:
        teacher_file(make_config("teacher.trained_on=digits"))
    for way in ("--set teacher.weights=", "ssdkd teacher train", "--train-teacher"):
        assert way in (caught.value.hint or "")


def test_auto_needs_to_know_the_data(make_config: MakeConfig, shipped: Path) -> None:
    with pytest.raises(FileError, match="which data") as caught:
        teacher_file(make_config())
    assert "teacher.weights=FILE" in (caught.value.hint or "")
    with pytest.raises(ConfigError, match=r"teacher\.trained_on"):
        cached_teacher_file(make_config())


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("torchvision:resnet18", "torchvision-resnet18-digits.safetensors"),
        ("my nets/big.py:factory", "my-nets-big.py-factory-digits.safetensors"),
        ("/net.py:factory", "net.py-factory-digits.safetensors"),
    ],
)
def test_any_model_name_gives_a_file_name(make_config: MakeConfig, model: str, name: str) -> None:
    config = make_config("teacher.trained_on=digits", f"teacher.model={model}")
    assert cached_teacher_file(config).name == name
