"""What a run leaves behind: events as it goes, and its files at each checkpoint and at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from stages.accounts import Accounts
from stages.buffer.file import BufferMeta
from stages.checkpoint import save_checkpoint
from stages.errors import SsdkdError, StorageError
from stages.events import BufferState, CheckpointSaved, Device, Event, EventLog, Samples, Warning
from stages.files.atomic_file import write_atomically
from stages.files.tensor_digest import save_with_digest
from stages.machine.device import resident_memory_mib, utilisation
from stages.models.weights import save_weights
from stages.pictures import choose_tiles, grid_png, main_class, mean_probability, tiles_of
from stages.run import Run
from stages.run_directory import RunDirectory

_NUM_TILES = 64
"""Images in a picture of samples: eight by eight."""

_TELL_EVERY_S = 60.0
"""An epoch may take an hour: who watches is told now and then what it has cost so far."""

_SLOW_SAVING_S = 10.0
_SLOW_SAVING_SHARE = 0.1
"""Saving that takes both this long and this share of the time since the last one is worth a word."""


class Recorder:
    """Writes a run's events and files, and keeps its accounts: seconds per stage, images per second."""

    def __init__(self, run: Run, directory: RunDirectory, log: EventLog, *, buffer_meta: BufferMeta) -> None:
        self.run = run
        self.directory = directory
        self.accounts = Accounts()
        self._log = log
        self._buffer_meta = buffer_meta
        self._meter = _Meter(run, self.accounts)
        self._last_saved_s = self._last_told_s = time.perf_counter()
        self._was_slow_told = False

    def continue_from(self, seconds: Mapping[str, float]) -> None:
        """Go on with the accounts of earlier processes. To be called once the run's state is that of its checkpoint."""
        self.accounts.continue_from(seconds)
        self._meter = _Meter(self.run, self.accounts)

    def emit(self, event: Event, *, epoch: int | None = None) -> None:
        """Append an event of the present epoch, or of another, to the run's log. Raises StorageError (disk full)."""
        try:
            self._log.emit(event, epoch=self.run.epoch if epoch is None else epoch)
        except OSError as error:
            raise StorageError(
                f"cannot write {self.directory.events_file}: {error.strerror or error}",
                hint="free some space",
            ) from error

    def finish_epoch(self) -> None:
        """Tell what the epoch made of the buffer, and what it cost."""
        buffer, meta = self.run.buffer, self._buffer_meta
        in_use = self._meter.utilisation()  # now: a GPU waits while the host writes the report
        report = buffer.report(epoch=self.run.epoch, alpha=meta.alpha, epsilon=meta.epsilon)
        del report["class_entropy"]
        self.emit(BufferState(size=buffer.size, capacity=buffer.config.capacity, **report))
        self._emit_device(in_use)

    def emit_device(self) -> None:
        """Tell what the run has cost so far: the accounts that a resumption goes on with."""
        self._emit_device(self._meter.utilisation())

    def tell_now_and_then(self) -> None:
        """Tell of the accounts in the midst of a long epoch; does nothing most of the time."""
        if time.perf_counter() - self._last_told_s >= _TELL_EVERY_S:
            self.emit_device()

    def _emit_device(self, in_use: float | None) -> None:
        self._last_told_s = time.perf_counter()
        self.emit(
            Device(
                device=str(self.run.device),
                seconds=self.accounts.seconds(),
                utilisation=in_use,
                mem_mib=resident_memory_mib(self.run.device),
                images_per_s=self._meter.images_per_s(),
            )
        )

    def save(self, state: dict[str, Any]) -> None:
        """Bring buffer, student and samples up to date, then write the checkpoint of the present epoch.

        The checkpoint comes last: once it is there, a run that is killed has nothing left to write for this epoch.
        """
        epoch, began_s = self.run.epoch, time.perf_counter()
        self.directory.make_folders()
        if self.run.buffer.size > 0:
            self.run.buffer.save(self.directory.buffer_file, self._buffer_meta, epoch=epoch)
            self.save_samples()
        if self.run.schedule.command != "invert":
            save_weights(self.run.delivered_student.model, self.directory.student_file)
        if self.run.best_student is not None:
            notes = {key: str(value) for key, value in self.run.best_results().items()}
            save_with_digest(self.directory.best_student_file, self.run.best_student.weights, notes=notes)
        if self.run.holdout_NCHW is not None:
            save_with_digest(self.directory.holdout_file, {"images": self.run.holdout_NCHW})
        path = self.directory.checkpoint_file(epoch)
        save_checkpoint(path, {**state, "seq": self._log.next_seq})  # that of the next event, which belongs to it
        seconds = time.perf_counter() - began_s
        self.emit(CheckpointSaved(checkpoint=self._relative(path), seconds=round(seconds, 3)))
        self.directory.prune_checkpoints()
        self._tell_if_slow(seconds)

    def _tell_if_slow(self, seconds: float) -> None:
        """Warn, once, where the disk takes a good part of the run's time."""
        now_s = time.perf_counter()
        elapsed_s, self._last_saved_s = now_s - self._last_saved_s, now_s
        if self._was_slow_told or seconds < max(_SLOW_SAVING_S, _SLOW_SAVING_SHARE * elapsed_s):
            return
        self._was_slow_told = True
        self.emit(
            Warning(
                message=f"saving took {seconds:.0f} s of the {elapsed_s:.0f} s since the last checkpoint",
                hint="`run.checkpoint_every` says how often; --dry-run, how much is written",
            )
        )

    def save_samples(self) -> None:
        """Draw some images of each class in the buffer, which is not empty, and tell of the picture.

        One that cannot be drawn or written is a warning: there is more to save, or to tell.
        """
        try:
            told = self._draw_samples()
        except Exception as error:  # of a plugin's task, of the font, of the folder
            reason = error.message if isinstance(error, SsdkdError) else f"{type(error).__name__}: {error}"
            self.emit(Warning(message=f"no picture of epoch {self.run.epoch}: {reason}"))
        else:
            self.emit(told)

    def _draw_samples(self) -> Samples:
        buffer = self.run.buffer
        class_N = main_class(buffer.column("teacher_class").cpu().numpy())
        chosen = choose_tiles(class_N, buffer.column("priority").cpu().numpy(), num_tiles=_NUM_TILES)
        slots = torch.from_numpy(chosen).to(self.run.device)
        images, prob, priority = (
            buffer.column(name)[slots].cpu().numpy() for name in ("images", "teacher_prob", "priority")
        )
        tiles = tiles_of(class_N[chosen], mean_probability(prob), priority, class_names=self.run.class_names)
        picture = grid_png(images, tiles)
        told = [
            {"class": class_index, "probability": tile.probability, "priority": tile.priority}
            for class_index, tile in zip(class_N[chosen].tolist(), tiles, strict=True)
        ]
        path = self.directory.samples_file(self.run.epoch)
        write_atomically(path, picture)
        return Samples(picture=self._relative(path), tiles=told)

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.directory.path).as_posix()


