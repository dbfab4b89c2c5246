"""What the student reached: on real data, and, kept apart from that, its agreement on synthetic images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from textual.content import Content

from ssdkd_cli.dashboard.axes import percent, short
from ssdkd_cli.dashboard.empty_texts import no_agreement, no_evaluation, no_real_results
from ssdkd_cli.dashboard.glyphs import bar
from ssdkd_cli.dashboard.widgets.panel import Panel, centred, line
from ssdkd_cli.watching.view import EvaluationView, RunView, main_metric
from ssdkd_cli.words import is_count, is_share, metric_title

_HEADLINE_ROWS = 5
"""Two titles and three values."""


class _EvaluationPanel(Panel):
    """Shows something of the newest evaluation, and in its frame of which epoch that is."""

    def _facts(self, view: RunView) -> tuple[Any, ...]:
        return (view.evaluation, no_evaluation(view))

    def _update_frame(self, view: RunView) -> None:
        self.border_subtitle = "" if view.evaluation is None else self._origin(view.evaluation)

    def _origin(self, evaluation: EvaluationView) -> str:
        return f"epoch {evaluation.epoch}"


class RealResults(_EvaluationPanel):
    """Metrics of student and teacher on labelled real images."""

    def _origin(self, evaluation: EvaluationView) -> str:
        num_images = evaluation.student.get("num_samples")
        count = f"{num_images:,.0f} images, " if num_images is not None else ""
        return count + super()._origin(evaluation)

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        evaluation = view.evaluation
        if evaluation is None or not evaluation.student:
            return centred(no_real_results(view), width, height)
        names = [name for name in evaluation.student if not is_count(name)]
        names = names[: max(1, (width - 10) // 11)]
        rows = [line((" " * 10 + "".join(f"{metric_title(name):>11}" for name in names), "$faint"))]
        for who, metrics, style in (
            ("student", evaluation.student, "bold $line-1"),
            ("teacher", evaluation.teacher, "$line-2"),
        ):
            cells = "".join(f"{_value(name, metrics.get(name)):>11}" for name in names)
            rows.append(line((f" {who:<9}", style), (cells, "bold" if who == "student" else "")))
        gap = [_gap(name, evaluation.student.get(name), evaluation.teacher.get(name)) for name in names]
        if any(gap):
            rows.append(line((" gap      " + "".join(f"{text:>11}" for text in gap), "$faint")))
        return rows


def _value(name: str, value: float | None) -> str:
    return percent(value) if is_share(name) else short(value)


def _gap(name: str, student: float | None, teacher: float | None) -> str:
    if student is None or teacher is None:
        return ""
    difference = student - teacher
    return f"{difference * 100:+.1f} pt" if is_share(name) else f"{difference:+.3f}"


class SyntheticAgreement(_EvaluationPanel):
    """The share of held-out synthetic images on which student and teacher agree."""

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        evaluation = view.evaluation
        if evaluation is None or evaluation.agreement is None:
            return centred(no_agreement(view), width, height)
        bar_width = max(4, width - 2)
        by_chance, ece = evaluation.agreement_by_chance, evaluation.ece
        told = [] if by_chance is None else [f"by chance {percent(by_chance)}"]
        told += [] if ece is None else [f"ECE {ece:.3f}"]
        return [
            line((f" {percent(evaluation.agreement)}", "bold $line-1"), (" agree with the teacher", "$foreground")),
            line(" ", (bar(evaluation.agreement, 1.0, bar_width), "$line-1")),
            line((" held-out synthetic images, no labels", "$faint")),
            line((" " + ", ".join(told), "$faint")),
        ]


class Headline(_EvaluationPanel):
    """Both results in a few lines, for the overview."""

    def _rows(self, view: RunView, width: int, height: int) -> list[Content]:
        evaluation = view.evaluation
        if evaluation is None:
            return centred(no_evaluation(view), width, height)
        rows: list[Content] = []
        name = main_metric(evaluation.student)
        if name is None and evaluation.agreement is None:
            return centred(no_real_results(view), width, height)
        if height < _HEADLINE_ROWS:
            return self._without_titles(evaluation, name, width)
        if name is not None:
            title = f"real data, {metric_title(name)}"
            rows.append(line((f" {title}", "$faint")))
            rows.append(self._bar("student", name, evaluation.student, width, "$line-1"))
            if name in evaluation.teacher:
                rows.append(self._bar("teacher", name, evaluation.teacher, width, "$line-2"))
        else:
            rows.append(line((" real data: none", "$faint")))
        if evaluation.agreement is not None:
            if height >= 6:
                rows.append(Content(""))
            rows.append(line((" synthetic images, agreement", "$faint")))
            rows.append(self._bar("agree", "agreement", {"agreement": evaluation.agreement}, width, "$line-3"))
        return rows

    def _without_titles(self, evaluation: EvaluationView, name: str | None, width: int) -> list[Content]:
        """Every value on a line that says of which images it is."""
        agreement = {} if evaluation.agreement is None else {"agreement": evaluation.agreement}
        values = [("real data", name, evaluation.student, "$line-1"), ("synthetic", "agreement", agreement, "$line-3")]
        return [
            self._bar(label, key, metrics, width, style, label_width=len(label))
            for label, key, metrics, style in values
            if key is not None and key in metrics
        ]

    def _bar(
        self, label: str, name: str, metrics: Mapping[str, float], width: int, style: str, *, label_width: int = 8
    ) -> Content:
        value = metrics.get(name)
        text = _value(name, value)
        bar_width = max(4, width - 11 - label_width)
        return line(
            (f" {label:<{label_width}}", "$foreground"),
            (f"{text:>8} ", "bold"),
            (bar(value or 0.0, 1.0, bar_width) if is_share(name) else "", style),
        )
