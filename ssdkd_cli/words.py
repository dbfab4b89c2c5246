"""How times, counts, metrics, settings and texts from files are said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "num_samples": "images",
    "ece": "ECE",
}


_COUNT, _LOSS = "num_samples", "loss"
_ENDLESS_S = 1e10
"""More seconds than anybody waits: a length of time that somebody's file says."""


def is_count(metric: str) -> bool:
    """Whether a metric of a task is no measurement: the number of images."""
    return metric == _COUNT


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction in [0, 1], as all are but the loss and the count (`stages.tasks.task`)."""
    return metric not in (_COUNT, _LOSS)


def metric_title(name: str) -> str:
    """A metric's name for people."""
    return _TITLES.get(name, name.replace("_", " "))


def format_metric(name: str, value: float | None) -> str:
    """A metric as people read it: fractions in percent, losses and counts as they are."""
    if value is None:
        return "-"
    if is_count(name):
        return f"{value:,.0f}"
    return f"{value:.2%}" if is_share(name) else f"{value:.4f}"


def headline(metrics: Mapping[str, Any] | None) -> str:
    """The metric that a task names first: "top-1 90.00%"; empty where it is not known."""
    name, value = next(iter((metrics or {}).items()), ("", None))
    return "" if value is None else f"{metric_title(name)} {format_metric(name, value)}"


def agreement_text(agreement: float | None, by_chance: float | None = None) -> str:
    """Agreement with the teacher, and what naming its most frequent class always would have, where that is known."""
    if agreement is None:
        return "-"
    return f"{agreement:.2%}" + ("" if by_chance is None else f" (by chance {by_chance:.2%})")


def is_near_chance(agreement: float, by_chance: float | None) -> bool:
    """Whether agreement says next to nothing of a student: of images of one class, say, any two agree."""
    return by_chance is not None and agreement < by_chance + (1 - by_chance) / 10


def escaped(text: str, *, keep: str = "") -> str:
    """`text` with control characters but those to keep written as escapes: no file's name moves the cursor."""
    return "".join(char if char.isprintable() or char in keep else repr(char)[1:-1] for char in text)


def setting_text(value: Any) -> str:
    """A setting's value as a preset has it, but for quotes; `-` where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(setting_text, value))}]"
    return str(value)


def num_epochs(number: int) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} epoch" if number == 1 else f"{number} epochs"


def views_text(done: int, total: int) -> str:
    """What the student waits for while the teacher looks at new images."""
    return f"showing the teacher new images, {done:,} of {total:,}"


def duration(seconds: float | None) -> str:
    """Seconds as people say them: `8 s`, `2 min 05 s`, `1 h 12 min`, `2 d 3 h`; a dash for what is no time."""
    if seconds is None or not 0 <= seconds < _ENDLESS_S:
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    hours = whole // 3600
    return f"{hours // 24} d {hours % 24} h" if hours >= 48 else f"{hours} h {whole % 3600 // 60:02d} min"


def precise_duration(seconds: float | None) -> str:
    """The same with tenths below ten seconds: `8.4 s`."""
    return f"{seconds:.1f} s" if seconds is not None and 0 <= seconds < 9.95 else duration(seconds)
