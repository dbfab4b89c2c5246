"""What a run tells the world: frozen event types, one JSON object a line in `events.jsonl`.

The file is public and append-only. Every line carries `schema, kind, seq, time_s, epoch` and the fields of its
type. `time_s` is Unix time in seconds; `epoch` counts from 1 (0 before the first). Numbers that are not finite are
written as null: the file never holds a NaN literal. Kinds and fields may be added, none is renamed.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any, ClassVar

from stages.errors import ConfigError

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run."""

    kind: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """The first line of a run: what it is going to do."""

    kind: ClassVar[str] = "run_started"
    run: str
    command: str
    preset: str
    stages: Sequence[str]
    epochs: int
    warmup_epochs: int
    seed: int
    device: str
    precision: str
    task: str
    num_classes: int
    class_names: Sequence[str] | None
    image_shape: Sequence[int]
    teacher: str
    student: str
    capacity: int
    inversion_steps: int
    distillation_steps: int


@dataclass(frozen=True, kw_only=True)
class RunResumed(Event):
    """The run goes on from a checkpoint. Readers drop the earlier lines whose seq is above `checkpoint_seq`."""

    kind: ClassVar[str] = "run_resumed"
    checkpoint: str
    checkpoint_seq: int
    device: str = ""


@dataclass(frozen=True, kw_only=True)
class StageStarted(Event):
    """A stage begins its part of an epoch."""

    kind: ClassVar[str] = "stage_started"
    stage: str


@dataclass(frozen=True, kw_only=True)
class StageFinished(Event):
    """A stage has done its part of an epoch.

    `seconds` is the time of this process that is charged to it in this epoch: without pauses, and without what it had
    compiled or saved.
    """

    kind: ClassVar[str] = "stage_finished"
    stage: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class InversionStep(Event):
    """One generator update (Eq. 2): the weighted sum, and its terms before they are weighted.

    These are L_BN, mean(phi L_Task) [nats], which falls with phi, too, and the masked KL of temperature 1 [nats].
    `step` counts on over the calls of an epoch, which have `num_steps` together.
    """

    kind: ClassVar[str] = "inversion_step"
    step: int
    num_steps: int
    loss: float
    loss_bn: float
    loss_task: float
    loss_adversarial: float


@dataclass(frozen=True, kw_only=True)
class DistillationStep(Event):
    """One student update; `agreement` is the share of the batch on which student and teacher agree.

    `objective` is the name of the loss, which may change within a run: values of two are on two scales.
    """

    kind: ClassVar[str] = "distillation_step"
    step: int
    loss: float
    lr: float
    agreement: float
    objective: str | None = None


@dataclass(frozen=True, kw_only=True)
class HintedStep(DistillationStep):
    """A student update in which `loss_hints`, what its features lack of the teacher's, is minimised beside `loss`."""

    loss_hints: float


