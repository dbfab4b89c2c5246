"""How well what a run says of its student without labels predicts how good the student really is.

    python benchmarks/accuracy/honesty.py runs/accuracy/table4-short runs/accuracy/calibration-short --out honesty.png

Takes runs, and folders that hold runs at any depth. Each run that is done and was measured on real data gives one
point: last epoch, agreement with the teacher and ECE against it on its own held-out synthetic images, top-1 on real
images.
Correlations are told for each setting by itself, that is data set, teacher, student and number of epochs: that a longer
run is better, or a better teacher's student, needs no estimate to know. The table goes to stdout.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import figures
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter
from product import HarnessError, ask_for, flat

_ESTIMATES = {
    "agreement": ("Agreement", "images on which student and teacher name the same class (more is better)", +1),
    "ece": ("Calibration", "expected calibration error against the teacher (less is better)", -1),
}
"""What a run says of itself: a title and words for it, and whether more is better (+1) or worse (-1)."""
_FEWEST_RUNS = 3
"""A line through two points always fits."""


@dataclass(frozen=True)
class Point:
    """One run."""

    run: str
    setting: str
    teacher: str
    """The digest of its file."""
    accuracy: float
    estimates: Mapping[str, float | None]


@dataclass(frozen=True)
class Prediction:
    """How well an estimate does over some runs."""

    num_runs: int
    pearson: float
    spearman: float
    lost_by_choosing: float
    """Accuracy of the best run minus that of the run the estimate likes best."""


def runs_in(places: Sequence[Path]) -> Iterator[Path]:
    """Run directories among the places and below them, each once."""
    seen = set()
    for place in places:
        for file in [place / "config.toml", *sorted(place.rglob("config.toml"))]:
            if (file.parent / "events.jsonl").is_file() and file.parent.resolve() not in seen:
                seen.add(file.parent.resolve())
                yield file.parent


def point_of(path: Path) -> Point | None:
    """The run's numbers; None where it is not done or has none on real data."""
    document = ask_for("runs", "show", str(path), "--json")
    student = document["student"] or {}
    if document["status"] != "done" or "top1" not in student:
        return None
    settings, summary = flat(document["config"]), document["summary"]
    # Folders of images say nothing of what they show; the teacher does.
    data = settings.get("teacher.trained_on") or settings["evaluation.data"]
    models = [Path(settings[key]).name for key in ("teacher.model", "student.model")]
    return Point(
        run="/".join(path.absolute().parts[-3:]),
        setting=f"{data}, {' -> '.join(models)}, {settings['run.epochs']} epochs",
        teacher=str((document["manifest"] or {}).get("teacher_sha256")),
        accuracy=student["top1"],
        estimates={name: summary.get(name) for name in _ESTIMATES},
    )


def told_apart(points: Sequence[Point]) -> list[Point]:
    """The points with the beginning of their teacher's digest in the setting, where that has several."""
    teachers: dict[str, set[str]] = {}
    for point in points:
        teachers.setdefault(point.setting, set()).add(point.teacher)
    return [
        replace(point, setting=f"{point.setting}, teacher {point.teacher[:8]}")
        if len(teachers[point.setting]) > 1
        else point
        for point in points
    ]


def predictions(points: Sequence[Point], name: str) -> dict[str, Prediction]:
    """Of one estimate for each setting with runs enough."""
    found = {}
    for setting in dict.fromkeys(point.setting for point in points):
        values, accuracies = _columns([point for point in points if point.setting == setting], name)
        if len(values) < _FEWEST_RUNS:
            continue
        _, _, sign = _ESTIMATES[name]
        found[setting] = Prediction(
            num_runs=len(values),
            pearson=pearson(values, accuracies),
            spearman=pearson(ranks(values), ranks(accuracies)),
            lost_by_choosing=float(accuracies.max() - accuracies[np.argmax(sign * values)]),
        )
    return found


