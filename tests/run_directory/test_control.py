from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hand_clock import HandClock
from run_files import acknowledged, append_events, finished, make_run, started

from stages.errors import ConfigError, FileError
from stages.run_directory import RunDirectory
from stages.run_directory.control import (
    ACTIONS,
    Acknowledgement,
    ControlReader,
    Request,
    send_request,
    wait_for_acknowledgement,
)


class SleepingClock(HandClock):
    """Time that passes by sleeping, and what happens meanwhile."""

    def __init__(self, meanwhile: dict[int, object] | None = None) -> None:
        super().__init__()
        self.num_sleeps = 0
        self._meanwhile = meanwhile or {}

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.num_sleeps += 1
        happening = self._meanwhile.get(self.num_sleeps)
        if callable(happening):
            happening()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return make_run(tmp_path / "a-run", started())


def test_a_file_that_cannot_be_read_holds_no_request_yet(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's umask must not end a run."""
    reader = ControlReader(run.control_file)
    with run.lock.held():
        send_request(run, "stop")

    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        assert reader.poll() == []
    assert [request.action for request in reader.poll()] == ["stop"]


def test_requests_arrive_in_order_and_once(run: RunDirectory) -> None:
    reader = ControlReader(run.control_file)
    assert reader.poll() == []
    with run.lock.held():
        sent = [Request(send_request(run, action), action) for action in ACTIONS]
    assert reader.poll() == sent
    assert reader.poll() == []
    assert len({request.id for request in sent}) == len(ACTIONS)


def test_requests_of_many_at_once_are_not_mixed(run: RunDirectory) -> None:
    reader = ControlReader(run.control_file)
    with run.lock.held():
        threads = [threading.Thread(target=send_request, args=(run, "pause")) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({request.id for request in reader.poll()}) == 20


def test_requests_to_an_earlier_process_are_not_carried_out(run: RunDirectory) -> None:
    with run.lock.held():
        send_request(run, "stop")
        reader = ControlReader(run.control_file)
        pause = send_request(run, "pause")
    assert reader.poll() == [Request(pause, "pause")]


def test_torn_line_waits_for_its_end(run: RunDirectory) -> None:
    reader = ControlReader(run.control_file)
    run.control_file.write_bytes(b'{"id": "1", "act')
    assert reader.poll() == []
    with run.control_file.open("ab") as file:
        file.write(b'ion": "pause"}\n')
    assert reader.poll() == [Request("1", "pause")]


def test_torn_line_does_not_swallow_the_next_request(run: RunDirectory) -> None:
    reader = ControlReader(run.control_file)
    run.control_file.write_bytes(b'{"id": "1", "act')
    with run.lock.held():
        request_id = send_request(run, "pause")
    assert reader.poll() == [Request(request_id, "pause")]


def test_what_is_no_request_is_skipped(run: RunDirectory) -> None:
    reader = ControlReader(run.control_file)
    garbage = [b"", b"not json", b"[]", b'"pause"', b"\xff\x00", b'{"id": 1, "action": "pause"}', b'{"id": "1"}']
    garbage += [b'{"id": "1", "action": ["stop"]}', b"[" * 100_000, b"NaN"]
    run.control_file.write_bytes(b"\n".join([*garbage, b'{"id": "2", "action": "dance", "more": 1}', b""]))
    assert reader.poll() == [Request("2", "dance")]  # unknown to us, so the run can refuse it by name


def test_cut_file_is_survived(run: RunDirectory) -> None:
    run.control_file.write_bytes(b"x" * 1000 + b"\n")
    reader = ControlReader(run.control_file)
    run.control_file.write_bytes(b"")
    assert reader.poll() == []
    run.control_file.write_bytes(b'{"id": "1", "action": "pause"}\n')
    assert reader.poll() == [Request("1", "pause")]


def test_a_copy_that_takes_its_place_asks_for_nothing_again(run: RunDirectory, tmp_path: Path) -> None:
    """As an editor saves a file. What was asked of an earlier process is in it, too."""
    earlier, heard, new = (f'{{"id": "{word}", "action": "{word}"}}\n' for word in ("stop", "pause", "resume"))
    run.control_file.write_text(earlier)
    reader = ControlReader(run.control_file)
    with run.control_file.open("a") as file:
        file.write(heard)
    assert reader.poll() == [Request("pause", "pause")]
    copy = tmp_path / "copy"
    copy.write_text(earlier + heard + new)
    copy.replace(run.control_file)
    assert reader.poll() == [Request("resume", "resume")]
    run.control_file.write_text(earlier + heard)
    assert reader.poll() == []
    run.control_file.unlink()
    assert reader.poll() == []
    run.control_file.write_text(new + new)
    assert reader.poll() == [Request("resume", "resume")]


@pytest.mark.parametrize("status", ["done", "stopped", "failed", "diverged"])
def test_run_that_is_over_is_not_asked(run: RunDirectory, status: str) -> None:
    append_events(run, [finished(status)])
    with pytest.raises(ConfigError, match=f"not running, its status is {status}"):
        send_request(run, "pause")
    assert not run.control_file.exists()


def test_dead_run_is_not_asked_and_can_be_resumed(run: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="its status is dead") as caught:
        send_request(run, "stop")
    assert "--resume" in str(caught.value.hint)


def test_unknown_action_is_refused(run: RunDirectory) -> None:
    with run.lock.held(), pytest.raises(ConfigError, match="unknown action `pauze`") as caught:
        send_request(run, "pauze")
    assert caught.value.hint == "did you mean `pause`?"


def test_control_file_that_cannot_be_written(run: RunDirectory) -> None:
    run.control_file.mkdir()
    with run.lock.held(), pytest.raises(FileError, match=r"cannot write .*control\.jsonl"):
        send_request(run, "pause")


def test_acknowledgement_is_found_among_others(run: RunDirectory) -> None:
    answers = [
        acknowledged("pause", request_id="other"),
        acknowledged("pause", request_id="mine", accepted=False, message="not now"),
    ]
    clock = SleepingClock({3: lambda: append_events(run, answers)})
    with run.lock.held():
        found = wait_for_acknowledgement(run, "mine", 10.0, clock=clock, sleep=clock.sleep)
    assert found == Acknowledgement(accepted=False, message="not now")
    assert clock.num_sleeps == 3


def test_acknowledgement_before_anyone_waits_is_found(run: RunDirectory) -> None:
    append_events(run, [acknowledged("pause", request_id="mine")])
    clock = SleepingClock()
    with run.lock.held():
        assert wait_for_acknowledgement(run, "mine", 0.0, clock=clock, sleep=clock.sleep) is not None
    assert clock.num_sleeps == 0


def test_acknowledgement_that_does_not_come(run: RunDirectory) -> None:
    clock = SleepingClock()
    with run.lock.held():
        assert wait_for_acknowledgement(run, "mine", 10.0, clock=clock, sleep=clock.sleep) is None
    assert clock.now_s == pytest.approx(10.0, abs=0.2)


def test_nobody_waits_for_a_run_that_ended(run: RunDirectory) -> None:
    clock = SleepingClock()
    assert wait_for_acknowledgement(run, "mine", 10.0, clock=clock, sleep=clock.sleep) is None
    append_events(run, [acknowledged("pause", request_id="mine")])  # but its last words are heard
    assert wait_for_acknowledgement(run, "mine", 10.0, clock=clock, sleep=clock.sleep) is not None
    assert clock.num_sleeps == 0


def test_request_is_one_line_of_json(run: RunDirectory) -> None:
    with run.lock.held():
        request_id = send_request(run, "checkpoint")
    assert json.loads(run.control_file.read_bytes()) == {"id": request_id, "action": "checkpoint"}
