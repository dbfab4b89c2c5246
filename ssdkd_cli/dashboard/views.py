"""What lies in each view: panels in a grid, on several pages where the screen is small."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import ClassVar, TypeVar

from textual.app import ComposeResult
from textual.containers import Grid
from textual.reactive import reactive

from ssdkd_cli.dashboard.empty_texts import no_agreement, no_buffer, no_device, no_pace, no_real_results, no_step
from ssdkd_cli.dashboard.widgets.buffer_panels import (
    BufferSummary,
    ClassBalance,
    DifficultyHistogram,
    PriorityHistogram,
)
from ssdkd_cli.dashboard.widgets.chart import ChartPanel, Trace
from ssdkd_cli.dashboard.widgets.device_panels import DeviceFigures, TimeSplit
from ssdkd_cli.dashboard.widgets.log_panel import LogPanel
from ssdkd_cli.dashboard.widgets.panel import Panel
from ssdkd_cli.dashboard.widgets.result_panels import Headline, RealResults, SyntheticAgreement
from ssdkd_cli.dashboard.widgets.sample_grid import SampleGrid
from ssdkd_cli.watching.view import RunView, main_metric, stage_of, title_of

PanelT = TypeVar("PanelT", bound=Panel)


class View(Grid):
    """A grid of panels, which know on which of the view's pages they lie."""

    page: reactive[int] = reactive(0, init=False)
    """The page that was turned to, from 0."""

    @property
    def num_pages(self) -> int:
        """Pages that the view has on this screen: all panels are on one where that is not small."""
        if not self.screen.has_class("-narrow"):
            return 1
        return 1 + max(panel.on_page or 0 for panel in self.query(Panel))

    @property
    def shown_page(self) -> int:
        """The page on the screen, from 0."""
        return self.page

    def turn_page(self, steps: int) -> None:
        """Forwards or backwards, round and round."""
        if (pages := self.num_pages) > 1:
            self.page = (self.page + steps) % pages

    def watch_page(self, page: int) -> None:
        """Leave out the panels of other pages, where there is not room for all."""
        for panel in self.query(Panel):
            panel.set_class(panel.on_page not in (None, page), "-elsewhere")

    def show(self, view: RunView) -> None:
        """Hand a run's state to every panel."""
        for panel in self.query(Panel):
            panel.show(view)

    def forget_run(self) -> None:
        """Another run is shown from now on."""
        self.page = 0
        for panel in self.query(Panel):
            panel.forget_run()

    def _on(self, page: int, panel: PanelT) -> PanelT:
        """The panel, on a page of this view."""
        panel.on_page = page
        panel.set_class(page != self.page, "-elsewhere")
        return panel


class Overview(View):
    """The run at a glance."""

    def compose(self) -> ComposeResult:
        """Losses, results, buffer and time; pictures and the log where there is room."""
        distillation, inversion = Trace("distillation/loss"), Trace("inversion/loss")
        for stage, trace in (("distillation", distillation), ("inversion", inversion)):
            empty_text = partial(no_step, stage=stage)
            yield ChartPanel(
                title_of(trace.curve), [trace], is_smoothable=True, empty_text=empty_text, id=f"overview-{stage}"
            )
        yield Headline("student", id="overview-results")
        yield PriorityHistogram("priorities (bins double)", id="overview-priorities")
        yield ClassBalance("classes in the buffer", id="overview-classes")
        yield DifficultyHistogram("difficulty, 1 - p", id="overview-difficulty")
        yield TimeSplit("device time", id="overview-time")
        yield SampleGrid("hardest samples", tile_size=32, id="overview-samples")
        yield LogPanel("log", id="overview-log")


class Losses(View):
    """Every term of the stages that train and what others measure, each on a scale of its own."""

    _PAGES: ClassVar[Sequence[Sequence[str]]] = (
        ("inversion/loss", "inversion/loss_bn", "inversion/loss_task", "inversion/loss_adversarial"),
        ("distillation/loss", "distillation/agreement", "distillation/lr"),
    )
    _PER_PAGE = 4

    def __init__(self, *, id: str, classes: str) -> None:
        super().__init__(id=id, classes=classes)
        self._extra_charts: dict[str, ChartPanel] = {}

    def compose(self) -> ComposeResult:
        """The terms that every run has; others join as they come."""
        for page, names in enumerate(self._PAGES):
            for name in names:
                yield self._on(page, self._chart(name, "losses-" + name.replace("/", "-").replace("_", "-")))

    @staticmethod
    def _chart(name: str, id: str | None = None) -> ChartPanel:
        is_share, stage = name == "distillation/agreement", stage_of(name)
        trains = stage in ("inversion", "distillation")
        return ChartPanel(
            title_of(name) if trains else f"{stage}: {title_of(name)}",
            [Trace(name)],
            factor=100.0 if is_share else 1.0,
            unit=" %" if is_share else "",
            is_log_allowed=not is_share,
            is_smoothable=trains and not name.endswith("/lr"),
            empty_text=partial(no_step, stage=stage),
            id=id,
        )

    def show(self, view: RunView) -> None:
        """Hand on a run's state; a curve that no chart shows yet gets one."""
        usual = {name for page in self._PAGES for name in page}
        for curve in chain.from_iterable(view.curves_of_stages().values()):
            if curve.name not in usual and curve.name not in self._extra_charts:
                page = len(self._PAGES) + len(self._extra_charts) // self._PER_PAGE
                chart = self._extra_charts[curve.name] = self._on(page, self._chart(curve.name))
                chart.set_reactive(ChartPanel.settings, self.query(ChartPanel).first().settings)
                self.mount(chart)
        super().show(view)

    def forget_run(self) -> None:
        """The next run has terms of its own."""
        super().forget_run()
        for chart in self._extra_charts.values():
            chart.remove()
        self._extra_charts.clear()


