"""Buffered images as pictures of half blocks: two pixels a character, or shades of characters without colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.cells import cell_len
from rich.color import Color
from rich.segment import Segment
from rich.style import Style
from textual.reactive import reactive
from textual.strip import Strip

from ssdkd_cli.dashboard.axes import short
from ssdkd_cli.dashboard.glyphs import cut
from ssdkd_cli.dashboard.widgets.panel import Panel
from ssdkd_cli.watching.pictures import Picture
from ssdkd_cli.watching.view import RunView

TILE_SIZES = (8, 12, 16, 24, 32, 48, 64)
"""Pixels along the longer side of a picture on the screen; a character is one pixel wide and two high."""

_HALF_BLOCK = "▀"
_SHADES = " .:-=+*#%@"
_GAP = 1
_CAPTION_ROWS = 1
_MIN_CAPTION = 11
_MIN_CAPTION_WITH_PRIORITY = 16


@dataclass(frozen=True)
class Layout:
    """How many pictures fit, and how large each is in characters."""

    tile_columns: int
    tile_rows: int
    cell_columns: int
    across: int
    down: int

    @property
    def per_page(self) -> int:
        """Pictures on the screen at once."""
        return self.across * self.down


class SampleGrid(Panel):
    """Pictures side by side with class, probability and priority below each."""

    tile_size: reactive[int] = reactive(16)
    page: reactive[int] = reactive(0)
    """The page that was turned to; there may be fewer since (`shown_page`)."""

    def __init__(self, title: str = "", *, tile_size: int = 16, id: str | None = None) -> None:
        super().__init__(title, id=id)
        self.pictures: tuple[Picture, ...] = ()
        self.message = "reading the buffer"
        """Shown in place of the pictures: why there are none."""
        self.set_reactive(SampleGrid.tile_size, tile_size)

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (view.description.class_names if view.description is not None else None,)

    def layout_for(self, width: int, height: int) -> Layout:
        """How pictures of the present size, or of the largest below it that fits, are laid out in so much room."""
        fitting = [size for size in self._fitting(width, height) if size <= self.tile_size]
        columns, rows = self._tile(fitting[-1]) if fitting else (2, 1)
        cell = max(columns, _MIN_CAPTION) + _GAP
        across = max(1, (width + _GAP) // cell)
        return Layout(columns, rows, cell, across, max(1, height // (rows + _CAPTION_ROWS)))

    def _tile(self, size: int) -> tuple[int, int]:
        """Columns and rows of characters that a picture of this size takes."""
        image_height, image_width = self.pictures[0].pixels_HW3.shape[:2] if self.pictures else (1, 1)
        scale = size / max(image_height, image_width)
        return max(1, round(image_width * scale)), max(1, round(image_height * scale / 2))

    def _fitting(self, width: int, height: int) -> list[int]:
        """The sizes of which a picture and its caption fit in so much room."""
        tiles = {size: self._tile(size) for size in TILE_SIZES}
        return [size for size, (columns, rows) in tiles.items() if columns <= width and rows + _CAPTION_ROWS <= height]

    @property
    def num_pages(self) -> int:
        """Pages that all pictures take."""
        layout = self.layout_for(*self.size)
        return max(1, -(-len(self.pictures) // layout.per_page))

    @property
    def shown_page(self) -> int:
        """The page on the screen, from 0: the last, where fewer or smaller pictures, or more room, leave fewer."""
        return min(self.page, self.num_pages - 1)

    def show_pictures(self, pictures: tuple[Picture, ...], message: str) -> None:
        """Take in other pictures; the page stays, where there still is one."""
        self.pictures, self.message = pictures, message
        self.refresh()

    def forget_run(self) -> None:
        """Begin at the first page."""
        self.page = 0

    def turn_page(self, steps: int) -> None:
        """Forwards or backwards, within what there is."""
        self.page = min(self.num_pages - 1, max(0, self.shown_page + steps))

    def resize_tiles(self, steps: int) -> None:
        """Larger or smaller pictures than those on the screen, as far as they fit."""
        fitting = self._fitting(*self.size)
        shown = sum(size <= self.tile_size for size in fitting) - 1
        if fitting:
            self.tile_size = fitting[min(len(fitting) - 1, max(0, shown + steps))]

    def render_line(self, y: int) -> Strip:
        """One line of the panel: a strip of pixels or of captions."""
        width, height = self.size
        if not self.pictures or width < 4 or height < 2:
            return self._text_line(self.message if y == height // 2 else "", width)
        layout = self.layout_for(width, height)
        row, inner = divmod(y, layout.tile_rows + _CAPTION_ROWS)
        start = (self.shown_page * layout.down + row) * layout.across
        shown = self.pictures[start : start + layout.across] if row < layout.down else ()
        segments: list[Segment] = []
        for picture in shown:
            if inner < layout.tile_rows:
                segments += self._pixels(picture, layout)[inner]
                segments.append(Segment(" " * (layout.cell_columns - layout.tile_columns), self.rich_style))
            else:
                segments += self._caption(picture, layout)
        return Strip(segments).adjust_cell_length(width, self.rich_style)

    def _text_line(self, text: str, width: int) -> Strip:
        faint = self.rich_style + Style(color=self.app.theme_variables.get("faint"))
        return Strip([Segment(cut(text, width).center(width), faint)])

    def _caption(self, picture: Picture, layout: Layout) -> list[Segment]:
        index = picture.class_index
        name = str(index) if self.run_view is None else self.run_view.class_name(index)
        width = layout.cell_columns - _GAP
        said = f" p{picture.probability:.2f}"
        if width >= _MIN_CAPTION_WITH_PRIORITY:
            said += f" δ{short(picture.priority)}"
        name = cut(name, width - len(said))
        variables = self.app.theme_variables
        return [
            Segment(name, self.rich_style + Style(color=variables.get("foreground"), bold=True)),
            Segment(said, self.rich_style + Style(color=variables.get("faint"))),
            Segment(" " * (layout.cell_columns - cell_len(name) - len(said)), self.rich_style),
        ]

    def _pixels(self, picture: Picture, layout: Layout) -> list[list[Segment]]:
        if not self.dashboard.is_ascii and not self.dashboard.is_colourless:
            return _drawn_in_colour(picture, layout.tile_columns, layout.tile_rows)
        rows = _drawn_in_shades(picture, layout.tile_columns, layout.tile_rows, self.app.current_theme.dark)
        return [[Segment(row, self.rich_style)] for row in rows]


@lru_cache(maxsize=256)
def _drawn_in_colour(picture: Picture, columns: int, rows: int) -> list[list[Segment]]:
    return half_blocks(picture.pixels_HW3, columns, rows)


@lru_cache(maxsize=256)
def _drawn_in_shades(picture: Picture, columns: int, rows: int, is_on_dark: bool) -> list[str]:
    return shaded(picture.pixels_HW3, columns, rows, is_on_dark=is_on_dark)


def half_blocks(pixels_HW3: npt.NDArray[np.uint8], columns: int, rows: int) -> list[list[Segment]]:
    """Each character is an upper and a lower pixel: foreground and background of a half block.

    Neighbours that look alike share a segment: magnified pixels then cost little to send to a terminal far away.
    """
    pixels = resized(pixels_HW3, columns, rows * 2).tolist()
    return [
        list(
            Segment.simplify(
                Segment(_HALF_BLOCK, _two_pixels(tuple(upper), tuple(lower)))
                for upper, lower in zip(pixels[2 * row], pixels[2 * row + 1], strict=True)
            )
        )
        for row in range(rows)
    ]


def shaded(pixels_HW3: npt.NDArray[np.uint8], columns: int, rows: int, *, is_on_dark: bool = True) -> list[str]:
    """Brightness as ASCII characters: on a dark ground light is dense, on a light one dark is."""
    shades = _SHADES if is_on_dark else _SHADES[::-1]
    grey = resized(pixels_HW3, columns, rows).astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    levels = np.minimum((grey / 256 * len(_SHADES)).astype(int), len(_SHADES) - 1)
    return ["".join(shades[level] for level in row) for row in levels.tolist()]


def resized(pixels_HW3: npt.NDArray[np.uint8], columns: int, rows: int) -> npt.NDArray[np.uint8]:
    """The image in another size: pixels stay square blocks when magnified, and are averaged when shrunk."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels_HW3))
    is_magnified = columns >= image.width and rows >= image.height
    method = Image.Resampling.NEAREST if is_magnified else Image.Resampling.BOX
    return np.asarray(image.resize((columns, rows), method))


@lru_cache(maxsize=8192)
def _two_pixels(upper: Sequence[int], lower: Sequence[int]) -> Style:
    return Style(color=Color.from_rgb(*upper), bgcolor=Color.from_rgb(*lower))
