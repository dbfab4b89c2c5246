"""All keys on one screen, made from the bindings."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from ssdkd_cli.dashboard.bindings import SECTIONS
from ssdkd_cli.dashboard.widgets.key_bar import key_text
from ssdkd_cli.dashboard.widgets.panel import line

if TYPE_CHECKING:
    from ssdkd_cli.dashboard.app import DashboardApp

_BOX_WIDTH = 82
_FRAME_WIDTH = 6
"""Border, padding and scroll bar of the box."""

_MOUSE = (
    "A click opens a view or does what a key at the bottom does; over a chart the cursor follows the mouse and the "
    "wheel zooms; in the log the wheel scrolls."
)


class HelpScreen(ModalScreen[None]):
    """A list of keys under headings. Those of the open view come with the others."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark,f1", "dismiss", "Close", show=False, tooltip="Back to the run", id="help-close"),
        Binding("q", "app.detach", "Detach", show=False, tooltip="Leave at once; the run goes on", id="help-detach"),
    ]

    def compose(self) -> ComposeResult:
        """A box with text that scrolls."""
        with VerticalScroll(id="help") as box:
            box.border_title = "keys"
            box.border_subtitle = "esc closes, up and down scroll"
            yield Static(self._text(), id="help-text")

    def _text(self) -> Content:
        rows: list[Content] = []
        table = _Table([binding for section in SECTIONS for binding in section.bindings], self.app.size.width)
        why_not = self._why_not()
        for section in SECTIONS:
            remark = f"  {why_not}" if section.title == SECTIONS[0].title and why_not else ""
            rows.append(line((section.title, "bold $primary"), (remark, "$warning")))
            rows += [row for binding in section.bindings for row in table.rows(binding)]
            rows.append(Content(""))
        rows.append(line(("Mouse", "bold $primary")))
        rows += [line(row) for row in textwrap.wrap(_MOUSE, table.room)]
        return Content("\n").join(rows)

    def _why_not(self) -> str:
        dashboard = cast("DashboardApp", self.app)
        if dashboard.read_only:
            return "(read-only: the run cannot be asked for anything)"
        if dashboard.run_view is not None and not dashboard.run_view.is_live:
            return "(the run is over: only comparing works)"
        return ""


class _Table:
    """Keys, names and explanations in columns that hold the longest of each; explanations are wrapped."""

    def __init__(self, bindings: Sequence[Binding], screen_width: int) -> None:
        self._key_width = 2 + max(len(_keys(binding)) for binding in bindings)
        self._name_width = 2 + max(len(binding.description) for binding in bindings)
        self.room = max(1, min(screen_width, _BOX_WIDTH) - _FRAME_WIDTH)
        """Columns for text."""
        self._tooltip_width = max(12, self.room - self._key_width - self._name_width)

    def rows(self, binding: Binding) -> list[Content]:
        """The lines of one key."""
        first, *rest = textwrap.wrap(binding.tooltip, self._tooltip_width) or [""]
        return [
            line(
                (f"{_keys(binding):<{self._key_width}}", "bold $accent"),
                f"{binding.description:<{self._name_width}}",
                (first, "$faint"),
            ),
            *(line((" " * (self._key_width + self._name_width) + more, "$faint")) for more in rest),
        ]


def _keys(binding: Binding) -> str:
    return " ".join(key_text(key) for key in binding.key.split(","))
