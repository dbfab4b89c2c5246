"""What a run comes to, for people: the table after it, the plan before it, mean and spread over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ssdkd_cli import charts, console
from ssdkd_cli.words import (
    agreement_text,
    duration,
    format_metric,
    is_count,
    is_near_chance,
    metric_title,
    num_epochs,
    precise_duration,
)
from stages.errors import FileError
from stages.paths import in_shell
from stages.run_directory import RunDirectory

ECE_EXPLAINED = (
    "ECE, expected calibration error: how far the student's confidence is from how\n"
    "  often it agrees with the teacher on held-out synthetic images; 0 % is best"
)


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The document of `--seeds`: every run's summary, and mean and sample standard deviation over those that are done.

    What a run that diverged had reached before is no result. `student` is null unless every run that is done has
    student metrics (evaluation had real data); std is 0 for one run.
    """
    done = [summary for summary in summaries if summary["status"] == "done"]
    students = [summary.get("student") for summary in done]
    measured = [student for student in students if student]
    student = None
    if measured and len(measured) == len(students):
        student = {metric: _mean_and_std([each[metric] for each in measured]) for metric in measured[0]}
    return {
        "runs": list(summaries),
        "student": student,
        "agreement": _mean_and_std([summary.get("agreement") for summary in done]),
        "ece": _mean_and_std([summary.get("ece") for summary in done]),
    }


def _mean_and_std(values: Sequence[float | None]) -> dict[str, float] | None:
    """None unless every run has a value."""
    from stages.run_directory.comparison import mean_and_std

    known = [value for value in values if value is not None]
    return mean_and_std(known) if known and len(known) == len(values) else None


def print_summary(summary: Mapping[str, Any], run_directory: Path) -> None:
    """After a run: how good teacher and student are, what it cost, where the files are, what to do next."""
    run, seconds = RunDirectory(run_directory), summary["seconds"]
    console.say(f"{run.path}: {summary['status']}", style="bold")
    console.say(f"{num_epochs(summary['epochs'])} in {duration(seconds['total'])} on {summary['device']}")
    console.say()
    print_metrics({role: summary.get(role) for role in ("teacher", "student")})
    if summary["status"] != "done" and (epoch := _evaluated_epoch(run)) is not None:
        console.say(f"measured at epoch {epoch}")  # the student's file may be of a later one
    if summary.get("agreement") is not None:
        agreement = agreement_text(summary["agreement"], summary.get("agreement_by_chance"))
        console.say(f"agreement with the teacher on held-out synthetic images: {agreement}")
        if is_near_chance(summary["agreement"], summary.get("agreement_by_chance")):
            console.say("  hardly better than chance: these images are of few classes, or little was learned")
        if summary.get("student") is None:
            console.say("no real images were at hand: accuracy is unknown until `ssdkd evaluate`")
    stages = ", ".join(
        f"{stage} {precise_duration(value)}"
        for stage, value in seconds.items()
        if stage != "total" and value is not None
    )
    images = f"{summary['images_synthesized']:,} images made, {summary['buffer_size']:,} in the buffer"
    console.say(f"{stages}; {images}{_set_aside(run)}")
    console.say()
    _print_files(run, summary)


def _evaluated_epoch(run: RunDirectory) -> int | None:
    from stages.run_directory.overview import listed

    epoch: int | None = listed(run)["evaluated_epoch"]
    return epoch


def _set_aside(run: RunDirectory) -> str:
    """The words for images that `distill` held out of its buffer; empty where none were."""
    if run.manifest().get("command") != "distill":
        return ""
    num_holdout = _settings_of(run).get("evaluation.num_holdout", 0)
    return f", {num_holdout:,} set aside to measure agreement" if num_holdout else ""


def _evaluation_options(run: RunDirectory, summary: Mapping[str, Any]) -> str:
    """What `ssdkd evaluate RUN` needs to be told, where the run had no real images."""
    from stages.evaluation.config import NO_DATA

    settings = _settings_of(run)
    if settings.get("evaluation.data") == NO_DATA:
        return " --data imagefolder --root FOLDER"
    was_missing = summary.get("student") is None
    return " --root FOLDER" if was_missing and "evaluation" in settings.get("run.stages", ()) else ""


