"""The dashboard: one run at a time on the screen, live or finished. It only reads; the run goes on without it.

Worker threads read files and ask the run for things; they post messages. Widgets are touched in the app's own
thread. What is reactive is how one looks at the run, never the run itself: that is the newest `RunView`.
"""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.events import Event, InputEvent
from textual.filter import LineFilter, Monochrome, NoColor
from textual.message import Message
from textual.screen import Screen
from textual.worker import Worker, get_current_worker

from ssdkd_cli.charts import wants_ascii
from ssdkd_cli.dashboard.bindings import EVERYWHERE, PALETTE_SECTIONS
from ssdkd_cli.dashboard.glyphs import AsciiFilter, HarmlessFilter
from ssdkd_cli.dashboard.messages import NextRunFound, OverlaysLoaded, PicturesLoaded, RequestAnswered, RunViewed
from ssdkd_cli.dashboard.screens.compare_screen import CompareScreen
from ssdkd_cli.dashboard.screens.confirm_screen import ConfirmScreen
from ssdkd_cli.dashboard.screens.help_screen import HelpScreen
from ssdkd_cli.dashboard.screens.run_screen import RunScreen
from ssdkd_cli.dashboard.themes import DARK_NAME, FALLBACK_VARIABLES, THEMES
from ssdkd_cli.watching import pictures
from ssdkd_cli.watching.comparison import MAX_OTHERS, lettered
from ssdkd_cli.watching.feed import RunFeed
from ssdkd_cli.watching.view import RunView
from stages.errors import SsdkdError
from stages.run_directory import RunDirectory, control
from stages.run_directory.lookup import run_at_work

SECONDS_BETWEEN_VIEWS = 0.25
"""What the run says is drawn at most four times a second; keys and the mouse are answered at once."""

SECONDS_BETWEEN_OTHERS = 2.0
"""Other runs, that this one is compared with or that may follow it, are looked at less often."""

ANSWER_TIMEOUT_S = 30.0
"""A run answers at its safe points: after a step of distillation, or after the T_g steps of an inversion."""

_BITE_S = 0.05
_MAX_PICTURES = 256
_PENDING = {"pause": "pausing", "resume": "resuming", "checkpoint": "saving", "stop": "stopping"}
_STOP_QUESTION = (
    "Stop this run?",
    "It saves everything and ends. `ssdkd run --resume` goes on with it later.",
    "Stop and save",
)


