"""All keys on one screen, made from the bindings."""

from __future__ import annotations

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

_KEY_WIDTH = 11
_NAME_WIDTH = 20


class HelpScreen(ModalScreen[None]):
    """A list of keys under headings. Those of the open view come with the others."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,question_mark", "dismiss", "Close", show=False, tooltip="Back to the run", id="help-close"),
    ]

    def compose(self) -> ComposeResult:
        """A box with text that scrolls."""
        with VerticalScroll(id="help") as box:
            box.border_title = "keys"
            box.border_subtitle = "esc closes, up and down scroll"
            yield Static(self._text(), id="help-text")

    def _text(self) -> Content:
        rows: list[Content] = []
        why_not = self._why_not()
        for section in SECTIONS:
            remark = f"  {why_not}" if section.title == SECTIONS[0].title and why_not else ""
            rows.append(line((section.title, "bold $primary"), (remark, "$warning")))
            rows += [self._row(binding) for binding in section.bindings]
            rows.append(Content(""))
        rows.append(line(("Mouse", "bold $primary")))
        rows += [
            line("  a click opens a view or does what a key at the bottom does; over a chart the"),
            line("  cursor follows the mouse and the wheel zooms; in the log the wheel scrolls"),
        ]
        return Content("\n").join(rows)

    def _why_not(self) -> str:
        dashboard = cast("DashboardApp", self.app)
        if dashboard.read_only:
            return "(read-only: the run cannot be asked for anything)"
        if dashboard.run_view is not None and not dashboard.run_view.is_live:
            return "(the run is over: only comparing works)"
        return ""

    @staticmethod
    def _row(binding: Binding) -> Content:
        keys = " ".join(key_text(key) for key in binding.key.split(","))
        return line(
            (f"  {keys:<{_KEY_WIDTH}}", "bold $accent"),
            f"{binding.description:<{_NAME_WIDTH}}",
            (binding.tooltip, "$faint"),
        )
