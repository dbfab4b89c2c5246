"""A framed part of the screen that shows something of a run."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, cast

from rich.cells import cell_len
from textual.content import Content
from textual.widget import Widget

from ssdkd_cli.watching.view import RunView
from ssdkd_cli.words import escaped

if TYPE_CHECKING:
    from ssdkd_cli.dashboard.app import DashboardApp

Parts = Sequence[str | tuple[str, str]]


class Panel(Widget):
    """Draws itself from the newest view; redraws only where what it shows has changed.

    A panel says which facts it rests on (`_facts`) and how they look (`_rows`). Both run in the app's thread.
    """

    on_page: int | None = None
    """The page of its view on which it lies, where that has several; None is on each of them."""

    def __init__(self, title: str = "", *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.border_title = Content(escaped(title))  # a name in it may look like markup
        self.run_view: RunView | None = None
        self._shown: tuple[Any, ...] | None = None

    @property
    def dashboard(self) -> DashboardApp:
        """The app that this panel belongs to."""
        return cast("DashboardApp", self.app)

    def show(self, view: RunView) -> None:
        """Take in a view; refresh where it differs in what this panel shows."""
        self.run_view = view
        facts = self._facts(view)
        if facts != self._shown:
            self._shown = facts
            self._update_frame(view)
            self.refresh()

    def forget_run(self) -> None:
        """Another run is shown from now on: drop what was chosen of this one's. Nothing by default."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        """What of the view this panel depends on."""
        raise NotImplementedError

    def _update_frame(self, view: RunView) -> None:
        """Set the texts in the frame. Nothing by default."""

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        """The panel's text, at most `height` lines of `width` cells."""
        raise NotImplementedError

    def render(self) -> Content:
        """The panel's text, or nothing before the first view."""
        width, height = self.size
        if self.run_view is None or width <= 0 or height <= 0:
            return Content("")
        return Content("\n").join(self._rows(self.run_view, width, height)[:height])


def line(*parts: str | tuple[str, str]) -> Content:
    """One line of text; parts with a style are pairs."""
    return Content.assemble(*parts)


def spread(left: Parts, right: Parts, width: int) -> Content:
    """Two texts at both ends of a line; the right one gives way where they do not fit."""
    left_content, right_content = Content.assemble(*left), Content.assemble(*right)
    gap = width - left_content.cell_length - right_content.cell_length
    if gap < 1:
        return left_content.truncate(width)
    return Content.assemble(left_content, " " * gap, right_content)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` cells, at least one."""
    if cell_len(text) > len(text):  # `textwrap` fills its lines better, but counts characters
        return [piece.plain for piece in Content(text).wrap(width)]
    return wrap(text, width, break_on_hyphens=False) or [""]


def centred(text: str, width: int, height: int) -> list[Content]:
    """A text in the middle of an empty panel, wrapped."""
    rows = wrap(text, max(1, width))[:height]
    above = (height - len(rows)) // 2
    return [Content("")] * above + [line((row.center(width), "$faint")) for row in rows]
