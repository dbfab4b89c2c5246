"""What a screen shows of a run at one moment: frozen values, safe to hand from thread to thread.

Everything that a run may not have told yet is None or empty. Fractions are in [0, 1], times in seconds, memory in
MiB. x of every curve is the epoch as a number with a fraction: 3.5 is the middle of the fourth epoch, 4.0 its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from stages.run_directory import LIVE_STATUSES

SILENCE_S = 90.0
"""A run that says nothing for so long gets told so."""

TITLES = {
    "inversion/loss": "inversion loss",
    "inversion/loss_bn": "BN statistics",
    "inversion/loss_task": "task",
    "inversion/loss_adversarial": "adversarial (KL)",
    "distillation/loss": "distillation loss",
    "distillation/lr": "learning rate",
    "distillation/agreement": "agreement in the batch",
}
"""What people call the curves of the stages that train; `title_of` knows the others."""


_NOT_OF_STAGES = ("real", "synthetic", "buffer", "priority", "device")
"""What the names of curves begin with that are of the run as a whole; the others begin with a stage's name."""


def main_metric(metrics: Mapping[str, float]) -> str | None:
    """The metric that people quote: the first, which is the task's headline."""
    return next(iter(metrics), None)


def title_of(name: str) -> str:
    """What to write beside a curve: `inversion/loss_style` is "style" where nobody named it."""
    return TITLES.get(name) or name.partition("/")[2].removeprefix("loss_").replace("_", " ")


def stage_of(name: str) -> str:
    """The stage that tells of a curve: "inversion" of `inversion/loss_style`."""
    return name.partition("/")[0]


def epoch_text(epoch: float) -> str:
    """An epoch, or a part of one, in digits however many there are: "9", "2.25", "12345"."""
    return f"{epoch:.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Curve:
    """One quantity over the epochs; long histories are thinned so that every peak and dip stays.

    `x` never falls and has the length of `y`. NaN in `y` is a gap: where values that were not finite begin and end.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def __len__(self) -> int:
        return len(self.x)

    @property
    def title(self) -> str:
        """What people call it."""
        return title_of(self.name)

    @property
    def last(self) -> float | None:
        """The newest value; None where that is not finite."""
        return self.y[-1] if len(self.y) and math.isfinite(self.y[-1]) else None

    @property
    def not_finite_since(self) -> int | None:
        """The epoch from which on all values are not finite; None where the newest one is."""
        start = len(self.y)
        while start > 0 and math.isnan(self.y[start - 1]):
            start -= 1
        return math.ceil(self.x[start]) if start < len(self.y) else None


@dataclass(frozen=True)
class RunDescription:
    """What the run is: its `run_started` event. Numbers are 0 and texts empty where the event lacks them."""

    run: str
    command: str
    preset: str
    stages: tuple[str, ...]
    epochs: int
    warmup_epochs: int
    seed: int
    device: str
    precision: str
    task: str
    num_classes: int
    class_names: tuple[str, ...] | None
    image_shape: tuple[int, ...]
    teacher: str
    student: str
    capacity: int
    inversion_steps: int
    distillation_steps: int
    started_s: float

    def class_name(self, index: int) -> str:
        """A class's name, or its number."""
        names = self.class_names
        return names[index] if names is not None and 0 <= index < len(names) else str(index)


@dataclass(frozen=True)
class StageProgress:
    """How far one stage of the chain is: `done` of `total` epochs, and its step within the present one."""

    stage: str
    done: float
    total: int
    is_running: bool
    step: int | None
    num_steps: int | None

    @property
    def share(self) -> float:
        """Part that is done, in [0, 1]."""
        return min(1.0, self.done / self.total) if self.total > 0 else 0.0

    @property
    def step_text(self) -> str:
        """Its step within the epoch: "step 280 of 400"; empty where it has told of none."""
        return "" if self.step is None else f"step {self.step + 1} of {self.num_steps or '?'}"


