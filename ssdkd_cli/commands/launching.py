"""From the options of run, invert and distill to finished runs: what the three commands share."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssdkd_cli import console, diagnostics, progress, summary
from ssdkd_cli.commands.viewing import report_killed, show_own
from ssdkd_cli.diagnostics import ExitCode
from ssdkd_cli.options import asks_for_evaluation_data, keys_of
from ssdkd_cli.signals import Ending, heard_as_ctrl_c
from ssdkd_cli.torch_import import import_torch
from ssdkd_cli.trainer_process import ReadyPipe, TrainerProcess, once_begun, ready_pipe_of_this_process
from ssdkd_cli.words import num_epochs
from stages.errors import ConfigError, SsdkdError
from stages.paths import in_shell
from stages.run_directory import RunDirectory

if TYPE_CHECKING:
    from stages.config import Config
    from stages.events import Listener
    from stages.trainer import Launch, Outcome, Plan

STATUS_CODES = {
    "done": ExitCode.DONE,
    "stopped": ExitCode.STOPPED,
    "failed": ExitCode.FAILED,
    "diverged": ExitCode.DIVERGED,
}


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What was typed after `ssdkd run`, `invert` or `distill`; the defaults are what was not typed."""

    command: Literal["run", "invert", "distill"]
    preset: Sequence[str] | None = None
    overrides: Sequence[str] | None = None
    out: Path | None = None
    resume: str | None = None
    go_on: bool = False
    device: str | None = None
    seeds: str | None = None
    tui: bool | None = None
    train_teacher: bool = False
    dry_run: bool = False
    estimate: bool = False
    json: bool = False
    buffer: str | None = None


def launch(request: LaunchRequest) -> int:
    """Do what was asked for, print the result, and return the exit code."""
    _refuse_contradictions(request)
    if _wants_dashboard(request):
        return _launch_with_viewer(request)
    with console.reserved_stdout(), heard_as_ctrl_c() as ending:
        try:
            return _launch_here(request, ending)
        except KeyboardInterrupt as interrupt:
            diagnostics.report_interruption(interrupt)
            return ExitCode.INTERRUPTED


def _launch_here(request: LaunchRequest, ending: Ending) -> int:
    """Train in this process."""
    if request.resume is not None:
        return _resume(request, request.resume, ending)
    launches = _prepare(request)
    if request.dry_run or request.estimate:
        return _describe(launches, request)
    if request.seeds is not None:
        return _run_seeds(launches, request, ending)
    return _finish(_execute(*launches[0], request, ending), request, ending)


