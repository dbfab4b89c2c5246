"""A view for those who have no screen: as one JSON document, or as a page of text as wide as any report."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import Any

from rich.cells import cell_len

from ssdkd_cli.charts import REPORT_WIDTH, Glyphs, bar, cut, sparklines
from ssdkd_cli.watching.view import BufferView, Curve, DeviceView, EvaluationView, Progress, RunView, epoch_text
from ssdkd_cli.words import agreement_text, duration, escaped, is_share, metric_title

_LABEL_WIDTH = 16
_BAR_WIDTH = 28
_NUM_LOG_LINES = 8
_LOG_INDENT = 23
"""Where the text of a log line begins, after its time and epoch."""
_NUM_LOG_LINES_JSON = 50


def document(view: RunView) -> dict[str, Any]:
    """The document of `ssdkd watch --once --json`. What the run has not told yet is null.

    `latest` has the newest value of every curve by name, null where it is not finite; x of the curves are in
    `latest_epoch`.
    """
    device = view.device
    return {
        "run": str(view.path),
        "name": view.name,
        "status": view.status,
        "status_text": view.status_text,
        "silent_s": view.silent_s,
        "problems": list(view.problems),
        "num_events": view.num_events,
        "history_read": view.loaded,
        "started": None if view.description is None else asdict(view.description),
        "progress": None if view.progress is None else asdict(view.progress),
        "stage": view.stage,
        "latest": {name: curve.last for name, curve in view.curves.items()},
        "latest_epoch": {name: curve.x[-1] for name, curve in view.curves.items() if len(curve)},
        "buffer": None if view.buffer is None else asdict(view.buffer),
        "device": None
        if device is None
        else {
            **asdict(device),
            "shares": device.shares,
            "hours": device.hours,
            "labels": {
                "utilisation": device.utilisation_label,
                "mem_mib": device.memory_label,
                "hours": device.hours_label,
            },
        },
        "real": None if view.evaluation is None else _real(view.evaluation),
        "synthetic": None
        if view.evaluation is None
        else {name: getattr(view.evaluation, name) for name in ("agreement", "agreement_by_chance", "ece")},
        "samples": None
        if view.samples is None
        else {**asdict(view.samples), "picture": _path_in_run(view, view.samples.picture)},
        "log": [asdict(line) for line in view.log[-_NUM_LOG_LINES_JSON:]],
        "message": view.message,
        "hint": view.hint,
        "summary": view.summary,
    }


def _real(evaluation: EvaluationView) -> Mapping[str, Any] | None:
    if not evaluation.student and not evaluation.teacher:
        return None
    return {"epoch": evaluation.epoch, "student": dict(evaluation.student), "teacher": dict(evaluation.teacher)}


def _path_in_run(view: RunView, path: Path) -> str:
    return path.relative_to(view.path).as_posix() if path.is_relative_to(view.path) else str(path)


def render_text(view: RunView, *, glyphs: Glyphs) -> str:
    """The page of `ssdkd watch --once`, without colours or control characters."""
    lines = [line for part in _parts(view, glyphs) for line in part]
    return "\n".join(cut(escaped(line), REPORT_WIDTH, glyphs).rstrip() for line in lines) + "\n"


def _parts(view: RunView, glyphs: Glyphs) -> Iterator[list[str]]:
    yield [line for text in _heading(view) for line in _wrapped(text)]
    yield [line for problem in view.problems for line in _wrapped(f"! {problem}")]
    if view.progress is not None:
        yield ["", *_progress(view.progress, glyphs)]
    for stage, curves in view.curves_of_stages().items():
        title = f"{stage} (terms before their weights)" if stage == "inversion" else stage
        yield ["", title, *(_curve(curve, glyphs) for curve in curves)]
    if view.evaluation is not None:
        yield ["", *_results(view.evaluation)]
    if view.buffer is not None:
        yield ["", *_buffer(view.buffer, glyphs)]
    if view.device is not None:
        yield ["", *_device(view.device, glyphs)]
    if view.log:
        yield ["", "log", *(line for text in _log_lines(view) for line in _wrapped(text, indent=_LOG_INDENT))]


def _wrapped(text: str, *, indent: int = 2) -> list[str]:
    """Words in as many lines as they take, for what is cut off may be why a run failed, or what to do about it."""
    text = escaped(text)
    num_more_cells = cell_len(text) - len(text)  # `wrap` counts characters, of which some are two cells wide
    narrow = max(indent + 20, REPORT_WIDTH - num_more_cells)
    return wrap(text, min(REPORT_WIDTH, narrow), subsequent_indent=" " * indent, break_on_hyphens=False)


def _heading(view: RunView) -> list[str]:
    lines = [f"{view.name}: {view.status_text}" + (f" ({view.message})" if _tells_more(view) else "")]
    description = view.description
    if description is not None:
        lines.append(
            f"{description.command} {description.preset}: {description.teacher} -> {description.student}, "
            f"{description.num_classes} classes, {description.device} {description.precision}, seed {description.seed}"
        )
    return lines


def _tells_more(view: RunView) -> bool:
    return view.message not in ("", view.status)


def _progress(progress: Progress, glyphs: Glyphs) -> list[str]:
    kind = ", warm-up" if progress.is_warmup else ""
    rows = [("run", progress.share, f"epoch {progress.epoch} of {progress.epochs}{kind}")]
    for stage in progress.stages:
        step = f", {stage.step_text}" if stage.step_text else ""
        rows.append(("  " + stage.stage, stage.share, f"{epoch_text(stage.done)} of {stage.total}{step}"))
    lines = [
        f"{_label(label)}{bar(share, 1.0, width=_BAR_WIDTH, glyphs=glyphs):<{_BAR_WIDTH}} {share:>6.1%}  {text}"
        for label, share, text in rows
    ]
    return lines if progress.left_s is None else [*lines, f"{_label('time left')}{duration(progress.left_s)}"]


def _curve(curve: Curve, glyphs: Glyphs) -> str:
    if curve.not_finite_since is not None:
        return f"  {cut(curve.title, 26, glyphs):<26} not finite since epoch {curve.not_finite_since}"
    last = "-" if curve.last is None else f"{curve.last:.4g}"
    shown = _evenly([value for value in curve.y if math.isfinite(value)], _BAR_WIDTH)
    low = min(0.0, *shown)  # sparklines begin at zero
    line = sparklines([value - low for value in shown], width=_BAR_WIDTH, glyphs=glyphs)[0] if any(shown) else ""
    return f"  {cut(curve.title, 26, glyphs):<26} {last:>11}  {line}"


def _evenly(values: list[float], most: int) -> list[float]:
    """At most so many of the values, spread over all of them, the last one included."""
    if len(values) <= most:
        return values
    return [values[(index + 1) * len(values) // most - 1] for index in range(most)]


def _results(evaluation: EvaluationView) -> list[str]:
    lines = []
    for role, metrics in (("student", evaluation.student), ("teacher", evaluation.teacher)):
        fractions = [f"{metric_title(name)} {value:.2%}" for name, value in metrics.items() if is_share(name)]
        if fractions:
            lines.append(f"  {role:<26} {', '.join(fractions)}")
    title = f"real data, epoch {evaluation.epoch}"
    lines = [title, *(lines or ["  none at hand: accuracy is unknown"])]
    agreement = agreement_text(evaluation.agreement, evaluation.agreement_by_chance)
    lines += ["synthetic images", f"  {'agreement with the teacher':<26} {agreement}"]
    return lines if evaluation.ece is None else [*lines, f"  {'ECE against the teacher':<26} {evaluation.ece:.4f}"]


def _buffer(buffer: BufferView, glyphs: Glyphs) -> list[str]:
    lines = [f"buffer {buffer.size:,} of {buffer.capacity:,} samples"]
    if buffer.class_counts:
        lines.append(f"  {'samples per class':<26} {min(buffer.class_counts):,} to {max(buffer.class_counts):,}")
    if buffer.effective_sample_size is not None and buffer.size > 0:
        share = buffer.effective_sample_size / buffer.size
        lines.append(f"  {'effective sample size':<26} {buffer.effective_sample_size:,.0f} ({share:.1%})")
    if buffer.age_mean is not None:
        lines.append(f"  {'mean age':<26} {buffer.age_mean:.1f} epochs")
    for title, histogram in (
        ("difficulty, from 0 to 1", buffer.difficulty),
        ("priority, bins double", buffer.priority),
    ):
        if histogram is not None:
            lines.append(f"  {title:<26} {'|'}{sparklines(histogram.counts, width=64, glyphs=glyphs)[0]}|")
    return lines


def _device(device: DeviceView, glyphs: Glyphs) -> list[str]:
    hours = f", {device.hours:.2f} {device.hours_label}" if device.is_gpu else ""
    lines = [f"time on {device.device} {duration(device.total_s)}{hours}"]
    for stage, share in device.shares.items():
        seconds = device.seconds.get(stage, share * device.total_s)
        filled = bar(share, 1.0, width=_BAR_WIDTH, glyphs=glyphs)
        lines.append(f"{_label('  ' + stage)}{filled:<{_BAR_WIDTH}} {share:>6.1%}  {duration(seconds)}")
    if device.images_per_s is not None:
        lines.append(f"  {'images trained on per second':<34} {device.images_per_s:,.0f}")
    if device.utilisation is not None:
        lines.append(f"  {device.utilisation_label:<34} {device.utilisation:.0%}")
    if device.mem_mib is not None:
        lines.append(f"  {device.memory_label:<34} {device.mem_mib:,.0f} MiB")
    return lines


def _log_lines(view: RunView) -> list[str]:
    lines = []
    for line in view.log[-_NUM_LOG_LINES:]:
        mark = {"warning": "warning: ", "error": "error: "}.get(line.level, "")
        lines.append(f"  {line.time_of_day}  epoch {line.epoch:<4} {mark}{line.text}")
    return lines


def _label(text: str) -> str:
    return f"{text:<{_LABEL_WIDTH}}"