class _Meter:
    """What happened between two looks: images per second, and how busy the device was."""

    def __init__(self, run: Run, accounts: Accounts) -> None:
        self._run = run
        self._accounts = accounts
        self._num_trained, self._training_s = run.num_trained, accounts.training_seconds()
        self._run_s, self._cpu_s = self._accounts.seconds()["total"], time.process_time()

    def images_per_s(self) -> float | None:
        """Images through a training step a second, inversion and distillation together, since the last look."""
        num_trained, training_s = self._run.num_trained, self._accounts.training_seconds()
        num, elapsed_s = num_trained - self._num_trained, training_s - self._training_s
        self._num_trained, self._training_s = num_trained, training_s
        return num / elapsed_s if num > 0 and elapsed_s > 0 else None

    def utilisation(self) -> float | None:
        """How much of the device is in use, in [0, 1]: of a CUDA device at this moment, by NVML and whoever uses it; of
        the run's CPU threads since the last look, pauses left out.
        """
        run_s, cpu_s = self._accounts.seconds()["total"], time.process_time()
        elapsed_s, used_s = run_s - self._run_s, cpu_s - self._cpu_s
        self._run_s, self._cpu_s = run_s, cpu_s
        num_threads = int(self._run.config.run.threads)
        return utilisation(self._run.device, elapsed_s=elapsed_s, cpu_s=used_s, num_threads=num_threads)
