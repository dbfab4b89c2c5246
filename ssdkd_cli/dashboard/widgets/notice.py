"""What the reader must know before anything else: why a run ended, what is wrong with its files, a long read."""

from __future__ import annotations

from typing import Any

from textual.content import Content

from ssdkd_cli.dashboard.glyphs import BULLET, LEVEL_MARKS, cut
from ssdkd_cli.dashboard.widgets.panel import Panel, line, wrapped
from ssdkd_cli.watching.view import RunView
from stages.paths import in_shell
from stages.run_directory import RESUMABLE_STATUSES

_ENDINGS = {
    "failed": "the run failed",
    "diverged": "the run diverged",
    "dead": "the run's process is gone without a last word",
}
MAX_LINES = 4


def notices(view: RunView) -> list[tuple[str, str]]:
    """Pairs of a level and a text, the gravest first; none for a run that is well."""
    found: list[tuple[str, str]] = []
    has_vanished = view.status == "dead" and not view.has_directory  # then nobody can say what became of its process
    if view.status in _ENDINGS and not has_vanished:
        reason = f": {view.message}" if view.message else ""
        hints = [view.hint] if view.hint else []
        if view.status in RESUMABLE_STATUSES and "--resume" not in view.hint:
            hints.append(f"`ssdkd run --resume {in_shell(view.path)}` goes on with it")
        hint = f" ({'; '.join(hints)})" if hints else ""
        found.append(("error", _ENDINGS[view.status] + reason + hint))
    elif view.status == "stopped":
        found.append(("warning", f"stopped with everything saved; `ssdkd run --resume {in_shell(view.path)}` goes on"))
    found += [("warning", problem) for problem in view.problems]
    if view.loaded < 1.0:
        found.append(("info", f"reading a long history: {view.loaded:.0%} of it so far; numbers are the newest"))
    return found


class NoticeBar(Panel):
    """Nothing where there is nothing to say; at most a few lines otherwise."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (tuple(notices(view)),)

    def _update_frame(self, view: RunView) -> None:
        num_lines = len(self._wrapped(view, self.app.size.width))
        self.display = num_lines > 0
        self.styles.height = max(1, num_lines)

    def on_resize(self) -> None:
        """Another width may need another number of lines."""
        if self.run_view is not None:
            self._update_frame(self.run_view)

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        return self._wrapped(view, width)[:height]

    def _wrapped(self, view: RunView, width: int) -> list[Content]:
        """The gravest in as many lines as the others leave, those in at most two; what does not fit is counted."""
        rows: list[Content] = []
        found = notices(view)
        for index, (level, text) in enumerate(found):
            most = max(2, MAX_LINES - 2 * (len(found) - 1)) if index == 0 else 2
            mark = LEVEL_MARKS[level].strip() or BULLET
            style = {"error": "bold $error", "warning": "$warning", "info": "$faint"}[level]
            pieces = wrapped(text, max(8, width - 4))
            if len(pieces) > most:
                pieces[most - 1 :] = [cut(" ".join(pieces[most - 1 :]), width - 4)]
            if len(rows) + len(pieces) > MAX_LINES:
                left = len(found) - index
                more = f"(+{left} more)"
                rows[-1] = Content.assemble(rows[-1].truncate(width - len(more) - 1), " ", (more, "$faint"))
                break
            rows += [
                line((f" {mark if first else ' '} {piece}", style))
                for first, piece in zip((True, *[False] * MAX_LINES), pieces, strict=False)
            ]
        return rows
