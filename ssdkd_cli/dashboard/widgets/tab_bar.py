"""One line with the names of the views; a click or a number opens one."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.reactive import reactive

from ssdkd_cli.dashboard.widgets.action_line import ActionLine


class TabBar(ActionLine):
    """The views by number and name; the open one stands out without colour, too."""

    active: reactive[str] = reactive("")

    def __init__(self, tabs: Sequence[tuple[str, str]], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.tabs = tuple(tabs)
        """Pairs of a view's id and its title."""

    def render(self) -> Content:
        """All names in a row."""
        labels = [
            self.button(
                f"open_view('{view_id}')",
                (f" {number} {title} ", "bold reverse $primary" if view_id == self.active else "$faint"),
            )
            for number, (view_id, title) in enumerate(self.tabs, start=1)
        ]
        return Content(" ").join([Content(""), *labels])
