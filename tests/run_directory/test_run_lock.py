"""One process writes a run: how it is seen, who is refused, and what a file system may lack."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from lock_holder import held_by_another_process
from run_files import make_run

from stages.errors import ConfigError, MachineError
from stages.run_directory import RunDirectory
from stages.run_directory import lock as run_lock


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "a-run")


def refused_by_the_file_system(*_arguments: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_lock_is_seen_and_freed(run: RunDirectory) -> None:
    assert not run.is_alive()
    with run.lock.held():
        assert run.is_alive()
        assert run.lock.owner()["pid"] == os.getpid()
    assert not run.is_alive()


def test_lock_of_another_process_names_it_and_dies_with_it(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "_PATIENCE_S", 0.0)
    with held_by_another_process(run) as owner:
        assert run.is_alive()
        with pytest.raises(ConfigError, match=f"being written by process {owner.pid} on host"), run.lock.held():
            pytest.fail("two processes write one run")
        owner.kill()
        owner.wait()
    assert not run.is_alive()
    with run.lock.held():
        assert run.is_alive()


def test_a_file_system_without_locks_is_told(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock.fcntl, "flock", refused_by_the_file_system)
    with pytest.raises(MachineError, match=r"cannot lock .*run\.lock: No locks available") as refusal, run.lock.held():
        pass
    assert "must support flock" in (refusal.value.hint or "")
    assert not run.is_alive()


def test_a_lock_that_may_not_be_written_is_told(run: RunDirectory) -> None:
    run.lock_file.mkdir()  # for root, whom no permission keeps out
    with pytest.raises(MachineError, match=r"cannot write .*run\.lock: Is a directory"), run.lock.held():
        pass


def test_lock_waits_out_a_look_at_it(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks whether the run is alive holds the lock for a moment; that must not refuse its owner."""
    import fcntl

    run.lock_file.touch()
    looking = run.lock_file.open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(run_lock.time, "sleep", lambda _seconds: looking.close())
    with run.lock.held():
        assert run.is_alive()
