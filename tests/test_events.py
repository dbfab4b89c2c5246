"""Events as lines: whole, strict JSON, numbered; what a resumption supersedes is left out."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from told_events import events_of

from stages import events
from stages.errors import ConfigError
from stages.events import (
    DistillationStep,
    Event,
    EventLog,
    RunResumed,
    StageStarted,
    Warning,
    finite,
    to_line,
)

KINDS = {
    *("run_started", "run_resumed", "stage_started", "stage_finished", "inversion_step", "distillation_step"),
    *("buffer_state", "evaluation", "device", "samples", "checkpoint_saved", "control_acknowledged", "warning"),
    *("compilation_started", "compilation_finished", "views_judged", "measured", "run_finished"),
}


def test_kinds_are_the_contract() -> None:
    found = {getattr(value, "kind", None) for value in vars(events).values() if isinstance(value, type)}
    assert found - {None} == KINDS


def test_a_line_has_its_envelope_and_its_fields() -> None:
    line = to_line(StageStarted(stage="inversion"), seq=4, epoch=2, time_s=1.5)
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert json.loads(line) == {
        **{"schema": 1, "kind": "stage_started", "seq": 4, "time_s": 1.5, "epoch": 2},
        "stage": "inversion",
    }


def test_a_field_of_the_envelopes_name_gives_way_to_it() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Theirs(Event):
        kind = "theirs"
        epoch: float
        mood: str

    line = json.loads(to_line(Theirs(epoch=1.5, mood="good"), seq=4, epoch=2, time_s=1.5))
    assert line == {"schema": 1, "kind": "theirs", "seq": 4, "time_s": 1.5, "epoch": 2, "mood": "good"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TheirResult(Event):
    """Would be read as an evaluation of ours."""

    kind = "evaluation"
    real: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Nameless(Event):
    value: object


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named(Nameless):
    kind = "named"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoEvent:
    kind = "named"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoreThanAStep(DistillationStep):
    loss_more: float


def test_an_event_of_others_may_be_more_than_one_of_ours() -> None:
    event = MoreThanAStep(step=0, loss=1.0, lr=0.1, agreement=0.5, loss_more=2.0)
    assert json.loads(to_line(event, seq=0, epoch=1, time_s=0))["loss_more"] == 2.0


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (TheirResult(real={"top1": 2.0}), "TheirResult` is of the kind `evaluation`, and no Evaluation"),
        (Nameless(value=1), "Nameless` has no kind"),
        (NoEvent(), "NoEvent` is no dataclass that derives from Event"),
        (Named(value=torch.zeros(2)), "Named` cannot be written as JSON: `value` is a Tensor"),
        (Named(value={"a": [b"bytes"]}), "Named` cannot be written as JSON: `value` is a dict"),
    ],
)
def test_an_event_of_others_that_is_none_is_refused_by_its_class(path: Path, event: Event, said: str) -> None:
    with path.open("ab", buffering=0) as file:
        log = EventLog(file)
        with pytest.raises(ConfigError, match=f"^the event `test_events.{said}") as caught:
            log.emit(event, epoch=1)
        assert caught.value.hint is not None
        log.emit(stage("a"), epoch=1)
    assert [told["seq"] for told in events_of(path.parent)] == [0]


def test_a_line_break_stays_within_its_line() -> None:
    line = to_line(Warning(message="one\ntwo\u2028three"), seq=0, epoch=0, time_s=0)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == "one\ntwo\u2028three"


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_null(loss: float) -> None:
    line = to_line(DistillationStep(step=0, loss=loss, lr=0.1, agreement=0.5), seq=0, epoch=1, time_s=0)
    assert json.loads(line)["loss"] is None
    assert "NaN" not in line
    assert "Infinity" not in line


def test_finite_goes_into_depth_and_changes_nothing_else() -> None:
    value = {"a": [1, math.nan, (2.5, {"b": math.inf})], 3: "NaN", "c": True, "d": None}
    assert finite(value) == {"a": [1, None, [2.5, {"b": None}]], "3": "NaN", "c": True, "d": None}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[EventLog]:
    with path.open("ab", buffering=0) as file:
        yield EventLog(file, clock=lambda: 1000.12345)


def stage(name: str) -> StageStarted:
    return StageStarted(stage=name)


def test_events_are_numbered_timed_and_written_at_once(path: Path, log: EventLog) -> None:
    for number in range(3):
        log.emit(stage(str(number)), epoch=number)
        assert path.read_bytes().count(b"\n") == number + 1
    told = events_of(path.parent)
    assert [(event["seq"], event["epoch"], event["stage"]) for event in told] == [(0, 0, "0"), (1, 1, "1"), (2, 2, "2")]
    assert {event["time_s"] for event in told} == {1000.123}


def test_listeners_hear_what_is_written(path: Path, log: EventLog) -> None:
    heard: list[tuple[Event, int, bytes]] = []
    log.listeners.append(lambda event, epoch: heard.append((event, epoch, path.read_bytes())))
    log.emit(stage("a"), epoch=5)
    assert heard == [(stage("a"), 5, path.read_bytes())]


def test_a_listener_that_fails_is_not_called_again(log: EventLog) -> None:
    calls: list[str] = []

    def gone(event: Event, _epoch: int) -> None:
        calls.append("gone")
        raise OSError(5, "Input/output error")

    log.listeners += [gone, lambda event, epoch: calls.append("other")]
    for _ in range(2):
        log.emit(stage("a"), epoch=1)
    assert calls == ["gone", "other", "other"]


@contextmanager
def nearly_full(path: Path) -> Iterator[None]:
    """The file may grow by 40 bytes, less than a line: the kernel itself writes a part and refuses the rest.

    The limit is the whole process's: within a test's body, so that pytest's own report may be a longer file.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_does_not_fit_is_taken_back(path: Path, log: EventLog) -> None:
    log.emit(stage("first"), epoch=1)
    before = path.read_bytes()
    heard: list[Event] = []
    log.listeners.append(lambda event, epoch: heard.append(event))
    with nearly_full(path), pytest.raises(OSError, match="File too large"):
        log.emit(stage("second"), epoch=1)
    assert path.read_bytes() == before
    assert heard == []
    log.emit(stage("third"), epoch=1)
    assert [(event["seq"], event["stage"]) for event in events_of(path.parent)] == [(0, "first"), (1, "third")]