@dataclass(frozen=True, kw_only=True)
class BufferState(Event):
    """The replay buffer at the end of an epoch.

    `difficulty` has counts and edges of 1 - p_T; `priority` has counts, edges, min, mean, max and
    effective_sample_size; `age` has min, mean, max in epochs.
    """

    kind: ClassVar[str] = "buffer_state"
    size: int
    capacity: int
    class_counts: Sequence[int]
    difficulty: Mapping[str, Any]
    priority: Mapping[str, Any]
    age: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """Metrics on real data (null without any) apart from what synthetic images tell.

    `synthetic` has `agreement` with the teacher, `agreement_by_chance`, that of always naming the class that it names
    most often, and `ece`, the student's expected calibration error against the teacher.
    """

    kind: ClassVar[str] = "evaluation"
    real: Mapping[str, Any] | None
    synthetic: Mapping[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class Device(Event):
    """What the run has cost so far: seconds per stage (total) and what the device is doing.

    Told at the end of each epoch, at checkpoints within one, and once a minute in a long one.
    """

    kind: ClassVar[str] = "device"
    device: str
    seconds: Mapping[str, float]
    utilisation: float | None
    mem_mib: float | None
    images_per_s: float | None


@dataclass(frozen=True, kw_only=True)
class Samples(Event):
    """A picture of buffered images was written; `tiles` has class, probability and priority of each, row by row."""

    kind: ClassVar[str] = "samples"
    picture: str
    tiles: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """Everything that resuming needs is on disk; writing it and the files beside it took `seconds`."""

    kind: ClassVar[str] = "checkpoint_saved"
    checkpoint: str
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class ControlAcknowledged(Event):
    """A request from control.jsonl was carried out, or refused with a reason."""

    kind: ClassVar[str] = "control_acknowledged"
    id: str
    action: str
    accepted: bool
    message: str


@dataclass(frozen=True, kw_only=True)
class CompilationStarted(Event):
    """A part of the steps is about to be compiled. Nothing else happens until it is."""

    kind: ClassVar[str] = "compilation_started"
    what: str


@dataclass(frozen=True, kw_only=True)
class CompilationFinished(Event):
    """It is compiled and has run once, or a warning after this line says why it is not."""

    kind: ClassVar[str] = "compilation_finished"
    what: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class ViewsJudged(Event):
    """The teacher was given the views of `done` of this epoch's `total` new images, where they are many: the student
    waits for all of them. A GPU may still be at work on the last.
    """

    kind: ClassVar[str] = "views_judged"
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Measured(Event):
    """What a stage has measured, by name: each value is a point, at the end of its epoch, of a curve `stage/name`.

    For stages of others, and methods, whose `stage` is "inversion". `stage` is the name by which `run.stages` knows it.
    """

    kind: ClassVar[str] = "measured"
    stage: str
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Warning(Event):
    """Something the user should know that does not stop the run."""

    kind: ClassVar[str] = "warning"
    message: str
    hint: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The last line of a run: status is done, stopped, failed or diverged."""

    kind: ClassVar[str] = "run_finished"
    status: str
    message: str
    summary: Mapping[str, Any] | None = None
    hint: str | None = None
    """What to do about the error that ended it."""


def finite(value: Any) -> Any:
    """`value` with every number that is not finite replaced by None, in depth, ready for strict JSON."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [finite(item) for item in value]
    return value


_OF_OURS = {each.kind: each for each in Event.__subclasses__()}
"""What each kind of ours is read as, at least."""


def _refuse_misshapen(event: object) -> None:
    """Raise ConfigError where an event of others' has no kind of its own, or is not what others' events must be."""
    kind, theirs = getattr(event, "kind", None), f"the event `{type(event).__module__}.{type(event).__qualname__}`"
    if isinstance(kind, str) and isinstance(event, _OF_OURS.get(kind, Event)) and dataclasses.is_dataclass(event):
        return
    if isinstance(kind, str) and kind in _OF_OURS:
        message = f"{theirs} is of the kind `{kind}`, and no {_OF_OURS[kind].__name__}"
    elif isinstance(event, Event) and dataclasses.is_dataclass(event):
        message = f"{theirs} has no kind"
    else:
        message = f"{theirs} is no dataclass that derives from Event"
    raise ConfigError(
        message, hint='an event is a frozen dataclass, a subclass of Event with a `kind = "..."` of its own'
    )


def to_line(event: Event, *, seq: int, epoch: int, time_s: float) -> str:
    """The event as one line of JSON, with its newline.

    Raises ConfigError where it is none, has a kind of ours without being that, or values that JSON cannot hold.
    """
    _refuse_misshapen(event)
    envelope = {"schema": SCHEMA_VERSION, "kind": event.kind, "seq": seq, "time_s": time_s, "epoch": epoch}
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    try:
        return json.dumps(finite(envelope | fields | envelope), allow_nan=False, separators=(",", ":")) + "\n"
    except (TypeError, ValueError) as error:
        odd = [name for name, value in fields.items() if not _is_json(value)]
        values = ", ".join(f"`{name}` is a {type(fields[name]).__name__}" for name in odd)
        raise ConfigError(
            f"the event `{type(event).__module__}.{type(event).__qualname__}` cannot be written as JSON: {values}",
            hint="give it numbers, text, lists and dicts of these: `.item()` or `.tolist()` of a tensor",
        ) from error


def _is_json(value: Any) -> bool:
    try:
        json.dumps(finite(value), allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


Listener = Callable[[Event, int], None]
"""Called with each event and its epoch, in the run's own process (the progress display is one).

One that raises OSError is not called again: its terminal or pipe is gone, and the run goes on.
"""


class EventLog:
    """Numbers events, appends them to a file and tells the listeners.

    A line is written at once. Where it does not fit on the disk, what was written of it is taken back, so a reader sees
    a torn last line only of a process that was killed.
    """

    def __init__(
        self,
        file: IO[Any],
        *,
        next_seq: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`file` is open for appending; its own buffer is passed by, so nothing is left to write when it closes."""
        self._descriptor = file.fileno()
        self._clock = clock
        self.next_seq = next_seq
        self.listeners: list[Listener] = []

    def emit(self, event: Event, *, epoch: int) -> None:
        """Append one event. Raises OSError where the disk is full, ConfigError as `to_line`."""
        line = to_line(event, seq=self.next_seq, epoch=epoch, time_s=round(self._clock(), 3))
        self._append(line.encode())
        self.next_seq += 1
        for listener in tuple(self.listeners):
            try:
                listener(event, epoch)
            except OSError:
                self.listeners.remove(listener)

    def _append(self, line: bytes) -> None:
        size_bytes = os.fstat(self._descriptor).st_size
        try:
            while line:
                line = line[os.write(self._descriptor, line) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, size_bytes)
            raise
