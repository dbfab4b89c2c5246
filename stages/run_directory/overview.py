"""A run in one document: what it is, how far it is, what it reached, which files it left."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from stat import S_ISREG
from typing import Any

from stages.errors import FileError
from stages.event_fields import is_measure, mapping, text
from stages.events import Device, Evaluation, Measured, Warning
from stages.files.atomic_file import is_half_written
from stages.paths import in_shell
from stages.run_directory import FINAL_STATUSES, RunDirectory
from stages.settings.loading import resolved_tables

_NUMBERS = ("agreement", "agreement_by_chance", "ece", "images_synthesized", "buffer_size")
_RESULT_KEYS = ("teacher", "student", *_NUMBERS, "seconds", "device")


def overview(run: RunDirectory) -> dict[str, Any]:
    """One run as a row of `ssdkd runs ls`; what it has not reached yet is None.

    `epoch` is the present one, of a run that is over the last that it finished; `evaluated_epoch` the one that what is
    known of its student, on real data or synthetic, is of. Results are those of its summary, or of its newest events
    while it has none. Raises FileError where its events cannot be read.
    """
    summary, evaluation = run.summary(), run.events.last(Evaluation.kind) or {}
    results = _results(run, evaluation) if summary is None else _sound(summary)
    present = (run.events.last() or {}).get("epoch")
    return _row(
        run,
        run.status(),
        started=run.events.first() or {},
        epoch=present if summary is None else summary.get("epochs", present),
        evaluated_epoch=evaluation.get("epoch") if results["student"] or results["agreement"] is not None else None,
        results=results,
    )


def listed(run: RunDirectory) -> dict[str, Any]:
    """As `overview`; of a run whose events cannot be read nothing but its name, and the status "unreadable"."""
    try:
        return overview(run)
    except FileError:
        return _row(
            run, "unreadable", started={}, epoch=None, evaluated_epoch=None, results=dict.fromkeys(_RESULT_KEYS)
        )


def _row(
    run: RunDirectory,
    status: str,
    *,
    started: Mapping[str, Any],
    epoch: int | None,
    evaluated_epoch: int | None,
    results: Mapping[str, Any],
) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "name": run.name,
        "status": status,
        "command": started.get("command"),
        "preset": started.get("preset"),
        "seed": started.get("seed"),
        "started_s": _measure(started, "time_s"),
        "epoch": epoch,
        "epochs": started.get("epochs"),
        "evaluated_epoch": evaluated_epoch,
        **results,
    }


def _results(run: RunDirectory, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that has no summary has told so far."""
    device = run.events.last(Device.kind) or {}
    real, synthetic = mapping(evaluation, "real"), mapping(evaluation, "synthetic")
    return _sound(
        {
            "teacher": real.get("teacher"),
            "student": real.get("student"),
            **{name: synthetic.get(name) for name in ("agreement", "agreement_by_chance", "ece")},
            "seconds": device.get("seconds"),
            "device": device.get("device"),
        }
    )


def _sound(found: Mapping[str, Any]) -> dict[str, Any]:
    """The results, of which what is not of its kind counts as not there: whoever wrote it, no run is hidden by it."""
    results = {key: found.get(key) for key in _RESULT_KEYS}
    for key in ("teacher", "student", "seconds"):
        table = mapping(results, key)
        kept = {
            name: value for name, value in table.items() if is_measure(value) or (value is None and key != "seconds")
        }
        if "total" in kept:  # below what it is the total of
            kept["total"] = kept.pop("total")
        results[key] = kept or None
    for key in _NUMBERS:
        results[key] = _measure(results, key)
    return results


def _measure(found: Mapping[str, Any], name: str) -> Any:
    """The number, whole where it is; None where there is none."""
    value = found.get(name)
    return value if is_measure(value) else None


