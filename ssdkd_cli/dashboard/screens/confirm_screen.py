"""A question that is answered with a key: before what cannot be taken back."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static


class ConfirmScreen(ModalScreen[bool]):
    """Yes or no. "No" has the focus, so that a stray key does no harm."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "Yes", show=False, tooltip="Do it", id="confirm-yes"),
        Binding("n,escape", "answer(False)", "No", show=False, tooltip="Leave everything as it is", id="confirm-no"),
        Binding("q", "app.detach", "Detach", show=False, tooltip="Leave; nothing is asked", id="confirm-detach"),
        Binding("left,up", "app.focus_previous", "Other answer", show=False, tooltip="", id="confirm-left"),
        Binding("right,down", "app.focus_next", "Other answer", show=False, tooltip="", id="confirm-right"),
    ]
    AUTO_FOCUS = "#confirm-no"

    def __init__(self, question: str, explanation: str, yes: str) -> None:
        super().__init__()
        self._question, self._explanation, self._yes = question, explanation, yes

    def compose(self) -> ComposeResult:
        """A box with two buttons."""
        with Vertical(id="confirm") as box:
            box.border_title = self._question
            yield Static(self._explanation, markup=False)
            with Horizontal(id="confirm-buttons"):
                yield Button(f"{self._yes} (y)", id="confirm-yes", compact=True)
                yield Button("No (n)", id="confirm-no", compact=True)

    def action_answer(self, answer: bool) -> None:
        """By key."""
        self.dismiss(answer)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """By button."""
        self.dismiss(event.button.id == "confirm-yes")
