"""What the run said, newest at the bottom: warnings, checkpoints, answers to requests, stages of its life."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from textual import events
from textual.content import Content
from textual.reactive import reactive

from ssdkd_cli.dashboard.glyphs import LEVEL_MARKS, LINE_LEFT
from ssdkd_cli.dashboard.widgets.panel import Panel, centred, line, wrapped
from ssdkd_cli.watching.view import LogLine, RunView

_STYLES = {"info": "$foreground", "warning": "$warning", "error": "bold $error"}
_WHEEL_LINES = 3
_MIN_TEXT = 8


class LogPanel(Panel):
    """The last lines of the log; scrolled back, it stays where it is while new lines come."""

    lines_back: reactive[int] = reactive(0)
    only_warnings: reactive[bool] = reactive(False)

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (view.log[-1] if view.log else None, len(view.log))

    def entries(self) -> tuple[LogLine, ...]:
        """The lines of the log, or only its warnings and errors."""
        log = self.run_view.log if self.run_view is not None else ()
        return tuple(entry for entry in log if entry.level != "info") if self.only_warnings else log

    def rows(self, num_entries: int) -> list[Content]:
        """So many of the newest entries as lines of the panel's width, and a line above the first of each day."""
        entries = self.entries()
        first = max(0, len(entries) - num_entries)
        day = entries[first - 1].day if first > 0 else ""
        rows: list[Content] = []
        for entry in entries[first:]:
            if entry.day != day and entry.day:
                day = entry.day
                rows.append(line((f" {LINE_LEFT * 2} {day} {LINE_LEFT * 2}", "$faint")))
            rows += self._wrapped(entry)
        return rows

    def show(self, view: RunView) -> None:
        """Take in a view; what is being read stays in its place."""
        newest = next(reversed(self.entries()), None)
        super().show(view)
        if self.lines_back > 0:
            num_newer = sum(1 for _ in takewhile(lambda entry: entry != newest, reversed(self.entries())))
            self.scroll_by(len(self.rows(num_newer)))

    def forget_run(self) -> None:
        """Begin at the newest line."""
        self.lines_back = 0

    def _update_frame(self, view: RunView) -> None:  # noqa: ARG002
        self._update_subtitle()

    def _update_subtitle(self) -> None:
        shown = "warnings and errors only" if self.only_warnings else ""
        lines = "line" if self.lines_back == 1 else "lines"
        back = f"{self.lines_back} {lines} back" if self.lines_back else ""
        self.border_subtitle = ", ".join(text for text in (shown, back) if text)

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:  # noqa: ARG002
        entries = self.entries()
        if not entries:
            text = "no warnings so far" if self.only_warnings else "nothing has been said yet"
            return centred(text, width, height)
        if self.lines_back == 0:
            return self.rows(height)[-height:]
        rows = self.rows(len(entries))
        end = max(min(height, len(rows)), len(rows) - self.lines_back)
        return rows[max(0, end - height) : end]

    def _wrapped(self, entry: LogLine) -> list[Content]:
        head = f" {entry.time_of_day} {entry.epoch:>5} {LEVEL_MARKS.get(entry.level, ' ')} "
        pieces = wrapped(entry.text, max(_MIN_TEXT, self.size.width - len(head)))
        heads = [head, *[" " * len(head)] * (len(pieces) - 1)]
        style = _STYLES.get(entry.level, "")
        return [line((head, "$faint"), (piece, style)) for head, piece in zip(heads, pieces, strict=True)]

    def scroll_by(self, num_lines: int) -> None:
        """Further back (positive) or towards the newest line."""
        most = max(0, len(self.rows(len(self.entries()))) - max(1, self.size.height))
        self.lines_back = min(most, max(0, self.lines_back + num_lines))

    def watch_lines_back(self) -> None:
        """Say how far back it is."""
        self._update_subtitle()

    def watch_only_warnings(self) -> None:
        """Other lines, so begin at the newest."""
        self.lines_back = 0
        self._update_subtitle()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Older lines."""
        event.stop()
        self.scroll_by(_WHEEL_LINES)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Newer lines."""
        event.stop()
        self.scroll_by(-_WHEEL_LINES)