def pearson(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation; NaN where one of the two does not vary."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum()))


def ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Ranks from 1, equal values sharing the mean of theirs: Pearson's correlation of ranks is Spearman's."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((2 * last - counts + 1) / 2)[inverse]


def _columns(points: Sequence[Point], name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    known = [(point.estimates[name], point.accuracy) for point in points if point.estimates[name] is not None]
    values, accuracies = np.array(known, dtype=np.float64).reshape(-1, 2).T
    return values, accuracies


def draw(points: Sequence[Point], path: Path) -> None:
    """A row of panels for each setting, a panel for each estimate."""
    settings = list(dict.fromkeys(point.setting for point in points))
    title = "What runs say of their students without labels, and how good the students are"
    figure = figures.new_figure(11, 0.5 + 4 * len(settings), title)
    rows = figure.subfigures(len(settings), 1, squeeze=False)[:, 0]
    for setting, row, colour in zip(settings, rows, itertools.cycle(figures.COLOURS[2:])):
        row.suptitle(setting, x=0.014, ha="left", fontsize=11, color=figures.INK, parse_math=False)
        panels = row.subplots(1, len(_ESTIMATES), sharey=True)
        for name, axes in zip(_ESTIMATES, panels, strict=True):
            _draw_panel(axes, [point for point in points if point.setting == setting], name, colour)
        panels[0].set_ylabel("top-1 on real images, last epoch")
    figures.save(figure, path)


def _draw_panel(axes: Axes, points: Sequence[Point], name: str, colour: str) -> None:
    title, words, _ = _ESTIMATES[name]
    values, accuracies = _columns(points, name)
    axes.scatter(values, accuracies, s=42, color=colour, alpha=0.85, edgecolor=figures.PAPER, linewidth=0.7, zorder=3)
    axes.margins(0.08)
    for found in predictions(points, name).values():  # of one setting: one, or none with few runs
        title += f": $r$ = {found.pearson:+.2f}, $\\rho$ = {found.spearman:+.2f}, {found.num_runs} runs"
        if np.ptp(values) > 0:
            slope, offset = np.polyfit(values, accuracies, 1)
            ends = np.array([values.min(), values.max()])
            line = offset + slope * ends
            axes.plot(ends, line, color=figures.EDGE, linewidth=2, zorder=2, scalex=False, scaley=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    figures.dress(axes, title, words, "", grid="both")


def table(points: Sequence[Point]) -> str:
    """The correlations, and below them every run, best first."""
    heads = ("setting", "estimate", "runs", "Pearson r", "Spearman rho", "accuracy lost by choosing by it")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for name in _ESTIMATES:
        for setting, found in predictions(points, name).items():
            lines.append(
                f"| {setting} | {name} | {found.num_runs} | {found.pearson:+.2f} | {found.spearman:+.2f} "
                f"| {found.lost_by_choosing:.4f} |"
            )
    lines += ["", f"| run | setting | top-1 | {' | '.join(_ESTIMATES)} |", f"|---|---|---|{'---|' * len(_ESTIMATES)}"]
    for point in sorted(points, key=lambda point: (point.setting, -point.accuracy)):
        values = [point.estimates[name] for name in _ESTIMATES]
        cells = " | ".join("-" if value is None else f"{value:.4f}" for value in values)
        lines.append(f"| {point.run} | {point.setting} | {point.accuracy:.4f} | {cells} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("places", nargs="+", type=Path, metavar="RUN|FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    options = parser.parse_args(arguments)
    try:
        found = [point_of(path) for path in runs_in(options.places)]
    except HarnessError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    points = told_apart([point for point in found if point is not None])
    if len(points) < _FEWEST_RUNS:
        print(
            f"error: {len(points)} of {len(found)} runs are done and measured on real data, 3 are needed",
            file=sys.stderr,
        )
        return 2
    draw(points, options.out)
    print(table(points))
    if len(points) < len(found):
        print(
            f"left out: {len(found) - len(points)} runs that are not done or not measured on real data", file=sys.stderr
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
