"""The runs of a list: which are done, which go on, which start; one at a time, each told as it ends.

OUT/<experiment>/seed-<n>/       a run as `ssdkd run` makes it;  seed-<n>.log: what it said
OUT/harness.lock                 held by the one harness at work here
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from experiment_list import Experiment, Machine
from product import (
    EXIT_REFUSED,
    EXIT_STOPPED,
    HarnessError,
    Trainer,
    ask,
    flat,
    preset_options,
    resolved_settings,
)

from stages.settings.loading import resolved_tables

_OF_REAL_IMAGES = ("evaluation.data", "evaluation.root", "evaluation.split", "evaluation.download")
_LIVE = ("starting", "running", "paused")
_OVER = ("done", "failed", "diverged")
ABSENT, REFUSED, UNREADABLE = "absent", "refused", "unreadable"


@dataclass
class Run:
    """One experiment with one seed: what is asked for, and what is there of it."""

    experiment: Experiment
    seed: int
    path: Path
    overrides: tuple[str, ...]
    """`key=value`, the experiment's and all others."""
    settings: Mapping[str, Any]
    """What they come to, by dotted key."""
    is_wanted: bool
    """Whether it is to be made, and not only told."""
    buffer: Path | None = None
    """Of `ssdkd distill`: the buffer's file, or the run that it is in."""
    status: str = ABSENT
    """`ABSENT`, `REFUSED`, `UNREADABLE`, or the run's own: done, stopped, failed, diverged, dead, running..."""
    message: str | None = None
    document: Mapping[str, Any] | None = None
    """The run in the words of `ssdkd runs show --json`."""

    @property
    def command(self) -> str:
        """The command of `ssdkd` that makes it."""
        return "run" if self.buffer is None else "distill"

    @property
    def options(self) -> list[str]:
        """`--preset`, `--set` and `--buffer` options that ask for it."""
        buffer = [] if self.buffer is None else ["--buffer", str(self.buffer)]
        return [*preset_options(self.experiment.presets, self.overrides), *buffer]

    @property
    def log(self) -> Path:
        """What it says on stderr."""
        return self.path.with_suffix(".log")

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: it is done, or it ended in a way that would repeat itself."""
        return self.status in _OVER

    def __str__(self) -> str:
        return f"{self.experiment.name}, seed {self.seed}"


def planned(
    experiments: Sequence[Experiment],
    out: Path,
    machine: Machine,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] | None = None,
    buffer: Path | None = None,
) -> list[Run]:
    """Every run of the experiments, with the state it is in; wanted are those of `only`, where that is given.

    With a `buffer` each distils from it, and inverts nothing.

    Runs of other seeds that are there already are among them, to be told with the others. Raises HarnessError for
    settings that `ssdkd` refuses, and where a run that is there has other settings than those asked for.
    """
    runs, problems = [], []
    for experiment in experiments:
        given = [*machine.overrides, *experiment.overrides, *overrides]
        try:
            settings = resolved_settings(experiment.presets, given)
            places = machine.places(settings, given)
            # As `ssdkd distill` does: a student from a buffer learns in all epochs that were asked for.
            names = {text.partition("=")[0] for text in given}
            is_short = buffer is not None and "run.epochs" in names and "run.warmup_epochs" not in names
            if places or is_short:
                given = [*given, *places, *["run.warmup_epochs=0"] * is_short]
                settings = resolved_settings(experiment.presets, given)
        except HarnessError as error:
            problems.append(f"{experiment.name}: {error.message}")
            continue
        for seed in _seeds(experiment, out):
            run = Run(
                experiment=experiment,
                seed=seed,
                path=out / experiment.name / f"seed-{seed}",
                overrides=(*given, f"run.seed={seed}"),
                settings={**settings, "run.seed": seed},
                is_wanted=seed in experiment.seeds and (only is None or experiment.name in only),
                buffer=buffer,
            )
            look_at(run)
            problems += [f"{run.path} {what}" for what in _objections(run)]
            runs.append(run)
    problems += _several_teachers(runs)
    if problems:
        raise HarnessError(
            "; ".join(problems),
            hint="give the settings that these runs were made with, or another --out; nothing is overwritten",
        )
    return runs


def _several_teachers(runs: Sequence[Run]) -> list[str]:
    """Where runs began with different files that one name stands for, or with another than lies there now."""
    files: dict[tuple[Any, ...], dict[str, Path]] = {}
    for run in runs:
        weights = run.settings.get("teacher.weights")
        name = (weights, run.settings.get("teacher.model"), run.settings.get("teacher.trained_on"))
        known = files.setdefault(name, {})
        if not known and (there := Path(str(weights)).expanduser()).is_file():
            known[_sha256(there)] = there
        began_with = _manifest(run).get("teacher_sha256")
        if began_with is not None:
            known.setdefault(began_with, run.path)
    return [
        f"{', '.join(map(str, known.values()))} are of different teachers, all called {name[1]}, {name[0]}"
        for name, known in files.items()
        if len(known) > 1
    ]


def _manifest(run: Run) -> Mapping[str, Any]:
    return (run.document or {}).get("manifest") or {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seeds(experiment: Experiment, out: Path) -> list[int]:
    """The seeds asked for, and after them those that are there."""
    there = (path.name.removeprefix("seed-") for path in (out / experiment.name).glob("seed-*") if path.is_dir())
    return list(dict.fromkeys([*experiment.seeds, *sorted(int(text) for text in there if text.isdecimal())]))


def look_at(run: Run) -> None:
    """Bring status, message and document up to date with what is on the disk."""
    if not run.path.is_dir() or not any(run.path.iterdir()):
        run.status, run.document = ABSENT, None
        return
    answer = ask("runs", "show", str(run.path), "--json")
    if answer.document is None:
        run.status, run.message, run.document = UNREADABLE, answer.complaint(), None
        return
    run.document = answer.document
    run.status = answer.document["status"]
    run.message = answer.document["message"] if run.status in ("failed", "diverged") else None


def _objections(run: Run) -> list[str]:
    """Why the folder cannot be taken for this run."""
    if run.status == ABSENT:
        return []
    if run.status == UNREADABLE:
        return [f"cannot be read, remove it to start that run anew: {run.message}"]
    if run.status in _LIVE:
        return [f"is {run.status} in another process (`ssdkd runs stop {run.path}` stops it and saves everything)"]
    if _other_buffer(run):
        return ["was made from another buffer"]
    differences = differing_settings(run)
    if differences:
        told = ", ".join(f"{key} is {there!r}, not {asked!r}" for key, asked, there in differences)
        return [f"was made with other settings: {told}"]
    return []


def buffer_file(place: Path) -> Path:
    """Where a buffer is of which its file or its run was named."""
    return place / "buffer.safetensors" if place.is_dir() else place


def _other_buffer(run: Run) -> bool:
    """Whether the run that is there began with other images than those asked for."""
    asked = None if run.buffer is None else _sha256(buffer_file(run.buffer))
    return bool(_manifest(run).get("buffer_sha256") != asked)


def differing_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """Keys in which a run's own config.toml is not what would be asked for: key, asked for, found."""
    file = run.path / "config.toml"
    found = flat(resolved_tables(file.read_text(encoding="utf-8")))
    if set(run.settings) - set(found):  # a version before some keys: what it had instead were their defaults
        found = resolved_settings([str(file)])
    keys = dict.fromkeys([*run.settings, *found])
    triples = [(key, run.settings.get(key), found.get(key)) for key in keys]
    automatic = {*_manifest(run).get("automatic", keys), "teacher.weights"}  # whose file is looked at by its digest
    return [triple for triple in triples if not _is_same(*triple, is_automatic=triple[0] in automatic)]


