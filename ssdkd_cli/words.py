"""How times, counts, metrics and settings are said."""

from __future__ import annotations

from typing import Any

_TITLES = {
    "top1": "top-1",
    "top5": "top-5",
    "miou": "mIoU",
    "pixel_accuracy": "pixel accuracy",
    "num_samples": "images",
    "ece": "ECE",
}


def metric_title(name: str) -> str:
    """A metric's name for people."""
    return _TITLES.get(name, name.replace("_", " "))


def format_metric(name: str, value: float | None) -> str:
    """A metric as people read it: fractions in percent, losses and counts as they are."""
    if value is None:
        return "-"
    if name == "num_samples":
        return f"{value:,.0f}"
    return f"{value:.4f}" if name == "loss" else f"{value:.2%}"


def agreement_text(agreement: float | None, by_chance: float | None = None) -> str:
    """Agreement with the teacher, and what naming its most frequent class always would have, where that is known."""
    if agreement is None:
        return "-"
    return f"{agreement:.2%}" + ("" if by_chance is None else f" (by chance {by_chance:.2%})")


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


def duration(seconds: float) -> str:
    """Seconds as people say them: `8 s`, `2 min 05 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def precise_duration(seconds: float) -> str:
    """The same with tenths below a minute: `8.4 s`."""
    return f"{seconds:.1f} s" if seconds < 59.95 else duration(seconds)
