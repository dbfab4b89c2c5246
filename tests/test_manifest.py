"""Which code a run was made by: the commit of its checkout, where it has one of its own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from stages import manifest


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, in which the code that asks lies."""
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    code = tmp_path / "stages" / "manifest.py"
    code.parent.mkdir()
    code.write_text("# one\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    git(tmp_path, "-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "commit", "-qm", "one")
    monkeypatch.setattr(manifest, "__file__", str(code))
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_of_the_checkout(checkout: Path) -> None:
    assert manifest.git_revision() == git(checkout, "rev-parse", "HEAD")
    (checkout / "stages" / "manifest.py").write_text("# two\n")
    assert manifest.git_revision() == git(checkout, "rev-parse", "HEAD") + "-dirty"


def test_no_commit_of_somebody_elses_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = checkout / "site-packages" / "manifest.py"
    installed.parent.mkdir()
    installed.touch()
    monkeypatch.setattr(manifest, "__file__", str(installed))
    assert manifest.git_revision() is None


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5)])
def test_no_commit_without_git(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr(manifest.subprocess, "run", fail)
    assert manifest.git_revision() is None