def parse_seeds(text: str) -> tuple[int, ...]:
    """The seeds of `--seeds 0,1,2`. Raises ConfigError for anything but different whole numbers >= 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]+", part) for part in parts):
        raise ConfigError(f"`--seeds {text}` is not a list of whole numbers", hint="for example `--seeds 0,1,2`")
    seeds = tuple(int(part) for part in parts)
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"`--seeds {text}` names a seed twice", hint="the same seed gives the same run")
    return seeds


def _refuse_contradictions(request: LaunchRequest) -> None:
    if request.tui and not request.json:  # --json implies --no-tui
        if not console.has_screen():
            raise ConfigError(
                "`--tui` opens the live dashboard, and this is not a terminal that could show it",
                hint="leave it out: progress goes to stderr, and `ssdkd watch` looks at the run from a terminal",
            )
        if request.seeds is not None:
            raise ConfigError(
                "`--tui` shows one run, and `--seeds` makes several",
                hint="leave out --tui: progress goes to the terminal, and `ssdkd watch` shows the run at work",
            )
    if request.resume is None:
        _refuse_to_go_on(request)
        return
    allowed = {"command", "resume", "device", "tui", "json"}
    options = {"overrides": "--set", "train_teacher": "--train-teacher", "dry_run": "--dry-run", "go_on": "--go-on"}
    given = [
        options.get(field.name, f"--{field.name}")
        for field in fields(request)
        if field.name not in allowed and getattr(request, field.name)
    ]
    if given:
        hint = "only --device, --tui/--no-tui and --json may be given with --resume"
        if request.overrides:
            hint += (
                f"; a student that learns longer, or otherwise, from the same images: `ssdkd distill --buffer"
                f" {request.resume} --set run.epochs=N`"
            )
        raise ConfigError(f"`--resume` goes on with the settings of the run and takes no {', '.join(given)}", hint=hint)


def _refuse_to_go_on(request: LaunchRequest) -> None:
    if request.go_on and request.out is None:
        raise ConfigError("`--go-on` finds the run by `--out`", hint="add `--out DIR`, the same each time")
    other = {"--tui": request.tui, "--dry-run": request.dry_run, "--estimate": request.estimate}
    given = [option for option, value in other.items() if value]
    if request.go_on and given:
        given_text = ", ".join(given)
        raise ConfigError(f"`--go-on` is for jobs without a screen, and takes no {given_text}", hint="leave it out")


def _wants_dashboard(request: LaunchRequest) -> bool:
    """Whether to open it: on a terminal, unless an option asks for something else."""
    is_only_asked = request.dry_run or request.estimate
    is_elsewhere = request.json or is_only_asked or request.seeds is not None or request.go_on or request.tui is False
    return not is_elsewhere and console.has_screen()


def _launch_with_viewer(request: LaunchRequest) -> int:
    """Start the trainer in a session of its own and open the dashboard on its run, if it is not refused."""
    from stages.run_directory.lookup import resolve_run

    if request.resume is not None:
        resolve_run(request.resume)
    else:
        settings = _settings(request)  # the trainer checks them again: here the answer comes at once
        if request.command == "distill" and request.buffer is None and settings.buffer_run is not None:
            request = replace(request, buffer=str(settings.buffer_run.path))
    trainer = TrainerProcess(arguments_of(request))
    run = trainer.wait_until_ready(meanwhile=partial(import_module, "ssdkd_cli.dashboard.app"))
    if run is None:
        hint = "`--no-tui` leaves out the dashboard and its second process"
        report_killed(trainer, "the run before it had begun", hint=hint)
        return trainer.exit_code() or ExitCode.DONE
    return show_own(run, trainer, command=request.command)


def arguments_of(request: LaunchRequest) -> list[str]:
    """What has to be typed for this request, without the dashboard."""
    arguments = [request.command, "--no-tui"]
    for option, values in (("--preset", request.preset), ("--set", request.overrides)):
        for value in values or ():
            arguments += [option, value]
    for option, text in (
        ("--buffer", request.buffer),
        ("--out", request.out),
        ("--resume", request.resume),
        ("--device", request.device),
    ):
        if text is not None:
            arguments += [option, str(text)]
    return [*arguments, "--train-teacher"] if request.train_teacher else arguments


@dataclass(frozen=True)
class _Settings:
    """What the options come to, as far as it can be known without torch."""

    config: Config
    name: str
    seeds: tuple[int, ...] | None
    buffer: Path | None
    buffer_run: RunDirectory | None


def _settings(request: LaunchRequest) -> _Settings:
    """Check what can be checked before torch is imported. Raises ConfigError, FileError."""
    from stages.config import DEFAULT_PRESET, load, with_values
    from stages.planning.launch_checks import refuse_futile
    from stages.schedule import Schedule

    seeds = parse_seeds(request.seeds) if request.seeds is not None else None
    buffer, buffer_run = _find_buffer(request)
    presets = tuple(request.preset or ())
    if presets or buffer_run is None:
        presets = presets or (DEFAULT_PRESET,)
        name = "-".join(map(_name_of, presets))
    else:  # the settings that made the buffer
        presets = (str(buffer_run.written_settings()),)
        name = str(buffer_run.manifest().get("preset", buffer_run.name))
    overrides = tuple(request.overrides or ())
    named = keys_of(overrides)
    if request.command != "run" and "run.epochs" in named and "run.warmup_epochs" not in named:
        overrides = (*overrides, "run.warmup_epochs=0")  # distill has no warm-up and invert nothing else
    config = load(presets, overrides)
    if not request.preset and buffer_run is not None:  # chosen anew for this student and machine
        automatic = [key for key in buffer_run.manifest().get("automatic", []) if key not in named]
        config = with_values(config, dict.fromkeys(automatic, "auto"), place=str(buffer_run.manifest_file))
    if request.device is not None:
        config = with_values(config, {"run.device": request.device}, place="--device")
    refuse_futile(config, Schedule.of(request.command, config), has_buffer=buffer is not None)
    if request.out is not None and not request.go_on:
        RunDirectory.refuse_used(request.out)
    return _Settings(config, name, seeds, buffer, buffer_run)


def _name_of(preset: str) -> str:
    """What a preset is called: the name of its file; where that is the settings of a run, the run's preset."""
    file = Path(preset)
    run = RunDirectory(file.parent)
    named = run.manifest().get("preset") if file.name == run.config_file.name else None
    return file.stem if named is None else str(named)


