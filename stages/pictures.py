"""Pictures of the replay buffer as PNG bytes: a grid of samples and three histograms.

Equal input gives equal bytes: the files hold no times and no versions. Pillow and matplotlib are imported
on use.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image, ImageFont

_COLUMNS = 8
_TILE_PX = 96  # small images are magnified to at most this, by a whole factor: pixels stay square and sharp
_GAP_PX = 10
_LINE_PX = 15
_FONT_PX = 12
_PAPER, _INK, _FAINT, _EDGE = "#ffffff", "#1c2430", "#6b7684", "#c5ccd4"
_BLUE, _ORANGE, _GREEN = "#3b6fb5", "#d9822b", "#3c9a6b"
_MAX_CLASS_LABELS = 24
_MAX_LABEL = 16


@dataclass(frozen=True)
class Tile:
    """What is said under one image: the teacher's class, its probability, and the image's priority."""

    label: str
    probability: float
    priority: float


def main_class(teacher_class: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class of whole images, [N] or [N, H, W] -> [N]: of dense tasks the most frequent one."""
    if teacher_class.ndim == 1:
        return teacher_class
    pixels_NP = teacher_class.reshape(len(teacher_class), -1)
    return np.array([np.bincount(pixels_P).argmax() for pixels_P in pixels_NP], dtype=np.int64)


def mean_probability(teacher_prob: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The probability of whole images, [N] or [N, H, W] -> [N]: of dense tasks the mean."""
    mean_N: npt.NDArray[np.float32] = teacher_prob.reshape(len(teacher_prob), -1).mean(axis=1)
    return mean_N


def tiles_of(
    teacher_class_N: npt.NDArray[np.int64],
    teacher_prob_N: npt.NDArray[np.float32],
    priority_N: npt.NDArray[np.float32],
    *,
    class_names: Sequence[str] | None,
) -> list[Tile]:
    """A tile for each sample; classes without a name are called by their number."""
    rows = zip(teacher_class_N.tolist(), teacher_prob_N.tolist(), priority_N.tolist(), strict=True)
    return [
        Tile(class_names[index] if class_names else f"class {index}", probability, priority)
        for index, probability, priority in rows
    ]


def choose_tiles(
    teacher_class_N: npt.NDArray[np.int64], priority_N: npt.NDArray[np.float32], *, num_tiles: int
) -> npt.NDArray[np.intp]:
    """Indices of samples that show the buffer: class by class in turn, highest priority first.

    Equal priorities keep the buffer's order; the result is sorted by class, then by falling priority.
    """
    hardest_first_N = np.lexsort((np.arange(len(priority_N)), -priority_N, teacher_class_N))
    sorted_class_N = teacher_class_N[hardest_first_N]
    starts = np.flatnonzero(np.diff(sorted_class_N, prepend=-1))
    rank_in_class_N = np.arange(len(sorted_class_N)) - np.repeat(starts, np.diff([*starts, len(sorted_class_N)]))
    chosen = np.argsort(rank_in_class_N, kind="stable")[:num_tiles]
    return hardest_first_N[np.sort(chosen)]


def grid_png(images_NCHW: npt.NDArray[np.uint8], tiles: Sequence[Tile]) -> bytes:
    """Images, eight in a row, magnified by a whole factor, each with its class, probability and priority below.

    Images are uint8 [N, C, H, W]; one channel is shown grey, three as colour, any other number as their mean.
    """
    from PIL import Image, ImageDraw

    assert len(images_NCHW) == len(tiles) > 0, (len(images_NCHW), len(tiles))
    height, width = images_NCHW.shape[2:]
    factor = max(1, _TILE_PX // max(height, width))
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    cell_width = max(width * factor, _TILE_PX) + _GAP_PX
    cell_height = height * factor + 2 * _LINE_PX + _GAP_PX + 4
    sheet = Image.new("RGB", (columns * cell_width + _GAP_PX, rows * cell_height + _GAP_PX), _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = _font()
    for index, (image_CHW, tile) in enumerate(zip(images_NCHW, tiles, strict=True)):
        left = _GAP_PX + index % columns * cell_width
        top = _GAP_PX + index // columns * cell_height
        # An outline, or a light image runs into the paper.
        draw.rectangle((left - 1, top - 1, left + width * factor, top + height * factor), outline=_EDGE)
        sheet.paste(_magnified(image_CHW, factor), (left, top))
        text_top = top + height * factor + 4
        text_width = cell_width - _GAP_PX
        label = " ".join(tile.label.split())  # one line, whatever the name of a class holds
        draw.text((left, text_top), _fitted(label, font, text_width), font=font, fill=_INK)
        numbers = f"p {tile.probability:.2f} δ {_short(tile.priority)}"
        draw.text((left, text_top + _LINE_PX), _fitted(numbers, font, text_width), font=font, fill=_FAINT)
    return _png(sheet)


def histograms_png(report: Mapping[str, Any], *, class_names: Sequence[str] | None, title: str) -> bytes:
    """Three panels of a buffer's report (`stages.buffer.statistics`): class balance, difficulty, priority."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.2), dpi=110, layout="constrained", facecolor=_PAPER)
    FigureCanvasAgg(figure)  # no pyplot: no global state, no display
    # Names are text, whatever dollars and backslashes they hold.
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=_INK, parse_math=False)
    classes, difficulty, priority = figure.subplots(1, 3)
    _plot_classes(classes, report, class_names)
    _plot_difficulty(difficulty, report["difficulty"])
    _plot_priority(priority, report["priority"], num_samples=sum(report["priority"]["counts"]))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for a rare letter
        figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from matplotlib import get_data_path
    from PIL import ImageFont

    # Comes with matplotlib, and unlike Pillow's own font it has Greek and most scripts of class names.
    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", _FONT_PX)


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> str:
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text.rstrip() + "…"


