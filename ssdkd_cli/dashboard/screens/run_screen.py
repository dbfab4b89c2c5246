"""The screen of one run: header, views, and the keys that work on them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import cell_len
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.reactive import reactive
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import ContentSwitcher

from ssdkd_cli.dashboard.bindings import RUN_SCREEN_SECTIONS, VIEWS
from ssdkd_cli.dashboard.chart_settings import ChartSettings
from ssdkd_cli.dashboard.glyphs import cut
from ssdkd_cli.dashboard.messages import PicturesLoaded
from ssdkd_cli.dashboard.views import VIEW_CLASSES, View
from ssdkd_cli.dashboard.widgets.chart import ChartPanel
from ssdkd_cli.dashboard.widgets.header import Header
from ssdkd_cli.dashboard.widgets.key_bar import KeyBar
from ssdkd_cli.dashboard.widgets.log_panel import LogPanel
from ssdkd_cli.dashboard.widgets.notice import NoticeBar
from ssdkd_cli.dashboard.widgets.panel import line
from ssdkd_cli.dashboard.widgets.sample_grid import SampleGrid
from ssdkd_cli.dashboard.widgets.tab_bar import TabBar
from ssdkd_cli.watching.view import RunView
from stages.run_directory.control import ACTIONS

if TYPE_CHECKING:
    from ssdkd_cli.dashboard.app import DashboardApp

_CHART_ACTIONS = {"move_cursor", "zoom", "pan", "reset_zoom", "enlarge"}
_SAMPLE_ACTIONS = {"next_class", "all_classes", "toggle_order", "resize_tiles"}
_LOG_ACTIONS = {"scroll_log", "toggle_warnings", "newest_lines"}
_CHART_HINT = "+/- zoom  arrows cursor"
_ENLARGED = "-enlarged"
_CHOSEN = "-chosen"


class ViewBar(Widget):
    """One line below the view: how it is looked at, and its own keys."""

    def render(self) -> Content:
        """Settings of the open view."""
        screen = cast(RunScreen, self.screen)
        states, hint = screen.view_words()
        room = self.size.width - 2
        state = next((state for state in states if cell_len(state) + len(hint) + 3 <= room), None)
        if state is None:
            state, hint = cut(states[0], room), ""
        return line((f" {state}", "$faint"), " " * max(1, room - cell_len(state) - len(hint)), (hint, "$faint"))


class RunScreen(Screen[None]):
    """Shows one run in several views."""

    BINDINGS: ClassVar[list[BindingType]] = [binding for section in RUN_SCREEN_SECTIONS for binding in section.bindings]
    AUTO_FOCUS = ""

    open_view_id: reactive[str] = reactive(VIEWS[0][0], init=False)
    settings: reactive[ChartSettings] = reactive(ChartSettings, init=False)
    class_filter: reactive[int | None] = reactive(None, init=False)
    newest_first: reactive[bool] = reactive(False, init=False)

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Header(id="header")
        yield NoticeBar(id="notices")
        yield TabBar(VIEWS, id="tabs")
        with ContentSwitcher(initial=VIEWS[0][0], id="views"):
            for view_id, _ in VIEWS:
                yield VIEW_CLASSES[view_id](id=view_id, classes="view")
        yield ViewBar(id="view-bar")
        yield KeyBar(id="keys")

    def on_mount(self) -> None:
        """Mark the open view."""
        self.query_one(TabBar).active = self.open_view_id
        if self.dashboard.run_view is not None:
            self.show_run(self.dashboard.run_view)

    @property
    def dashboard(self) -> DashboardApp:
        """The app that this screen belongs to."""
        return cast("DashboardApp", self.app)

    @property
    def open_view(self) -> View:
        """The view that is open."""
        return self.query_one(f"#{self.open_view_id}", View)

    # -- showing ---------------------------------------------------------------------------------------------

    def show_run(self, view: RunView) -> None:
        """Take in the run's state: header, notices and the open view; the others when they are opened."""
        if not self.query(ViewBar):
            return  # not composed yet, or on its way out
        self.query_one(Header).show(view)
        self.query_one(NoticeBar).show(view)
        self.open_view.show(view)
        self.query_one(ViewBar).refresh()

    def forget_run(self) -> None:
        """Another run is shown from now on: what was chosen of this one's epochs and classes means nothing there."""
        self.settings = self.settings.reset()
        self.class_filter = None
        self._shrink()
        for view in self.query(View):
            view.forget_run()

    def show_pictures(self, message: PicturesLoaded) -> None:
        """Hand images of the buffer to every grid."""
        if not self.query(ViewBar):
            return
        for grid in self.query(SampleGrid):
            grid.show_pictures(message.pictures, message.problem)
        self.query_one(ViewBar).refresh()

    def wants_pictures(self) -> bool:
        """Whether pictures are on the screen."""
        if not self.query(ViewBar):
            return False
        return any(grid.display and grid.region.area > 0 for grid in self.open_view.query(SampleGrid))

    def view_words(self) -> tuple[list[str], str]:
        """How the open view is looked at, in fewer and fewer words, and its keys."""
        pages = self.open_view.num_pages
        page = f"page {self.open_view.shown_page + 1} of {pages} (n)  " if pages > 1 else ""
        if self.open_view_id == "samples":
            chosen = self.class_filter
            view = self.dashboard.run_view
            who = "" if chosen is None else f"class {chosen if view is None else view.class_name(chosen)}, "
            said = who + ("newest first" if self.newest_first else "hardest first")
            # The last samples of a run that diverged are in no checkpoint: the buffer that is shown is an older one.
            samples = view.samples if view is not None and view.status != "diverged" else None
            as_of = f", buffer of epoch {samples.epoch}" if samples is not None else ""
            legend = "; p of the teacher, priority δ"
            return [
                f"{page}{said}{as_of}{legend}",
                f"{page}{said}{legend}",
                f"{page}{said}",
                said,
            ], "f a class  o order  +/- size"
        if self.open_view_id == "log":
            return ["newest at the bottom"], "up/down scroll  w warnings only"
        compared = ""
        if self.dashboard.overlays:
            compared = "".join(f"{letter} {name}  " for letter, name in self.dashboard.run_letters())
        has_log_scale, is_smoothable = self._has_log_scale(), self._is_smoothable()
        said = self.settings.words(has_log_scale=has_log_scale, is_smoothable=is_smoothable)
        keys = [("l log", has_log_scale), ("s smooth", is_smoothable), (_CHART_HINT, True)]
        return [f"{page}{compared}{said}"], "  ".join(key for key, works in keys if works)

    def _has_log_scale(self) -> bool:
        """Whether a chart of the open view can have one; charts of shares go from 0 to 1."""
        return any(chart.is_log_allowed for chart in self.open_view.query(ChartPanel))

    def _is_smoothable(self) -> bool:
        """Whether a chart of the open view shows what jitters."""
        return any(chart.is_smoothable for chart in self.open_view.query(ChartPanel))

    # -- the state of the view -------------------------------------------------------------------------------

    def watch_open_view_id(self, view_id: str) -> None:
        """Another view: bring it up to date, then show it."""
        self._shrink()
        self.open_view.page = 0
        if self.dashboard.run_view is not None:
            self.open_view.show(self.dashboard.run_view)
        for chart in self.open_view.query(ChartPanel):
            chart.settings = self.settings
        self.query_one("#views", ContentSwitcher).current = view_id
        self.query_one(TabBar).active = view_id
        self.set_focus(None)
        self._after_change()
        self.call_after_refresh(self.dashboard.refresh_pictures)

    def watch_settings(self, settings: ChartSettings) -> None:
        """Another scale, zoom or cursor for the charts on the screen."""
        for chart in self.open_view.query(ChartPanel):
            chart.settings = settings
        self._after_change()

    def watch_class_filter(self) -> None:
        """Other pictures, from the first page on."""
        self.query_one("#samples-grid", SampleGrid).page = 0
        self.dashboard.refresh_pictures()
        self._after_change()

    def watch_newest_first(self) -> None:
        """Other pictures."""
        self.watch_class_filter()

    def _after_change(self) -> None:
        self.query_one(ViewBar).refresh()
        self.refresh_bindings()

    def on_resize(self) -> None:
        """A larger screen may show pictures that a smaller one did not, on fewer pages."""
        self.call_after_refresh(self.dashboard.refresh_pictures)
        self.call_after_refresh(self._after_change)

    # -- keys: which work now --------------------------------------------------------------------------------

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that mean nothing here are hidden."""
        if action == "control":
            return str(parameters[0]) in self.dashboard.possible_requests()
        if action == "toggle_log":
            return self._has_log_scale()
        if action == "next_smoothing":
            return self._is_smoothable()
        if action in _CHART_ACTIONS:
            return bool(self.open_view.query(ChartPanel))
        if action in _SAMPLE_ACTIONS:
            return self.open_view_id == "samples"
        if action in _LOG_ACTIONS:
            return self.open_view_id == "log"
        return True

    # -- keys: the run ---------------------------------------------------------------------------------------

    def action_control(self, action: str) -> None:
        """Ask the run to do something."""
        assert action in ACTIONS, action
        self.dashboard.ask(action)

    def action_compare(self) -> None:
        """Choose runs to compare with."""
        self.dashboard.open_comparison()

    # -- keys: views -----------------------------------------------------------------------------------------

    def action_open_view(self, view_id: str) -> None:
        """Open a view."""
        self.open_view_id = view_id

    def action_next_view(self, steps: int) -> None:
        """Open the neighbour."""
        ids = [view_id for view_id, _ in VIEWS]
        self.open_view_id = ids[(ids.index(self.open_view_id) + steps) % len(ids)]

    def action_enlarge(self) -> None:
        """The chosen chart alone, or all of them again."""
        if self.open_view.has_class(_ENLARGED):
            self._shrink()
            return
        chart = self.chosen_chart()
        if chart is not None:
            chart.add_class(_CHOSEN)
            self.open_view.add_class(_ENLARGED)

    def _shrink(self) -> None:
        for view in self.query(View):
            view.remove_class(_ENLARGED)
            for chart in view.query(ChartPanel):
                chart.remove_class(_CHOSEN)

    def action_back(self) -> None:
        """Out of an enlarged chart; else take the cursor away; else choose nothing."""
        if self.open_view.has_class(_ENLARGED):
            self._shrink()
        elif self.settings.cursor_x is not None:
            self.settings = replace(self.settings, cursor_x=None)
        else:
            self.set_focus(None)

    def action_page(self, steps: int) -> None:
        """Turn the page of the open view."""
        self.open_view.turn_page(steps)
        self._after_change()

    # -- keys: charts ----------------------------------------------------------------------------------------

    def chosen_chart(self) -> ChartPanel | None:
        """The chart that has the focus, or else the first on the screen."""
        if isinstance(self.focused, ChartPanel):
            return self.focused
        charts = [chart for chart in self.open_view.query(ChartPanel) if chart.display and chart.region.area > 0]
        return charts[0] if charts else None

    def action_toggle_log(self) -> None:
        """Logarithmic or linear, all charts: what the chosen one is not."""
        if (chart := self.chosen_chart()) is not None:
            self.settings = replace(self.settings, is_log=not chart.is_log)

    def action_next_smoothing(self) -> None:
        """Smoother, then not at all."""
        self.settings = self.settings.with_next_smoothing()

    def action_move_cursor(self, columns: int) -> None:
        """Read values elsewhere."""
        if (chart := self.chosen_chart()) is not None:
            self.settings = self.settings.with_cursor_moved(chart.full_range(), columns / chart.num_columns)

    def action_zoom(self, direction: int) -> None:
        """Fewer or more epochs."""
        if (chart := self.chosen_chart()) is not None:
            self.settings = self.settings.zoomed(chart.full_range(), inwards=direction > 0)

    def action_pan(self, steps: int) -> None:
        """Later or earlier epochs."""
        if (chart := self.chosen_chart()) is not None:
            self.settings = self.settings.panned(chart.full_range(), steps)

    def action_reset_zoom(self) -> None:
        """All of the run, no cursor."""
        self.settings = self.settings.reset()

    def on_chart_panel_pointed(self, message: ChartPanel.Pointed) -> None:
        """The cursor follows the mouse."""
        self.settings = replace(self.settings, cursor_x=message.x)

    def on_chart_panel_scrolled(self, message: ChartPanel.Scrolled) -> None:
        """The wheel zooms around the mouse."""
        full = message.chart.full_range()
        self.settings = self.settings.zoomed(full, inwards=message.inwards, around=message.x)

    # -- keys: samples ---------------------------------------------------------------------------------------

    def action_next_class(self, steps: int) -> None:
        """All classes, then one after the other."""
        view = self.dashboard.run_view
        num_classes = max(0, view.description.num_classes) if view is not None and view.description is not None else 0
        position = (0 if self.class_filter is None else self.class_filter + 1) + steps
        position %= num_classes + 1
        self.class_filter = None if position == 0 else position - 1

    def action_all_classes(self) -> None:
        """No filter."""
        self.class_filter = None

    def action_toggle_order(self) -> None:
        """Hardest first, or newest first."""
        self.newest_first = not self.newest_first

    def action_resize_tiles(self, steps: int) -> None:
        """Larger or smaller pictures."""
        self.query_one("#samples-grid", SampleGrid).resize_tiles(steps)
        self._after_change()

    # -- keys: log -------------------------------------------------------------------------------------------

    def action_scroll_log(self, lines: int) -> None:
        """Older or newer lines."""
        self.query_one("#log-lines", LogPanel).scroll_by(lines)

    def action_toggle_warnings(self) -> None:
        """Warnings and errors, or everything."""
        panel = self.query_one("#log-lines", LogPanel)
        panel.only_warnings = not panel.only_warnings

    def action_newest_lines(self) -> None:
        """Follow the log again."""
        self.query_one("#log-lines", LogPanel).lines_back = 0
