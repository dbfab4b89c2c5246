"""The last line: the keys that matter most on this screen, made from its bindings."""

from __future__ import annotations

from textual import events
from textual.content import Content
from textual.widget import Widget

from ssdkd_cli.dashboard.widgets.panel import line

MAX_KEYS = 7
_SHORT_KEYS = {
    "question_mark": "?",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "plus": "+",
    "minus": "-",
    "equals_sign": "=",
    "full_stop": ".",
    "colon": ":",
    "comma": ",",
    "escape": "esc",
    "pageup": "PgUp",
    "pagedown": "PgDn",
}


def key_text(key: str) -> str:
    """A key as people read it: `shift+left` is "shift+left", `question_mark` is "?"."""
    *modifiers, name = key.split("+") if key != "+" else [key]
    return "+".join([*modifiers, _SHORT_KEYS.get(name, name)])


class KeyBar(Widget):
    """At most seven keys with what they do; a click does it."""

    def on_mount(self) -> None:
        """Bindings come and go with the run's status and the open view."""
        self.screen.bindings_updated_signal.subscribe(self, lambda _: self.refresh())

    def keys(self) -> list[tuple[str, str, str]]:
        """Key, description and action of each entry; one key of those that do the same."""
        found: dict[str, tuple[str, str, str]] = {}
        for key, active in self.screen.active_bindings.items():
            binding = active.binding
            if binding.show and active.enabled and binding.action not in found:
                found[binding.action] = (key_text(key), binding.description, binding.action)
        return list(found.values())[:MAX_KEYS]

    def _entries(self) -> list[tuple[str, str, str]]:
        return [(f" {key} ", description, action) for key, description, action in self.keys()]

    def render(self) -> Content:
        """All keys in a row."""
        parts: list[str | tuple[str, str]] = []
        for key, description, _ in self._entries():
            parts += [(key, "bold $accent"), (description, "$foreground"), " "]
        return line(*parts)

    async def on_click(self, event: events.Click) -> None:
        """Do what is under the mouse."""
        column = 0
        for key, description, action in self._entries():
            end = column + len(key) + len(description)
            if column <= event.x < end:
                await self.screen.run_action(action)
                return
            column = end + 1
