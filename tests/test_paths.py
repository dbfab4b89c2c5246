"""Paths that are typed: home folders, and names that no file can have."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from stages.errors import FileError, MachineError
from stages.paths import in_shell, typed_path, user_cache


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed_path("~/runs/a") == tmp_path / "runs" / "a"
    assert typed_path(Path("~")) == tmp_path
    assert typed_path("here/~") == Path("here/~")


@pytest.mark.parametrize("text", ["~nobody-of-that-name/x", "x" * 300, "a\0b"], ids=["user", "long", "null"])
def test_what_no_file_can_be_called_is_refused(text: str) -> None:
    with pytest.raises(FileError, match=r"leads nowhere|cannot be looked at"):
        typed_path(text)


@pytest.mark.parametrize("path", ["runs/digits", "runs/my run", "it's here", "$HOME;ls"])
def test_a_path_in_a_command_is_one_word_to_a_shell(path: str) -> None:
    assert shlex.split(f"ssdkd run --resume {in_shell(Path(path))}")[-1] == path


def test_a_path_in_a_command_is_no_option() -> None:
    assert in_shell("-x") == "./-x"
    assert in_shell("runs/-x") == "runs/-x"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home(_name: str) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_cache_path", no_home)
    with pytest.raises(MachineError, match="no home folder") as raised:
        user_cache()
    assert "XDG_CACHE_HOME" in str(raised.value.hint)
