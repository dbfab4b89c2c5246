"""Lists of experiments: TOML files that say what is compared with what.

    title = "Table 4"
    presets = ["cifar10-resnet20-paper"] # shipped names, or paths that start at the list
    overlays = ["short"]                 # of ./overlays, or as presets; --overlay takes their place
    seeds = [0, 1]
    baseline = "uniform"

    [experiments.uniform]
    title = "uniform sampling, phi = 1"
    set.distillation.sampling = "uniform"

An experiment may have presets, seeds and a baseline of its own, and `paper`, the paper's accuracy (a fraction). With
`command = "distill"` nothing is inverted: every run of the list distils from the buffer that --buffer names.
Where data and teachers lie is no part of a list: that comes from the command line, or from a machine file, whose
relative paths start at its folder:

    [machine]
    note = "two cores of an AMD EPYC"
    set.run.threads = 2                                 # for every run
    data.cifar10 = { data = "imagefolder", root = "..." }   # in place of evaluation.data = "cifar10"
    teachers.resnet32-cifar10 = "resnet32.th"           # MODEL-DATASET, as in the names of cached teachers
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from product import HarnessError, flat
from pydantic import TypeAdapter, ValidationError

HERE = Path(__file__).resolve().parent
OVERLAYS = HERE / "overlays"
MACHINE_FILE = HERE / "machine.toml"
"""Where the machine file is looked for; git ignores it."""

_TEXTS, _WHOLE_NUMBERS = list[str], list[int]
_LIST_KEYS = {
    "title": str,
    "note": str,
    "command": Literal["run", "distill"],
    "presets": _TEXTS,
    "overlays": _TEXTS,
    "seeds": _WHOLE_NUMBERS,
    "baseline": str,
}
_EXPERIMENT_KEYS = {
    "title": str,
    "presets": _TEXTS,
    "seeds": _WHOLE_NUMBERS,
    "baseline": str,
    "set": dict[str, Any],
    "paper": float,
}
_MACHINE_KEYS = {
    "note": str,
    "set": dict[str, Any],
    "data": dict[str, dict[str, Any]],
    "teachers": dict[str, str],
}


@dataclass(frozen=True)
class Experiment:
    """One row: what is asked of `ssdkd run` or `ssdkd distill`, apart from seed and place."""

    name: str
    title: str
    presets: tuple[str, ...]
    overrides: tuple[str, ...]
    """`key=value`, as for `--set`."""
    seeds: tuple[int, ...]
    baseline: str | None
    paper: float | None


@dataclass(frozen=True)
class ExperimentList:
    """A list as it was read; `name` is what its results are called."""

    name: str
    title: str
    note: str
    command: Literal["run", "distill"]
    """What makes its runs; "distill" begins with a buffer that is there."""
    experiments: tuple[Experiment, ...]


@dataclass(frozen=True)
class Machine:
    """Where things lie on this machine, and what it is."""

    note: str = ""
    overrides: tuple[str, ...] = ()
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    teachers: Mapping[str, str] = field(default_factory=dict)

    def places(self, settings: Mapping[str, Any], given: Sequence[str]) -> list[str]:
        """Overrides that say where the data and the teacher of resolved settings lie; what was `given` stays."""
        keys = {text.partition("=")[0].strip() for text in given}
        found = []
        if not keys & {"evaluation.data", "evaluation.root"}:
            replacement = self.data.get(str(settings.get("evaluation.data")), {})
            found += [f"evaluation.{key}={_text_of(value)}" for key, value in replacement.items()]
        weights = self.teachers.get(f"{settings.get('teacher.model')}-{settings.get('teacher.trained_on')}")
        if weights is not None and settings.get("teacher.weights") == "auto" and "teacher.weights" not in keys:
            found.append(f"teacher.weights={weights}")
        return found


def read_list(
    path: Path, *, overlays: Sequence[str] | None = None, seeds: Sequence[int] | None = None
) -> ExperimentList:
    """The experiments of a list; `overlays` and `seeds` take the place of the list's own.

    Raises HarnessError with everything that is wrong with the file.
    """
    document = _read_toml(path)
    tables = document.pop("experiments", {})
    problems = _misfits(document, _LIST_KEYS, "")
    if not isinstance(tables, dict) or not tables:
        problems.append("it has no table [experiments.NAME]")
        tables = {}
    for name, table in tables.items():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
            problems.append(f"`{name}` cannot be the name of a folder")
        problems += _misfits(table, _EXPERIMENT_KEYS, f"experiments.{name}")
    if problems:
        raise HarnessError(f"{path}: {'; '.join(problems)}")
    laid_over = [_overlay(text, path.parent) for text in document.get("overlays", [])]
    if overlays is not None:
        laid_over = [_overlay(text, Path()) for text in overlays]
    experiments = []
    for name, table in tables.items():
        presets = [_preset(text, path.parent) for text in table.get("presets", document.get("presets", []))]
        experiment = Experiment(
            name=name,
            title=table.get("title", name),
            presets=(*presets, *laid_over),
            overrides=tuple(overrides_of(table.get("set", {}))),
            seeds=tuple(table.get("seeds", document.get("seeds", [0])) if seeds is None else seeds),
            baseline=table.get("baseline", document.get("baseline")),
            paper=table.get("paper"),
        )
        problems += _faults(experiment, tables)
        experiments.append(experiment)
    if problems:
        raise HarnessError(f"{path}: {'; '.join(problems)}")
    return ExperimentList(
        name="-".join([path.stem, *(Path(text).stem for text in laid_over)]),
        title=document.get("title", path.stem),
        note=document.get("note", ""),
        command=document.get("command", "run"),
        experiments=tuple(experiments),
    )


def read_machine(path: Path | None) -> Machine:
    """The machine file; without a path the usual one, or nothing where there is none."""
    if path is None and not MACHINE_FILE.is_file():
        return Machine()
    path = path or MACHINE_FILE
    table = _read_toml(path).get("machine", {})
    problems = _misfits(table, _MACHINE_KEYS, "machine")
    if problems:
        raise HarnessError(f"{path}: {'; '.join(problems)}")
    folder = path.absolute().parent  # where its relative paths start
    data = {
        name: values | ({"root": _place(folder, str(values["root"]))} if "root" in values else {})
        for name, values in table.get("data", {}).items()
    }
    return Machine(
        note=table.get("note", ""),
        overrides=tuple(overrides_of(table.get("set", {}))),
        data=data,
        teachers={name: _place(folder, file) for name, file in table.get("teachers", {}).items()},
    )


def _place(folder: Path, text: str) -> str:
    return str(folder / Path(text).expanduser())


def overrides_of(table: Mapping[str, Any]) -> list[str]:
    """Nested tables as `key=value`, the way `--set` takes them."""
    return [f"{key}={_text_of(value)}" for key, value in flat(dict(table)).items()]


def _text_of(value: Any) -> str:
    """Text as it is, anything else as TOML, which is JSON for numbers, booleans and lists of them."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(
            f"cannot read {path}: {error.strerror or error}", hint=f"lists are in {HERE / 'lists'}"
        ) from error
    except ValueError as error:
        raise HarnessError(f"{path} is not valid TOML: {error}") from error


