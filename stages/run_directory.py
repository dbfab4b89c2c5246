"""The files of a run: where each lies, who may write them, and what state the run is in.

    runs/<name>-<yyyymmdd-hhmmss>[-seed]/
      config.toml  manifest.json  events.jsonl  control.jsonl  run.lock  [trainer.log]
      buffer.safetensors  student.safetensors  student-best.safetensors  holdout.safetensors
      checkpoints/epoch-000040.safetensors    samples/epoch-000040.png

One process writes a run at a time: it holds an flock on `run.lock`, which the kernel frees with the process,
however that ends. So a run is alive exactly while its lock is held; the pid and host inside are for people.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from stages.errors import ConfigError, FileError, MachineError
from stages.events import ControlAcknowledged, RunFinished, RunResumed, RunStarted
from stages.paths import in_shell

RUNS_ROOT = Path("runs")
FINAL_STATUSES = ("done", "stopped", "failed", "diverged")
LIVE_STATUSES = ("starting", "running", "paused")
STATUSES = (*LIVE_STATUSES, *FINAL_STATUSES, "dead")
RESUMABLE_STATUSES = ("stopped", "failed", "dead")
"""What goes on where it was; a run that failed once what it lacked is there (memory, space on the disk)."""

_BLOCK_BYTES = 1 << 16
_NUM_CHECKPOINTS = 2
"""So many stay: the last, and the one before in case the last is damaged."""
# Whoever asks for the status holds the lock for some microseconds: the owner-to-be waits that out.
_LOCK_PATIENCE_S = 1.0
_LOCK_RETRY_S = 0.02


def lines_newest_first(path: Path) -> Iterator[bytes]:
    """The whole lines of a file from the last to the first, without reading more of it than is asked for.

    What follows the last newline is a torn line and passed over. Lines come without their newline.
    """
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        tail = b""  # what was read of a line whose beginning lies in an earlier block
        is_torn = True  # until the last newline is seen
        while position > 0:
            size = min(_BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            tail, *lines = (file.read(size) + tail).split(b"\n")
            if lines and is_torn:
                lines.pop()
                is_torn = False
            yield from reversed(lines)
        if not is_torn:
            yield tail


def parse_event(line: bytes) -> dict[str, Any] | None:
    """The event in a line of `events.jsonl`, or None where the line holds none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("kind"), str):
        return None
    return event if isinstance(event.get("seq"), int) else None