def _short(value: float) -> str:
    """Two digits in at most six characters, whatever the size: 0.0083, 9.8e-4, 12, 1.2e3; 123 with all three."""
    if value == 0 or 99.5 <= value < 999.5:
        return f"{value:.0f}"
    if 0.001 <= value < 99.5:
        return f"{value:#.2g}".rstrip(".")
    digits = 1 if 1e-9 < value < 1e9 else 0
    return f"{value:.{digits}e}".replace("e-0", "e-").replace("e+", "e").replace("e0", "e")


def as_colour(image_CHW: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """RGB pixels [H, W, 3]: three channels are colour, any other number is shown as the grey of their mean."""
    if len(image_CHW) == 3:
        return np.ascontiguousarray(np.moveaxis(image_CHW, 0, -1))
    grey_HW = image_CHW.mean(axis=0).round().astype(np.uint8)
    return np.repeat(grey_HW[..., None], 3, axis=-1)


def _magnified(image_CHW: npt.NDArray[np.uint8], factor: int) -> Image.Image:
    from PIL import Image

    return Image.fromarray(as_colour(image_CHW).repeat(factor, axis=0).repeat(factor, axis=1))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, format="PNG")
    return file.getvalue()


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, color=_INK)
    axes.set_xlabel(x_label, fontsize=9, color=_FAINT)
    axes.set_ylabel(y_label, fontsize=9, color=_FAINT)
    axes.tick_params(labelsize=8, colors=_FAINT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_EDGE)
    axes.grid(axis="y", color="#e8ecf0", linewidth=0.8)
    axes.set_axisbelow(True)


def _plot_classes(axes: Axes, report: Mapping[str, Any], class_names: Sequence[str] | None) -> None:
    counts = report["class_counts"]
    axes.bar(range(len(counts)), counts, width=0.8, color=_BLUE)
    even = sum(counts) / len(counts)
    axes.axhline(even, color=_INK, linewidth=1, linestyle="--", label=f"even: {even:.4g}")
    axes.legend(fontsize=8, frameon=False, loc="upper right", labelcolor=_FAINT)
    axes.set_ylim(top=max([*counts, 1]) * 1.2)
    entropy = report["class_entropy"]
    _dress(
        axes,
        "Class balance" + ("" if entropy is None else f" (entropy {entropy:.3f} of 1)"),
        "class",
        "samples",
    )
    if len(counts) <= _MAX_CLASS_LABELS:
        names = class_names or [str(index) for index in range(len(counts))]
        is_long = max(len(name) for name in names) > 2
        shown = [name if len(name) <= _MAX_LABEL else f"{name[: _MAX_LABEL - 1]}…" for name in names]
        axes.set_xticks(range(len(counts)), shown, parse_math=False)
        if is_long:
            axes.tick_params(axis="x", rotation=45)
            for label in axes.get_xticklabels():
                label.set_horizontalalignment("right")


def _plot_difficulty(axes: Axes, difficulty: Mapping[str, Any]) -> None:
    edges = difficulty["edges"]
    axes.bar(edges[:-1], difficulty["counts"], width=np.diff(edges), align="edge", color=_ORANGE, edgecolor=_PAPER)
    axes.set_xlim(0, 1)
    _dress(axes, "Difficulty", "1 - teacher's probability", "samples")


def _plot_priority(axes: Axes, priority: Mapping[str, Any], *, num_samples: int) -> None:
    counts, edges = priority["counts"], priority["edges"]
    # Bins double in width; drawn equally wide they make a logarithmic axis that reaches down to zero.
    axes.bar(range(len(counts)), counts, width=1.0, align="edge", color=_GREEN, edgecolor=_PAPER)
    shown = range(0, len(edges), 2) if len(edges) % 2 else range(1, len(edges), 2)
    axes.set_xticks(list(shown), [_short(edges[index]) for index in shown], rotation=45, ha="right")
    size = priority["effective_sample_size"]
    title = "Priority" if size is None else f"Priority (effective sample size {size:,.0f} of {num_samples:,})"
    _dress(axes, title, "priority δ (each bin twice the one before)", "samples")
