"""What `ssdkd runs` prints for people: lists, one run in detail, runs side by side, checks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from ssdkd_cli import charts, console
from ssdkd_cli.summary import ECE_EXPLAINED, best_in_words, print_metrics
from ssdkd_cli.watching.view import moment_of
from ssdkd_cli.words import (
    agreement_text,
    duration,
    format_metric,
    headline,
    metric_title,
    precise_duration,
    setting_text,
)
from stages.paths import in_shell
from stages.run_directory import RESUMABLE_STATUSES

if TYPE_CHECKING:
    from stages.run_directory.verification import Check

_HIGHLIGHTS = (
    "teacher.model",
    "student.model",
    "buffer.capacity",
    "inversion.method",
    "inversion.steps",
    "distillation.steps",
    "distillation.sampling",
    "evaluation.data",
    "run.seed",
    "run.precision",
)
_NUM_WARNINGS = 5
_LIST_HEADER = ("run", "status", "epoch", "student", "agreement", "time")


def print_list(documents: Sequence[Mapping[str, Any]]) -> None:
    """A row for each run; on a terminal too narrow for that, its name and below it the rest."""
    rows = [
        (
            document["name"],
            document["status"],
            _progress(document),
            headline(document["student"]) or "-",
            agreement_text(document["agreement"]),
            duration((document["seconds"] or {}).get("total")),
        )
        for document in documents
    ]
    widths = [max(len(cell) for cell in column) for column in zip(_LIST_HEADER, *rows, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= console.stdout().width:  # always so off a terminal
        console.print_rows(_LIST_HEADER, rows)
        return
    for name, *cells in rows:
        console.say(name, style="bold")
        console.say(
            "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths[1:], strict=True)).rstrip()
        )


def print_details(document: Mapping[str, Any]) -> None:
    """One run from top to bottom."""
    from stages.run_directory.overview import flat

    console.say(f"{document['run']}: {document['status']}", style="bold")
    if document["message"] and document["message"] != document["status"]:
        console.say(f"  {document['message']}")
    if document["hint"]:
        console.say(f"  hint: {document['hint']}")
    if document["status"] in RESUMABLE_STATUSES and "--resume" not in (document["hint"] or ""):
        console.say(f"  go on with `ssdkd run --resume {in_shell(Path(document['run']))}`")
    started = moment_of(document["started_s"])
    _print_pairs(
        {
            "command": document["command"],
            "preset": document["preset"],
            "started": started and f"{started:%Y-%m-%d %H:%M:%S}",
            "epoch": _progress(document),
            "device": document["device"],
            "agreement": agreement_text(document["agreement"], document["agreement_by_chance"])
            + _measured(document) * (document["agreement"] is not None),
            metric_title("ece"): format_metric("ece", document["ece"]),
        }
    )
    if document["ece"] is not None:
        console.say(f"  {ECE_EXPLAINED}", style="dim")
    if document["teacher"] or document["student"]:
        _print_heading("Results on real data" + _measured(document))
        print_metrics({role: document[role] for role in ("teacher", "student")})
    best_student = (document["summary"] or {}).get("best_student")
    if best_student:
        console.say(f"  another student was kept: {best_in_words(best_student)}")
    if document["measured"]:
        _print_heading("Measured by stages")
        _print_pairs(
            {name: "not finite" if value is None else f"{value:.4g}" for name, value in document["measured"].items()}
        )
    if document["seconds"]:
        _print_heading("Time")
        _print_pairs({name: precise_duration(value) for name, value in document["seconds"].items()})
    _print_heading("Settings")
    config = flat(document["config"])
    _print_pairs({key: config[key] for key in _HIGHLIGHTS if key in config})
    _print_heading("Files")
    _print_pairs({name: _size(size) for name, size in document["files"].items()})
    if document["warnings"]:
        _print_heading("Warnings")
        for message in document["warnings"][-_NUM_WARNINGS:]:
            console.say(f"  {message}")


def print_comparison(document: Mapping[str, Any]) -> None:
    """Runs as columns, called A, B, C...; results, then settings that differ, then means over seeds."""
    runs = document["runs"]
    letters = {run["run"]: _letter(index) for index, run in enumerate(runs)}
    for run in runs:
        console.say(f"{letters[run['run']]}  {run['run']}  ({_state(run)})")
    _print_heading("Results")
    results = {_title(name): [_metric(name, value) for value in values] for name, values in document["metrics"].items()}
    _print_columns(list(letters.values()), results)
    if "ece" in document["metrics"]:
        console.say(f"  {ECE_EXPLAINED}", style="dim")
    _print_heading("Settings that differ")
    if document["differences"]:
        settings = {key: [setting_text(value) for value in values] for key, values in document["differences"].items()}
        _print_columns(list(letters.values()), settings)
    else:
        console.say("  none")
    for group in document["seed_groups"]:
        members = ", ".join(letters[run] for run in group["runs"])
        seeds = ", ".join(str(seed) for seed in group["seeds"])
        _print_heading(f"Mean and sample standard deviation of {members} (seeds {seeds})")
        sign = charts.glyphs_for(console.stdout().encoding).plus_minus
        _print_pairs(
            {
                _title(name): f"{_metric(name, value['mean'])} {sign} {_metric(name, value['std'])}"
                for name, value in group["metrics"].items()
                if value["std"] > 0 or _is_of_student(name)  # what else no seed changes is above
            }
        )
        if group["left_out"]:
            left_out = ", ".join(letters[run] for run in group["left_out"])
            console.say(f"  left out, as not done: {left_out}")


def _is_of_student(name: str) -> bool:
    """Whether a result says how good the student is, which is told even where all seeds agree on it."""
    return name == "agreement" or (name.startswith("student.") and not name.endswith(".num_samples"))


def _state(document: Mapping[str, Any]) -> str:
    """How a run ended; of one that is not done also where: what results it has are of an evaluation before."""
    status = str(document["status"])
    return status if status == "done" else f"{status}, epoch {_progress(document)}{_measured(document)}"


def _measured(document: Mapping[str, Any]) -> str:
    """Where what is known of the student is of an earlier epoch, which."""
    epoch = document["evaluated_epoch"]
    return f", measured at epoch {epoch}" if epoch is not None and epoch != document["epoch"] else ""


def print_checks(checks: Iterable[Check]) -> None:
    """A row for each file of a run."""
    console.print_rows(
        ("file", "state", ""),
        [(check.file, "sound" if check.is_sound else "DAMAGED", check.message) for check in checks],
    )


def _print_heading(text: str) -> None:
    console.say(f"\n{text}", style="bold")


def _print_pairs(pairs: Mapping[str, Any]) -> None:
    console.print_facts((f"  {key}", setting_text(value)) for key, value in pairs.items() if value not in (None, "-"))


def _print_columns(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """A column for each run; in blocks, where the terminal has no room for all of them side by side."""
    from rich.table import Column

    room = console.stdout().width - max((len(name) for name in rows), default=0) - 2
    widths = [max(map(len, column)) + 2 for column in zip(heads, *rows.values(), strict=True)]
    start = 0
    while start < len(heads):
        stop = start + 1  # one is shown in any case, folded if need be
        while stop < len(heads) and sum(widths[start : stop + 1]) <= room:
            stop += 1
        if start > 0:
            console.say()
        columns = [Column("", no_wrap=True)]
        columns += [Column(head, justify="right", overflow="fold") for head in heads[start:stop]]
        console.print_table(columns, [("  " + name, *cells[start:stop]) for name, cells in rows.items()])
        start = stop


def _letter(index: int) -> str:
    """A, B, ..., Z, A2, B2, ..."""
    turn, position = divmod(index, len(ascii_uppercase))
    return ascii_uppercase[position] + (str(turn + 1) if turn else "")


def _title(dotted: str) -> str:
    """`student.top1` as `student top-1`, `seconds.total` as `time total`."""
    *owners, name = dotted.split(".")
    words = ["time" if owner == "seconds" else owner for owner in owners]
    return " ".join([*words, metric_title(name)])


def _metric(dotted: str, value: float | None) -> str:
    if value is None:
        return "-"
    owner, _, name = dotted.rpartition(".")
    if owner == "seconds":
        return precise_duration(value)
    if owner or name in ("agreement", "agreement_by_chance", "ece"):
        return format_metric(name, value)
    return f"{value:,.0f}"


def _progress(document: Mapping[str, Any]) -> str:
    if document["epochs"] is None:
        return "-"
    return f"{document['epoch'] or 0} of {document['epochs']}"


def _size(size_bytes: int) -> str:
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} bytes"