def _misfits(table: Any, known: Mapping[str, Any], where: str) -> list[str]:
    if not isinstance(table, dict):
        return [f"`{where}` must be a table"]
    problems = []
    for key, value in table.items():
        dotted = f"{where}.{key}".lstrip(".")
        if key not in known:
            near = get_close_matches(key, known, n=1)
            problems.append(f"unknown key `{dotted}`" + (f", did you mean `{near[0]}`?" if near else ""))
        elif not _fits(value, known[key]):
            problems.append(f"`{dotted}` is {value!r}, which does not fit")
    return problems


def _fits(value: Any, kind: Any) -> bool:
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def _faults(experiment: Experiment, names: Mapping[str, Any]) -> list[str]:
    name, problems = experiment.name, []
    if not experiment.presets:
        problems.append(f"`{name}` has no presets, and neither has the list")
    if experiment.baseline is not None and experiment.baseline not in names:
        problems.append(f"the baseline of `{name}`, `{experiment.baseline}`, is no experiment of the list")
    whole = [seed for seed in experiment.seeds if seed >= 0]
    if not whole or len(set(whole)) < len(experiment.seeds):
        problems.append(f"the seeds of `{name}` are {list(experiment.seeds)}: different whole numbers are wanted")
    return problems


def _overlay(text: str, folder: Path) -> str:
    shipped = OVERLAYS / f"{text}.toml"
    return str(shipped) if shipped.is_file() else _preset(text, folder)


def _preset(text: str, folder: Path) -> str:
    """A shipped preset's name as it is, a path from where it starts."""
    return str(folder.absolute() / text) if text.endswith(".toml") else text