@dataclass(frozen=True)
class Progress:
    """How far the run is. `left_s` is None until an epoch of each kind still to come has been timed."""

    epoch: int
    epochs: int
    is_warmup: bool
    share: float
    stages: tuple[StageProgress, ...]
    left_s: float | None
    ends_s: float | None = None
    """When the run will be over, by the clock of its machine; None while it is paused, too."""
    timed_after: int | None = None
    """The epoch after which `left_s` will be known; None where it is, and of a run that is over."""

    @property
    def running(self) -> StageProgress | None:
        """The stage at work."""
        return next((stage for stage in self.stages if stage.is_running), None)


@dataclass(frozen=True)
class Histogram:
    """`counts[i]` values lie between `edges[i]` and `edges[i + 1]`."""

    counts: tuple[int, ...]
    edges: tuple[float, ...]


@dataclass(frozen=True)
class BufferView:
    """The replay buffer at the end of `epoch`. Difficulty is 1 - p_T; age counts epochs since insertion."""

    epoch: int
    size: int
    capacity: int
    class_counts: tuple[int, ...]
    difficulty: Histogram | None
    priority: Histogram | None
    priority_min: float | None
    priority_mean: float | None
    priority_max: float | None
    effective_sample_size: float | None
    age_min: float | None
    age_mean: float | None
    age_max: float | None


@dataclass(frozen=True)
class DeviceView:
    """What the run has cost so far and what the device is doing, with the right words for GPU and CPU."""

    device: str
    seconds: Mapping[str, float]
    """Wall-clock seconds of each stage so far."""
    total_s: float
    images_per_s: float | None
    utilisation: float | None
    mem_mib: float | None

    @property
    def is_gpu(self) -> bool:
        """Whether the run computes on a GPU."""
        return self.device.startswith("cuda")

    @property
    def shares(self) -> dict[str, float]:
        """Part of the whole time that each stage took; "other" is start, checkpoints and the rest."""
        whole_s = max(self.total_s, sum(self.seconds.values()))
        if whole_s <= 0:
            return {}
        shares = {stage: seconds / whole_s for stage, seconds in self.seconds.items()}
        return {**shares, "other": max(0.0, 1.0 - sum(shares.values()))}

    @property
    def utilisation_label(self) -> str:
        """What `utilisation` is a share of."""
        return "GPU utilisation" if self.is_gpu else "CPU time of the run's threads"

    @property
    def memory_label(self) -> str:
        """What `mem_mib` is."""
        return "GPU memory" if self.is_gpu else "resident memory (RSS)"

    @property
    def hours_label(self) -> str:
        """What `hours` counts."""
        return "GPU hours" if self.is_gpu else "hours by the clock (CPU)"

    @property
    def hours(self) -> float:
        """Hours of the device that the run has taken."""
        return self.total_s / 3600


@dataclass(frozen=True)
class EvaluationView:
    """The newest evaluation: real data (empty without any) apart from agreement on synthetic images."""

    epoch: int
    student: Mapping[str, float]
    teacher: Mapping[str, float]
    agreement: float | None
    agreement_by_chance: float | None = None
    """That of always naming the class that the teacher names most often."""
    ece: float | None = None
    """The student's expected calibration error against the teacher, on the same synthetic images."""


@dataclass(frozen=True)
class SampleTile:
    """What is known of one picture of the sheet: teacher's class and probability, priority."""

    class_index: int
    class_name: str
    probability: float
    priority: float


@dataclass(frozen=True)
class SamplesView:
    """The newest sheet of buffered images. `picture` may be gone; `tiles` are row by row."""

    epoch: int
    picture: Path
    tiles: tuple[SampleTile, ...]


@dataclass(frozen=True)
class LogLine:
    """One line of the log. `level` is "info", "warning" or "error"; `kind` is that of the event."""

    time_s: float | None
    epoch: int
    kind: str
    level: str
    text: str

    @property
    def time_of_day(self) -> str:
        """When it was said, on this machine's clock: "14:05:59"; dashes for a time that no calendar has."""
        moment = moment_of(self.time_s)
        return "--:--:--" if moment is None else f"{moment:%H:%M:%S}"

    @property
    def day(self) -> str:
        """The day on which it was said: "Mon 30 Nov"; empty for a time that no calendar has."""
        moment = moment_of(self.time_s)
        return "" if moment is None else _day(moment)


