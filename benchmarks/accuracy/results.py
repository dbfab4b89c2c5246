"""From runs to numbers: what each reached, mean and spread over seeds, the difference to the baseline."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from experiment_list import HERE, Experiment, ExperimentList, Machine
from series import Run

_CHECKOUT = HERE.parents[1]
_PLACES = ("teacher.weights", "evaluation.root", "teacher.model", "student.model")
"""Settings that may hold a path; results name the file alone."""
_NOT_TOLD = ("teacher.weights", "evaluation.data", "evaluation.root", "run.seed")
"""Overrides that are left out of what a row was asked for: where things lie, and what its runs differ in."""
_STAGES = ("total", "inversion", "distillation", "evaluation")


def results(experiments: ExperimentList, runs: Sequence[Run], machine: Machine) -> dict[str, Any]:
    """Everything that was found, ready for JSON and without a path of this machine.

    `experiments`: each with its `runs` and, over those that are done, `mean` and `std` (sample standard deviation, null
    for one run) of each number; `against_baseline`: differences of top-1 seed by seed, their mean and std.
    """
    rows = {experiment.name: _row(experiment, runs) for experiment in experiments.experiments}
    for row in rows.values():
        row["against_baseline"] = _difference(row, rows.get(row["baseline"] or ""))
    found = [run for row in rows.values() for run in row["runs"]]
    return {
        "list": experiments.name,
        "title": experiments.title,
        "note": experiments.note,
        "command": experiments.command,
        "date": date.today().isoformat(),
        "machine_note": machine.note,
        "machines": _distinct(run["machine"] for run in found),
        "versions": _distinct(run["versions"] for run in found),
        "git_revisions": _distinct(run["git_revision"] for run in found),
        "experiments": list(rows.values()),
    }


def _row(experiment: Experiment, runs: Sequence[Run]) -> dict[str, Any]:
    own = [run for run in runs if run.experiment.name == experiment.name]
    told = [_told(run) for run in own]
    done = [run["metrics"] for run in told if run["status"] == "done"]
    shared = [name for name in done[0] if all(name in metrics for metrics in done)] if done else []
    columns = {name: [metrics[name] for metrics in done] for name in shared}
    settings = {key: value for key, value in own[0].settings.items() if key != "run.seed"} if own else {}
    return {
        "name": experiment.name,
        "title": experiment.title,
        "baseline": None if experiment.baseline == experiment.name else experiment.baseline,
        "paper": experiment.paper,
        "presets": [_as_typed(preset) for preset in experiment.presets],
        "set": [_override_without_place(text) for text in (own[0].overrides if own else ()) if _is_told(text)],
        "settings": {key: _without_place(key, value) for key, value in settings.items()},
        "runs": told,
        "mean": {name: fmean(values) for name, values in columns.items()},
        "std": {name: stdev(values) if len(values) > 1 else None for name, values in columns.items()},
    }


def _as_typed(preset: str) -> str:
    """A preset as it is named in the root of a checkout; of a file elsewhere no more than its name."""
    path = Path(preset)
    if not preset.endswith(".toml"):
        return preset
    return path.relative_to(_CHECKOUT).as_posix() if path.is_relative_to(_CHECKOUT) else path.name


def _told(run: Run) -> dict[str, Any]:
    """One run in plain numbers."""
    document = run.document or {}
    manifest = document.get("manifest") or {}
    machine = manifest.get("machine") or {}
    return {
        "seed": run.seed,
        "status": run.status,
        "message": None if run.message is None else run.message.replace(str(run.path.parent.parent) + os.sep, ""),
        "epochs": document.get("epoch"),
        "metrics": metrics(document, run.path),
        "best_epoch_top1": _best_of_epochs(run.path),
        "machine": {"device": machine.get("device"), "threads": machine.get("threads")} if machine else None,
        "versions": manifest.get("versions"),
        "git_revision": manifest.get("git_revision"),
        "teacher_sha256": manifest.get("teacher_sha256"),
    }


def metrics(document: Mapping[str, Any], path: Path) -> dict[str, float]:
    """The numbers of a run by dotted name: `student.top1` (last epoch), `agreement`, `seconds.total`, ...

    Beside what `ssdkd runs show --json` has: `share_of_teacher`, the student's headline metric over the teacher's, and
    `images_per_s`, images through a training step a second, the median over the epochs after warm-up.
    """
    found: dict[str, float] = {}
    for role in ("student", "teacher"):
        found |= {f"{role}.{name}": value for name, value in (document.get(role) or {}).items() if value is not None}
    summary = document.get("summary") or {}
    found |= {name: summary[name] for name in ("agreement", "ece") if summary.get(name) is not None}
    seconds = document.get("seconds") or {}
    found |= {f"seconds.{name}": seconds[name] for name in _STAGES if seconds.get(name) is not None}
    headline = next(iter(document.get("student") or {}), None)
    if found.get(f"teacher.{headline}"):
        found["share_of_teacher"] = found[f"student.{headline}"] / found[f"teacher.{headline}"]
    events = events_of(path)
    warmup = next((event["warmup_epochs"] for event in events if event["kind"] == "run_started"), 0)
    rates = [
        event["images_per_s"]
        for event in events
        if event["kind"] == "device" and event["epoch"] > warmup and event["images_per_s"] is not None
    ]
    if rates:
        found["images_per_s"] = median(rates)
    return found


def events_of(path: Path) -> list[dict[str, Any]]:
    """The events of a run as its public `events.jsonl` has them, without those that a resumption supersedes."""
    kept: list[dict[str, Any]] = []
    try:
        lines = (path / "events.jsonl").read_bytes().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # torn by a kill
            continue
        if event["kind"] == "run_resumed":
            kept = [earlier for earlier in kept if earlier["seq"] <= event["checkpoint_seq"]]
        kept.append(event)
    return kept


def _best_of_epochs(path: Path) -> float | None:
    """The highest top-1 of all evaluations on the way: for the record, chosen on labelled data, never a headline."""
    students = [(event["real"] or {}).get("student") for event in events_of(path) if event["kind"] == "evaluation"]
    return max((student["top1"] for student in students if student and "top1" in student), default=None)


def _difference(row: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Headline metric minus the baseline's, seed by seed; None where no seed is done in both."""
    if baseline is None:
        return None
    mine, theirs = _headlines(row), _headlines(baseline)
    seeds = [seed for seed in mine if seed in theirs]
    differences = [mine[seed] - theirs[seed] for seed in seeds]
    if not differences:
        return None
    spread = stdev(differences) if len(differences) > 1 else None
    return {"seeds": seeds, "differences": differences, "mean": fmean(differences), "std": spread}


def _headlines(row: Mapping[str, Any]) -> dict[int, float]:
    """The student's headline metric of each seed that is done."""
    found = {}
    for run in row["runs"]:
        value = run["metrics"].get(headline_of(run["metrics"]))
        if run["status"] == "done" and value is not None:
            found[run["seed"]] = value
    return found


def headline_of(numbers: Iterable[str]) -> str:
    """The student's metric that the task names first: `student.top1`."""
    return next((name for name in numbers if name.startswith("student.")), "student.top1")


def _distinct(values: Iterable[Any]) -> list[Any]:
    distinct: list[Any] = []
    for value in values:
        if value is not None and value not in distinct:
            distinct.append(value)
    return distinct


def _is_told(override: str) -> bool:
    return override.partition("=")[0].strip() not in _NOT_TOLD


def _override_without_place(override: str) -> str:
    key, _, value = override.partition("=")
    return f"{key}={_without_place(key.strip(), value)}"


def _without_place(key: str, value: Any) -> Any:
    """A setting as it may be shown to others: of a path the file's or folder's name."""
    return Path(value).name if key in _PLACES and isinstance(value, str) and os.sep in value else value