def _prepare(request: LaunchRequest) -> list[tuple[Config, Launch]]:
    """Settings and launch of each run."""
    settings = _settings(request)

    import_torch()

    from stages.config import with_values
    from stages.trainer import Launch

    single = Launch(
        command=request.command,
        preset_name=settings.name,
        out=request.out,
        buffer=settings.buffer,
        train_teacher=request.train_teacher,
        command_line=tuple(sys.argv),
        evaluation_named=asks_for_evaluation_data(settings.config),
    )
    if settings.seeds is None:
        return [(settings.config, single)]
    return [
        (
            with_values(settings.config, {"run.seed": seed}, place="--seeds"),
            replace(single, out=request.out and request.out / f"seed-{seed}", seed_in_name=seed),
        )
        for seed in settings.seeds
    ]


def _find_buffer(request: LaunchRequest) -> tuple[Path | None, RunDirectory | None]:
    """The buffer that `distill` is to use, and the run it belongs to where it belongs to one."""
    from stages.run_directory.lookup import newest_made_buffer, resolve_buffer

    if request.command != "distill":
        return None, None
    if request.buffer is not None:
        return resolve_buffer(request.buffer)
    path, run = newest_made_buffer()
    diagnostics.note(f"distilling from {path}, of the newest finished run that made images")
    return path, run


def _describe(launches: Sequence[tuple[Config, Launch]], request: LaunchRequest) -> int:
    """`--dry-run`: every check, no step, no file. `--estimate`: a few steps, too, of which nothing is kept."""
    from stages.planning.estimate import estimate
    from stages.trainer import plan

    descriptions = []
    estimated: dict[str, Any] | None = None if request.estimate else {}
    for config, launch in launches:
        checked = plan(config, replace(launch, is_dry_run=True))
        warnings = list(checked.warnings)
        if estimated is None:  # once: other seeds take as long
            diagnostics.note("making a few steps, to time them")
            found = estimate(checked)
            estimated, warnings = found.describe(), [*warnings, *found.warnings]
        for warning in warnings:
            diagnostics.warn(warning)
        descriptions.append(checked.describe() | estimated | {"warnings": warnings})
    if request.json:
        console.print_json(descriptions[0] if request.seeds is None else {"runs": descriptions})
    else:
        for description in descriptions:
            summary.print_plan({key: value for key, value in description.items() if key != "warnings"})
    return ExitCode.DONE


def _execute(config: Config, launch: Launch, request: LaunchRequest, ending: Ending) -> Outcome:
    from stages.resumption import refuse_other_settings
    from stages.trainer import execute

    if request.go_on and launch.out is not None and RunDirectory(launch.out).has_begun():
        named = launch.buffer if request.buffer is not None else None  # else the newest, another by now perhaps
        refuse_other_settings(RunDirectory(launch.out), config, launch.command, buffer=named)
        return _go_on(RunDirectory(launch.out), request, ending)
    ready_pipe = ready_pipe_of_this_process()
    checked = _plan(config, launch)
    with _followed(launch.out, ready_pipe, ending) as (listeners, on_signal):
        return execute(checked, listeners, on_signal=on_signal)


@contextmanager
def _followed(
    path: Path | None, ready_pipe: ReadyPipe | None, ending: Ending, *, started: Mapping[str, Any] | None = None
) -> Iterator[tuple[list[Listener], Callable[[], None]]]:
    """Tell people where a run is once it has begun, and how far it has come.

    `path` is None for a new run under `RUNS_ROOT`; `started` is the first event of a run that is resumed. Yields the
    run's listeners, and what it is to call when a signal asks it to stop. Where `ready_pipe` is given, stderr is about
    to become a file.
    """
    with progress.run_display(started=started, as_lines=ready_pipe is not None) as shown:
        begun = once_begun(_announce if ready_pipe is None else ready_pipe.tell, path)
        yield [begun, shown], ending.begun_by(shown.tell_of_stop)


def _announce(path: Path) -> None:
    """Say where the run is as soon as it has begun: without a dashboard nothing else does before its end."""
    with diagnostics.ignoring_output_errors():
        diagnostics.note(f"the run is {path}; `ssdkd watch {in_shell(path.absolute())}` shows it from any terminal")


