"""From a configuration to a finished run: everything is checked first, then the pipeline runs, then it is summed up.

plan(config, launch) -> Plan          reads, builds and checks; writes nothing of the run
execute(plan) -> Outcome              makes the run directory and trains
resume(path) -> Outcome               goes on from the last checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stages import events, resumption
from stages.checkpoint import load_checkpoint
from stages.config import from_file
from stages.errors import DivergedError, FileError, MachineError, RunInterrupted, SsdkdError, StorageError
from stages.events import Event, Listener
from stages.files.atomic_file import write_atomically
from stages.machine.compiled import forget_compiled
from stages.machine.device import LESS_OF_A_RUN, out_of_memory_is_told
from stages.machine.lazy_compiler import keep_compiler_unloaded
from stages.manifest import manifest_of
from stages.paths import in_shell
from stages.pipeline import AnyStage, Pipeline
from stages.planning.beginning import build_run, set_up_stages
from stages.planning.plan import Launch, Plan, plan
from stages.recorder import Recorder
from stages.run import Run, StopRequested
from stages.run_directory import RunDirectory
from stages.run_directory.control import ControlReader
from stages.run_directory.verification import has_all_results
from stages.safe_point import SafePoint

__all__ = ["Launch", "Outcome", "Plan", "execute", "plan", "resume"]

_MEMORY_HINT = f"free what others hold of it and go on, or begin a new run and {LESS_OF_A_RUN}"
"""What to do where memory runs out in a run that has begun, whose settings cannot be changed any more."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the summary that `--json` prints, and the error that ended it, if one did.

    An error that is no SsdkdError is a bug, ours or a plugin's: to be raised once the summary is told.
    """

    summary: dict[str, Any]
    run_directory: Path
    error: Exception | None = None


def execute(
    planned: Plan, listeners: Iterable[Listener] = (), *, on_signal: Callable[[], None] = lambda: None
) -> Outcome:
    """Make the run directory and run the pipeline; `on_signal` is called when a signal asks it to save and stop.

    A run that fails, diverges or is stopped is an Outcome too. Raises ConfigError, FileError, MachineError or
    DivergedError where it cannot take its first step; nothing of the run is left then. RunInterrupted where it is ended
    at once.
    """
    launch = planned.launch
    ready = _set_up(planned)
    with ready.closing:
        settings, manifest = planned.config.to_toml(), manifest_of(planned)  # while nothing is there: it takes seconds
        directory, is_ours = RunDirectory.create(launch.out, launch.run_name, seed=launch.seed_in_name), False
        try:
            with directory.lock.held():
                is_ours = True
                control = ControlReader(directory.control_file)
                with _before_the_first_step():
                    write_atomically(directory.config_file, settings.encode())
                    write_atomically(directory.manifest_file, manifest)
                return _train(ready, directory, control, listeners, on_signal=on_signal)
        except (Exception, KeyboardInterrupt):
            is_ours = is_ours or not directory.lock.is_held()  # else another process was faster
            if is_ours and ready.run.epoch == 0:  # what is there of the run holds nothing
                directory.discard()
            raise


def resume(
    path: Path,
    *,
    device: str | None = None,
    listeners: Iterable[Listener] = (),
    on_signal: Callable[[], None] = lambda: None,
) -> Outcome:
    """Go on with a run from its last checkpoint, as `execute`; of a finished one, its summary.

    It goes on where it was, unless a `device` is given.

    Where files of a finished run are missing or damaged they are written again, from its checkpoint.

    Raises FileError where files of the run are missing or damaged, or the files it began with are other ones now,
    ConfigError where another process works on it.
    """
    directory = RunDirectory(path)
    config = from_file(directory.written_settings())
    finished = _finished_before(directory)
    if finished is not None:
        return finished
    with directory.lock.held():
        control = ControlReader(directory.control_file)  # now: what is asked while the run is set up is heard, too
        directory.remove_half_written()  # a process that was killed may have left as much as is needed now
        checkpoint = directory.latest_checkpoint()
        planned = resumption.planned_again(directory, config, checkpoint, device=device)
        ready = _set_up(planned)
        with ready.closing:
            return _train(ready, directory, control, listeners, on_signal=on_signal, checkpoint=checkpoint)


def _finished_before(directory: RunDirectory) -> Outcome | None:
    """The outcome of a run with which there is nothing left to do. Raises FileError where nothing can be done."""
    summary, path = directory.summary(), directory.path
    if directory.status() != "done" or summary is None:
        return None
    if has_all_results(directory):
        return Outcome(summary | {"run": str(path)}, path)  # it may have been moved
    if directory.latest_checkpoint() is None:
        raise FileError(
            f"{path} is done and has lost files, and there is no checkpoint to write them from",
            hint=f"`ssdkd runs verify {in_shell(path)}` tells which",
        )
    return None


@dataclass(frozen=True)
class _Ready:
    """A planned run with its stages set up: nothing but its directory is missing."""

    planned: Plan
    run: Run
    stages: dict[str, AnyStage]
    said: Sequence[Event]
    """What the stages emitted while they were set up."""
    closing: ExitStack
    """Closes the stages."""


@out_of_memory_is_told()
def _set_up(planned: Plan) -> _Ready:
    keep_compiler_unloaded()
    forget_compiled()
    torch.set_num_threads(int(planned.config.run.threads))
    run = build_run(planned)
    said: list[Event] = []
    run.emit = said.append
    with ExitStack() as closing:
        stages = set_up_stages(run, closing)
        return _Ready(planned, run, stages, said, closing.pop_all())


def _train(
    ready: _Ready,
    directory: RunDirectory,
    control: ControlReader,
    listeners: Iterable[Listener],
    *,
    on_signal: Callable[[], None],
    checkpoint: Path | None = None,
) -> Outcome:
    run = ready.run
    state = None if checkpoint is None else load_checkpoint(checkpoint)
    seq = None if state is None else int(state["seq"])
    with directory.events.appending(after_seq=seq or 0) as log:
        log.listeners.extend(listeners)
        recorder = Recorder(run, directory, log, buffer_meta=ready.planned.buffer_meta())
        pipeline = Pipeline(run, ready.stages, recorder)
        if checkpoint is not None and state is not None and seq is not None:
            _load(pipeline, state, checkpoint, directory)
            recorder.continue_from(_seconds_until(directory, seq))
        state = None  # a second buffer: the run goes on without it
        safe_point = SafePoint(recorder, control, save=pipeline.save, on_signal=on_signal)
        run.emit, run.safe_point, run.charged_to = recorder.emit, safe_point, recorder.accounts.stage
        with safe_point.listening_to_signals():
            with _before_the_first_step():
                has_begun = log.next_seq > 0
                if not has_begun:
                    recorder.emit(_started_event(run, directory, ready.planned), epoch=0)
                    if seq is not None:  # of a run that has lost its events the checkpoint's are still superseded
                        log.next_seq = seq + 1
                if has_begun or checkpoint is not None:
                    run.emit(_resumed_event(run, directory, checkpoint, seq))
                for event in (*map(_warning, ready.planned.warnings), *ready.said):
                    run.emit(event)
            has_lost_files = pipeline.epochs_done == run.schedule.epochs and not has_all_results(directory)
            try:
                status, error = _attempt(pipeline, ready.closing, saves_first=has_lost_files)
            except KeyboardInterrupt as interrupt:
                raise _interrupted(directory, run) from interrupt
            return _finish(directory, pipeline, safe_point, status, error)


@contextmanager
def _before_the_first_step() -> Iterator[None]:
    """Storage that fails in this context is something that the machine lacks, not a run that failed."""
    try:
        yield
    except StorageError as error:
        raise MachineError(error.message, hint="free some space, or check the folder's permissions") from error


def _load(pipeline: Pipeline, state: dict[str, Any], checkpoint: Path, directory: RunDirectory) -> None:
    try:
        with out_of_memory_is_told(_MEMORY_HINT):
            pipeline.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(
            f"{checkpoint} does not fit the settings of its run: {error}",
            hint="was config.toml changed, or another ssdkd installed?"
            f" {resumption.how_to_begin_anew(directory, directory.manifest())}",
        ) from error


def _attempt(pipeline: Pipeline, closing: ExitStack, *, saves_first: bool) -> tuple[str, Exception | None]:
    """Train, and close the stages; how it ended ("done", "stopped", "diverged", "failed") and what ended it."""
    try:
        with out_of_memory_is_told(_MEMORY_HINT), closing:
            if saves_first:
                pipeline.save()
            return _train_or_stop(pipeline), None
    except DivergedError as error:
        return "diverged", error
    except StorageError as error:
        return "failed", _with_the_way_on(error, pipeline)
    except Exception as error:
        return "failed", error


def _with_the_way_on(error: StorageError, pipeline: Pipeline) -> StorageError:
    """The error with the command in its hint by which the run goes on once there is space."""
    if "--resume" not in (error.hint or ""):
        directory = pipeline.recorder.directory
        how = "begins it anew" if directory.latest_checkpoint() is None else "goes on from the last checkpoint"
        way_on = f"then `ssdkd {pipeline.run.schedule.command} --resume {in_shell(directory.path)}` {how}"
        error.hint = way_on if error.hint is None else f"{error.hint}, {way_on}"
    return error


def _interrupted(directory: RunDirectory, run: Run) -> RunInterrupted:
    """What a run leaves that was ended without saving."""
    checkpoint, resume_it = directory.latest_checkpoint(), f"ssdkd {run.schedule.command} --resume"
    if checkpoint is None:
        return RunInterrupted(
            f"ended at once, in epoch {run.epoch}: nothing had been saved yet",
            hint=f"`{resume_it} {in_shell(directory.path)}` begins it anew",
        )
    return RunInterrupted(
        f"ended at once, in epoch {run.epoch}: {checkpoint.relative_to(directory.path)} is kept",
        hint=f"go on from there with `{resume_it} {in_shell(directory.path)}`",
    )


def _train_or_stop(pipeline: Pipeline) -> str:
    try:
        pipeline.train()
    except StopRequested:
        pipeline.save()
        return "stopped"
    return "done"


def _finish(
    directory: RunDirectory, pipeline: Pipeline, safe_point: SafePoint, status: str, error: Exception | None
) -> Outcome:
    """Say how it ended."""
    run, recorder = pipeline.run, pipeline.recorder
    summary = {
        "run": str(directory.path),
        "status": status,
        "epochs": pipeline.epochs_done,
        "seconds": {name: round(value, 3) for name, value in recorder.accounts.seconds().items()},
        "images_synthesized": run.num_synthesized,
        "buffer_size": run.buffer.size,
        "teacher": run.results.teacher,
        "student": run.results.student,
        "agreement": run.results.agreement,
        "agreement_by_chance": run.results.agreement_by_chance,
        "ece": run.results.ece,
        "device": str(run.device),
    }
    if run.best_student is not None:
        summary["best_student"] = run.best_results()
    message, hint = status, None
    if isinstance(error, SsdkdError):
        message, hint = error.message, error.hint
    elif error is not None:
        message = f"{type(error).__name__}: {error}"
    if status == "diverged" and run.buffer.size > 0:
        with suppress(StorageError):  # that it diverged is the thing to tell
            recorder.save_samples()  # and what its images look like says why
    try:
        safe_point.refuse_rest()
        recorder.emit(events.RunFinished(status=status, message=message, summary=summary, hint=hint))
    except StorageError as storage_error:  # the disk is full: the first error is the one to tell
        error = error or storage_error
    return Outcome(summary, directory.path, error)


def _seconds_until(directory: RunDirectory, seq: int) -> dict[str, float]:
    """The accounts at a checkpoint: no tensor file holds times, so they come from the events before it."""
    for event in directory.events.newest_first(events.Device.kind):
        if event["seq"] <= seq:
            return {str(name): float(value) for name, value in event["seconds"].items()}
    return {}


def _warning(message: str) -> Event:
    return events.Warning(message=message)


def _resumed_event(run: Run, directory: RunDirectory, checkpoint: Path | None, seq: int | None) -> events.RunResumed:
    # Without a checkpoint the run begins anew: of what was told before, only `run_started` (seq 0) still holds.
    return events.RunResumed(
        checkpoint="" if checkpoint is None else checkpoint.relative_to(directory.path).as_posix(),
        checkpoint_seq=0 if seq is None else seq,
        device=str(run.device),
    )


def _started_event(run: Run, directory: RunDirectory, planned: Plan) -> events.RunStarted:
    config, schedule = run.config, run.schedule
    return events.RunStarted(
        run=directory.name,
        command=schedule.command,
        preset=planned.launch.preset_name,
        stages=schedule.stages,
        epochs=schedule.epochs,
        warmup_epochs=schedule.warmup_epochs,
        seed=config.run.seed,
        device=str(run.device),
        precision=run.precision,
        task=config.task.kind,
        num_classes=config.task.num_classes,
        class_names=run.class_names,
        image_shape=config.task.image_shape,
        teacher=config.teacher.model,
        student=config.student.model,
        capacity=config.buffer.capacity,
        inversion_steps=config.inversion.steps,
        distillation_steps=config.num_distillation_steps,
    )
