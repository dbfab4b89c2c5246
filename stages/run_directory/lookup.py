"""Which run people mean: a path, a name in the folder of runs, the newest one; and which runs a folder holds."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stages.errors import FileError
from stages.paths import in_shell, is_folder, typed_path
from stages.run_directory import RUNS_ROOT, RunDirectory, is_run


def list_runs(root: Path = RUNS_ROOT) -> list[RunDirectory]:
    """The runs in a folder, each once, those that a process took up last first."""
    runs = [RunDirectory(path) for path in _folders(root) if is_run(path)]
    return sorted(runs, key=lambda run: (run.started_s(), run.name), reverse=True)


def _folders(root: Path) -> list[Path]:
    """The folders in a folder, each once, by its own name rather than a link's; none where it cannot be looked into."""
    if not os.access(root, os.R_OK | os.X_OK) or not root.is_dir():
        return []
    links_first = sorted(filter(is_folder, root.iterdir()), key=lambda path: not path.is_symlink())
    return sorted({path.resolve(): path for path in links_first}.values())


def newest_run(root: Path = RUNS_ROOT) -> RunDirectory | None:
    """The run that a process took up last, in a folder or in a group there, or None."""
    return max(_runs_and_groups(root), key=RunDirectory.started_s, default=None)


def resolve_run(text: str | None, root: Path = RUNS_ROOT) -> RunDirectory:
    """The run that a user means: a path, the name of a run in `root`, or (None) the newest run there.

    Raises FileError where there is no such run.
    """
    if text is None:
        newest = newest_run(root)
        if newest is None:
            raise FileError(
                f"there is no run in the folder {root}",
                hint="`ssdkd run` starts one; or give the path of a run directory",
            )
        return newest
    typed = typed_path(text)
    for path in (typed, root / text):
        if path.is_dir() and is_run(path):
            return RunDirectory(path)
    group = group_of(text, root)
    if group is not None:
        raise FileError(
            f"{text} is not a run directory but a folder of {len(group)} runs",
            hint=f"name one of them, for example `{in_shell(group[0].path)}`",
        )
    if typed.is_dir() and not os.access(typed, os.R_OK | os.X_OK):
        raise FileError(f"you may not look into {text}", hint="ask its owner, or `chmod` it where it is yours")
    if typed.is_dir():
        raise FileError(
            f"{text} is not a run directory: it has neither config.toml nor events.jsonl",
            hint="`ssdkd runs ls` lists the runs",
        )
    if typed.exists():
        raise FileError(f"{text} is a file, not a run directory", hint="`ssdkd runs ls` lists the runs")
    near = get_close_matches(typed.name, [run.name for run in list_runs(root)], n=1)
    hint = f"did you mean `{near[0]}`?" if near else "`ssdkd runs ls` lists the runs"
    if typed.suffix and not near:  # it may have been meant as a file
        raise FileError(
            f"there is neither a run nor a file `{text}`", hint=f"relative paths start at {Path.cwd()}; {hint}"
        )
    raise FileError(f"there is no run `{text}`", hint=hint)


def resolve_buffer(text: str | None) -> tuple[Path, RunDirectory | None]:
    """The buffer file that a user means, and the run it belongs to, if any: a file, or a run as for `resolve_run`.

    Raises FileError where there is no such file or run, or the run has no buffer yet.
    """
    path = None if text is None else typed_path(text)
    if path is not None and path.is_file():
        folder = path.absolute().parent
        return path, RunDirectory(folder) if is_run(folder) else None
    if text is not None and text.endswith(".safetensors"):
        raise FileError(f"there is no buffer file {text}", hint="a run keeps its replay buffer in buffer.safetensors")
    run = resolve_run(text)
    if not run.buffer_file.is_file():
        raise FileError(
            f"the run {run.path} holds no buffer yet", hint="a run writes it at its first checkpoint and at its end"
        )
    return run.buffer_file, run


def newest_made_buffer() -> tuple[Path, RunDirectory]:
    """The buffer of the newest run that is done and made its images itself, and that run.

    What `distill` leaves behind has fewer of them, for some are set aside; what a run that was stopped leaves, not all.
    Raises FileError where there is none.
    """
    made = [
        run
        for run in _runs_and_groups(RUNS_ROOT)
        if run.buffer_file.is_file() and run.manifest().get("command") != "distill" and run.status() == "done"
    ]
    newest = max(made, key=RunDirectory.started_s, default=None)
    if newest is None:
        raise FileError(
            f"there is no buffer of a finished run in the folder {RUNS_ROOT}",
            hint="`ssdkd invert` makes one; or name a file or a run by --buffer",
        )
    return newest.buffer_file, newest


def group_of(text: str, root: Path = RUNS_ROOT) -> list[RunDirectory] | None:
    """The runs in the folder that a user means, by name, as `ssdkd run --seeds 0,1 --out FOLDER` leaves them.

    None where it is a run itself, or holds none. Like a run, a folder may be named as in `root`.
    """
    for folder in (typed_path(text), root / text):
        runs = _group(folder)
        if runs:
            return runs
    return None


def list_groups(root: Path) -> list[RunDirectory]:
    """The runs of all groups in a folder, group by group."""
    return [run for folder in _folders(root) for run in _group(folder)]


def _runs_and_groups(folder: Path) -> list[RunDirectory]:
    """All runs in a folder, and in groups there."""
    return [*list_runs(folder), *list_groups(folder)]


def _group(folder: Path) -> list[RunDirectory]:
    """The runs in a folder that is none itself, by name."""
    return [] if is_run(folder) else sorted(list_runs(folder), key=lambda run: _natural(run.name))


def run_to_watch(text: str | None, root: Path = RUNS_ROOT) -> tuple[RunDirectory, Path | None]:
    """The run to look at, and the folder whose next run is to be shown after it, or None.

    Of a folder of runs, and of `root` where nothing was typed, that is the run at work, or else the newest. Raises
    FileError where there is no such run.
    """
    folder = root if text is None else _folder_of_runs(text, root)
    if folder is None:
        return resolve_run(text, root), None
    return run_at_work(folder) or resolve_run(None, folder), folder


def _folder_of_runs(text: str, root: Path) -> Path | None:
    """The folder that a user means which is no run and holds runs, or groups of them; None where there is none."""
    folders = [folder for folder in (typed_path(text), root / text) if not is_run(folder)]
    return next((folder for folder in folders if list_runs(folder) or list_groups(folder)), None)


def run_at_work(folder: Path) -> RunDirectory | None:
    """The run, in a folder or in a group there, that a process is at work on; of several the one taken up last."""
    at_work = [run for run in _runs_and_groups(folder) if run.is_alive()]
    return max(at_work, key=RunDirectory.started_s, default=None)


def find_runs(text: str) -> list[RunDirectory]:
    """The run that a user means, or the runs of a group. Raises FileError where there is neither."""
    return group_of(text) or [resolve_run(text)]


def _natural(name: str) -> list[Any]:
    """seed-10 comes after seed-9."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]