def details(run: RunDirectory) -> dict[str, Any]:
    """All of `ssdkd runs show`: the overview, how it ended, warnings, measurements, files, settings, manifest."""
    row = overview(run)
    ending = run.events.last() if row["status"] in FINAL_STATUSES else None
    warnings = [event.get("message") for event in run.events.newest_first(Warning.kind)]
    return {
        **row,
        "message": ending and ending.get("message"),
        "hint": ending and ending.get("hint"),
        "warnings": warnings[::-1],
        "measured": measured(run),
        "summary": run.summary(),
        "files": files(run),
        "config": settings(run),
        "manifest": run.manifest(),
    }


def measured(run: RunDirectory) -> dict[str, Any]:
    """The newest of all values that stages have measured, by `STAGE/name`; None where it is not finite."""
    newest: dict[str, Any] = {}
    for event in run.events.newest_first(Measured.kind):
        values = mapping(event, "values")
        for name in values:
            newest.setdefault(f"{text(event, 'stage')}/{name}", _measure(values, name))
    return dict(sorted(newest.items()))


def files(run: RunDirectory) -> dict[str, int]:
    """Size in bytes of each file of the run, by its path within the run; what is being written is none yet."""
    sizes = {}
    for path in sorted(run.path.rglob("*")):
        with suppress(FileNotFoundError):  # a run at work removes old checkpoints
            status = path.stat()
            if S_ISREG(status.st_mode) and not is_half_written(path):
                sizes[path.relative_to(run.path).as_posix()] = status.st_size
    return sizes


def settings(run: RunDirectory) -> dict[str, Any]:
    """The run's settings as its `config.toml` has them, plugins installed or not.

    Raises FileError where the file is missing or does not parse.
    """
    try:
        return resolved_tables(run.config_file.read_text(encoding="utf-8"))
    except OSError as error:
        raise FileError(
            f"cannot read {run.config_file}: {error.strerror or error}",
            hint="every run keeps its settings there",
        ) from error
    except (ValueError, RecursionError) as error:
        raise FileError(
            f"{run.config_file} is damaged: {error}",
            hint=f"`ssdkd runs verify {in_shell(run.path)}` looks at the other files",
        ) from error


def lasting_settings(settings: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    """A run's settings as its `config.toml` has them, by key, without those that begin so: they may change."""
    kept = {key: value for key, value in flat(settings).items() if not key.startswith(tuple(left_out))}
    lasting: dict[str, Any] = json.loads(json.dumps(kept, default=str))  # as it is read from the manifest again
    return lasting


def is_as_begun(run: RunDirectory) -> bool:
    """Whether a run's settings can be read and are, but for what may change, those it began with by its manifest."""
    manifest = run.manifest()
    before, left_out = manifest.get("settings"), manifest.get("settings_left_out")
    with suppress(FileError):
        return isinstance(left_out, list) and lasting_settings(settings(run), left_out) == before
    return False


def conditions(run: RunDirectory) -> dict[str, Any]:
    """What decides what a run comes to: its settings, flat, and which teacher and which buffer file it began with.

    Raises FileError where its settings cannot be read.
    """
    manifest = run.manifest()
    files = {name: manifest.get(f"{name}_sha256") for name in ("teacher", "buffer")}
    code = manifest.get("code_sha256")
    if isinstance(code, dict):
        files |= {code_key(key): sha256 for key, sha256 in code.items()}
    return flat(settings(run)) | {name: f"sha256 {str(sha256)[:12]}" for name, sha256 in files.items() if sha256}


def code_key(key: str) -> str:
    """What `conditions` call the checksum of the user's file that a network is made by."""
    return f"{key}, its code"


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys: {"run": {"seed": 0}} gives {"run.seed": 0}."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{key}.")
        else:
            leaves[prefix + key] = value
    return leaves


def metrics(document: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an overview by dotted key, `student.top1` for example; None and NaN left out."""
    results = {key: document.get(key) for key in _RESULT_KEYS}
    return {key: value for key, value in flat(results).items() if is_measure(value)}