class Buffer(View):
    """The replay buffer now, and how it moved."""

    def compose(self) -> ComposeResult:
        """What the buffer holds, then how it changed."""
        yield BufferSummary(id="buffer-summary")
        yield self._on(0, PriorityHistogram("priorities (bins double)", id="buffer-priorities"))
        yield self._on(0, ClassBalance("classes", id="buffer-classes"))
        yield self._on(0, DifficultyHistogram("difficulty, 1 - p of the teacher", id="buffer-difficulty"))
        effective = [Trace("priority/effective_sample_size")]
        priorities = [Trace("priority/mean", "mean"), Trace("priority/max", "highest")]
        for page, title, traces, id in (
            (0, "effective sample size", effective, "buffer-effective"),
            (1, "priority: mean and highest", priorities, "buffer-priority-chart"),
            (1, "mean age in epochs", [Trace("buffer/age_mean")], "buffer-age"),
            (1, "samples in the buffer", [Trace("buffer/size")], "buffer-size"),
        ):
            yield self._on(page, ChartPanel(title, traces, empty_text=no_buffer, id=id))


class Samples(View):
    """Images of the buffer, hardest first."""

    def compose(self) -> ComposeResult:
        """One grid of pictures."""
        yield SampleGrid(id="samples-grid")

    @property
    def num_pages(self) -> int:
        """Pages that all pictures take."""
        return self.query_one(SampleGrid).num_pages

    @property
    def shown_page(self) -> int:
        """The page of pictures on the screen, from 0."""
        return self.query_one(SampleGrid).shown_page

    def turn_page(self, steps: int) -> None:
        """Other pictures, within what there is."""
        self.query_one(SampleGrid).turn_page(steps)


class Accuracy(View):
    """Real data on the left, synthetic images on the right, never mixed."""

    def compose(self) -> ComposeResult:
        """Numbers above, their history below."""
        yield RealResults("accuracy on real data", id="accuracy-real")
        yield SyntheticAgreement("agreement on synthetic images", id="accuracy-synthetic")
        yield ChartPanel(
            "real data in %",
            self._traces("top1"),
            factor=100.0,
            unit=" %",
            is_log_allowed=False,
            empty_text=no_real_results,
            id="accuracy-real-chart",
        )
        yield ChartPanel(
            "synthetic images, agreement in %",
            [Trace("synthetic/agreement")],
            factor=100.0,
            unit=" %",
            is_log_allowed=False,
            empty_text=no_agreement,
            id="accuracy-synthetic-chart",
        )

    @staticmethod
    def _traces(metric: str) -> tuple[Trace, ...]:
        return tuple(Trace(f"real/{role}.{metric}", role) for role in ("student", "teacher"))

    def show(self, view: RunView) -> None:
        """Hand on a run's state; the chart of real data shows what the run's task quotes."""
        measured = view.evaluation
        metric = None if measured is None else main_metric(measured.student or measured.teacher)
        if metric is not None:
            self.query_one("#accuracy-real-chart", ChartPanel).traces = self._traces(metric)
        super().show(view)


class Device(View):
    """Where the time goes."""

    def compose(self) -> ComposeResult:
        """Shares and totals above, the device's history below."""
        yield TimeSplit("device time by stage", id="device-time")
        yield DeviceFigures("lately", id="device-figures")
        images = [Trace("device/images_per_s")]
        yield ChartPanel("images per second", images, is_smoothable=True, empty_text=no_pace, id="device-images")
        yield ChartPanel(
            "utilisation",
            [Trace("device/utilisation")],
            factor=100.0,
            unit=" %",
            is_log_allowed=False,
            is_smoothable=True,
            empty_text=no_device,
            id="device-utilisation",
        )
        memory = [Trace("device/mem_mib")]
        yield ChartPanel("memory", memory, unit=" MiB", empty_text=no_device, id="device-memory")

    def show(self, view: RunView) -> None:
        """Hand on a run's state; what the charts show differs between GPU and CPU. The figures give the full names."""
        if view.device is not None:
            is_gpu = view.device.is_gpu
            for name, title in (
                ("#device-utilisation", "GPU, %" if is_gpu else "CPU, %"),
                ("#device-memory", "GPU memory, MiB" if is_gpu else "memory (RSS), MiB"),
            ):
                chart = self.query_one(name, ChartPanel)
                if chart.border_title != title:  # even an equal title would redraw the panel
                    chart.border_title = title
        super().show(view)


class Log(View):
    """What the run said."""

    def compose(self) -> ComposeResult:
        """One panel."""
        yield LogPanel("log", id="log-lines")

    def turn_page(self, steps: int) -> None:
        """Newer or older lines, but for one that stays in sight."""
        panel = self.query_one(LogPanel)
        panel.scroll_by(-steps * max(1, panel.size.height - 1))


VIEW_CLASSES: dict[str, type[View]] = {
    "overview": Overview,
    "losses": Losses,
    "buffer": Buffer,
    "samples": Samples,
    "accuracy": Accuracy,
    "device": Device,
    "log": Log,
}
