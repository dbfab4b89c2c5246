"""Other runs beside the one on the screen: which there are, how they fared, the settings in which they differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssdkd_cli.words import agreement_text, headline
from stages.errors import FileError
from stages.run_directory import RUNS_ROOT, RunDirectory
from stages.run_directory import comparison as run_comparison
from stages.run_directory.lookup import list_groups, list_runs
from stages.run_directory.overview import conditions, listed

LETTERS = "ABCDEF"
"""The run on the screen is A, those it is compared with follow: more lines in one chart nobody tells apart."""

MAX_OTHERS = len(LETTERS) - 1

UNKNOWN = object()


@dataclass(frozen=True)
class Candidate:
    """A run that may be laid over another one, as a list shows it."""

    path: Path
    name: str
    status: str
    preset: str
    epoch: int
    epochs: int
    result: str
    """The best that is known of its student: accuracy on real images, else agreement on synthetic ones; may be ""."""
    took_s: float | None

    @property
    def how_far(self) -> str:
        """The epochs that are over, of all: "60 of 220"; empty where that is not known."""
        return f"{self.epoch} of {self.epochs}" if self.epochs else ""


@dataclass(frozen=True)
class Difference:
    """A setting in which runs differ: a value for each of them, None where a run does not have it.

    `UNKNOWN` stands for a run whose settings cannot be read.
    """

    key: str
    values: tuple[Any, ...]


def lettered(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """Letter and name of each run in a comparison, the run on the screen first.

    A name that several have, as seeds of two groups do, is told with its folder.
    """
    paths = [path.absolute() for path in paths]
    shared = {name for name, count in Counter(path.name for path in paths).items() if count > 1}
    names = [f"{path.parent.name}/{path.name}" if path.name in shared else path.name for path in paths]
    return list(zip(LETTERS, names, strict=False))


def candidates(run: RunDirectory, folder: Path | None = None) -> list[Candidate]:
    """The other runs in the folder of `run`, and in `folder` and ./runs or groups there, newest first.

    Of a run of a group, those of the groups beside it, too.
    """
    beside = run.path.resolve().parent
    roots = [each.resolve() for each in (RUNS_ROOT, folder) if each is not None]
    alone = [other for each in (beside, *roots) for other in list_runs(each)]
    with_groups = [*roots, beside.parent] if run.name.startswith("seed-") else roots
    grouped = [other.path for each in with_groups for other in list_groups(each)]
    names = {other.path.resolve(): other.name for other in alone}
    names |= {path.resolve(): f"{path.parent.name}/{path.name}" for path in grouped}
    names.pop(run.path.resolve(), None)
    found = sorted(map(RunDirectory, names), key=RunDirectory.started_s, reverse=True)
    return [candidate_of(other, names[other.path]) for other in found]


def candidate_of(run: RunDirectory, name: str) -> Candidate:
    """What a list shows of a run, which it calls `name`."""
    row = listed(run)
    epoch, epochs = (row[name] if isinstance(row[name], int) else 0 for name in ("epoch", "epochs"))
    agreement = "" if row["agreement"] is None else f"agreement {agreement_text(row['agreement'])}"
    return Candidate(
        run.path,
        name,
        row["status"],
        str(row["preset"] or ""),
        epoch=epoch,
        epochs=epochs,
        result=headline(row["student"]) or agreement,
        took_s=(row["seconds"] or {}).get("total"),
    )


def differences(runs: Sequence[RunDirectory]) -> tuple[list[Difference], list[RunDirectory]]:
    """The settings in which runs differ, in the order of the file; and the runs whose settings cannot be read."""
    configurations, unreadable = [], []
    for run in runs:
        try:
            configurations.append(conditions(run))
        except FileError:
            unreadable.append(run)
    found = []
    for key, values in run_comparison.differences(configurations).items():
        value_of = iter(values)
        found.append(Difference(key, tuple(UNKNOWN if run in unreadable else next(value_of) for run in runs)))
    return found, unreadable
