"""Results as a Markdown table: one row an experiment, last epoch, mean and sample standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from results import headline_of

_NAMES = {"student.top1": "student top-1", "student.miou": "student mIoU"}


def markdown(document: Mapping[str, Any]) -> str:
    """The table, above it what it was made with, below it how each row was asked for and what went wrong."""
    rows = document["experiments"]
    headline = headline_of(name for row in rows for name in row["mean"])
    has_paper = any(row["paper"] is not None for row in rows)
    heads = ["experiment", "seeds", f"{_NAMES.get(headline, headline)}, last epoch"]
    heads += ["paper"] * has_paper
    heads += ["share of the teacher's", "against the baseline", "teacher", "agreement", "ECE"]
    heads += ["total, s", "inversion, s", "distillation, s", "evaluation, s", "images/s"]
    lines = [f"# {document['title']}", "", _made_with(document), "", *_networks(rows), ""]
    if document["note"]:
        lines += [document["note"], ""]
    lines += [_line(heads), _line(["---"] * len(heads))]
    seeds = {row["name"]: _seeds_done(row) for row in rows}
    strays = [row["name"] for row in rows if row["baseline"] in seeds and seeds[row["name"]] != seeds[row["baseline"]]]
    baselines = {row["baseline"] for row in rows} - {row["name"] for row in rows if row["baseline"] is not None}
    for row in rows:
        name = row["name"]
        cells = _cells(row, headline, has_paper=has_paper, is_stray=name in strays, is_baseline=name in baselines)
        lines.append(_line(cells))
    lines += [
        "",
        _LEGEND,
        *([_OTHER_SEEDS] if strays else []),
        "",
        "How each row was asked for, beside where its data and its teacher's file lie:",
        "",
    ]
    lines += [f"- {row['title']}: `{_command(row, document['command'])}`" for row in rows]
    ended = [
        f"- {row['title']}, seed {run['seed']}: {run['status']}" + (f" ({run['message']})" if run["message"] else "")
        for row in rows
        for run in row["runs"]
        if run["status"] not in ("done", "absent")
    ]
    if ended:
        lines += ["", "Runs that are not done and not in the means:", "", *ended]
    return "\n".join(lines) + "\n"


_LEGEND = (
    "Accuracies are of the last epoch on real images; ± is the sample standard deviation over seeds. The difference to "
    "the baseline is taken seed by seed, then averaged. Agreement and ECE (expected calibration error against the "
    "teacher) are measured on each run's own held-out synthetic images. Images/s: images through a training step, "
    "inversion and distillation together, the median over the epochs after warm-up. Seconds leave out the time that a "
    "run was paused or stopped."
)


_OTHER_SEEDS = (
    "† other seeds than the baseline's: not the means can be compared, but the difference, which is of the seeds that "
    "both have."
)


def _made_with(document: Mapping[str, Any]) -> str:
    machines = [f"{machine['device']}, {_counted(machine['threads'], 'thread')}" for machine in document["machines"]]
    versions = dict.fromkeys(f"Python {found['python']}, torch {found['torch']}" for found in document["versions"])
    revisions = [
        f"ssdkd at {revision[:10]}{'-dirty' * revision.endswith('-dirty')}" for revision in document["git_revisions"]
    ]
    parts = [document["date"], *machines, document["machine_note"], *versions, *revisions]
    return "; ".join(part for part in parts if part) + "."


def _networks(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which teachers and students the rows have, whatever the list's title says."""
    settings = [row["settings"] for row in rows if row["settings"]]
    pairs = dict.fromkeys(f"{of['teacher.model']} -> {of['student.model']}" for of in settings)
    return [f"Teacher -> student: {'; '.join(pairs)}."] if pairs else []


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" + "s" * (number != 1)


def _cells(row: Mapping[str, Any], headline: str, *, has_paper: bool, is_stray: bool, is_baseline: bool) -> list[str]:
    mean, std = row["mean"], row["std"]

    def value(name: str) -> str:
        return _with_spread(mean.get(name), std.get(name))

    def rounded(name: str) -> str:
        return f"{mean[name]:,.0f}" if name in mean else "-"

    difference = row["against_baseline"]
    against = "-" if difference is None else _with_spread(difference["mean"], difference["std"], signed=True)
    teacher = headline.replace("student.", "teacher.")
    return [
        f"{row['title']} (`{row['name']}`)",
        _seeds(row["runs"]),
        f"**{value(headline)}**{' †' * is_stray}" if headline in mean else "-",
        *([_fraction(row["paper"])] if has_paper else []),
        value("share_of_teacher"),
        "baseline" if is_baseline else against,
        _fraction(mean.get(teacher)),
        value("agreement"),
        value("ece"),
        *(rounded(f"seconds.{name}") for name in ("total", "inversion", "distillation", "evaluation")),
        rounded("images_per_s"),
    ]


def _seeds(runs: Sequence[Mapping[str, Any]]) -> str:
    """`0, 1; not done: 2 diverged`."""
    done = ", ".join(str(run["seed"]) for run in runs if run["status"] == "done")
    others = ", ".join(f"{run['seed']} {run['status']}" for run in runs if run["status"] not in ("done", "absent"))
    return "; ".join(part for part in (done, others) if part) or "-"


def _seeds_done(row: Mapping[str, Any]) -> set[int]:
    return {run["seed"] for run in row["runs"] if run["status"] == "done"}


def _with_spread(mean: float | None, std: float | None, *, signed: bool = False) -> str:
    if mean is None:
        return "-"
    return _fraction(mean, signed=signed) + ("" if std is None else f" ± {_fraction(std)}")


def _fraction(value: float | None, *, signed: bool = False) -> str:
    """Four digits, `.7858`."""
    if value is None:
        return "-"
    text = f"{value:+.4f}" if signed else f"{value:.4f}"
    return text.replace("0.", ".", 1) if abs(value) < 1 else text


def _command(row: Mapping[str, Any], command: str) -> str:
    presets = [f"--preset {preset}" for preset in row["presets"]]
    buffer = ["--buffer BUFFER"] if command == "distill" else []
    return " ".join([f"ssdkd {command}", *presets, *(f"--set {override}" for override in row["set"]), *buffer])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
