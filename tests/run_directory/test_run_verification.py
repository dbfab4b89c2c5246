"""Event files and what else needs no network; damage to the files of a real run is in tests/cli/test_runs.py."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from run_files import append_events, finished, make_run, started

from stages.events import CheckpointSaved, RunResumed, Warning
from stages.files.tensor_digest import save_with_digest
from stages.run_directory import RunDirectory
from stages.run_directory.verification import Check, verify

WARNING = Warning(message="a line")


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "a-run", started(), WARNING, WARNING)


def look_at(run: RunDirectory, file: str) -> Check:
    (check,) = [check for check in verify(run) if check.file == file]
    return check


def append(run: RunDirectory, data: bytes) -> None:
    with run.events_file.open("ab") as file:
        file.write(data)


def test_events_of_a_run(run: RunDirectory) -> None:
    assert look_at(run, "events.jsonl") == Check("events.jsonl", True, "3 events")


def test_torn_last_line_is_no_damage(run: RunDirectory) -> None:
    append(run, b'{"kind": "warn')
    assert look_at(run, "events.jsonl") == Check("events.jsonl", True, "3 events, and a torn last line")


def test_torn_line_of_a_killed_process_is_no_damage(run: RunDirectory) -> None:
    append(run, b'{"kind": "warn\n')
    append_events(run, [RunResumed(checkpoint="c", checkpoint_seq=1), WARNING])
    assert look_at(run, "events.jsonl") == Check("events.jsonl", True, "5 events")


def test_resumption_may_leave_a_gap(run: RunDirectory) -> None:
    append_events(run, [RunResumed(checkpoint="c", checkpoint_seq=1), WARNING], next_seq=7)
    assert look_at(run, "events.jsonl").is_sound


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"garbage\n{}\n", "line 4 is not an event"),
        (b'garbage\n{"kind": "warning", "seq": 3}\n', "line 4 is not an event"),
        (b'{"kind": "warning", "seq": 4}\n', "line 4 has seq 4, expected 3"),
        (b'{"kind": "warning", "seq": 2}\n', "line 4 has seq 2, expected 3"),
        (b'{"kind": "run_resumed", "seq": 2, "checkpoint_seq": 1}\n', "line 4 has seq 2, expected 3"),
        (b'{"kind": "warning"}\n{"kind": "warning", "seq": 3}\n', "line 4 is not an event"),
    ],
)
def test_damaged_events(run: RunDirectory, lines: bytes, message: str) -> None:
    append(run, lines)
    assert look_at(run, "events.jsonl") == Check("events.jsonl", False, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it holds no events"),
        (b"garbage", "it holds no events"),
        (b'{"kind": "warning", "seq": 0}\n', "the first event is warning, not run_started"),
        (None, "missing"),
    ],
)
def test_events_without_a_beginning(run: RunDirectory, content: bytes | None, message: str) -> None:
    run.events_file.unlink()
    if content is not None:
        run.events_file.write_bytes(content)
    assert look_at(run, "events.jsonl") == Check("events.jsonl", False, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [("not json", "not JSON"), ("[" * 100_000, "not JSON"), ("[]", "not a JSON object"), (None, "missing")],
    ids=["text", "deep", "list", "none"],
)
def test_damaged_manifest(run: RunDirectory, content: str | None, message: str) -> None:
    if content is not None:
        run.manifest_file.write_text(content)
    check = look_at(run, "manifest.json")
    assert not check.is_sound
    assert message in check.message


def test_missing_files_count_once_the_run_is_over(run: RunDirectory) -> None:
    assert [check.file for check in verify(run)] == ["config.toml", "manifest.json", "events.jsonl", "checkpoints"]
    assert look_at(run, "checkpoints") == Check("checkpoints", True, "none yet")
    append_events(run, [finished()])
    for name in ("buffer.safetensors", "student.safetensors", "checkpoints"):
        assert not look_at(run, name).is_sound, name


def test_checkpoints_that_were_there_are_missed(run: RunDirectory) -> None:
    append_events(run, [CheckpointSaved(checkpoint="checkpoints/epoch-000010.safetensors", seconds=0.1)])
    assert look_at(run, "checkpoints") == Check("checkpoints", False, "there are none, so the run cannot be resumed")


def test_pictures_that_were_cut_off(run: RunDirectory) -> None:
    for epoch in (1, 2):
        Image.new("RGB", (40, 30), "red").save(run.samples_dir / f"epoch-00000{epoch}.png")
    assert look_at(run, "samples") == Check("samples", True, "2 pictures")
    picture = run.samples_dir / "epoch-000002.png"
    whole = picture.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:60] + b"x" + whole[61:], b"", b"rubbish"):
        picture.write_bytes(damaged)
        assert look_at(run, "samples") == Check("samples", False, "cannot be read: epoch-000002.png")


def test_invert_leaves_no_student(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", started(command="invert"), finished())
    assert "student.safetensors" not in [check.file for check in verify(run)]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"fc.weight": np.array([1.0, np.nan], np.float32)}, "`fc.weight` holds values that are not finite"),
        ({"fc.weight": np.array([np.inf], np.float16)}, "not finite"),
        ({}, "holds no tensors"),
        ({"fc.weight": np.ones(2, np.float32)}, "sha256 is another one, or lost"),
    ],
)
def test_student_without_sound_weights(run: RunDirectory, tensors: dict, message: str) -> None:
    run.student_file.write_bytes(safetensors.numpy.save(tensors))
    check = look_at(run, "student.safetensors")
    assert not check.is_sound
    assert message in check.message


def test_a_changed_bit_of_the_student(run: RunDirectory) -> None:
    save_with_digest(run.student_file, {"fc.weight": torch.ones(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)})
    assert look_at(run, "student.safetensors").message == "2 tensors"
    content = bytearray(run.student_file.read_bytes())
    content[-1] ^= 1
    run.student_file.write_bytes(content)
    check = look_at(run, "student.safetensors")
    assert not check.is_sound
    assert "not those that were written" in check.message
