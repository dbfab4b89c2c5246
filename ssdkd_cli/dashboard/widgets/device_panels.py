"""Where the time goes: the stages' shares, and what the device does."""

from __future__ import annotations

from typing import Any

from textual.content import Content

from ssdkd_cli.dashboard.axes import percent
from ssdkd_cli.dashboard.empty_texts import no_device
from ssdkd_cli.dashboard.glyphs import FILLS
from ssdkd_cli.dashboard.themes import stage_style
from ssdkd_cli.dashboard.widgets.panel import Panel, centred, line
from ssdkd_cli.watching.view import DeviceView, RunView, moment_text
from ssdkd_cli.words import precise_duration


class TimeSplit(Panel):
    """One bar cut into the stages' shares, with each share and its total below."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (view.device, no_device(view))

    def _update_frame(self, view: RunView) -> None:
        self.border_subtitle = "" if view.device is None else f"{precise_duration(view.device.total_s)} in all"

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        device = view.device
        if device is None or not device.shares:
            return centred(no_device(view), width, height)
        shares = {stage: share for stage, share in device.shares.items() if stage != "other" or share >= 0.005}
        rows = [self._bar(shares, width)] * (2 if height >= 5 else 1)
        legend: list[Content] = []
        for with_totals, gap in ((True, 3), (False, 3), (False, 2)):
            legend = self._legend(device, shares, width, with_totals=with_totals, gap=gap)
            if len(rows) + len(legend) <= height:
                break
        return rows + legend

    def _bar(self, shares: dict[str, float], width: int) -> Content:
        # Whole cells that add up to the width: each part ends where the running sum says.
        parts, begun, total = [], 0, 0.0
        for index, (stage, share) in enumerate(shares.items()):
            total += share
            end = min(width, round(total * width))
            parts.append((self._fill(index) * (end - begun), stage_style(stage)))
            begun = max(begun, end)
        return line(*parts)

    def _fill(self, index: int) -> str:
        return FILLS[min(index, len(FILLS) - 1)]

    def _legend(
        self, device: DeviceView, shares: dict[str, float], width: int, *, with_totals: bool, gap: int
    ) -> list[Content]:
        rows: list[Content] = []
        for index, (stage, share) in enumerate(shares.items()):
            seconds = device.seconds.get(stage, share * device.total_s)
            entry = line(
                (f"{self._fill(index) * 2} ", stage_style(stage)),
                (f"{stage} ", "$foreground"),
                (percent(share, 0 if share >= 0.1 else 1), "bold"),
                (f" {precise_duration(seconds)}" if with_totals else "", "$faint"),
            )
            if rows and rows[-1].cell_length + gap + entry.cell_length <= width:
                rows[-1] = Content.assemble(rows[-1], " " * gap, entry)
            else:
                rows.append(entry)
        return rows


class DeviceFigures(Panel):
    """The device's numbers with the right words for a GPU and for a CPU."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (view.device, view.description, no_device(view))

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        device = view.device
        if device is None:
            return centred(no_device(view), width, height)
        figures = [
            ("device", device.device),
            ("images trained on per second", "-" if device.images_per_s is None else f"{device.images_per_s:,.0f}"),
            (device.utilisation_label, percent(device.utilisation, 0)),
            (device.memory_label, "-" if device.mem_mib is None else f"{device.mem_mib:,.0f} MiB"),
        ]
        if device.is_gpu:  # of a CPU they are the time in all
            figures.append((device.hours_label, f"{device.hours:.3f}"))
        if view.description is not None:
            figures.append(("started", moment_text(view.description.started_s)))
        # Two columns where the panel is wide and low, one otherwise.
        columns = 2 if height < len(figures) and width >= 64 else 1
        each = width // columns
        rows: list[Content] = []
        for start in range(0, len(figures), columns):
            parts: list[str | tuple[str, str]] = []
            for label, value in figures[start : start + columns]:
                space = " " * max(1, each - 3 - len(label) - len(value)) if columns > 1 or width < 48 else "  "
                text = label if columns > 1 or width < 48 else label.ljust(30)
                parts += [(f" {text}", "$faint"), space, (value, "bold"), "  "]
            rows.append(line(*parts))
        return rows
