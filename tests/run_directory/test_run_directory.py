from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from run_files import acknowledged, append_events, finished, make_run, started

from stages.errors import ConfigError, MachineError
from stages.events import DistillationStep, RunResumed, StageStarted, Warning
from stages.run_directory import RunDirectory

STEP = DistillationStep(step=0, loss=1.0, lr=0.1, agreement=0.5)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "a-run")


# -- making one ----------------------------------------------------------------------------------------------


def test_name_is_made_of_preset_time_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = RunDirectory.create(None, "cifar100-wrn", "20260102-030405", seed=7)
    assert made.path == Path("runs/cifar100-wrn-20260102-030405-7")
    assert made.checkpoints_dir.is_dir()
    assert made.samples_dir.is_dir()


def test_name_is_numbered_where_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [RunDirectory.create(None, "digits", "20260102-030405").name for _ in range(3)]
    assert names == ["digits-20260102-030405", "digits-20260102-030405.2", "digits-20260102-030405.3"]


@pytest.mark.parametrize("name", ["../../etc", "a b/c", "..", ""])
def test_name_stays_within_the_folder_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.create(None, name, "now").path.parent == Path("runs")


def test_out_may_be_new_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert RunDirectory.create(tmp_path / "empty", "unused").path == tmp_path / "empty"
    assert RunDirectory.create(tmp_path / "new" / "deep", "unused").path.is_dir()


@pytest.mark.parametrize("was_there", [False, True])
@pytest.mark.parametrize("is_link", [False, True])
def test_out_on_a_disk_that_is_full_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_there: bool, is_link: bool
) -> None:
    out, mkdir = tmp_path / "out", Path.mkdir
    if is_link:
        (tmp_path / "folder").mkdir()
        out.symlink_to(tmp_path / "folder")
    elif was_there:
        out.mkdir()

    def fill_up(path: Path, *arguments: object, **options: object) -> None:
        if path.name == "samples":
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", fill_up)
    with pytest.raises(MachineError, match="No space left"):
        RunDirectory.create(out, "unused")
    assert out.exists() == (was_there or is_link)
    assert not out.exists() or list(out.iterdir()) == []


def test_out_in_use_is_refused_and_left_alone(run: RunDirectory) -> None:
    before = sorted(run.path.rglob("*"))
    with pytest.raises(ConfigError, match="not empty") as caught:
        RunDirectory.create(run.path, "unused")
    assert "--resume" in str(caught.value.hint)
    assert sorted(run.path.rglob("*")) == before


def test_out_that_another_process_takes_at_the_same_time_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RunDirectory.create(tmp_path / "out", "unused")
    monkeypatch.setattr(RunDirectory, "refuse_used", lambda _: None)  # both had looked before one began
    with pytest.raises(ConfigError, match="not empty"):
        RunDirectory.create(tmp_path / "out", "unused")
    assert other.checkpoints_dir.is_dir()
    assert other.samples_dir.is_dir()


def stillborn(path: Path) -> RunDirectory:
    """What is left of a run whose process was killed while it wrote the first files."""
    run = RunDirectory.create(path, "unused")
    with run.lock.held():
        run.config_file.write_text("[run]\n")
        (path / ".manifest.json.77.tmp").write_text("{")
    return run


def test_what_was_killed_before_it_had_begun_is_cleared(tmp_path: Path) -> None:
    left = stillborn(tmp_path / "out")
    before = sorted(left.path.rglob("*"))
    RunDirectory.refuse_used(left.path)
    assert sorted(left.path.rglob("*")) == before, "whoever only asks changes nothing"
    again = RunDirectory.create(tmp_path / "out", "unused")
    assert sorted(entry.name for entry in again.path.iterdir()) == ["checkpoints", "run.lock", "samples"]


@pytest.mark.parametrize("name", ["notes.txt", "events.jsonl", "manifest.json", "checkpoints/one", "samples/one"])
def test_what_may_be_of_worth_is_not_cleared(tmp_path: Path, name: str) -> None:
    (stillborn(tmp_path / "out").path / name).write_text("of worth")
    before = sorted((tmp_path / "out").rglob("*"))
    with pytest.raises(ConfigError, match="not empty"):
        RunDirectory.create(tmp_path / "out", "unused")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_what_another_process_is_about_to_begin_is_not_cleared(tmp_path: Path) -> None:
    run = stillborn(tmp_path / "out")
    with run.lock.held(), pytest.raises(ConfigError, match="not empty"):
        RunDirectory.create(run.path, "unused")
    assert run.config_file.exists()


def test_out_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="is a file"):
        RunDirectory.create(tmp_path / "file", "unused")
    assert (tmp_path / "file").read_text() == "precious"


def test_out_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _mode: path != tmp_path)
    with pytest.raises(MachineError, match=f"{tmp_path} is read-only"):
        RunDirectory.refuse_unwritable(tmp_path / "new" / "run")


def test_out_below_a_file_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(MachineError, match="cannot make the run directory"):
        RunDirectory.create(tmp_path / "file" / "run", "unused")


# -- status --------------------------------------------------------------------------------------------------


def test_status_without_a_process(run: RunDirectory) -> None:
    assert run.status() == "dead"
    append_events(run, [started()])
    assert run.status() == "dead"


