"""Events read from the last to the first."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from run_files import append_events, make_run, started

from stages.events import DistillationStep, RunResumed, Warning
from stages.run_directory import RunDirectory, event_file
from stages.run_directory.event_file import lines_newest_first

STEP = DistillationStep(step=0, loss=1.0, lr=0.1, agreement=0.5)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "a-run")


def test_lines_newest_first_are_all_lines_reversed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_file, "_BLOCK_BYTES", 7)
    path = tmp_path / "lines"
    rng = random.Random(0)
    for _ in range(300):
        data = bytes(rng.choice(b"ab\n") for _ in range(rng.randrange(40)))
        path.write_bytes(data)
        assert list(lines_newest_first(path)) == data.split(b"\n")[:-1][::-1], data


def test_superseded_events_are_left_out(run: RunDirectory) -> None:
    append_events(run, [started(), STEP, Warning(message="kept"), Warning(message="superseded")])
    append_events(run, [RunResumed(checkpoint="c", checkpoint_seq=2), Warning(message="new")])
    assert [event["message"] for event in run.events.newest_first(Warning.kind)] == ["new", "kept"]
    assert [event["seq"] for event in run.events.newest_first()] == [5, 4, 2, 1, 0]