def _settings_of(run: RunDirectory) -> Mapping[str, Any]:
    """The run's settings by dotted key; none where they cannot be read."""
    from stages.run_directory.overview import flat, settings

    try:
        return flat(settings(run))
    except FileError:
        return {}


def print_metrics(metrics_by_role: Mapping[str, Mapping[str, Any] | None]) -> None:
    """A row each for teacher and student, a column for each metric of the task; nothing without any."""
    measured = {role: metrics for role, metrics in metrics_by_role.items() if metrics}
    if not measured:
        return
    from rich.table import Column

    names = list(next(iter(measured.values())))
    columns = [Column(""), *(Column(metric_title(name), justify="right") for name in names)]
    rows = [(role, *(format_metric(name, metrics.get(name)) for name in names)) for role, metrics in measured.items()]
    console.print_table(columns, rows)


def best_in_words(best_student: Mapping[str, Any]) -> str:
    """What the student is that `evaluation.select_best` has kept."""
    results = {name: value for name, value in best_student.items() if name not in ("selection", "epoch")}
    measured = ", ".join(f"{format_metric(name, value)} {metric_title(name)}" for name, value in results.items())
    return f"{best_student['selection']} ({measured} in epoch {best_student['epoch']})"


def _print_files(run: RunDirectory, summary: Mapping[str, Any]) -> None:
    """The files a user wants next, and the commands that go on from them; a student is evaluated once it is done."""
    best_student = summary.get("best_student")
    has_student, has_buffer = run.student_file.is_file(), run.buffer_file.is_file()
    if has_student:
        console.say(f"student  {run.student_file}", is_whole=True)
    if best_student:
        console.say(f"another  {run.best_student_file}: {best_in_words(best_student)}")
    if has_buffer:
        console.say(f"buffer   {run.buffer_file}", is_whole=True)
    is_done = summary["status"] == "done"
    if not has_buffer and not (has_student and is_done):  # nothing to go on from
        return
    console.say("next:")
    run_text = in_shell(run.path)
    if has_buffer:
        console.say(f"  ssdkd inspect-buffer {run_text}", is_whole=True)
    if has_student:
        if is_done:
            console.say(f"  ssdkd evaluate {run_text}{_evaluation_options(run, summary)}", is_whole=True)
    elif has_buffer:
        console.say(f"  ssdkd distill --buffer {run_text}", is_whole=True)


def print_over_seeds(document: Mapping[str, Any]) -> None:
    """Mean and spread over the seeds that are done, and how the others ended."""
    statuses = [run["status"] for run in document["runs"]]
    num_done = statuses.count("done")
    others = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses) if status != "done")
    if num_done < 2:
        told = ", ".join(filter(None, [f"{num_done} done", others]))
        console.say(f"{told}: no mean over seeds", style="bold")
        return
    left_out = f" (left out: {others})" if others else ""
    sign = charts.glyphs_for(console.stdout().encoding).plus_minus
    values = {f"student {metric_title(name)}": (name, value) for name, value in (document["student"] or {}).items()}
    values |= {metric_title(name): (name, document[name]) for name in ("agreement", "ece") if document[name]}
    what = f", mean {sign} standard deviation" if values else ": no student, and no mean over seeds"
    console.say(f"{num_done} runs{what}{left_out}", style="bold")
    for title, (name, value) in values.items():
        if not is_count(name):
            mean, spread = (format_metric(name, value[key]) for key in ("mean", "std"))
            console.say(f"  {title}  {mean} {sign} {spread}")
    if document["ece"]:
        console.say(ECE_EXPLAINED, style="dim")


def print_plan(description: Mapping[str, Any]) -> None:
    """What a run would do and need (`--dry-run`, `--estimate`)."""
    console.print_facts(
        (key.replace("_seconds", "_time").replace("_", " ").replace(" mib", " [MiB]"), _plain_fact(key, value))
        for key, value in description.items()
    )


def _plain_fact(key: str, value: Any) -> str:
    if key.endswith("_seconds"):
        return ", ".join(f"{name} {duration(seconds)}" for name, seconds in value.items())
    return _plain(value)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key.replace('_', ' ')} {_plain(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
