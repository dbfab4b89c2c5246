"""`ssdkd runs`: the runs there are, what they reached, what they differ in; asking one to pause or stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ssdkd_cli import console, diagnostics, run_reports
from ssdkd_cli.options import Json
from stages.errors import ConfigError, FileError, SsdkdError
from stages.paths import in_shell, typed_path
from stages.run_directory import LIVE_STATUSES, RUNS_ROOT, RunDirectory, is_run

app = typer.Typer(no_args_is_help=True, help="List, compare, verify and control runs.")

RunOrGroup = Annotated[
    str | None,
    typer.Argument(metavar="RUN|FOLDER", help="A run or a folder of runs, by path or name in ./runs; else the newest."),
]
AnyRun = Annotated[
    str | None,
    typer.Argument(metavar="RUN", help="A run directory, or a name in ./runs; otherwise the newest there."),
]
LiveRun = Annotated[str, typer.Argument(metavar="RUN", help="A run directory, or a name in ./runs.")]
Timeout = Annotated[float, typer.Option(metavar="S", min=0, help="How long to wait for the run's answer [seconds].")]

# A run listens between synthesis calls, distillation steps and stages; evaluation on a CPU may take this long.
_TIMEOUT_S = 60.0


@app.command("ls")
def list_all(
    folder: Annotated[
        Path, typer.Argument(parser=typed_path, metavar="FOLDER", help="The folder that holds the runs [path].")
    ] = RUNS_ROOT,
    json: Json = False,
) -> None:
    """List runs, newest first: status, epoch, results, time.

    Runs in a folder of their own, as --seeds with --out makes them, come after the others. A run is starting, running,
    paused, stopped, done, failed (an error ended it), diverged, dead (its process is gone without a word), or
    unreadable; stopped, failed and dead ones go on with `ssdkd run --resume RUN`.

    \b
    Example:
      ssdkd runs ls
    """
    from stages.run_directory.lookup import list_groups, list_runs
    from stages.run_directory.overview import listed

    if folder != RUNS_ROOT and not folder.is_dir():
        raise FileError(f"there is no folder {folder}", hint="name the folder that holds the runs")
    if is_run(folder):
        raise FileError(f"{folder} is a run, not a folder of them", hint=f"`ssdkd runs show {in_shell(folder)}`")
    single = {run.path.resolve(): run for run in list_runs(folder)}  # links to runs of groups may be among them
    grouped = [run for run in list_groups(folder) if run.path.resolve() not in single]
    documents = [listed(run) for run in single.values()]
    # Named as other commands take them: group/run.
    documents += [{**listed(run), "name": run.path.relative_to(folder).as_posix()} for run in grouped]
    if json:
        console.print_json(documents)
    elif documents:
        run_reports.print_list(documents)
    else:
        diagnostics.note(f"there is no run in the folder {folder}")


@app.command("show")
def show(run: RunOrGroup = None, json: Json = False) -> None:
    """Show one run: results, seconds, settings, files.

    For a folder of runs, as --seeds with --out makes it, print what `compare` prints: mean and spread over seeds.

    \b
    Example:
      ssdkd runs show digits-20260101-120000
    """
    from stages.run_directory.lookup import group_of, resolve_run
    from stages.run_directory.overview import details

    group = None if run is None else group_of(run)
    if group is not None:
        _print_comparison(group, json=json)
        return
    document = details(resolve_run(run))
    if json:
        console.print_json(document)
    else:
        run_reports.print_details(document)


@app.command("compare")
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN|FOLDER...", help="Runs and folders of runs, by path or name in ./runs.")
    ],
    json: Json = False,
) -> None:
    """Compare runs: results, settings, mean over seeds.

    Runs that are done and differ in nothing but their seed are summed up: mean and sample standard deviation.

    \b
    Example:
      ssdkd runs compare runs/uniform runs/priority
    """
    from stages.run_directory.lookup import find_runs

    found = {run.path.resolve(): run for text in runs for run in find_runs(text)}
    if len(found) < 2:
        raise ConfigError("a comparison needs two runs or more", hint="`ssdkd runs ls` lists them")
    _print_comparison(list(found.values()), json=json)


def _print_comparison(runs: Sequence[RunDirectory], *, json: bool) -> None:
    from stages.run_directory.comparison import compare

    document = compare(runs)
    if json:
        console.print_json(document)
    else:
        run_reports.print_comparison(document)


@app.command("verify")
def verify(run: AnyRun = None, json: Json = False) -> None:
    """Read every file of a run; exit code 3 if one is damaged.

    \b
    Example:
      ssdkd runs verify digits-20260101-120000
    """
    from stages.run_directory.lookup import resolve_run
    from stages.run_directory.verification import hint_of_damage, verify

    found = resolve_run(run)
    checks = verify(found)
    damaged = [check.file for check in checks if not check.is_sound]
    if json:
        console.print_json({"run": str(found.path), "ok": not damaged, "checks": [asdict(check) for check in checks]})
    else:
        if run is None:  # not named, so say which it is
            diagnostics.note(f"the run is {found.path}")
        run_reports.print_checks(checks)
    if damaged:
        raise FileError(f"{found.path} is damaged: {', '.join(damaged)}", hint=hint_of_damage(found, damaged))


@app.command("pause")
def pause(run: LiveRun, timeout: Timeout = _TIMEOUT_S) -> None:
    """Pause a run: it keeps its memory and waits for `runs resume`.

    \b
    Example:
      ssdkd runs pause digits-20260101-120000
    """
    _ask(run, "pause", timeout)


@app.command("resume")
def resume(run: LiveRun, timeout: Timeout = _TIMEOUT_S) -> None:
    """Let a paused run go on.

    A run that was stopped goes on with `ssdkd run --resume RUN`.

    \b
    Example:
      ssdkd runs resume digits-20260101-120000
    """
    _ask(run, "resume", timeout)


@app.command("checkpoint")
def checkpoint(run: LiveRun, timeout: Timeout = _TIMEOUT_S) -> None:
    """Let a run save everything now and go on.

    \b
    Example:
      ssdkd runs checkpoint digits-20260101-120000
    """
    _ask(run, "checkpoint", timeout)


@app.command("stop")
def stop(
    run: LiveRun,
    timeout: Timeout = _TIMEOUT_S,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
) -> None:
    """Let a run save everything and end. Asks first.

    Off a terminal it does not ask. Returns when everything is saved, for which it waits as long again as for the
    answer. The run goes on with `ssdkd run --resume RUN`.

    \b
    Example:
      ssdkd runs stop digits-20260101-120000 --yes
    """
    _ask(run, "stop", timeout, confirm=not yes and console.is_terminal(sys.stdin))


def _ask(text: str, action: str, timeout_s: float, *, confirm: bool = False) -> None:
    """Send a request, wait for the answer and tell it. Raises SsdkdError (exit code 1) where none comes."""
    from stages.run_directory.control import refuse_idle, send_request, wait_for_acknowledgement
    from stages.run_directory.lookup import resolve_run

    run = resolve_run(text)
    refuse_idle(run, action)
    if confirm and not typer.confirm(f"{action} {run.path}? It saves everything first.", err=True):
        diagnostics.note(f"{run.path} was not asked, and stays as it is")
        raise typer.Exit(diagnostics.ExitCode.FAILED)
    request_id = send_request(run, action)
    diagnostics.note(f"{run.path}: asked to {action}, waiting up to {timeout_s:g} s")
    answer = wait_for_acknowledgement(run, request_id, timeout_s)
    if answer is None:
        refuse_idle(run, action)  # raises where it has ended meanwhile
        raise SsdkdError(
            f"{run.path} did not answer within {timeout_s:g} s",
            hint=f"the run does it at its next safe point all the same; `ssdkd runs show {in_shell(run.path)}` tells",
        )
    if not answer.accepted:
        raise ConfigError(
            f"{run.path} refused to {action}: {answer.message or 'no reason given'}",
            hint=f"`ssdkd runs show {in_shell(run.path)}` tells where it stands",
        )
    diagnostics.note(f"{run.path}: {answer.message or action}")
    if action == "stop":
        _wait_for_the_end(run, timeout_s)


def _wait_for_the_end(run: RunDirectory, timeout_s: float) -> None:
    """Return once a run that agreed to stop has saved everything. Raises SsdkdError where it has not."""
    deadline_s = time.monotonic() + timeout_s
    while (status := run.status()) in LIVE_STATUSES and time.monotonic() < deadline_s:
        time.sleep(0.05)
    if status in LIVE_STATUSES:
        raise SsdkdError(
            f"{run.path} has not ended within {timeout_s:g} s",
            hint=f"it is saving, and ends when it has; `ssdkd runs show {in_shell(run.path)}` tells",
        )
    if status not in ("stopped", "done"):
        raise SsdkdError(
            f"{run.path} has not been saved as asked: it is {status}",
            hint=f"`ssdkd runs show {in_shell(run.path)}` tells why",
        )
