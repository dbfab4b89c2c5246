"""What the plots here look like, and how they become files. Matplotlib without pyplot: no state, no display."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PAPER, INK, FAINT, EDGE, GRID = "#ffffff", "#1c2430", "#5f6a78", "#c5ccd4", "#e8ecf0"
COLOURS = ("#8a94a0", "#d9822b", "#2f6db5", "#3c9a6b", "#b0508c", "#7a5fc0", "#b5932a", "#2a9aa8")
"""Told apart by colour-blind readers and in grey; the first, grey, is for what the others are compared with."""
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")


def new_figure(width: float, height: float, title: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.14, h_pad=0.11, wspace=0.04, hspace=0.06)
    figure.suptitle(title, x=0.014, ha="left", fontsize=12.5, fontweight="bold", color=INK, parse_math=False)
    return figure


def dress(axes: Axes, title: str, x_label: str, y_label: str, *, grid: str = "y") -> None:
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, pad=8)
    axes.set_xlabel(x_label, fontsize=9.5, color=FAINT)
    axes.set_ylabel(y_label, fontsize=9.5, color=FAINT)
    axes.tick_params(labelsize=8.5, colors=FAINT, length=3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(EDGE)
    axes.grid(axis=grid, color=GRID, linewidth=0.8)  # type: ignore[arg-type]
    axes.set_axisbelow(True)


def legend(axes: Axes, **options: Any) -> None:
    axes.legend(fontsize=8.5, frameon=False, labelcolor=INK, **options)


def save(figure: Figure, path: Path) -> None:
    """As PNG, without a time or a version in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", metadata={"Software": None})
