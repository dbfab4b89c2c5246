"""Whether a run's files are what a run writes: read every one, and say of each what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from stages.buffer.file import BufferContents, implausible, read_buffer
from stages.errors import ConfigError, FileError, SsdkdError
from stages.events import CheckpointSaved, Evaluation, RunResumed, RunStarted
from stages.files.atomic_file import is_half_written
from stages.run_directory import RunDirectory
from stages.run_directory.event_file import parse_event
from stages.run_directory.overview import flat, is_as_begun, settings


@dataclass(frozen=True)
class Check:
    """The state of one file, or of all pictures: whether it is sound, and what is to be said about it."""

    file: str
    is_sound: bool
    message: str


class _UnsoundError(Exception):
    """What is wrong with a file, in words."""


def verify(run: RunDirectory) -> list[Check]:
    """One check for each file that the run has or, by its state, should have; one for all of its pictures."""
    return [_checked(name, look) for name, look in _looks(run)]


def has_all_results(run: RunDirectory) -> bool:
    """Whether all that a finished run is there for can be read: its buffer, its students, its hold-out."""
    return all(_checked(name, look).is_sound for name, look in _looks_at_results(run, is_complete=True))


def hint_of_damage(run: RunDirectory, damaged: Sequence[str]) -> str:
    """What to do about the files, by their names in checks, that are not sound."""
    originals = [file.name for file in (run.config_file, run.manifest_file) if file.name in damaged]
    results = {file.name for file in (run.buffer_file, run.student_file, run.best_student_file, run.holdout_file)}
    hints = []
    if originals:
        hints.append(f"put {' and '.join(originals)} back from a copy: without it the run cannot go on")
    if any(Path(name).parent.name == run.checkpoints_dir.name for name in damaged):
        hints.append("`ssdkd run --resume` goes on from another checkpoint once the damaged one is deleted")
    if not results.isdisjoint(damaged):
        hints.append("`ssdkd run --resume` writes buffer, students and hold-out again from an undamaged checkpoint")
    if run.events_file.name in damaged:
        hints.append(f"what is damaged of {run.events_file.name} is passed over")
    if run.checkpoints_dir.name in damaged:
        hints.append("without a checkpoint the run cannot go on, and nothing of it be written again")
    return "; ".join(hints) or "nothing depends on these pictures: all else is sound"


def _looks(run: RunDirectory) -> Iterator[tuple[str, Callable[[], str]]]:
    is_complete = run.status() in ("done", "stopped")
    yield run.config_file.name, lambda: _look_at_config(run)
    yield run.manifest_file.name, lambda: _look_at_manifest(run.manifest_file)
    yield run.events_file.name, lambda: _look_at_events(run)
    yield from _looks_at_results(run, is_complete=is_complete)
    checkpoints = run.checkpoints()
    for path in checkpoints:
        name = path.relative_to(run.path).as_posix()
        yield name, lambda path=path: _look_at_checkpoint(path)  # type: ignore[misc]
    if not checkpoints:
        yield "checkpoints", lambda: _look_at_no_checkpoints(run, is_complete=is_complete)
    if any(run.samples_dir.glob("*.png")):
        yield run.samples_dir.name, lambda: _look_at_pictures(run.samples_dir)


def _looks_at_results(run: RunDirectory, *, is_complete: bool) -> Iterator[tuple[str, Callable[[], str]]]:
    """Those files that are there and, of a run that is complete, those that should be."""
    evaluation = run.events.last(Evaluation.kind) or {}
    expected = {
        run.student_file: (run.events.first() or {}).get("command") != "invert",
        run.best_student_file: bool((evaluation.get("real") or {}).get("student")) and _keeps_best(run),
        run.holdout_file: bool(evaluation.get("synthetic")),
    }
    if run.buffer_file.exists() or is_complete:
        yield run.buffer_file.name, lambda: _look_at_buffer(run)
    for path, is_expected in expected.items():
        if path.exists() or (is_complete and is_expected):
            yield path.name, lambda path=path: _look_at_tensors(path)  # type: ignore[misc]


def _keeps_best(run: RunDirectory) -> bool:
    try:
        return bool(flat(settings(run)).get("evaluation.select_best"))
    except FileError:  # told of the settings themselves
        return False


def _checked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except _UnsoundError as error:
        return Check(name, False, str(error))
    except FileNotFoundError:
        return Check(name, False, "missing")
    except SsdkdError as error:
        return Check(name, False, error.message)
    except OSError as error:
        return Check(name, False, f"cannot be read: {error.strerror or error}")


def _look_at_config(run: RunDirectory) -> str:
    from stages.config import from_file
    from stages.own_code import doubts_of_code

    missing = []
    try:
        config = from_file(run.written_settings())
    except ConfigError as error:
        if not is_as_begun(run):  # no plugin's that is missing here, but damage
            raise
        config = from_file(run.written_settings(), installed_only=True)
        missing = ["the run cannot go on here", *(problem.message for problem in error.problems)]
    told = f"{config.teacher.model} -> {config.student.model}, {config.run.epochs} epochs"
    return "; ".join([told, *missing, *doubts_of_code(config, run.manifest())])


def _look_at_manifest(path: Path) -> str:
    try:
        manifest = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _UnsoundError(f"not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise _UnsoundError("not a JSON object")
    return f"{len(manifest)} entries"


def _look_at_events(run: RunDirectory) -> str:
    """Every line is an event, the first starts the run, and seq counts them from 0.

    A process that is killed while it writes leaves a torn line: at the end, or before the run was resumed.
    """
    num_events = 0
    next_seq = 0
    torn_line: int | None = None
    with run.events_file.open("rb") as file:
        for number, line in enumerate(file, start=1):
            event = parse_event(line) if line.endswith(b"\n") else None
            if event is None and torn_line is None:
                torn_line = number
                continue
            is_resumption = event is not None and event["kind"] == RunResumed.kind
            if event is None or (torn_line == number - 1 and not is_resumption):
                raise _UnsoundError(f"line {torn_line} is not an event")
            if number == 1 and event["kind"] != RunStarted.kind:
                raise _UnsoundError(f"the first event is {event['kind']}, not {RunStarted.kind}")
            if event["seq"] != next_seq and not (is_resumption and event["seq"] > next_seq):
                raise _UnsoundError(f"line {number} has seq {event['seq']}, expected {next_seq}")
            torn_line = None
            num_events += 1
            next_seq = event["seq"] + 1
    if num_events == 0:
        raise _UnsoundError("it holds no events")
    return f"{num_events:,} events" + ("" if torn_line is None else ", and a torn last line")


def buffer_problems(contents: BufferContents, run: RunDirectory | None) -> list[str]:
    """What no run would have written like this, in a buffer that can be read and is of `run`, if of any."""
    problems = implausible(contents)
    teacher_sha256 = None if run is None else run.manifest().get("teacher_sha256")
    if isinstance(teacher_sha256, str) and teacher_sha256 != contents.meta.teacher_sha256:
        problems.append("it was filled from another teacher than the run's manifest names")
    return problems


def _look_at_buffer(run: RunDirectory) -> str:
    contents = read_buffer(run.buffer_file)
    problems = buffer_problems(contents, run)
    if problems:
        raise _UnsoundError("; ".join(problems))
    return f"{len(contents):,} of {contents.meta.capacity:,} images"


def _look_at_tensors(path: Path) -> str:
    """All tensors can be read, are those that were written, and hold no NaN or infinity."""
    from stages.files.tensor_digest import DIGEST_KEY, digest

    try:
        with safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get(DIGEST_KEY)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise _UnsoundError(f"truncated, damaged, or no safetensors file ({error})") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
            raise _UnsoundError(f"the tensor `{name}` holds values that are not finite")
    if not tensors:
        raise _UnsoundError("it holds no tensors")
    if written != digest(tensors):
        raise _UnsoundError("its tensors are not those that were written (their sha256 is another one, or lost)")
    return f"{len(tensors):,} tensors"


def _look_at_checkpoint(path: Path) -> str:
    from stages.checkpoint import load_checkpoint

    load_checkpoint(path)
    return "can be resumed from"


def _look_at_pictures(folder: Path) -> str:
    from PIL import Image

    paths = [path for path in sorted(folder.glob("*.png")) if not is_half_written(path)]
    broken = []
    for path in paths:
        try:
            with Image.open(path) as picture:
                picture.verify()
        except (SyntaxError, ValueError, OSError):  # what Pillow raises for a damaged PNG
            broken.append(path.name)
    if broken:
        raise _UnsoundError(f"cannot be read: {', '.join(broken)}")
    return f"{len(paths)} picture{'' if len(paths) == 1 else 's'}"


def _look_at_no_checkpoints(run: RunDirectory, *, is_complete: bool) -> str:
    if is_complete or run.events.last(CheckpointSaved.kind) is not None:
        raise _UnsoundError("there are none, so the run cannot be resumed")
    return "none yet"
