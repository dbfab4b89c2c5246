"""Reading `events.jsonl` while it is written, and whatever else it may hold."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
from dataclasses import replace
from functools import partial

import pytest
from hand_clock import HandClock
from lock_holder import held_by_another_process
from run_files import acknowledged
from scripted_run import (
    TIME_S,
    append,
    damage,
    evaluation,
    lines_of,
    raw_line,
    run_of_lines,
    run_started,
    samples,
    whole_run,
)

from ssdkd_cli.charts import BLOCKS
from ssdkd_cli.watching import preview
from ssdkd_cli.watching.feed import RunFeed
from ssdkd_cli.watching.snapshot import document, render_text
from stages import events
from stages.events import finite
from stages.run_directory import RunDirectory
from stages.run_directory.control import send_request
from stages.run_directory.line_tail import Bite, Tail


def test_events_come_as_they_are_written(tmp_path):
    lines = lines_of(whole_run(4))
    run = run_of_lines(tmp_path / "run", lines[:5])
    with run.lock.held():
        feed = RunFeed(run)
        assert feed.poll().num_events == 5
        append(run, [*lines[5:9], lines[9][:20]])
        assert feed.poll().num_events == 9
        append(run, [lines[9][20:]])
        view = feed.poll()
    assert (view.num_events, view.problems, view.loaded) == (10, (), 1.0)


GARBAGE = {
    "no JSON": b"{]\n",
    "no UTF-8": b'\xff\xfe{"kind": 1}\n',
    "zeros of a power cut": b"\0" * 512 + b"\n",
    "a list": b"[1, 2]\n",
    "a number": b"7\n",
    "no kind": b'{"schema": 1, "seq": 3, "epoch": 1}\n',
    "kind is a number": b'{"kind": 7, "seq": 3, "epoch": 1}\n',
    "no seq": b'{"kind": "device", "epoch": 1}\n',
    "seq below zero": b'{"kind": "device", "seq": -1, "epoch": 1}\n',
    "seq is true": b'{"kind": "device", "seq": true, "epoch": 1}\n',
    "seq beyond all files": b'{"kind": "device", "seq": 1' + b"0" * 30 + b', "epoch": 1}\n',
    "epoch is a text": b'{"kind": "device", "seq": 3, "epoch": "x"}\n',
    "a thousand brackets": b"[" * 100_000 + b"\n",
    "a number of 5000 digits": b'{"kind": "device", "seq": 1, "epoch": ' + b"9" * 5000 + b"}\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_a_line_that_is_no_event_is_passed_over_and_told(tmp_path, garbage):
    lines = [line.encode() for line in lines_of(whole_run(3))]
    run = run_of_lines(tmp_path / "run", [*lines[:9], garbage, b"\n", *lines[9:]])
    view = RunFeed(run).poll()
    assert view.num_events == len(lines)
    assert view.problems == ("1 line of events.jsonl could not be read and was passed over",)


def test_a_torn_line_of_a_dead_run_is_told(tmp_path):
    lines = lines_of(whole_run(3))
    run = run_of_lines(tmp_path / "run", [*lines[:9], lines[9][:30]])
    feed = RunFeed(run)
    view = feed.poll()
    assert view.status == "dead"
    assert any("torn" in problem for problem in view.problems)
    with run.lock.held():
        assert not any("torn" in problem for problem in feed.poll().problems)  # a writer may be at it


def test_an_unknown_kind_is_told_and_the_rest_is_shown(tmp_path):
    lines = lines_of(whole_run(3))
    run = run_of_lines(tmp_path / "run", [*lines, *(raw_line(kind="quantum_leap", seq=900 + num) for num in range(3))])
    view = RunFeed(run).poll()
    assert view.problems == ("events of kinds unknown to this ssdkd: quantum_leap (3)",)
    assert view.progress.epoch == 3


def test_a_newer_schema_is_told_and_what_is_understood_is_shown(tmp_path):
    lines = [line.replace('"schema":1', '"schema":7') for line in lines_of(whole_run(3))]
    view = RunFeed(run_of_lines(tmp_path / "run", lines)).poll()
    assert len(view.problems) == 1
    assert "schema 7, this ssdkd knows 1" in view.problems[0]
    assert view.buffer.size == 30


def test_a_directory_that_vanishes_leaves_what_was_read(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of(whole_run(3)))
    feed = RunFeed(run)
    before = feed.poll()
    shutil.rmtree(run.path)
    view = feed.poll()
    assert view.problems == (f"the directory {run.path} has vanished; what was read of it stays shown",)
    assert view.curves == before.curves
    assert view.status == "dead"
    run_of_lines(run.path, lines_of(whole_run(2)))
    view = feed.poll()
    assert view.description.epochs == 2
    assert "read anew" in view.problems[0]


def test_a_vanished_file_is_told(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of(whole_run(3)))
    feed = RunFeed(run)
    feed.poll()
    run.events_file.unlink()
    assert feed.poll().problems == (f"{run.events_file} has vanished; what was read of it stays shown",)


def test_a_run_cut_short_is_read_anew(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of(whole_run(6)))
    feed = RunFeed(run)
    feed.poll()
    run.events_file.write_text("".join(lines_of(whole_run(2))), encoding="utf-8")
    view = feed.poll()
    assert view.progress.epochs == 2
    assert len(view.curves["inversion/loss"]) == 2
    assert "read anew" in view.problems[0]


# -- status ------------------------------------------------------------------------------------------------------


STATUSES = {
    "starting": ([], True),
    "running": ([run_started()], True),
    "paused": ([run_started(), acknowledged("pause")], True),
    "refused pause": ([run_started(), acknowledged("pause", accepted=False)], True),
    "goes on": ([run_started(), acknowledged("pause"), acknowledged("resume")], True),
    "resumed after a pause": (
        [run_started(), acknowledged("pause"), events.RunResumed(checkpoint="", checkpoint_seq=0)],
        True,
    ),
    "dead": ([run_started()], False),
    "dead before a word": ([], False),
    "dead while paused": ([run_started(), acknowledged("pause")], False),
    "done": ([run_started(), events.RunFinished(status="done", message="done")], False),
    "failed, not gone yet": ([run_started(), events.RunFinished(status="failed", message="disk")], True),
    "stopped": ([run_started(), events.RunFinished(status="stopped", message="stopped")], False),
    "diverged": ([run_started(), events.RunFinished(status="diverged", message="NaN")], False),
    "stopped, then resumed": (
        [
            run_started(),
            events.RunFinished(status="stopped", message="stopped"),
            events.RunResumed(checkpoint="", checkpoint_seq=0),
        ],
        True,
    ),
}


@pytest.mark.parametrize(("told", "is_alive"), STATUSES.values(), ids=STATUSES.keys())
def test_the_status_is_that_of_the_run_directory(tmp_path, told, is_alive):
    run = run_of_lines(tmp_path / "run", lines_of((event, 1) for event in told))
    if not is_alive:
        assert RunFeed(run).poll().status == run.status()
        return
    with run.lock.held():
        if any(event.kind == "control_acknowledged" for event in told):
            run.control_file.write_text("{}\n", encoding="utf-8")
        assert RunFeed(run).poll().status == run.status()


@pytest.mark.parametrize("summary", [{"epochs": 2}, {}, {"epochs": 99}, {"epochs": None}])
def test_a_run_that_was_stopped_within_an_epoch_stands_at_the_one_before(tmp_path, summary):
    """As `ssdkd runs show` has it; what a summary says beside the point does not count."""
    ending = events.RunFinished(status="stopped", message="stopped", summary=summary)
    run = run_of_lines(tmp_path / "run", lines_of([*whole_run(3)[:-1], (ending, 3)]))
    assert RunFeed(run).poll().progress.epoch == (2 if summary.get("epochs") == 2 else 3)


def test_a_run_whose_process_died_is_said_to_be_dead(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of(whole_run(3)))
    with held_by_another_process(run) as owner:
        feed = RunFeed(run)
        assert feed.poll().status == "running"
        owner.kill()
        owner.wait()
        view = feed.poll()
    assert (view.status, view.status_text, view.silent_s) == ("dead", "dead: its process is gone", None)
    assert not view.is_live


def test_a_silent_run_is_said_to_be_silent(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of([(run_started(), 0)]))
    now, seconds = HandClock(TIME_S + 5), HandClock(100.0)
    with run.lock.held():
        feed = RunFeed(run, clock=now, monotonic=seconds)
        assert feed.poll().silent_s == pytest.approx(5)
        seconds.now_s += 84
        assert feed.poll().status_text == "running"
        seconds.now_s += 6
        assert feed.poll().status_text == "running, no news for 1 min 35 s"
        append(run, [raw_line(kind="stage_started", seq=1, stage="inversion")])
        view = feed.poll()
    assert (view.status_text, view.silent_s) == ("running", 0.0)


def test_a_compilation_that_takes_long_is_not_taken_for_news(tmp_path):
    seconds = HandClock(100.0)
    run = run_of_lines(
        tmp_path / "run", lines_of([(run_started(), 0), (events.CompilationStarted(what="the teacher"), 1)])
    )
    with run.lock.held():
        feed = RunFeed(run, clock=HandClock(TIME_S + 1), monotonic=seconds)
        view = feed.poll()
        assert (view.status_text, view.is_silent) == ("running, compiling the teacher", False)
        seconds.now_s += 95
        view = feed.poll()
    assert (view.status_text, view.is_silent) == ("running, compiling the teacher, no news for 1 min 35 s", True)


def test_a_file_that_could_not_be_read_for_a_while_is_not_said_to_be_unreadable_for_ever(tmp_path, monkeypatch):
    run = run_of_lines(tmp_path / "run", lines_of([*whole_run(3), (events.RunFinished(status="done", message=""), 3)]))
    feed = RunFeed(run)
    feed.poll()
    with monkeypatch.context() as context:
        context.setattr(Tail, "poll", lambda *_: Bite([], is_at_end=True, error="cannot read it: Permission denied"))
        assert feed.poll().problems == ("cannot read it: Permission denied",)
    assert feed.poll().problems == ()


def test_what_the_student_waits_for_is_said(tmp_path):
    seconds = HandClock(100.0)
    run = run_of_lines(tmp_path / "run", lines_of([(run_started(), 0)]))
    with run.lock.held():
        feed = RunFeed(run, clock=HandClock(TIME_S), monotonic=seconds)
        feed.poll()
        append(run, [raw_line(kind="views_judged", seq=1, done=1216, total=2560)])
        assert feed.poll().status_text == "running, showing the teacher new images, 1,216 of 2,560"
        seconds.now_s += 95
        assert feed.poll().status_text == "running, no news for 1 min 35 s"
        append(run, [raw_line(kind="views_judged", seq=2, done=2560, total=2560)])
        assert feed.poll().status_text == "running"


@pytest.mark.parametrize("jump_s", [-7200.0, 7200.0, 1e12])
def test_a_clock_that_jumps_changes_nothing_but_words(tmp_path, jump_s):
    lines = lines_of(whole_run(5))
    half = len(lines) // 2
    run = run_of_lines(tmp_path / "run", [*lines[:half], *lines_of(whole_run(5), time_s=TIME_S + jump_s)[half:]])
    now, seconds = HandClock(TIME_S + 60), HandClock(0.0)
    with run.lock.held():
        feed = RunFeed(run, clock=now, monotonic=seconds)
        view = feed.poll()
        now.now_s += jump_s
        assert feed.poll().silent_s == view.silent_s  # the machine's clock is not asked again
    undisturbed = run_of_lines(tmp_path / "plain", lines)
    with undisturbed.lock.held():
        plain = RunFeed(undisturbed).poll()
    assert view.progress == replace(plain.progress, ends_s=view.progress.ends_s), (
        "but for the hour at which it will be over"
    )
    assert view.device == plain.device
    if jump_s < 0:
        assert any("clock was set back by" in line.text for line in view.log)
    else:
        assert view.silent_s == 0.0
        assert any("in the future" in problem for problem in view.problems)


def test_a_request_and_its_answer_are_seen(tmp_path):
    run = run_of_lines(tmp_path / "run", lines_of([(run_started(), 0)]))
    with run.lock.held():
        feed = RunFeed(run)
        feed.poll()
        request_id = send_request(run, "pause")
        line = raw_line(
            kind="control_acknowledged", seq=1, id=request_id, action="pause", accepted=True, message="paused"
        )
        append(run, [line])
        said = feed.poll().log[-1]
    assert (said.kind, said.level, said.text) == ("control_acknowledged", "info", "paused")


# -- long files --------------------------------------------------------------------------------------------------


@pytest.fixture
def long_run(tmp_path, monkeypatch) -> RunDirectory:
    """Long for the sizes that this test gives the glance."""
    for name, size in (("MIN_BYTES", 50_000), ("_HEAD_BYTES", 2000), ("_BLOCK_BYTES", 500), ("_TAIL_BYTES", 4000)):
        monkeypatch.setattr(preview, name, size)
    monkeypatch.setattr("ssdkd_cli.watching.feed._CHUNK_BYTES", 10_000)
    return run_of_lines(tmp_path / "run", lines_of(whole_run(100)))


def test_a_long_run_is_shown_at_a_glance_and_then_whole(long_run):
    seconds = HandClock(0.0)
    feed = RunFeed(long_run, monotonic=seconds)
    first = feed.poll(budget_s=0.0)
    whole = RunFeed(long_run).poll(budget_s=60.0)
    assert 0 < first.loaded < 0.5
    # The present is right at once; the curves have their ends.
    assert (first.status, first.description, first.buffer, first.device) == (
        whole.status,
        whole.description,
        whole.buffer,
        whole.device,
    )
    assert first.progress.epoch == 100
    curve, exact = first.curves["distillation/loss"], whole.curves["distillation/loss"]
    assert (curve.last, curve.x[-1]) == (exact.last, exact.x[-1])
    assert curve.x[0] < 10
    assert all(point in set(zip(exact.x, exact.y, strict=True)) for point in zip(curve.x, curve.y, strict=True))
    shares = [first.loaded]
    while shares[-1] < 1.0:
        shares.append((last := feed.poll(budget_s=0.0)).loaded)
    assert shares == sorted(shares)
    assert last.curves == whole.curves
    assert last.num_events == whole.num_events


def test_news_are_shown_while_a_long_history_is_read(long_run):
    with long_run.lock.held():
        feed = RunFeed(long_run, monotonic=HandClock(0.0))
        feed.poll(budget_s=0.0)
        append(long_run, [raw_line(kind="control_acknowledged", seq=9999, id="x", action="pause", accepted=True)])
        view = feed.poll(budget_s=0.0)
    assert view.loaded < 1.0
    assert view.status == "paused"
    assert view.log[-1].kind == "control_acknowledged"


def test_the_glance_finds_what_lies_far_back(tmp_path, monkeypatch):
    monkeypatch.setattr(preview, "MIN_BYTES", 50_000)
    monkeypatch.setattr(preview, "_HEAD_BYTES", 1000)
    monkeypatch.setattr(preview, "_NUM_BLOCKS", 1)
    monkeypatch.setattr(preview, "_BLOCK_BYTES", 100)
    monkeypatch.setattr(preview, "_TAIL_BYTES", 1000)
    told = whole_run(30)
    steps = [(events.DistillationStep(step=step, loss=1.0, lr=0.1, agreement=0.5), 31) for step in range(200)]
    run = run_of_lines(tmp_path / "run", lines_of([*told, *steps]))
    found = preview.preview(run.events_file, run.events_file.stat().st_size)
    parsed = [json.loads(line) for line in found.lines]
    assert [event["seq"] for event in parsed] == sorted(event["seq"] for event in parsed)
    newest = {event["kind"]: event["epoch"] for event in parsed}
    assert (newest["buffer_state"], newest["device"]) == (30, 30)
    assert found.offset == run.events_file.stat().st_size


@pytest.mark.parametrize("seed", range(5))
def test_nothing_that_a_file_may_hold_raises(tmp_path, seed):
    rng = random.Random(seed)
    told = [*whole_run(4), (evaluation(), 4), (samples(), 4), (events.Warning(message="careful"), 4)]
    run = run_of_lines(tmp_path / "run", [damage(line, rng) for line in lines_of(told) * 12])
    with run.lock.held():
        feed = RunFeed(run)
        view = feed.poll()
        assert view.num_events > 200
        assert view.problems
        text = render_text(view, glyphs=BLOCKS)
        assert "\x1b" not in text
        json.dumps(finite(document(view)), allow_nan=False)


def test_a_file_system_that_no_longer_answers_is_a_problem_to_be_told(tmp_path, monkeypatch):
    run = run_of_lines(tmp_path / "run", lines_of(whole_run()))
    feed = RunFeed(run)
    feed.poll()
    real = {name: getattr(os, name) for name in ("stat", "open")}

    def unanswered(name, path, *arguments, **options):
        if str(path).startswith(str(tmp_path)):
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return real[name](path, *arguments, **options)

    for name in real:
        monkeypatch.setattr(os, name, partial(unanswered, name))
    monkeypatch.setattr("builtins.open", partial(unanswered, "open"))
    view = feed.poll()
    monkeypatch.undo()
    assert (view.num_events, view.has_directory) == (len(lines_of(whole_run())), False)