def test_nothing_is_left_to_write_when_the_file_closes(path: Path, log: EventLog) -> None:
    log.emit(stage("first"), epoch=1)
    with path.open("a", encoding="utf-8") as file, nearly_full(path):
        log = EventLog(file, next_seq=1)
        with pytest.raises(OSError, match="File too large"):
            log.emit(stage("second"), epoch=1)
    assert path.read_bytes().count(b"\n") == 1
    assert path.read_bytes().endswith(b"\n")


def write(path: Path, *told: Event, first_seq: int = 0) -> None:
    with path.open("ab", buffering=0) as file:
        log = EventLog(file, next_seq=first_seq)
        for event in told:
            log.emit(event, epoch=1)


def names(path: Path) -> list[str]:
    return [event.get("stage", event["kind"]) for event in events_of(path.parent)]


def resumed(checkpoint_seq: int) -> RunResumed:
    return RunResumed(checkpoint="c", checkpoint_seq=checkpoint_seq)


def test_a_resumption_supersedes_what_came_after_its_checkpoint(path: Path) -> None:
    write(path, *map(stage, "abcd"), resumed(1), stage("e"))
    assert names(path) == ["a", "b", "run_resumed", "e"]


def test_resumptions_add_up(path: Path) -> None:
    write(path, *map(stage, "abcd"), resumed(2), stage("e"), resumed(1), stage("f"))
    assert names(path) == ["a", "b", "run_resumed", "f"]
    path.unlink()
    write(path, *map(stage, "ab"), resumed(1), stage("c"), resumed(3), stage("d"))
    assert names(path) == ["a", "b", "run_resumed", "c", "run_resumed", "d"]


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{\n",
        b"[]\n",
        b"7\n",
        b'{"kind":"warning"}\n',
        b'{"kind":"warning","seq":"3"}\n',
        b"\xff\xfe\n",
        b'{"kind":"run_resumed","seq":"x","checkpoint_seq":-1}\n',
    ],
)
def test_what_is_no_event_is_passed_over(path: Path, line: bytes) -> None:
    write(path, stage("a"))
    with path.open("ab") as file:
        file.write(line)
    write(path, stage("b"), first_seq=1)
    assert names(path) == ["a", "b"]


def test_a_torn_last_line_is_no_event_yet(path: Path) -> None:
    write(path, stage("a"))
    with path.open("ab") as file:
        file.write(to_line(stage("b"), seq=1, epoch=1, time_s=0).rstrip("\n").encode())
    assert names(path) == ["a"]


def test_kinds_of_a_newer_version_are_kept(path: Path) -> None:
    path.write_text('{"schema":2,"kind":"surprise","seq":0,"time_s":0,"epoch":0,"what":[1]}\n')
    assert names(path) == ["surprise"]


def test_events_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        stage("a").stage = "b"
