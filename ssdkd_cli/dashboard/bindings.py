"""The dashboard's keys in one table, but for those of its dialogs: screens, `?` and the command palette rest on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from textual.binding import Binding

VIEWS = (
    ("overview", "Overview"),
    ("losses", "Losses"),
    ("buffer", "Buffer"),
    ("samples", "Samples"),
    ("accuracy", "Accuracy"),
    ("device", "Device"),
    ("log", "Log"),
)
"""Pairs of a view's id and its title, in the order of their numbers."""


@dataclass(frozen=True)
class Section:
    """Keys that belong together, under a heading of the help screen."""

    title: str
    bindings: Sequence[Binding]


def _key(key: str, action: str, id: str, description: str, tooltip: str, *, show: bool = False) -> Binding:
    return Binding(key, action, description, show=show, tooltip=tooltip, id=id)


EVERYWHERE = Section(
    "Everywhere",
    (
        _key("q", "app.detach", "detach", "Detach", "Leave at once; the run goes on", show=True),
        Binding(
            "ctrl+q,ctrl+c",
            "app.detach",
            "Detach from any screen",
            show=False,
            priority=True,
            tooltip="Also while a text is being typed",
            id="detach-anywhere",
        ),
        _key("question_mark,f1", "app.help", "help", "Help", "All keys on one screen", show=True),
        _key("ctrl+p,colon", "app.command_palette", "palette", "Command palette", "Find and do anything by its name"),
        _key("t", "app.next_theme", "theme", "Next theme", "Dark, light, high contrast"),
    ),
)

CONTROL = Section(
    "The run",
    (
        _key("p", "control('pause')", "pause", "Pause", "Wait at the next safe point", show=True),
        _key("r", "control('resume')", "resume", "Resume", "Go on after a pause", show=True),
        _key("k", "control('checkpoint')", "checkpoint", "Checkpoint", "Save everything now and go on", show=True),
        _key("x", "control('stop')", "stop", "Stop", "Save everything and end it; asks first", show=True),
        _key(
            "c",
            "compare",
            "compare",
            "Compare",
            "Other runs: in the charts, their settings, or one in this one's place",
            show=True,
        ),
    ),
)

OPEN_VIEWS = Section(
    "Views",
    (
        *(
            _key(str(number), f"open_view('{view_id}')", f"view-{view_id}", title, f"Open the view: {title.lower()}")
            for number, (view_id, title) in enumerate(VIEWS, start=1)
        ),
        _key("full_stop,right_square_bracket", "next_view(1)", "view-next", "Next view", "The view to the right"),
        _key("comma,left_square_bracket", "next_view(-1)", "view-previous", "Previous view", "The view to the left"),
        _key("tab", "app.focus_next", "panel-next", "Next panel", "Choose the next chart"),
        _key("shift+tab", "app.focus_previous", "panel-previous", "Previous panel", "Choose the chart before"),
        _key("enter", "enlarge", "enlarge", "Enlarge", "The chosen chart alone, and back", show=True),
        _key("escape", "back", "back", "Back", "Leave an enlarged chart, or take the cursor away"),
        _key("pagedown,n", "page(1)", "page-next", "Next page", "More charts or pictures; newer lines of the log"),
        _key("pageup,N", "page(-1)", "page-previous", "Previous page", "One page back; older lines of the log"),
    ),
)

CHARTS = Section(
    "Charts",
    (
        _key(
            "l",
            "toggle_log",
            "log-scale",
            "Log scale",
            "Logarithmic or linear axes, not what fits each chart",
        ),
        _key("s", "next_smoothing", "smoothing", "Smoothing", "None, then stronger and stronger"),
        _key("right", "move_cursor(1)", "cursor-right", "Cursor right", "Read the values further right"),
        _key("left", "move_cursor(-1)", "cursor-left", "Cursor left", "Read the values further left"),
        _key("ctrl+right", "move_cursor(10)", "cursor-far-right", "Cursor far right", "Ten columns at once"),
        _key("ctrl+left", "move_cursor(-10)", "cursor-far-left", "Cursor far left", "Ten columns at once"),
        _key("plus,equals_sign", "zoom(1)", "zoom-in", "Zoom in", "Half as many epochs, around the cursor"),
        _key("minus", "zoom(-1)", "zoom-out", "Zoom out", "Twice as many epochs"),
        _key("shift+right", "pan(1)", "pan-right", "Pan right", "Later epochs"),
        _key("shift+left", "pan(-1)", "pan-left", "Pan left", "Earlier epochs"),
        _key("0", "reset_zoom", "zoom-reset", "Whole run", "All epochs, no cursor"),
    ),
)

SAMPLES = Section(
    "Samples",
    (
        _key("f", "next_class(1)", "class-next", "Next class", "Only images of the next class", show=True),
        _key("F", "next_class(-1)", "class-previous", "Previous class", "Only images of the class before"),
        _key("a", "all_classes", "class-all", "All classes", "Images of every class again"),
        _key("o", "toggle_order", "order", "Order", "Hardest first, or newest first"),
        _key("plus,equals_sign", "resize_tiles(1)", "tiles-larger", "Larger pictures", "Fewer, with more pixels"),
        _key("minus", "resize_tiles(-1)", "tiles-smaller", "Smaller pictures", "More at once"),
    ),
)

LOG = Section(
    "Log",
    (
        _key("up", "scroll_log(1)", "log-up", "Older lines", "One line up"),
        _key("down", "scroll_log(-1)", "log-down", "Newer lines", "One line down"),
        _key("w", "toggle_warnings", "log-warnings", "Warnings only", "Warnings and errors, or all lines", show=True),
        _key("end", "newest_lines", "log-end", "Newest lines", "Follow the log again"),
    ),
)

COMPARE = Section(
    "Other runs",
    (
        Binding(
            "enter", "overlay", "Overlay", priority=True, tooltip="Draw the chosen runs into the charts", id="overlay"
        ),
        _key("space", "choose", "compare-choose", "Choose", "Choose the run, or not", show=True),
        _key("o", "open", "compare-open", "Open", "Show the run under the bar in place of this one", show=True),
        _key("a", "clear", "compare-clear", "Clear", "Choose no run", show=True),
        _key("escape", "dismiss(None)", "compare-back", "Back", "Leave the charts as they were", show=True),
    ),
)

RUN_SCREEN_SECTIONS = (CONTROL, OPEN_VIEWS, CHARTS, SAMPLES, LOG)
PALETTE_SECTIONS = (*RUN_SCREEN_SECTIONS, EVERYWHERE)
SECTIONS = (*RUN_SCREEN_SECTIONS, COMPARE, EVERYWHERE)