def clock_text(time_s: float, *, now_s: float) -> str:
    """A moment on this machine's clock, with its day where that is not today: "16:05", "Tue 1 Dec 16:05"."""
    moment, now = moment_of(time_s), moment_of(now_s)
    is_today = moment is not None and now is not None and moment.date() == now.date()
    return f"{moment:%H:%M}" if moment is not None and is_today else moment_text(time_s)


def moment_text(time_s: float) -> str:
    """A moment on this machine's clock: "Mon 30 Nov 16:05"; a dash for a time that no calendar has."""
    moment = moment_of(time_s)
    return "-" if moment is None else f"{_day(moment)} {moment:%H:%M}"


def _day(moment: datetime) -> str:
    return f"{moment:%a} {moment.day} {moment:%b}"


def moment_of(time_s: float | None) -> datetime | None:
    """A moment on this machine's clock; None for a time that no calendar has."""
    try:
        return None if time_s is None else datetime.fromtimestamp(time_s)
    except (OverflowError, OSError, ValueError):
        return None


@dataclass(frozen=True)
class RunView:
    """All that a screen shows of a run."""

    path: Path
    name: str
    status: str
    """starting, running, paused, stopped, failed, diverged, dead or done."""
    status_text: str
    """The status in words, with what a reader must know: "running, no news for 1 min 35 s"."""
    silent_s: float | None = None
    """Seconds since the last news of a live run; None of a run that is over."""
    description: RunDescription | None = None
    progress: Progress | None = None
    stage: str | None = None
    """The stage at work; None between stages and after the end."""
    curves: Mapping[str, Curve] = field(default_factory=dict)
    """By name: `inversion/loss*`, `distillation/loss|lr|agreement`, `real/student.top1`..., `synthetic/agreement`,
    `buffer/size|age_mean`, `priority/mean|max|effective_sample_size`, `device/images_per_s|utilisation|mem_mib`, and
    `STAGE/*` of what a stage has measured."""
    buffer: BufferView | None = None
    device: DeviceView | None = None
    evaluation: EvaluationView | None = None
    samples: SamplesView | None = None
    log: tuple[LogLine, ...] = ()
    """Oldest first, the last few hundred lines."""
    problems: tuple[str, ...] = ()
    """What is wrong with the run's files, in words: garbage lines, a newer schema, a directory that vanished."""
    summary: Mapping[str, object] | None = None
    """The summary a finished run ended with."""
    message: str = ""
    """Why a finished run ended."""
    hint: str = ""
    """What to do about it."""
    num_events: int = 0
    has_directory: bool = True
    """Whether the run's directory is still there."""
    loaded: float = 1.0
    """Part of the file that the curves rest on: below 1 while a long history is still being read."""

    @property
    def is_silent(self) -> bool:
        """Whether a run at work has said nothing for so long that something may be wrong."""
        return self.status == "running" and self.silent_s is not None and self.silent_s >= SILENCE_S

    @property
    def is_live(self) -> bool:
        """Whether a process works on the run."""
        return self.status in LIVE_STATUSES

    def class_name(self, index: int) -> str:
        """A class's name, or its number."""
        return str(index) if self.description is None else self.description.class_name(index)

    def curves_of_stages(self) -> dict[str, list[Curve]]:
        """What stages tell of their steps and measure: curves by stage, in the order in which the run told them.

        First those of the stages that train.
        """
        found: dict[str, list[Curve]] = {"inversion": [], "distillation": []}
        for name, curve in self.curves.items():
            if stage_of(name) not in _NOT_OF_STAGES:
                found.setdefault(stage_of(name), []).append(curve)
        return {stage: curves for stage, curves in found.items() if curves}