def test_status_with_a_process(run: RunDirectory) -> None:
    with run.lock.held():
        assert run.status() == "starting"
        append_events(run, [started(), StageStarted(stage="inversion")])
        assert run.status() == "running"


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "diverged"])
def test_status_after_the_end(run: RunDirectory, status: str) -> None:
    with run.lock.held():  # the last event counts also while the process is still leaving
        append_events(run, [started(), finished(status)], time_s=time.time() + 1)
        assert run.status() == status
    assert run.status() == status


def test_status_of_a_run_that_is_being_resumed_and_has_not_said_so(run: RunDirectory) -> None:
    append_events(run, [started(), finished("stopped")])
    with run.lock.held():
        assert run.status() == "starting"
    assert run.status() == "stopped"


def test_status_of_a_resumed_run(run: RunDirectory) -> None:
    append_events(run, [started(), finished("stopped")])
    append_events(run, [RunResumed(checkpoint="c", checkpoint_seq=0)])
    assert run.status() == "dead"
    with run.lock.held():
        assert run.status() == "running"


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([acknowledged("pause")], "paused"),
        ([acknowledged("pause"), acknowledged("resume")], "running"),
        ([acknowledged("pause"), acknowledged("checkpoint")], "paused"),
        ([acknowledged("pause", accepted=False)], "running"),
        ([acknowledged("pause"), acknowledged("resume", accepted=False)], "paused"),
        ([acknowledged("pause"), RunResumed(checkpoint="c", checkpoint_seq=9)], "running"),
        ([acknowledged("pause"), Warning(message="control_acknowledged")], "paused"),
    ],
)
def test_status_follows_the_last_answer(run: RunDirectory, answers: list, expected: str) -> None:
    run.control_file.write_text('{"id": "1", "action": "pause"}\n')
    append_events(run, [started(), STEP, *answers])
    with run.lock.held():
        assert run.status() == expected


def test_status_survives_what_is_no_event(run: RunDirectory) -> None:
    append_events(run, [started(), finished()])
    with run.events_file.open("ab") as file:
        file.write(b"not json\n[1]\n{}\n\xff\xfe\n" + b"[" * 100_000 + b'\n{"kind": 3, "seq": 1}\n{"kind": "run_')
    assert run.status() == "done"


def test_status_survives_a_newer_writer(run: RunDirectory) -> None:
    with run.events_file.open("a") as file:
        file.write('{"schema": 99, "kind": "hologram", "seq": 0, "future": true}\n')
    with run.lock.held():
        assert run.status() == "running"
    with run.events_file.open("a") as file:
        file.write('{"schema": 99, "kind": "run_finished", "seq": 1, "status": "ascended"}\n')
    assert run.status() == "dead"


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"\xff"], ids=["empty", "list", "deep", "no text"])
def test_manifest_and_owner_that_cannot_be_read_are_empty(run: RunDirectory, content: bytes) -> None:
    run.manifest_file.write_bytes(content)
    run.lock_file.write_bytes(content)
    assert run.manifest() == run.lock.owner() == {}


def test_status_of_a_directory_that_vanished(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path / "gone").status() == "dead"


def test_status_reads_only_the_end_of_a_long_file(run: RunDirectory) -> None:
    with run.events_file.open("wb") as file:
        file.truncate(1 << 40)  # a tebibyte of nothing, which nobody can read through
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
    append_events(run, [finished()], next_seq=10)
    assert run.status() == "done"
    assert run.summary() is not None


def test_summary_is_that_of_the_end(run: RunDirectory) -> None:
    assert run.summary() is None
    append_events(run, [started(), finished(agreement=0.75)])
    summary = run.summary()
    assert summary is not None
    assert summary["agreement"] == 0.75
    append_events(run, [RunResumed(checkpoint="c", checkpoint_seq=0)])
    assert run.summary() is None


# -- files ---------------------------------------------------------------------------------------------------


def test_checkpoints_are_pruned_by_epoch(run: RunDirectory) -> None:
    assert run.latest_checkpoint() is None
    for epoch in (9, 10, 200_000_000, 100):
        run.checkpoint_file(epoch).touch()
    (run.checkpoints_dir / ".epoch-000300.safetensors.1.tmp").touch()
    (run.checkpoints_dir / "epoch-mine.safetensors").touch()
    assert run.latest_checkpoint() == run.checkpoint_file(200_000_000)
    run.prune_checkpoints()
    left = sorted(path.name for path in run.checkpoints_dir.iterdir())
    assert left == ["epoch-000100.safetensors", "epoch-200000000.safetensors", "epoch-mine.safetensors"]


def test_what_a_killed_process_left_half_written_goes_with_the_next_checkpoint(run: RunDirectory) -> None:
    files = (run.buffer_file, run.student_file, run.best_student_file, run.holdout_file, run.samples_file(3))
    left_over = [file.with_name(f".{file.name}.77.tmp") for file in files]
    others = [run.path / "mine.tmp", run.path / ".mine.77.tmp", run.buffer_file]
    for path in (*left_over, *others):
        path.write_bytes(b"half")
    run.prune_checkpoints()
    assert not any(path.exists() for path in left_over)
    assert all(path.exists() for path in others)
