"""The three lines on top: what the run is and how it fares, how far it is overall, how far each stage is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.cells import cell_len
from textual.content import Content

from ssdkd_cli.dashboard.glyphs import BULLET, LINE_DONE, LINE_LEFT, STATUS_MARKS, cut
from ssdkd_cli.dashboard.themes import stage_style
from ssdkd_cli.dashboard.widgets.panel import Panel, line, spread
from ssdkd_cli.watching.view import Progress, RunView, StageProgress, clock_text
from ssdkd_cli.words import precise_duration

STATUS_STYLES = {
    "starting": "$faint",
    "running": "$success",
    "paused": "$warning",
    "stopped": "$warning",
    "failed": "$error",
    "diverged": "$error",
    "dead": "$error",
    "done": "$success",
}
_LABEL_WIDTH = 9
_MIN_BAR_WIDTH = 2
_MIN_OVERALL_BAR = 8
_OVERALL_BAR_SHARE = 5
"""Of the width, that part is the bar of a run at work."""
_SOON_S = 600.0
"""What is over so soon needs no hour at which it will be."""
_ROUNDING = 1e-9
"""29 of 100 epochs are 29 %, though 0.29 * 100 is a little less."""


class Header(Panel):
    """Status, identity and progress of the run."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (
            (view.status, view.status_text, view.description, view.progress, view.device, view.name, view.loaded),
            view.evaluation,
        )

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:  # noqa: ARG002
        return [
            self._identity(view, width),
            self._overall(view, width),
            self._stages(view, width),
        ]

    def _identity(self, view: RunView, width: int) -> Content:
        style = STATUS_STYLES.get(view.status, "$faint")
        if view.is_silent:
            style = "$warning"
        mark = STATUS_MARKS.get(view.status, "?")
        said = view.status_text if view.is_live and view.status_text != view.status else view.status.upper()
        status = f" {mark} {said} "
        notes = "".join(f" {note} " for note in self.dashboard.notes())
        name_width = max(8, width - len(status) - len(notes) - 2)
        run = view.description
        dot = f" {BULLET} "
        facts = [cut(view.name, min(28, name_width))]
        if run is not None:
            facts += [
                run.preset,
                f"{run.teacher} → {run.student}" if run.student else run.teacher,
                f"{run.device} {run.precision}",
                f"seed {run.seed}",
                f"buffer {run.capacity:,}",
            ]
        facts = [fact for index, fact in enumerate(facts) if fact and fact not in facts[:index]]
        while len(facts) > 1 and cell_len(dot.join(facts)) > name_width:
            facts.pop()
        text = dot.join(facts[1:])
        return spread(
            [(status, f"bold {style} reverse"), " ", (facts[0], "bold"), (dot + text if text else "", "$foreground")],
            [(notes, "bold $warning")] if notes else [],
            width,
        )

    def _overall(self, view: RunView, width: int) -> Content:
        progress = view.progress
        if progress is None or progress.epochs <= 0:
            said = "waiting for the run's first lines" if view.is_live else "the run has left no events"
            return line((f" {said}", "$faint"))
        phase = "warm-up" if progress.is_warmup and view.is_live else "overall"
        texts = [
            f" epoch {progress.epoch} of {progress.epochs}{step}  {int(progress.share * 100 + _ROUNDING):3d} %  {time}"
            for step, time in self._step_and_time(view, progress)
        ]
        steady = width // _OVERALL_BAR_SHARE
        room = width - _LABEL_WIDTH - steady - 2
        right = next((text for text in texts if cell_len(text) <= room), texts[-1]).rstrip()
        left_over = width - _LABEL_WIDTH - cell_len(right) - 2
        bar_width = min(steady, left_over) if view.is_live else left_over  # it stays as it is while texts change
        return line(
            (f" {phase:<{_LABEL_WIDTH - 1}}", "$faint"),
            *self._bar(progress.share, max(_MIN_OVERALL_BAR, bar_width), "$primary"),
            right,
        )

    def _step_and_time(self, view: RunView, progress: Progress) -> Iterator[tuple[str, str]]:
        """Where in its epoch the run is, and how long it takes: all of it, then less, for narrower lines."""
        took = precise_duration(view.device.total_s) if view.device is not None else ""
        if not view.is_live:
            yield "", f"took {took}" if took else ""
            return
        running = progress.running
        step = f", {running.step_text}" if running is not None and running.step_text else ""
        so_far = f", {took} so far" if took else ""
        if progress.left_s is None:
            left = "time left: unknown"
            known = left if progress.timed_after is None else f"time left: known after epoch {progress.timed_after}"
        else:
            left = known = f"{precise_duration(progress.left_s)} left"
            if progress.ends_s is not None and progress.left_s > _SOON_S:
                known += f", until {clock_text(progress.ends_s, now_s=progress.ends_s - progress.left_s)}"
        yield from ((step, known + so_far), (step, known), (step, left), ("", left))

    def _stages(self, view: RunView, width: int) -> Content:
        progress = view.progress
        if progress is None or not progress.stages:
            return Content("")
        share = width // len(progress.stages)
        parts: list[str | tuple[str, str]] = []
        for stage in progress.stages:
            parts += self._evaluation(view, stage) if stage.stage == "evaluation" else self._stage(stage, share)
        return line(*parts)

    def _mark(self, stage: StageProgress) -> str:
        return STATUS_MARKS["running"] if stage.is_running else " "

    def _evaluation(self, view: RunView, stage: StageProgress) -> list[str | tuple[str, str]]:
        """The epoch of the newest evaluation: most epochs have none, so a count of them would say little."""
        newest = view.evaluation
        said = "not evaluated yet" if newest is None else f"evaluated at epoch {newest.epoch}"
        return [(f"{self._mark(stage)} ", stage_style(stage.stage)), (said, "bold" if stage.is_running else "$faint")]

    def _stage(self, stage: StageProgress, width: int) -> list[str | tuple[str, str]]:
        count = f" {int(stage.done)}/{stage.total}"
        # The longest name is cut where three stages share eighty columns; its count never is.
        name = cut(stage.stage, max(1, width - len(count) - _MIN_BAR_WIDTH - 4))
        bar_width = max(_MIN_BAR_WIDTH, width - cell_len(name) - len(count) - 4)
        style = stage_style(stage.stage)
        text_style = "bold" if stage.is_running else "$faint"
        used = 1 + 1 + cell_len(name) + 1 + bar_width + len(count)
        return [
            (f"{self._mark(stage)} ", style),
            (f"{name} ", text_style),
            *self._bar(stage.share, bar_width, style),
            (count, text_style),
            " " * max(0, width - used),
        ]

    def _bar(self, share: float, width: int, style: str) -> list[tuple[str, str]]:
        done = round(min(1.0, max(0.0, share)) * width)
        return [(LINE_DONE * done, style), (LINE_LEFT * (width - done), "$frame")]
