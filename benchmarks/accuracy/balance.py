"""Fig. 2 of the paper: how balanced the classes and the difficulty of replay buffers are, side by side.

    python benchmarks/accuracy/balance.py uniform=RUN phi-1=RUN all=RUN --out balance.png

A run is a run directory; before it, with `=`, what the picture calls it (otherwise its folder, or for `seed-0` the one
above). Runs with the same label are seeds of one another: the lines are their means, the bands reach from the lowest to
the highest. The table goes to stdout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import figures
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from product import HarnessError, ask_for, flat, labelled

_EASY = 0.1
"""Difficulty 1 - p_T below which the teacher is sure: the first of the ten bins."""


@dataclass(frozen=True)
class Buffer:
    """One run's buffer in numbers. K classes, 10 bins of difficulty."""

    class_share_K: npt.NDArray[np.float64]
    """Shares of the images, largest first."""
    difficulty_share: npt.NDArray[np.float64]
    edges: npt.NDArray[np.float64]
    num_samples: int
    class_entropy: float
    effective_sample_size: float
    """1 / sum P^2 of the probabilities that distillation draws with; all images where it draws uniformly."""


def read_buffer(report: Mapping[str, Any], settings: Mapping[str, Any]) -> Buffer:
    """From `inspect-buffer --json` and the run's settings by dotted key."""
    counts_K, difficulty = np.array(report["class_counts"]), report["difficulty"]
    num_samples = report["num_samples"]
    if num_samples == 0:
        raise HarnessError(f"{report['path']} holds no images")
    is_uniform = settings["distillation.sampling"] == "uniform"
    return Buffer(
        class_share_K=np.sort(counts_K / counts_K.sum())[::-1],
        difficulty_share=np.array(difficulty["counts"]) / sum(difficulty["counts"]),
        edges=np.array(difficulty["edges"]),
        num_samples=num_samples,
        class_entropy=report["class_entropy"],
        effective_sample_size=num_samples if is_uniform else report["priority"]["effective_sample_size"],
    )


def draw(groups: Mapping[str, Sequence[Buffer]], title: str, path: Path) -> None:
    """Left: sorted class shares, 1 is even. Right: shares of the images by difficulty."""
    figure = figures.new_figure(11, 4.4, title)
    classes, difficulty = figure.subplots(1, 2, width_ratios=(1.0, 1.15))
    _draw_classes(classes, groups)
    _draw_difficulty(difficulty, groups)
    if any(len(buffers) > 1 for buffers in groups.values()):
        note = "means over runs; bands and whiskers reach from the lowest to the highest"
        figure.text(0.988, 0.965, note, ha="right", va="center", fontsize=8.5, color=figures.FAINT)
    figures.save(figure, path)


def _draw_classes(axes: Axes, groups: Mapping[str, Sequence[Buffer]]) -> None:
    num_classes = len(next(iter(groups.values()))[0].class_share_K)
    ranks = np.arange(1, num_classes + 1)
    for index, (label, buffers) in enumerate(groups.items()):
        shares = np.stack([buffer.class_share_K for buffer in buffers]) * num_classes
        colour = figures.COLOURS[index % len(figures.COLOURS)]
        marker = figures.MARKERS[index % len(figures.MARKERS)] if num_classes <= 20 else None
        axes.plot(ranks, shares.mean(axis=0), color=colour, linewidth=2, marker=marker, markersize=5, label=label)
        if len(buffers) > 1:
            axes.fill_between(ranks, shares.min(axis=0), shares.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.axhline(1, color=figures.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        "even", (num_classes, 1), (0, 4), textcoords="offset points", ha="right", fontsize=8.5, color=figures.INK
    )
    axes.set_ylim(bottom=0)
    axes.set_xlim(1 - 0.02 * num_classes, num_classes * 1.02)
    axes.set_xticks(ranks if num_classes <= 20 else [1, *range(num_classes // 5, num_classes + 1, num_classes // 5)])
    figures.dress(axes, "Class balance", "class, most frequent first", "share of the buffer, times the even share")
    figures.legend(axes, loc="best")


def _draw_difficulty(axes: Axes, groups: Mapping[str, Sequence[Buffer]]) -> None:
    edges = next(iter(groups.values()))[0].edges
    width = np.diff(edges) * 0.84 / len(groups)
    for index, (label, buffers) in enumerate(groups.items()):
        shares = np.stack([buffer.difficulty_share for buffer in buffers])
        left = edges[:-1] + np.diff(edges) * 0.08 + index * width
        colour = figures.COLOURS[index % len(figures.COLOURS)]
        axes.bar(left, shares.mean(axis=0), width=width * 0.94, align="edge", color=colour, label=label)
        if len(buffers) > 1:
            axes.vlines(left + width * 0.47, shares.min(axis=0), shares.max(axis=0), color=figures.INK, linewidth=1)
    axes.set_xticks(edges)
    axes.set_xlim(0, 1)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figures.dress(axes, "Difficulty", "1 - the teacher's probability of its class", "share of the buffer")
    figures.legend(axes, loc="upper right")


def table(groups: Mapping[str, Sequence[Buffer]]) -> str:
    """Means over runs of the same label, as Markdown."""
    heads = ("buffer", "runs", "images", "class entropy", "largest class / even", "smallest class / even")
    heads += ("p_T > .9", "effective sample size")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for label, buffers in groups.items():
        rows = [
            (
                buffer.num_samples,
                buffer.class_entropy,
                buffer.class_share_K[0] * len(buffer.class_share_K),
                buffer.class_share_K[-1] * len(buffer.class_share_K),
                buffer.difficulty_share[buffer.edges[1:] <= _EASY + 1e-9].sum(),
                buffer.effective_sample_size,
            )
            for buffer in buffers
        ]
        images, entropy, largest, smallest, easy, size = np.mean(rows, axis=0)
        cells = (f"{images:,.0f}", f"{entropy:.4f}", f"{largest:.2f}", f"{smallest:.2f}", f"{easy:.1%}", f"{size:,.0f}")
        lines.append(f"| {label} | {len(buffers)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--title", default="What is in the replay buffer", metavar="TEXT")
    options = parser.parse_args(arguments)
    try:
        groups = {
            label: [
                read_buffer(
                    ask_for("inspect-buffer", str(path), "--json"),
                    flat(ask_for("runs", "show", str(path), "--json")["config"]),
                )
                for path in paths
            ]
            for label, paths in labelled(options.runs).items()
        }
        if len({len(buffer.class_share_K) for buffers in groups.values() for buffer in buffers}) > 1:
            raise HarnessError("these buffers are of tasks with different numbers of classes")
    except HarnessError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    draw(groups, options.title, options.out)
    print(table(groups))
    return 0


if __name__ == "__main__":
    sys.exit(main())
