"""What the events of a run add up to: the state behind the dashboard's panels. No Textual, no torch, no clock.

A `RunModel` is fed one parsed event after the other and can be asked for its state at any time. It keeps a bounded
amount whatever the length of the run, and takes whatever a file may hold: unknown kinds, newer schemas and fields that
are missing or of another type are counted and passed over.
"""

from __future__ import annotations

import copy
import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from ssdkd_cli.watching.pace import Pace
from ssdkd_cli.watching.run_state import RunState
from ssdkd_cli.watching.series import Series
from ssdkd_cli.watching.view import (
    BufferView,
    Curve,
    DeviceView,
    EvaluationView,
    Histogram,
    LogLine,
    Progress,
    RunDescription,
    SamplesView,
    SampleTile,
    main_metric,
)
from ssdkd_cli.words import is_count, metric_title, num_epochs
from stages.event_fields import is_measure, items, mapping, number, numbers, text, whole
from stages.events import SCHEMA_VERSION

MAX_LOG_LINES = 500
MAX_SERIES = 128
"""Above this, new names get no curve: a file that invents names cannot fill the memory."""
MAX_MEASURED = 64
"""Above so many curves, new names of what stages measure get none: those of the run itself always find room."""

_MAX_CHECKPOINTS = 4  # runs keep two checkpoints on disk: a resumption goes back to one of them
_CLOCK_JUMP_S = 5.0

Event = Mapping[str, Any]


