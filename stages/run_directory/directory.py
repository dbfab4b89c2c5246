"""The files of a run: where each lies, who may write them, and what state the run is in.

    runs/<name>-<yyyymmdd-hhmmss>[-seed]/
      config.toml  manifest.json  events.jsonl  control.jsonl  run.lock  [trainer.log]
      buffer.safetensors  student.safetensors  student-best.safetensors  holdout.safetensors
      checkpoints/epoch-000040.safetensors    samples/epoch-000040.png

One process writes a run at a time, and holds its lock; so a run is alive exactly while that is held.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from stages.errors import ConfigError, FileError, MachineError, StorageError
from stages.events import ControlAcknowledged, RunFinished, RunResumed, RunStarted
from stages.files.atomic_file import is_half_written
from stages.paths import in_shell, json_object
from stages.run_directory.event_file import EventFile
from stages.run_directory.lock import RunLock

RUNS_ROOT = Path("runs")
FINAL_STATUSES = ("done", "stopped", "failed", "diverged")
LIVE_STATUSES = ("starting", "running", "paused")
RESUMABLE_STATUSES = ("stopped", "failed", "dead")
"""Of runs that `--resume` goes on with: of a failed one once what it lacked is there (memory, space on the disk)."""

_NUM_CHECKPOINTS = 2
"""Checkpoints that are kept: the last, and the one before in case the last is damaged."""


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
        self.events = EventFile(self.events_file)
        self.lock = RunLock(self.lock_file)
        self._is_folder_ours = False
        """Whether `create` has made the folder itself, so that `discard` deletes it, too."""

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

        What a process left there that was killed before it had written anything of its run is as good as nothing.
        Raises MachineError where that cannot be seen, or nothing can be made there.
        """
        try:
            is_used = out.is_dir() and any(out.iterdir())
        except OSError as error:
            raise MachineError(
                f"cannot look into the output directory {out}: {error.strerror or error}",
                hint="give `--out` a folder that can be read and written",
            ) from error
        if is_used and not RunDirectory(out)._is_abandoned():
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

    def has_begun(self) -> bool:
        """Whether there is a run that can be gone on with, or was: settings and manifest are its first files."""
        return (self.config_file.exists() and self.manifest_file.exists()) or self.events_file.exists()

    def _is_only_prepared(self) -> bool:
        """Whether a process has made the directory, and perhaps been killed, before a run began in it.

        Beside the lock there are then at most empty folders, the settings and half-written files: nothing of worth.
        """
        known = {self.lock_file, self.checkpoints_dir, self.samples_dir, self.config_file}
        entries = _entries(self.path)
        is_all_ours = all(entry in known or is_half_written(entry) for entry in entries)
        is_empty = not _entries(self.checkpoints_dir) and not _entries(self.samples_dir)
        return self.lock_file in entries and is_all_ours and is_empty and not self.has_begun()

    def _is_abandoned(self) -> bool:
        """Whether nobody will begin a run in a directory that is only prepared."""
        return self._is_only_prepared() and not self.lock.is_held()

    def _clear_abandoned(self) -> None:
        """Delete what a killed process left that had written nothing of its run yet, where that is all there is."""
        if self._is_abandoned():
            with self.lock.held():
                if self._is_only_prepared():  # nobody has begun a run since
                    self._delete(entry for entry in _entries(self.path) if entry != self.lock_file)

    @staticmethod
    def refuse_unwritable(out: Path) -> None:
        """Raise MachineError where the folder `out` is not there and cannot be made, or cannot be written."""
        there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise MachineError(
                f"cannot make the run directory {out}: {there} is {'read-only' if there.is_dir() else 'a file'}",
                hint="give `--out` a folder that can be written",
            )

    @staticmethod
    def label(name: str, stamp: str, *, seed: int | None = None) -> str:
        """What a run's folder is called: `<name>-<stamp>[-<seed>]`, the name without what is no good in a folder's."""
        fit = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "run"
        return f"{fit}-{stamp}" + ("" if seed is None else f"-{seed}")

    @classmethod
    def create(cls, out: Path | None, name: str, stamp: str | None = None, *, seed: int | None = None) -> RunDirectory:
        """A new run directory: `out`, or in the folder of runs one of this `label`, numbered where that is taken.

        `stamp` is yyyymmdd-hhmmss, now by default. Raises ConfigError where `out` is used already,
        MachineError where the folder cannot be made.
        """
        try:
            if out is not None:
                cls.refuse_used(out)
                was_there = out.is_dir()
                cls(out)._clear_abandoned()
                out.mkdir(parents=True, exist_ok=True)
                return cls._with_folders(out, is_ours=not was_there)
            label = cls.label(name, stamp or datetime.now().strftime("%Y%m%d-%H%M%S"), seed=seed)
            RUNS_ROOT.mkdir(parents=True, exist_ok=True)
            taken = 1
            while True:
                path = RUNS_ROOT / (label if taken == 1 else f"{label}.{taken}")
                with suppress(FileExistsError):
                    path.mkdir()
                    return cls._with_folders(path, is_ours=True)
                taken += 1
        except OSError as error:
            raise MachineError(
                f"cannot make the run directory {out or RUNS_ROOT}: {error.strerror or error}",
                hint="give `--out` a folder that can be written",
            ) from error

    def discard(self) -> None:
        """Delete what `create` and a run have made, as far as that can be done: not a folder that was there before."""
        self._delete([self.path] if self._is_folder_ours else _entries(self.path))

    @staticmethod
    def _delete(entries: Iterable[Path]) -> None:
        for entry in entries:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with suppress(OSError):
                    entry.unlink()

    @classmethod
    def _with_folders(cls, path: Path, *, is_ours: bool) -> RunDirectory:
        run = cls(path)
        run._is_folder_ours = is_ours
        try:
            run.checkpoints_dir.mkdir()
            run.samples_dir.mkdir()
        except FileExistsError as error:  # since it was looked at: what is there is another process's
            raise cls._used(path) from error
        except OSError:
            run.discard()
            raise
        return run

    # -- what the run says -----------------------------------------------------------------------------------

    def is_alive(self) -> bool:
        """Whether a process works on the run."""
        return self.lock.is_held()

    def status(self) -> str:
        """One of `LIVE_STATUSES`, of `FINAL_STATUSES`, or "dead": by the lock and the last event.

        Reads little of a long file.
        """
        is_alive = self.is_alive()  # asked first: of a run that is over by now, all events are there to read
        last = self.events.last()
        ending = last if last is not None and last["kind"] == RunFinished.kind else None
        return self.status_after(ending, is_alive=is_alive, has_spoken=last is not None, is_paused=self._is_paused)

    def status_after(
        self, ending: Mapping[str, Any] | None, *, is_alive: bool, has_spoken: bool, is_paused: Callable[[], bool]
    ) -> str:
        """The status by what is known of the events: the last one, if it is the run's end, and whether there are any.

        Whether it is paused is asked where that is the question.
        """
        if ending is not None and ending.get("status") in FINAL_STATUSES:
            return "starting" if is_alive and self._is_taken_up_since(ending.get("time_s")) else str(ending["status"])
        if not is_alive:
            return "dead"
        if not has_spoken:
            return "starting"
        return "paused" if is_paused() else "running"

    def _is_taken_up_since(self, then_s: Any) -> bool:
        """Whether a process took the run up later than its last event: it is being resumed, and has not said so yet."""
        since_s = self.lock.owner().get("since_s")
        return isinstance(since_s, int | float) and isinstance(then_s, int | float) and since_s > then_s

    def _is_paused(self) -> bool:
        if not self.control_file.exists() or self.control_file.stat().st_size == 0:
            return False  # nobody ever asked: saves the walk through the events
        kinds = (RunStarted.kind, RunResumed.kind, ControlAcknowledged.kind)
        for event in self.events.newest_first(*kinds):
            if event["kind"] != ControlAcknowledged.kind:
                return False  # a request to an earlier process of the run does not bind this one
            if event.get("accepted") and event.get("action") in ("pause", "resume"):
                return bool(event["action"] == "pause")
        return False

    def summary(self) -> dict[str, Any] | None:
        """The summary that the run ended with, or None where it has not ended or gave none."""
        last = self.events.last()
        if last is None or last["kind"] != RunFinished.kind:
            return None
        summary = last.get("summary")
        return summary if isinstance(summary, dict) else None

    def manifest(self) -> dict[str, Any]:
        """The manifest; {} where there is none or it cannot be read."""
        return json_object(self.manifest_file)

    def written_settings(self) -> Path:
        """The file of the run's settings. Raises FileError where it is missing."""
        if not self.config_file.is_file():
            raise FileError(
                f"no such file: `{self.config_file}`", hint="every run keeps its settings there: put it back"
            )
        return self.config_file

    def written_student(self) -> Path:
        """The student's file. Raises FileError while there is none."""
        if not self.student_file.is_file():
            if self.manifest().get("command") == "invert":
                raise FileError(
                    f"the run {self.path} made a buffer and no student",
                    hint=f"`ssdkd distill --buffer {in_shell(self.path)}` distils one from it",
                )
            raise FileError(
                f"the run {self.path} holds no student yet",
                hint="a run writes it at its first checkpoint and at its end",
            )
        return self.student_file

    def started_s(self) -> float:
        """Unix time at which a process last took the run up (started or resumed it)."""
        since_s = self.lock.owner().get("since_s")
        if isinstance(since_s, int | float):
            return float(since_s)
        with suppress(OSError):
            return self.path.stat().st_mtime
        return 0.0

    def make_folders(self) -> None:
        """Make those in a run at work that somebody has deleted. Raises StorageError where the run itself is gone."""
        try:
            for folder in (self.checkpoints_dir, self.samples_dir):
                folder.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise StorageError(
                f"the run's directory {self.path} is gone: moved, or deleted",
                hint="if it was moved, `ssdkd run --resume` with its new place goes on",
            ) from error
        except OSError as error:
            raise StorageError(
                f"cannot write into {self.path}: {error.strerror or error}", hint="check the folder's permissions"
            ) from error

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


def _entries(folder: Path) -> list[Path]:
    """What is in a folder; nothing where it cannot be seen."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def is_run(path: Path) -> bool:
    """Whether a folder holds a run."""
    names = ("config.toml", "events.jsonl", "run.lock")
    return any(os.path.isfile(path / name) for name in names)  # noqa: PTH113 - it asks of what may not be seen, too
