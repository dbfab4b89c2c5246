"""Choosing runs to lay over the charts, or one to look at; and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from ssdkd_cli.dashboard.bindings import COMPARE
from ssdkd_cli.dashboard.widgets.key_bar import KeyBar
from ssdkd_cli.dashboard.widgets.panel import line
from ssdkd_cli.watching.comparison import (
    LETTERS,
    MAX_OTHERS,
    UNKNOWN,
    Candidate,
    Difference,
    candidate_of,
    candidates,
    differences,
    lettered,
)
from ssdkd_cli.words import duration, setting_text
from stages.run_directory import RunDirectory


class CompareScreen(Screen[list[Path] | RunDirectory | None]):
    """A list of runs on the left, how they fared and what was set otherwise on the right.

    Returns the runs that were chosen for the charts, or the one that is to be shown in place of this one.
    """

    BINDINGS: ClassVar[list[BindingType]] = list(COMPARE.bindings)
    AUTO_FOCUS = "#candidates"

    class Found(Message):
        """The runs beside this one."""

        def __init__(self, found: list[Candidate]) -> None:
            super().__init__()
            self.found = found

    class Compared(Message):
        """How these runs fared, and the settings in which they differ, or why that is not known."""

        def __init__(self, runs: list[Candidate], rows: list[Difference], problem: str = "") -> None:
            super().__init__()
            self.runs = runs
            self.rows = rows
            self.problem = problem

    def __init__(self, run: RunDirectory, chosen: Sequence[Path], *, folder: Path | None = None) -> None:
        """`folder` is the one that is watched, whose runs are among those to choose from."""
        super().__init__()
        self._run = run
        self._folder = folder
        self._chosen = list(chosen)
        self._candidates: list[Candidate] = []

    def compose(self) -> ComposeResult:
        """Two panels and the keys."""
        with Horizontal(id="compare"):
            runs = OptionList(id="candidates")
            runs.border_title = "other runs"
            yield runs
            with VerticalScroll(id="differences") as box:
                box.border_title = "results, settings that differ"
                yield Static("", id="differences-text")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Look for runs, away from the screen."""
        self._say("looking for other runs")
        self.run_worker(self._find, thread=True, group="candidates", name="candidates")

    def _find(self) -> None:
        self.post_message(self.Found(candidates(self._run, self._folder)))

    def on_compare_screen_found(self, message: Found) -> None:
        """Fill the list."""
        self._candidates = message.found
        runs = self.query_one(OptionList)
        known = {candidate.path for candidate in message.found}
        self._chosen = [path for path in self._chosen if path in known]
        runs.add_options(Option(self._label(candidate)) for candidate in message.found)
        if not message.found:
            self._say(f"there is no other run beside {self._run.path}, nor in the folder runs")
        else:
            runs.highlighted = 0
            self._compare()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Choose the run, or not. The order of choosing gives runs their letters."""
        path = self._candidates[event.option_index].path
        if path in self._chosen:
            self._chosen.remove(path)
        elif len(self._chosen) < MAX_OTHERS:
            self._chosen.append(path)
        else:
            self.notify(f"at most {MAX_OTHERS} other runs fit into a chart", severity="warning")
        self._mark()

    def _mark(self) -> None:
        runs = self.query_one(OptionList)
        for index, candidate in enumerate(self._candidates):
            runs.replace_option_prompt_at_index(index, self._label(candidate))
        self._compare()

    def _label(self, candidate: Candidate) -> Content:
        is_chosen = candidate.path in self._chosen
        letter = LETTERS[1 + self._chosen.index(candidate.path)] if is_chosen else " "
        style = f"bold $line-{LETTERS.index(letter) + 1}" if is_chosen else "$faint"
        result = f"{candidate.result}  " if candidate.result else ""
        named = line((f" ({letter}) ", style), (candidate.name, "bold" if is_chosen else ""))
        fared = line("     ", result, (f"{candidate.status} {candidate.how_far}  {candidate.preset}", "$faint"))
        return Content("\n").join((named, fared))

    def _compare(self) -> None:
        if not self._chosen:
            self._say("choose runs with the space bar, then press enter")
            return
        runs = [self._run, *(RunDirectory(path) for path in self._chosen)]
        self.run_worker(partial(self._diff, runs), thread=True, exclusive=True, group="diff", name="diff")

    def _diff(self, runs: list[RunDirectory]) -> None:
        rows, unreadable = differences(runs)
        names = ", ".join(run.name for run in unreadable)
        problem = f"the settings of {names} cannot be read" if names else ""
        shown = [
            candidate_of(run, name) for run, (_, name) in zip(runs, lettered([run.path for run in runs]), strict=False)
        ]
        self.post_message(self.Compared(shown, rows, problem))

    def on_compare_screen_compared(self, message: Compared) -> None:
        """Show how the runs fared, then the differences, a setting a block: its name, then a value for each run."""
        if [run.path for run in message.runs[1:]] != self._chosen:
            return  # others have been chosen since
        rows: list[Content] = []
        for index, (letter, run) in enumerate(zip(LETTERS, message.runs, strict=False), start=1):
            epochs = f"epoch {run.how_far}" if run.how_far else ""
            took = f"took {duration(run.took_s)}" if run.took_s is not None else ""
            facts = [fact for fact in (run.result, run.status, epochs, took) if fact]
            rows.append(line((f"{letter} ", f"bold $line-{index}"), (run.name, "bold")))
            rows.append(line((f"  {', '.join(facts)}", "$foreground")))
        rows.append(Content(""))
        if message.problem:
            rows.append(line((message.problem, "$warning")))
        elif not message.rows:
            rows.append(line(("no setting differs", "$faint")))
        for difference in message.rows:
            rows.append(line((difference.key, "$faint")))
            rows += [
                line((f"  {letter} ", f"bold $line-{index}"), setting_text(value))
                for index, (letter, value) in enumerate(zip(LETTERS, difference.values, strict=False), start=1)
                if value is not UNKNOWN
            ]
        self.query_one("#differences-text", Static).update(Content("\n").join(rows))

    def _say(self, text: str) -> None:
        self.query_one("#differences-text", Static).update(line((text, "$faint")))

    def action_overlay(self) -> None:
        """Draw what was chosen."""
        self.dismiss(self._chosen)

    def action_choose(self) -> None:
        """Choose the run under the bar, or not."""
        self.query_one(OptionList).action_select()

    def action_open(self) -> None:
        """Show the run under the bar in place of the one on the screen."""
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None:
            self.dismiss(RunDirectory(self._candidates[highlighted].path))

    def action_clear(self) -> None:
        """No run is compared with."""
        self._chosen.clear()
        self._mark()