class RunDirectory:
    """The directory of one run. Making this object touches no file; `create` makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.toml"
        self.manifest_file = path / "manifest.json"
        self.events_file = path / "events.jsonl"
        self.control_file = path / "control.jsonl"
        self.buffer_file = path / "buffer.safetensors"
        self.student_file = path / "student.safetensors"
        self.best_student_file = path / "student-best.safetensors"
        self.holdout_file = path / "holdout.safetensors"
        self.checkpoints_dir = path / "checkpoints"
        self.samples_dir = path / "samples"
        self.lock_file = path / "run.lock"
        self.trainer_log_file = path / "trainer.log"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @property
    def name(self) -> str:
        """What people call the run: the directory's name, or that of the link by which it was found."""
        return self.path.name if self.path.name not in ("", "..") else self.path.resolve().name

    # -- making one ------------------------------------------------------------------------------------------

    @staticmethod
    def refuse_used(out: Path) -> None:
        """Raise ConfigError unless `out` can become a new run: nothing is there, or an empty folder.

        Raises MachineError where that cannot be seen, or nothing can be made there.
        """
        try:
            is_used = out.is_dir() and any(out.iterdir())
        except OSError as error:
            raise MachineError(
                f"cannot look into the output directory {out}: {error.strerror or error}",
                hint="give `--out` a folder that can be read and written",
            ) from error
        if is_used:
            raise RunDirectory._used(out)
        if not out.is_dir() and (out.exists() or out.is_symlink()):
            raise ConfigError(f"the output directory {out} is a file", hint="give `--out` a new or an empty folder")
        RunDirectory.refuse_unwritable(out)

    @staticmethod
    def _used(out: Path) -> ConfigError:
        resume = f"`--resume {in_shell(out)}` goes on with it, " if is_run(out) else ""
        return ConfigError(
            f"the output directory {out} is not empty",
            hint=f"{resume}`--out` with another name starts a new run; nothing is overwritten",
        )

    @staticmethod
    def refuse_unwritable(out: Path) -> None:
        """Raise MachineError where the folder `out` is not there and cannot be made, or cannot be written."""
        there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise MachineError(
                f"cannot make the run directory {out}: {there} is {'read-only' if there.is_dir() else 'a file'}",
                hint="give `--out` a folder that can be written",
            )

    @classmethod
    def create(
        cls,
        out: Path | None,
        name: str,
        stamp: str | None = None,
        *,
        seed: int | None = None,
        root: Path = RUNS_ROOT,
    ) -> RunDirectory:
        """A new run directory: `out`, or `root/<name>-<stamp>[-<seed>]`, numbered where that is taken.

        `stamp` is yyyymmdd-hhmmss, now by default. Raises ConfigError where `out` is used already,
        MachineError where the folder cannot be made.
        """
        try:
            if out is not None:
                cls.refuse_used(out)
                out.mkdir(parents=True, exist_ok=True)
                return cls._with_folders(out)
            label = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "run"
            label += "-" + (stamp or datetime.now().strftime("%Y%m%d-%H%M%S"))
            label += "" if seed is None else f"-{seed}"
            root.mkdir(parents=True, exist_ok=True)
            taken = 1
            while True:
                path = root / (label if taken == 1 else f"{label}.{taken}")
                with suppress(FileExistsError):
                    path.mkdir()
                    return cls._with_folders(path)
                taken += 1
        except OSError as error:
            raise MachineError(
                f"cannot make the run directory {out or root}: {error.strerror or error}",
                hint="give `--out` a folder that can be written",
            ) from error

    @classmethod
    def _with_folders(cls, path: Path) -> RunDirectory:
        run = cls(path)
        try:
            run.checkpoints_dir.mkdir()
            run.samples_dir.mkdir()
        except FileExistsError as error:  # since it was looked at: what is there is another process's
            raise cls._used(path) from error
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return run

    # -- the lock --------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that writes this run.

        Raises ConfigError while another process is, MachineError where this one may not.
        """
        try:
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise MachineError(
                f"cannot write {self.lock_file}: {error.strerror or error}",
                hint="a run goes on only for those who may write into its directory",
            ) from error
        try:
            self._take_lock(descriptor)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "since_s": round(time.time(), 3)}
            with suppress(OSError):  # for people only; a full disk is told of by the next file
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)
            yield
        finally:
            os.close(descriptor)  # frees the lock

    def _take_lock(self, descriptor: int) -> None:
        deadline_s = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() < deadline_s:
                    time.sleep(_LOCK_RETRY_S)
                    continue
                owner = self.lock_owner()
                raise ConfigError(
                    f"{self.path} is being written by process {owner.get('pid', '?')} on host {owner.get('host', '?')}",
                    hint=f"`ssdkd runs stop {in_shell(self.path)}` stops it and saves everything",
                ) from error
            except OSError as error:
                raise MachineError(
                    f"cannot lock {self.lock_file}: {error.strerror or error}",
                    hint="the file system must support flock; give `--out` a folder on another one",
                ) from error
            else:
                return

    def lock_owner(self) -> dict[str, Any]:
        """`pid, host, since_s` of the process that took the lock last; {} where that is not known."""
        return _json_object(self.lock_file)

    def is_alive(self) -> bool:
        """Whether a process holds the run's lock."""
        try:
            descriptor = os.open(self.lock_file, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        else:
            return False
        finally:
            os.close(descriptor)

    # -- what the run says -----------------------------------------------------------------------------------

    def events_newest_first(self, *kinds: str) -> Iterator[dict[str, Any]]:
        """The run's events, of the given kinds or of all, from the last to the first.

        Those that a resumption supersedes are left out. A file that is not there holds none. Raises FileError for one
        that cannot be read.
        """
        marks = [kind.encode() for kind in (*kinds, RunResumed.kind)] if kinds else []
        highest_seq = math.inf
        try:
            for line in lines_newest_first(self.events_file):
                if marks and not any(mark in line for mark in marks):
                    continue  # most lines are passed over without parsing them
                event = parse_event(line)
                if event is None or event["seq"] > highest_seq:
                    continue
                if not kinds or event["kind"] in kinds:
                    yield event
                if event["kind"] == RunResumed.kind and isinstance(event.get("checkpoint_seq"), int):
                    highest_seq = min(highest_seq, event["checkpoint_seq"])
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unreadable(error) from error

    def last_event(self, *kinds: str) -> dict[str, Any] | None:
        """The newest event (of the given kinds), or None where there is none."""
        return next(self.events_newest_first(*kinds), None)

    def first_event(self) -> dict[str, Any] | None:
        """The `run_started` event, or None where the file does not begin with it. Raises FileError."""
        try:
            with self.events_file.open("rb") as file:
                event = parse_event(file.readline())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unreadable(error) from error
        return event if event is not None and event["kind"] == RunStarted.kind else None

    def _unreadable(self, error: OSError) -> FileError:
        return FileError(
            f"cannot read {self.events_file}: {error.strerror or error}", hint="check what it is, and its permissions"
        )

    def status(self) -> str:
        """One of `STATUSES`, from the lock and the end of the events; reads little of a long file."""
        is_alive = self.is_alive()  # asked first: of a run that is over by now, all events are there to read
        last = self.last_event()
        if last is not None and last["kind"] == RunFinished.kind and last.get("status") in FINAL_STATUSES:
            return "starting" if is_alive and self.is_taken_up_since(last.get("time_s")) else str(last["status"])
        if not is_alive:
            return "dead"
        if last is None:
            return "starting"
        return "paused" if self._is_paused() else "running"

    def is_taken_up_since(self, then_s: Any) -> bool:
        """Whether a process took the run up later than its last event: it is being resumed, and has not said so yet."""
        since_s = self.lock_owner().get("since_s")
        return isinstance(since_s, int | float) and isinstance(then_s, int | float) and since_s > then_s

    def _is_paused(self) -> bool:
        if not self.control_file.exists() or self.control_file.stat().st_size == 0:
            return False  # nobody ever asked: saves the walk through the events
        kinds = (RunStarted.kind, RunResumed.kind, ControlAcknowledged.kind)
        for event in self.events_newest_first(*kinds):
            if event["kind"] != ControlAcknowledged.kind:
                return False  # a request to an earlier process of the run does not bind this one
            if event.get("accepted") and event.get("action") in ("pause", "resume"):
                return bool(event["action"] == "pause")
        return False

    def summary(self) -> dict[str, Any] | None:
        """The summary that the run ended with, or None where it has not ended or gave none."""
        last = self.last_event()
        if last is None or last["kind"] != RunFinished.kind:
            return None
        summary = last.get("summary")
        return summary if isinstance(summary, dict) else None

    def manifest(self) -> dict[str, Any]:
        """The manifest; {} where there is none or it cannot be read."""
        return _json_object(self.manifest_file)

    def written_student(self) -> Path:
        """The student's file. Raises FileError while there is none."""
        if not self.student_file.is_file():
            raise FileError(
                f"the run {self.path} holds no student yet",
                hint="a run writes it at its first checkpoint and at its end",
            )
        return self.student_file

    def started_s(self) -> float:
        """Unix time at which a process last took the run up (started or resumed it)."""
        since_s = self.lock_owner().get("since_s")
        if isinstance(since_s, int | float):
            return float(since_s)
        with suppress(OSError):
            return self.path.stat().st_mtime
        return 0.0

    # -- checkpoints -----------------------------------------------------------------------------------------

    def checkpoint_file(self, epoch: int) -> Path:
        """Where the checkpoint of an epoch lies."""
        return self.checkpoints_dir / f"epoch-{epoch:06d}.safetensors"

    def samples_file(self, epoch: int) -> Path:
        """Where the picture of an epoch's samples lies."""
        return self.samples_dir / f"epoch-{epoch:06d}.png"

    def checkpoints(self) -> list[Path]:
        """The run's checkpoints, earliest epoch first."""
        numbered = [
            (int(match[1]), path)
            for path in self.checkpoints_dir.glob("epoch-*.safetensors")
            if (match := re.fullmatch(r"epoch-(\d+)\.safetensors", path.name))
        ]
        return [path for _, path in sorted(numbered)]

    def latest_checkpoint(self) -> Path | None:
        """The checkpoint of the latest epoch, or None."""
        checkpoints = self.checkpoints()
        return checkpoints[-1] if checkpoints else None

    def prune_checkpoints(self) -> None:
        """Delete all checkpoints but the last two, and what a killed process left half-written."""
        for path in self.checkpoints()[:-_NUM_CHECKPOINTS]:
            path.unlink(missing_ok=True)
        self.remove_half_written()

    def remove_half_written(self) -> None:
        """Delete what a killed process was writing. For the one process that has the run's lock."""
        rewritten = (self.buffer_file, self.student_file, self.best_student_file, self.holdout_file)
        half_written = [path for file in rewritten for path in self.path.glob(f".{file.name}.*.tmp")]
        half_written += [path for folder in (self.checkpoints_dir, self.samples_dir) for path in folder.glob(".*.tmp")]
        for path in half_written:
            path.unlink(missing_ok=True)


def _json_object(path: Path) -> dict[str, Any]:
    """What a file holds; {} where there is none, or it holds no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def is_run(path: Path) -> bool:
    """Whether a folder holds a run."""
    names = ("config.toml", "events.jsonl", "run.lock")
    return any(os.path.isfile(path / name) for name in names)  # noqa: PTH113 - it asks of what may not be seen, too