def _plan(config: Config, launch: Launch) -> Plan:
    from stages.trainer import plan

    if not launch.train_teacher:
        return plan(config, launch)
    with progress.training_display(is_certain=False) as listener:
        return plan(config, launch, training_progress=listener)


def _resume(request: LaunchRequest, text: str, ending: Ending) -> int:
    from stages.run_directory.lookup import resolve_run

    return _finish(_go_on(resolve_run(text), request, ending), request, ending)


def _go_on(run: RunDirectory, request: LaunchRequest, ending: Ending) -> Outcome:
    started = run.events.first()
    ready_pipe = ready_pipe_of_this_process()

    import_torch()

    from stages.trainer import resume

    with _followed(run.path, ready_pipe, ending, started=started) as (listeners, on_signal):
        return resume(run.path, device=request.device, listeners=listeners, on_signal=on_signal)


def _finish(outcome: Outcome, request: LaunchRequest, ending: Ending) -> int:
    """Print the result of one run and return its exit code."""
    ending.begin()
    if request.json:
        console.print_json(outcome.summary)
    else:
        summary.print_summary(outcome.summary, outcome.run_directory)
    return _report(outcome, request)


def _report(outcome: Outcome, request: LaunchRequest) -> int:
    """Say on stderr why a run has not come to its end, and return its exit code. An error that is a bug is raised."""
    code = STATUS_CODES[outcome.summary["status"]]
    if outcome.error is not None and not isinstance(outcome.error, SsdkdError):
        raise outcome.error
    if outcome.error is not None:
        with diagnostics.ignoring_output_errors():
            diagnostics.report(outcome.error)
        # Done, but the last words could not be written: that is a failure too.
        return code or diagnostics.exit_code_of(outcome.error)
    if code == ExitCode.STOPPED:
        with diagnostics.ignoring_output_errors():
            diagnostics.note(f"stopped after {num_epochs(outcome.summary['epochs'])}; everything is saved")
            diagnostics.print_hint(f"go on with `ssdkd {request.command} --resume {in_shell(outcome.run_directory)}`")
    return code


def _run_seeds(launches: Sequence[tuple[Config, Launch]], request: LaunchRequest, ending: Ending) -> int:
    """`--seeds`: one run after another, then mean and spread. The exit code is the worst one."""
    summaries: list[dict[str, Any]] = []
    codes: list[int] = []
    bug: Exception | None = None
    was_interrupted = False
    for config, launch in launches:
        gc.collect()  # the objects of the run before refer to each other, and would keep its memory
        try:
            outcome = _execute(config, launch, request, ending)
        except KeyboardInterrupt as interrupt:
            if not summaries:
                raise
            diagnostics.report_interruption(interrupt)
            was_interrupted = True
            break
        except SsdkdError as error:
            if not summaries:  # refused before its first step, as a single run would be
                raise
            diagnostics.report(error)
            codes.append(diagnostics.exit_code_of(error))
            break
        summaries.append(outcome.summary)
        if not request.json:
            with diagnostics.ignoring_output_errors():  # a full disk under stdout ends no seed
                summary.print_summary(outcome.summary, outcome.run_directory)
        try:
            codes.append(_report(outcome, request))
        except Exception as error:
            codes.append(ExitCode.FAILED)
            bug = error
        # A seed that diverged is a result; after a stop, or a full disk, there is nothing to go on with.
        if outcome.summary["status"] in ("stopped", "failed"):
            break
        if ending.is_near and len(summaries) < len(launches):  # a signal came too late to stop this run
            codes.append(ExitCode.STOPPED)
            break
        del outcome  # the traceback of its error holds all of the run
    _tell_what_is_left(launches[len(summaries) :], request)
    document = summary.over_seeds(summaries)
    if request.json:
        console.print_json(document)
    else:
        summary.print_over_seeds(document)
    if bug is not None:
        raise bug
    return ExitCode.INTERRUPTED if was_interrupted else max(codes)


def _tell_what_is_left(launches: Sequence[tuple[Config, Launch]], request: LaunchRequest) -> None:
    """Say which of `--seeds` have no result, for they were not begun, refused, or cut off."""
    if not launches:
        return
    seeds = [str(config.run.seed) for config, _ in launches]
    diagnostics.note(f"seeds without a result: {', '.join(seeds)}")
    way_on = f"`--seeds {','.join(seeds)}` makes them" if request.out is None else "`--go-on` goes on with them"
    diagnostics.print_hint(f"the same command with {way_on}")