def _is_same(key: str, asked: Any, found: Any, *, is_automatic: bool = False) -> bool:
    """Whether a value is the one asked for. One that is automatic was "auto", and is what that stood for."""
    if asked == found or (asked == "auto" and is_automatic):
        return True
    if (key, asked, found) == ("run.acceleration", "graphs", "eager"):  # where nothing can be recorded
        return True
    if key == "run.device":
        return str(found).startswith(f"{asked}:")  # cuda is cuda:0
    # A run writes its paths out from the root.
    return isinstance(asked, str) and found == str(Path(asked).expanduser().absolute())


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Be the only harness at work in the folder. Raises HarnessError where another one is."""
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out / "harness.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise HarnessError(
                f"another harness works in {out}: process {pid or '?'}", hint="wait for it, or give another --out"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)  # frees the lock


def carry_out(
    runs: Sequence[Run], trainer: Trainer, *, began: Callable[[Run], None], ended: Callable[[Run], None]
) -> None:
    """Start or go on with each run that is not over, in order; `began` and `ended` are told of each.

    A run that fails, diverges, is killed or is refused does not end the list; a wish to stop does.
    """
    for run in runs:
        if trainer.must_stop:
            return
        if run.is_over or not run.is_wanted:
            continue
        began(run)
        is_new = run.status == ABSENT
        options = (*run.options, "--out", str(run.path)) if is_new else ("--resume", str(run.path))
        answer = trainer.run((run.command, *options), run.log)
        look_at(run)
        if answer.code in EXIT_REFUSED:
            run.status, run.message = REFUSED, answer.complaint()
        elif answer.code == EXIT_STOPPED:
            trainer.must_stop = True  # where it came from the dashboard it is the same wish
        ended(run)


class Check(NamedTuple):
    """What `--dry-run` says of a run that is to be started."""

    problem: str | None
    """Why it would be refused."""
    warnings: str
    has_real_images: bool
    """Whether its student would be measured on real images."""


def check(run: Run) -> Check:
    """Ask for a run without starting it."""
    answer = ask(run.command, *run.options, "--dry-run", "--json")
    if answer.document is None:
        return Check(answer.complaint(), "", has_real_images=False)
    warnings = "; ".join(line for line in answer.err.splitlines() if line.startswith("warning:"))
    return Check(None, warnings, has_real_images=answer.document["evaluation_data"] is not None)


def require_real_images(runs: Sequence[Run]) -> None:
    """Raise HarnessError where runs that are to be started would have no accuracy, and nobody chose that.

    One run stands for all that look for the same images.
    """
    looking: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        if run.is_wanted and run.status == ABSENT and run.settings.get("evaluation.data") != "none":
            looking.setdefault(tuple(run.settings.get(key) for key in _OF_REAL_IMAGES), run)
    for run in looking.values():
        checked = check(run)
        if checked.problem is None and not checked.has_real_images:
            raise HarnessError(
                f"{run} would not be measured on real images: {checked.warnings.removeprefix('warning: ')}",
                hint="say where they lie with --set evaluation.root=FOLDER or in a machine file;"
                " --set evaluation.data=none does without",
            )
