"""One line with the names of the views; a click or a number opens one."""

from __future__ import annotations

from collections.abc import Sequence

from textual import events
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget

from ssdkd_cli.dashboard.widgets.panel import line


class TabBar(Widget):
    """The views by number and name; the open one stands out without colour, too."""

    active: reactive[str] = reactive("")

    class Chosen(Message):
        """A view's name was clicked."""

        def __init__(self, view_id: str) -> None:
            super().__init__()
            self.view_id = view_id

    def __init__(self, tabs: Sequence[tuple[str, str]], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.tabs = tuple(tabs)
        """Pairs of a view's id and its title."""

    def _labels(self) -> list[tuple[str, str]]:
        return [(view_id, f" {number} {title} ") for number, (view_id, title) in enumerate(self.tabs, start=1)]

    def render(self) -> Content:
        """All names in a row."""
        parts: list[str | tuple[str, str]] = [" "]
        for view_id, label in self._labels():
            parts += [(label, "bold reverse $primary" if view_id == self.active else "$faint"), " "]
        return line(*parts)

    def on_click(self, event: events.Click) -> None:
        """Open the view under the mouse."""
        column = 1
        for view_id, label in self._labels():
            if column <= event.x < column + len(label):
                self.post_message(self.Chosen(view_id))
            column += len(label) + 1
