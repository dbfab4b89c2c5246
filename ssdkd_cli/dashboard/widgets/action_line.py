"""A line of texts that are also buttons."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.style import Style
from textual.widget import Widget

from ssdkd_cli.dashboard.widgets.panel import line

_ACTION = "ssdkd_action"  # not textual's own `@click`, to which its older versions give the looks of a link


class ActionLine(Widget):
    """A click on one of its texts does what that stands for."""

    @staticmethod
    def button(action: str, *parts: str | tuple[str, str]) -> Content:
        """A text, and the action of the screen for which it stands."""
        return line(*parts).stylize(Style.from_meta({_ACTION: action}))

    async def on_click(self, event: events.Click) -> None:
        """Do what is under the mouse."""
        if (action := event.style.meta.get(_ACTION)) is not None:
            await self.screen.run_action(action)