class DashboardApp(App[None]):
    """Watches the run in `run_directory`. With `read_only` it asks nothing of the run.

    Where it ends on the screen, the next run that is at work in `folder` is shown.
    """

    TITLE = "ssdkd"
    CSS_PATH = "dashboard.tcss"
    BINDINGS: ClassVar[list[BindingType]] = list(EVERYWHERE.bindings)
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-narrow"),
        (110, "-normal"),
        (170, "-wide"),
    ]
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-low"),
        (34, "-medium"),
        (52, "-tall"),
    ]
    NOTIFICATION_TIMEOUT = 6.0

    def __init__(
        self,
        run_directory: RunDirectory | Path,
        read_only: bool = False,
        *,
        folder: Path | None = None,
        is_ascii: bool | None = None,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.is_colourless = bool(os.environ.get("NO_COLOR"))
        self.run_directory = run_directory if isinstance(run_directory, RunDirectory) else RunDirectory(run_directory)
        self.read_only = read_only
        self.is_ascii = wants_ascii(_encoding()) if is_ascii is None else is_ascii
        self.run_screen = RunScreen()
        self.run_view: RunView | None = None
        self.overlays: tuple[RunView, ...] = ()
        self._folder = folder
        self._told_of: Path | None = None
        self._answer_timeout_s = answer_timeout_s
        self._clock = clock
        self._pending: list[str] = []
        self.is_stopping = False
        """Whether the run on the screen was asked here to stop, and has not refused."""
        self._pictures_wanted: tuple[object, ...] | None = None
        self._leaving = threading.Event()
        for theme in THEMES:
            self.register_theme(theme)

    # -- looks -----------------------------------------------------------------------------------------------

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Our colours for themes that do not have them."""
        return dict(FALLBACK_VARIABLES)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Without colour no colour at all reaches the terminal; in ASCII mode nothing but ASCII does."""
        # The toolkit turns colours into greys, and does so for an empty NO_COLOR, too, which counts as none.
        filters: list[LineFilter] = [each for each in super().get_line_filters() if not isinstance(each, Monochrome)]
        filters += [NoColor(), HarmlessFilter()] if self.is_colourless else [HarmlessFilter()]
        return [*filters, AsciiFilter()] if self.is_ascii else filters

    def on_mount(self) -> None:
        """Put on our looks, and begin to read."""
        self.theme = DARK_NAME
        self._read_run()

    async def on_event(self, event: Event) -> None:
        """Take an event in; no keys or mouse once the user has left: they could open screens in an app that ends."""
        if not (isinstance(event, InputEvent) and self._leaving.is_set()):
            await super().on_event(event)

    def on_unmount(self) -> None:
        """Let worker threads end at once."""
        self._leaving.set()

    def get_default_screen(self) -> RunScreen:
        """The run's screen, below whatever lies on top of it."""
        return self.run_screen

    # -- reading (worker threads) ----------------------------------------------------------------------------

    def _read_run(self) -> None:
        """Begin to read the run that is to be on the screen, and no other any more."""
        work = partial(self._follow, self.run_directory)
        self.run_worker(work, thread=True, exclusive=True, name="reader", group="reader")

    def _follow(self, run: RunDirectory) -> None:
        feed = RunFeed(run, clock=self._clock)
        worker = get_current_worker()
        was_live, looked_s = False, -math.inf
        while not self._is_over(worker):
            began_s = time.monotonic()
            view = feed.poll()
            self._post(worker, RunViewed(view))
            was_live |= view.is_live
            if not view.is_live and began_s - looked_s >= SECONDS_BETWEEN_OTHERS:
                looked_s = began_s
                following = run_at_work(self._folder) if self._folder is not None else None
                if following is not None and following.path.resolve() != run.path.resolve():
                    self._post(worker, NextRunFound(following, was_live=was_live))
            while view.loaded < 1.0 and time.monotonic() - began_s < SECONDS_BETWEEN_VIEWS:
                # A long history is read on in between, for half of the time: the screen needs the core, too.
                self._sleep(_BITE_S)
                view = feed.poll(_BITE_S)
            self._sleep(began_s + SECONDS_BETWEEN_VIEWS - time.monotonic())

    def _follow_overlays(self, runs: Sequence[RunDirectory]) -> None:
        """Read the runs that this one is compared with, and go on with them while they go on."""
        worker = get_current_worker()
        feeds = [RunFeed(run, clock=self._clock) for run in runs]
        while not self._is_over(worker):
            views = tuple(feed.poll() for feed in feeds)
            self._post(worker, OverlaysLoaded(views))
            if not feeds:
                return
            is_whole = all(view.loaded == 1.0 for view in views)
            self._sleep(SECONDS_BETWEEN_OTHERS if is_whole else SECONDS_BETWEEN_VIEWS)

    def _load_pictures(self, run: RunDirectory, class_index: int | None, newest_first: bool) -> None:
        worker = get_current_worker()
        try:
            found = pictures.hardest_pictures(
                run, class_index=class_index, limit=_MAX_PICTURES, newest_first=newest_first
            )
            loaded = PicturesLoaded(tuple(found), "" if found else "the buffer holds no image of this class")
        except SsdkdError as error:
            loaded = PicturesLoaded((), error.message)
        self._post(worker, loaded)

    def _post(self, worker: Worker[object], message: Message) -> None:
        """Tell the app, unless something else has been asked for in the meantime."""
        if not self._is_over(worker):
            self.post_message(message)

    def _is_over(self, worker: Worker[object]) -> bool:
        return self._leaving.is_set() or worker.is_cancelled

    def _ask(self, run: RunDirectory, action: str) -> None:
        worker = get_current_worker()
        try:
            request_id = control.send_request(run, action)
            answer = control.wait_for_acknowledgement(
                run,
                request_id,
                self._answer_timeout_s,
                clock=lambda: math.inf if self._is_over(worker) else time.monotonic(),
                sleep=self._sleep,
            )
        except SsdkdError as error:
            self._post(worker, RequestAnswered(action, "error", _told(error), stands=False))
            return
        if answer is None and run.is_alive():
            waited = f"no answer to `{action}` within {self._answer_timeout_s:.0f} s"
            text = f"{waited}: the run may be in a long step; it still has the request"
            answered = RequestAnswered(action, "error", text, stands=True)
        elif answer is None:
            answered = RequestAnswered(
                action, "error", f"no answer to `{action}`: the run's process has ended", stands=False
            )
        elif answer.accepted:
            answered = RequestAnswered(action, "information", answer.message or f"{action}: done", stands=True)
        else:
            answered = RequestAnswered(action, "warning", f"{action} was refused: {answer.message}", stands=False)
        self._post(worker, answered)

    def _sleep(self, seconds: float) -> None:
        """So long, or until the app ends."""
        self._leaving.wait(max(0.0, seconds))

    # -- messages of the worker threads ----------------------------------------------------------------------

    def on_run_viewed(self, message: RunViewed) -> None:
        """Show the run's newest state."""
        if message.view.path != self.run_directory.path:
            return  # another run has been opened since
        before, self.run_view = self.run_view, message.view
        self.run_screen.show_run(message.view)
        if before is None or before.status != message.view.status:
            self.screen.refresh_bindings()
        self.refresh_pictures()

    def on_pictures_loaded(self, message: PicturesLoaded) -> None:
        """Show images of the buffer."""
        self.run_screen.show_pictures(message)

    def on_overlays_loaded(self, message: OverlaysLoaded) -> None:
        """Other runs' curves: the next view of the run is drawn with them."""
        known = {overlay.path for overlay in self.overlays}
        self.overlays = message.overlays
        silent = [overlay.name for overlay in self.overlays if not overlay.curves and overlay.path not in known]
        if silent:
            self.notify(f"nothing to draw yet in {', '.join(silent)}", severity="warning", markup=False)

    def on_request_answered(self, message: RequestAnswered) -> None:
        """Say what became of a request."""
        if message.action in self._pending:
            self._pending.remove(message.action)
        if message.action == "stop" and not message.stands:
            self.is_stopping = False
        self.notify(message.text, severity=message.severity, markup=False)
        self._refresh_header()

    def refresh_pictures(self) -> None:
        """Read images where they are on the screen and others than before."""
        screen = self.run_screen
        if self.run_view is None or not screen.wants_pictures():
            return
        is_chosen = screen.open_view_id == "samples"
        class_index, newest_first = (screen.class_filter, screen.newest_first) if is_chosen else (None, False)
        # Whether it is live, too: that says what is told where there is no buffer.
        wanted = (class_index, newest_first, pictures.buffer_stamp(self.run_directory), self.run_view.is_live)
        if wanted != self._pictures_wanted:
            self._pictures_wanted = wanted
            self.run_worker(
                partial(self._load_pictures, self.run_directory, class_index, newest_first),
                thread=True,
                group="pictures",
                exclusive=True,
                name="pictures",
            )

    # -- asking the run for something ------------------------------------------------------------------------

    def notes(self) -> list[str]:
        """What the header says on its right: requests without an answer yet, and whether one may ask."""
        waiting = [f"{_PENDING[action]}…" for action in self._pending]
        return waiting + (["read-only"] if self.read_only else [])

    def possible_requests(self) -> tuple[str, ...]:
        """What may be asked of the run now."""
        if self.read_only or self.run_view is None or not self.run_view.is_live:
            return ()
        return ("resume", "checkpoint", "stop") if self.run_view.status == "paused" else ("pause", "checkpoint", "stop")

    def ask(self, action: str) -> None:
        """Ask the run for something; what ends it is asked of the user first."""
        if action == "stop":
            self.push_screen(ConfirmScreen(*_STOP_QUESTION), lambda sure: self._send(action) if sure else None)
        else:
            self._send(action)

    def _send(self, action: str) -> None:
        if action in self._pending:
            return
        self._pending.append(action)
        self.is_stopping |= action == "stop"
        self._refresh_header()
        self.run_worker(partial(self._ask, self.run_directory, action), thread=True, group="requests", name=action)

    def _refresh_header(self) -> None:
        self.run_screen.query_one("#header").refresh()
        self.run_screen.refresh_bindings()

    # -- other runs ------------------------------------------------------------------------------------------

    def run_letters(self) -> list[tuple[str, str]]:
        """Letter and name of each run in the charts, the run on the screen first."""
        return lettered([self.run_directory.path, *(overlay.path for overlay in self.overlays)])

    def open_comparison(self) -> None:
        """Let the user choose runs to compare with, or another one to look at."""
        chosen = [overlay.path for overlay in self.overlays]
        self.push_screen(CompareScreen(self.run_directory, chosen, folder=self._folder), self._take_choice)

    def _take_choice(self, choice: RunDirectory | list[Path] | None) -> None:
        if isinstance(choice, RunDirectory):
            self.open_run(choice)
        elif choice is not None:
            self.compare_with(choice)

    def open_run(self, run: RunDirectory) -> None:
        """Show another run, alone; the view that is open stays open. Requests to the first one stand."""
        for group in ("requests", "pictures"):
            self.workers.cancel_group(self, group)
        self._pending.clear()
        self.is_stopping = False
        self._pictures_wanted = None
        self.run_directory, self.run_view = run, None
        self.compare_with([])
        self.run_screen.forget_run()
        self._read_run()

    def on_next_run_found(self, message: NextRunFound) -> None:
        """Show the run that is at work, unless a dialog is open. Only tell of it where the run on the screen was over
        when it was opened: somebody wants to read that one."""
        ended = self.run_directory
        if self.screen is not self.run_screen or message.run.path in (ended.path, self._told_of):
            return
        if message.was_live:
            self.open_run(message.run)
            self.notify(f"{ended.name} has ended, {message.run.name} is at work", markup=False)
        else:
            self._told_of = message.run.path
            self.notify(f"{message.run.name} is at work: c lists it", markup=False)

    def compare_with(self, paths: Sequence[Path]) -> None:
        """Draw these runs into the charts, too, and no others."""
        runs = [RunDirectory(path) for path in paths[:MAX_OTHERS]]
        self.run_worker(
            partial(self._follow_overlays, runs), thread=True, group="overlays", exclusive=True, name="overlays"
        )

    # -- keys ------------------------------------------------------------------------------------------------

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The command palette: every key that works now, under its name (on other screens than a run's, those that
        work everywhere), and the themes."""
        for section in PALETTE_SECTIONS:
            for binding in section.bindings:
                if binding.action != "app.command_palette" and self._works_now(binding, screen):
                    title = f"{section.title}: {binding.description}"
                    yield SystemCommand(title, binding.tooltip, partial(self._do, binding.action))
        yield SystemCommand("Theme", "Choose a theme by its name", self.action_change_theme)

    def _works_now(self, binding: Binding, screen: Screen[object]) -> bool:
        if binding.action.startswith("app."):
            return True
        return screen is self.run_screen and bool(self._check_action_state(binding.action, screen))

    async def _do(self, action: str) -> None:
        await self.run_action(action, self if action.startswith("app.") else self.run_screen)

    def action_detach(self) -> None:
        """Leave at once, without a question: the run goes on."""
        self._leaving.set()
        self.exit()

    def detach_from_outside(self) -> None:
        """As `action_detach`, from a signal's handler or another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.action_detach)

    def action_help(self) -> None:
        """All keys on one screen; again: back."""
        if isinstance(self.screen, HelpScreen):
            self.screen.dismiss()
        else:
            self.push_screen(HelpScreen())

    def action_next_theme(self) -> None:
        """The next of our three looks."""
        names = [theme.name for theme in THEMES]
        self.theme = names[(names.index(self.theme) + 1) % len(names)] if self.theme in names else names[0]


def _told(error: SsdkdError) -> str:
    return error.message + (f" (hint: {error.hint})" if error.hint else "")


def _encoding() -> str:
    stream = sys.__stdout__
    return (stream.encoding if stream is not None else None) or "utf-8"