class RunModel:
    """The reducer. `path` is the run's directory, to which pictures are relative."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.description: RunDescription | None = None
        self.num_events = 0
        self.is_paused = False
        self.ending: Event | None = None
        """The `run_finished` event while it is the last one."""
        self.last_time_s: float | None = None
        self.unknown_kinds: Counter[str] = Counter()
        self.newer_schemas: Counter[int] = Counter()
        self.num_misfits = 0
        """JSON lines that are no events, or whose fields do not fit their kind."""
        self.log: deque[LogLine] = deque(maxlen=MAX_LOG_LINES)
        self.state = RunState()
        """Where the run stands by the newest event of each kind."""
        self._at_checkpoint: deque[tuple[int, RunState]] = deque(maxlen=_MAX_CHECKPOINTS)
        self._series: dict[str, Series] = {}
        self._pace = Pace()
        self._readers: dict[str, Callable[[Event], None]] = {
            "run_started": self._run_started,
            "run_resumed": self._run_resumed,
            "stage_started": self._stage_started,
            "stage_finished": self._stage_finished,
            "inversion_step": self._inversion_step,
            "distillation_step": self._distillation_step,
            "buffer_state": self._buffer_state,
            "evaluation": self._evaluation,
            "device": self._device,
            "samples": self._samples,
            "checkpoint_saved": self._checkpoint_saved,
            "control_acknowledged": self._control_acknowledged,
            "compilation_started": self._compilation_started,
            "compilation_finished": self._compilation_finished,
            "views_judged": self._views_judged,
            "measured": self._measured,
            "warning": self._warning,
            "run_finished": self._run_finished,
        }

    # -- events in -------------------------------------------------------------------------------------------

    def add(self, event: Any) -> None:
        """Take in one parsed line of the file, whatever it holds."""
        if not isinstance(event, dict):
            self.num_misfits += 1
            return
        kind, seq, epoch = event.get("kind"), event.get("seq"), event.get("epoch")
        if not isinstance(kind, str) or not _is_count(seq) or not _is_count(epoch):
            self.num_misfits += 1
            return
        self.num_events += 1
        schema = event.get("schema")
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            self.newer_schemas[schema] += 1
        self._look_at_clock(event)
        reader = self._readers.get(kind)
        if reader is None:
            if kind in self.unknown_kinds or len(self.unknown_kinds) < MAX_SERIES:
                self.unknown_kinds[kind] += 1
            return
        self.ending = None
        reader(event)
        if kind != "run_resumed":  # its state is that of its checkpoint
            self.state.epoch = epoch

    def _look_at_clock(self, event: Event) -> None:
        time_s = number(event, "time_s")
        if time_s is None:
            return
        if self.last_time_s is not None and time_s < self.last_time_s - _CLOCK_JUMP_S:
            back_s = self.last_time_s - time_s
            self._say(event, "warning", f"the machine's clock was set back by {back_s:.0f} s")
        self.last_time_s = time_s

    def _run_started(self, event: Event) -> None:
        class_names = items(event, "class_names")
        self.description = RunDescription(
            run=text(event, "run"),
            command=text(event, "command"),
            preset=text(event, "preset"),
            stages=tuple(str(stage) for stage in items(event, "stages")),
            epochs=whole(event, "epochs"),
            warmup_epochs=whole(event, "warmup_epochs"),
            seed=whole(event, "seed"),
            device=text(event, "device"),
            precision=text(event, "precision"),
            task=text(event, "task"),
            num_classes=whole(event, "num_classes"),
            class_names=tuple(str(name) for name in class_names) or None,
            image_shape=tuple(size for size in items(event, "image_shape") if isinstance(size, int)),
            teacher=text(event, "teacher"),
            student=text(event, "student"),
            capacity=whole(event, "capacity"),
            inversion_steps=whole(event, "inversion_steps"),
            distillation_steps=whole(event, "distillation_steps"),
            started_s=number(event, "time_s") or 0.0,
        )
        self.is_paused = False
        description = self.description
        length = num_epochs(description.epochs)
        self._say(event, "info", f"started: {description.command} {description.preset}, {length}, {description.device}")

    def _run_resumed(self, event: Event) -> None:
        """The earlier events with a seq above the checkpoint's are superseded."""
        last_seq = whole(event, "checkpoint_seq")
        for series in self._series.values():
            series.drop_after(last_seq)
        while self._at_checkpoint and self._at_checkpoint[-1][0] > last_seq:
            self._at_checkpoint.pop()
        self.state = copy.copy(self._at_checkpoint[-1][1]) if self._at_checkpoint else RunState()
        self.state.leave_stage()
        self.state.compiling = None
        self._pace.forget_position()
        self.is_paused = False
        checkpoint = text(event, "checkpoint")
        where = f"from {checkpoint}" if checkpoint else "from the beginning: there was no checkpoint"
        device = text(event, "device")
        if self.description is not None and device not in ("", self.description.device):
            self.description = replace(self.description, device=device)
            where += f", on {device}"
        self._say(event, "info", f"resumed {where}")

    def _stage_started(self, event: Event) -> None:
        state, stage = self.state, text(event, "stage")
        # By the order of the stages, not by the events of this epoch: a run that is resumed within one does not tell
        # of its first stages again.
        in_order = () if self.description is None else self.description.stages
        state.stages_done = frozenset(in_order[: in_order.index(stage)] if stage in in_order else ())
        state.stage, state.step, state.num_steps = stage or None, None, None

    def _stage_finished(self, event: Event) -> None:
        state = self.state
        state.stages_done = state.stages_done | {text(event, "stage")}
        state.leave_stage()

    def _inversion_step(self, event: Event) -> None:
        num_steps = event.get("num_steps")  # an epoch may have several synthesis calls
        if not _is_count(num_steps):
            num_steps = self.description.inversion_steps if self.description else 0
        x = self._x_of_step(event, num_steps)
        for name in event:
            if name.startswith("loss"):
                self._tell("inversion/" + name, x, event, _or_gap(number(event, name)))

    def _distillation_step(self, event: Event) -> None:
        x = self._x_of_step(event, self.description.distillation_steps if self.description else 0)
        objective, before = text(event, "objective"), self.state.objective
        if before and objective not in ("", before):
            self._say(
                event, "info", f"the student minimises `{objective}` now: its loss is on another scale than before"
            )
        self.state.objective = objective or before
        for name in event:
            if name.startswith("loss") or name == "lr" or name == "agreement":
                self._tell("distillation/" + name, x, event, _or_gap(number(event, name)))

    def _x_of_step(self, event: Event, num_steps: int) -> float:
        step = event.get("step")
        if not _is_count(step):
            return float(event["epoch"])
        self.state.step, self.state.num_steps = step, num_steps
        return float(event["epoch"] - 1 + min(1.0, (step + 1) / num_steps if num_steps > 0 else 1.0))

    def _buffer_state(self, event: Event) -> None:
        priority, age, epoch = mapping(event, "priority"), mapping(event, "age"), event["epoch"]
        self.state.buffer = BufferView(
            epoch=epoch,
            size=whole(event, "size"),
            capacity=whole(event, "capacity"),
            class_counts=tuple(count for count in items(event, "class_counts") if _is_count(count)),
            difficulty=_histogram(mapping(event, "difficulty")),
            priority=_histogram(priority),
            priority_min=number(priority, "min"),
            priority_mean=number(priority, "mean"),
            priority_max=number(priority, "max"),
            effective_sample_size=number(priority, "effective_sample_size"),
            age_min=number(age, "min"),
            age_mean=number(age, "mean"),
            age_max=number(age, "max"),
        )
        self._tell("buffer/size", epoch, event, number(event, "size"))
        self._tell("buffer/age_mean", epoch, event, number(age, "mean"))
        for name in ("mean", "max", "effective_sample_size"):
            self._tell("priority/" + name, epoch, event, number(priority, name))

    def _evaluation(self, event: Event) -> None:
        epoch, real, synthetic = event["epoch"], mapping(event, "real"), mapping(event, "synthetic")
        metrics = {role: numbers(mapping(real, role)) for role in ("student", "teacher")}
        self.state.evaluation = EvaluationView(
            epoch,
            metrics["student"],
            metrics["teacher"],
            agreement=number(synthetic, "agreement"),
            agreement_by_chance=number(synthetic, "agreement_by_chance"),
            ece=number(synthetic, "ece"),
        )
        for role, values in metrics.items():
            for name, value in values.items():
                if not is_count(name):
                    self._tell(f"real/{role}.{name}", epoch, event, value)
        self._tell("synthetic/agreement", epoch, event, number(synthetic, "agreement"))
        said: list[str] = []
        for role, whose in (("student", ""), ("teacher", "teacher ")):
            quoted = main_metric(metrics[role])
            if quoted is not None and not said:
                said.append(f"{whose}{metric_title(quoted)} {metrics[role][quoted]:.1%}")
        if self.state.evaluation.agreement is not None:
            said.append(f"synthetic agreement {self.state.evaluation.agreement:.1%}")
        self._say(event, "info", ", ".join(said) or "evaluation: nothing to measure on")

    def _device(self, event: Event) -> None:
        seconds = numbers(mapping(event, "seconds"))
        total_s = seconds.pop("total", 0.0)
        self.state.device = DeviceView(
            device=text(event, "device"),
            seconds=seconds,
            total_s=total_s,
            images_per_s=number(event, "images_per_s"),
            utilisation=number(event, "utilisation"),
            mem_mib=number(event, "mem_mib"),
        )
        description, state = self.description, self.state
        x = event["epoch"] if description is None or state.stage is None else state.epochs_finished(description)
        for name in ("images_per_s", "utilisation", "mem_mib"):
            self._tell("device/" + name, x, event, number(event, name))
        # Only at the end of an epoch: this event comes within long ones, and with each checkpoint, too.
        if description is not None and state.is_epoch_over(description):
            steady_s = total_s - seconds.get("setup", 0.0)  # compiling and recording are done once
            self._pace.account(event["epoch"], steady_s, warmup_epochs=description.warmup_epochs)

    def _samples(self, event: Event) -> None:
        self.state.samples = SamplesView(
            epoch=event["epoch"],
            picture=self.path / text(event, "picture"),
            tiles=tuple(self._tile(tile) for tile in items(event, "tiles") if isinstance(tile, dict)),
        )

    def _tile(self, tile: Event) -> SampleTile:
        index = whole(tile, "class")
        return SampleTile(
            class_index=index,
            class_name=str(index) if self.description is None else self.description.class_name(index),
            probability=number(tile, "probability") or 0.0,
            priority=number(tile, "priority") or 0.0,
        )

    def _checkpoint_saved(self, event: Event) -> None:
        # The checkpoint was taken after the event before this one; the epoch it belongs to is this event's.
        state = copy.copy(self.state)
        state.epoch = event["epoch"]
        self._at_checkpoint.append((event["seq"] - 1, state))
        self._say(event, "info", "checkpoint saved")

    def _control_acknowledged(self, event: Event) -> None:
        action, accepted, message = text(event, "action"), event.get("accepted") is True, text(event, "message")
        if accepted and action in ("pause", "resume"):
            self.is_paused = action == "pause"
        if not accepted:
            self._say(event, "warning", f"{action}: {message or 'refused'}")
        elif action != "checkpoint":  # `checkpoint_saved` tells of it
            self._say(event, "info", message or action)

    def _compilation_started(self, event: Event) -> None:
        self.state.compiling = text(event, "what") or None

    def _compilation_finished(self, event: Event) -> None:
        self.state.compiling = None
        self._say(event, "info", f"compiled {text(event, 'what')}, {number(event, 'seconds') or 0:.0f} s")

    def _views_judged(self, event: Event) -> None:
        done, total = whole(event, "done"), whole(event, "total")
        self.state.views_judged = (done, total) if done < total else None

    def _measured(self, event: Event) -> None:
        values = mapping(event, "values")
        for name in values:
            value = _or_gap(number(values, name))
            self._tell(f"{text(event, 'stage')}/{name}", event["epoch"], event, value, most=MAX_MEASURED)

    def _warning(self, event: Event) -> None:
        self._say(event, "warning", text(event, "message") + _hint(event))

    def _run_finished(self, event: Event) -> None:
        self.ending = event
        status, message = text(event, "status"), text(event, "message")
        state = self.state
        state.leave_stage()
        state.compiling = None
        seconds = numbers(mapping(mapping(event, "summary"), "seconds"))
        if state.device is not None and "total" in seconds:  # newer than the last event of kind `device`
            total_s = seconds.pop("total")
            state.device = replace(state.device, seconds=seconds, total_s=total_s)
        level = "error" if status in ("failed", "diverged") else "info"
        self._say(event, level, status if message in ("", status) else f"{status}: {message}{_hint(event)}")

    def _tell(self, name: str, x: float, event: Event, value: float | None, *, most: int = MAX_SERIES) -> None:
        """Add a point to the series `name`, a new one while there are fewer than `most`: None adds none, NaN a gap."""
        if value is None:
            return
        if name not in self._series and len(self._series) < most:
            self._series[name] = Series(name)
        if name in self._series:
            self._series[name].append(x, value, event["seq"])

    def _say(self, event: Event, level: str, said: str) -> None:
        self.log.append(LogLine(number(event, "time_s"), event["epoch"], event["kind"], level, said))

    # -- state out -------------------------------------------------------------------------------------------

    @property
    def num_finished(self) -> int:
        """Epochs that are over."""
        return 0 if self.description is None else int(self.state.epochs_finished(self.description))

    def curves(self) -> dict[str, Curve]:
        """All curves by name; a curve is the same object until the run tells more of it."""
        return {name: series.curve() for name, series in self._series.items() if len(series.curve())}

    def progress(self) -> Progress | None:
        """How far the run is; None before it said what it is going to do."""
        description, state = self.description, self.state
        if description is None:
            return None
        is_done = self.ending is not None and self.ending.get("status") == "done"
        stages = tuple(state.progress_of(name, description) for name in description.stages)
        finished = state.epochs_finished(description)
        if is_done:
            stages = tuple(replace(stage, done=float(stage.total)) for stage in stages)
            finished = float(description.epochs)
        num_warmup = max(0.0, description.warmup_epochs - finished)
        num_main = max(0.0, description.epochs - finished) - num_warmup
        left_s = ends_s = timed_after = None
        if self.ending is None and state.epoch > 0:
            left_s = self._pace.seconds_left(num_warmup, num_main)
            if left_s is None:
                timed_after = self._pace.timed_after(state.epoch, warmup_epochs=description.warmup_epochs)
            elif self.last_time_s is not None and not self.is_paused:
                ends_s = self.last_time_s + left_s
        return Progress(
            epoch=state.epoch,
            epochs=description.epochs,
            is_warmup=0 < state.epoch <= description.warmup_epochs and not is_done,
            share=min(1.0, finished / description.epochs) if description.epochs > 0 else 0.0,
            stages=stages,
            left_s=left_s,
            ends_s=ends_s,
            timed_after=timed_after,
        )


def _or_gap(value: float | None) -> float:
    """NaN, a gap, for null: a value that is always measured is null where it was not finite."""
    return math.nan if value is None else value


def _hint(event: Event) -> str:
    hint = text(event, "hint")
    return f" (hint: {hint})" if hint else ""


def _histogram(event: Event) -> Histogram | None:
    """Counts and edges that fit each other, or None."""
    counts, edges = items(event, "counts"), items(event, "edges")
    is_whole = all(isinstance(count, int) and is_measure(count) and count >= 0 for count in counts)
    if not counts or len(edges) != len(counts) + 1 or not is_whole or not all(map(is_measure, edges)):
        return None
    return Histogram(tuple(counts), tuple(float(edge) for edge in edges))


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
