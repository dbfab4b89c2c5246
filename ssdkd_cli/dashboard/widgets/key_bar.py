"""The last line: the keys that matter most on this screen, made from its bindings."""

from __future__ import annotations

from textual.content import Content

from ssdkd_cli.dashboard.widgets.action_line import ActionLine

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


class KeyBar(ActionLine):
    """At most seven keys with what they do; a click does it.

    Textual's own `Footer` keeps the keys of before while the terminal is out of focus, where a run may end or pause.
    """

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

    def render(self) -> Content:
        """All keys in a row."""
        return Content(" ").join(
            self.button(action, (f" {key} ", "bold $accent"), (description, "$foreground"))
            for key, description, action in self.keys()
        )
