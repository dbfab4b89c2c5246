"""Run a list of experiments and write one table: `python benchmarks/accuracy/run.py table4`.

A list is a TOML file (`experiment_list.py` says what is in it), or the name of one in benchmarks/accuracy/lists. Each
of its runs is an `ssdkd run` of its own, one at a time. Whatever ends this program, the same command goes on where it
stopped: what is done stays, what was stopped or killed is resumed, what failed or diverged is told as such. The table
and a JSON file with every number are written anew after each run.

Exit codes: 0 all runs are done; 1 some failed, diverged or were refused; 2 the list or the folder is not as it must be;
75 stopped, everything saved.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from experiment_list import HERE, ExperimentList, Machine, read_list, read_machine
from product import HarnessError, Trainer
from results import results
from series import ABSENT, Run, buffer_file, carry_out, check, locked, planned, require_real_images
from table import markdown


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        experiments = read_list(_list_file(options.list), overlays=options.overlay, seeds=options.seeds)
        machine = read_machine(options.machine)
        _refuse_unknown(options.only, experiments)
        _refuse_buffer(options.buffer, experiments)
        out = options.out or Path("runs") / "accuracy" / experiments.name
        table = options.table or out / "results.md"
        with nullcontext() if options.dry_run else locked(out):
            runs = planned(
                experiments.experiments,
                out,
                machine,
                overrides=options.set,
                only=options.only,
                buffer=options.buffer,
            )
            if options.dry_run:
                return _describe(runs)
            require_real_images(runs)
            return _work(experiments, runs, machine, table)
    except HarnessError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before the first run
        return 130


def _parser() -> argparse.ArgumentParser:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("list", metavar="LIST", help="a list's file, or the name of a shipped one")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where its runs go (default: runs/accuracy/LIST-OVERLAYS)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these experiments alone")
    parser.add_argument("--seeds", type=_seeds, metavar="N,N...", help="in place of the list's seeds")
    parser.add_argument(
        "--overlay",
        action="append",
        metavar="NAME|FILE",
        help="short, full or a preset, in place of the list's overlays",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a preset key for every run; repeatable"
    )
    parser.add_argument("--buffer", type=Path, metavar="FILE|RUN", help="what a list that inverts nothing distils from")
    parser.add_argument("--machine", type=Path, metavar="FILE", help="where data and teachers lie on this machine")
    parser.add_argument("--table", type=Path, metavar="FILE.md", help="where the table goes, beside it a .json")
    parser.add_argument("--dry-run", action="store_true", help="check every run, say what would be done, and stop")
    return parser


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _list_file(text: str) -> Path:
    shipped = HERE / "lists" / f"{text}.toml"
    return shipped if shipped.is_file() else Path(text)


def _refuse_unknown(names: Sequence[str] | None, experiments: ExperimentList) -> None:
    known = [experiment.name for experiment in experiments.experiments]
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise HarnessError(f"no such experiment: {', '.join(unknown)}", hint=f"the list has {', '.join(known)}")


def _refuse_buffer(buffer: Path | None, experiments: ExperimentList) -> None:
    if experiments.command == "run" and buffer is not None:
        raise HarnessError("the runs of this list make their own buffers", hint="leave --buffer out")
    if experiments.command == "distill" and buffer is None:
        raise HarnessError("this list distils from a buffer that is there", hint="say which: --buffer FILE|RUN")
    if buffer is not None and not buffer_file(buffer).is_file():
        raise HarnessError(f"no buffer at {buffer}", hint="give a buffer's file, or a run that has one")


def _work(experiments: ExperimentList, runs: Sequence[Run], machine: Machine, table: Path) -> int:
    wanted = [run for run in runs if run.is_wanted]
    trainer, durations_s = Trainer(), []
    began_s = time.monotonic()

    def began(run: Run) -> None:
        nonlocal began_s
        began_s = time.monotonic()
        done = sum(other.is_over for other in wanted)
        verb = "starts" if run.status == ABSENT else f"goes on ({run.status})"
        left = _left(len(wanted) - done, durations_s)
        _say(f"{run} {verb}; {done} of {len(wanted)} runs are over{left}; `ssdkd watch {run.path}` shows it")

    def ended(run: Run) -> None:
        durations_s.append(time.monotonic() - began_s)
        _write(experiments, runs, machine, table)
        _say(f"{run}: {run.status}" + (f", {run.message}" if run.message else "") + _reached(run))

    _write(experiments, runs, machine, table)
    with trainer.listening_to_signals():
        carry_out(runs, trainer, began=began, ended=ended)
    _say(f"table: {table}, numbers: {table.with_suffix('.json')}")
    if trainer.must_stop:
        _say("stopped, everything is saved; the same command goes on")
        return 75
    bad = [run for run in wanted if run.status != "done"]
    for run in bad:
        _say(f"not done: {run}, {run.status}; see {run.log}{_way_on(run)}")
    return 1 if bad else 0


def _describe(runs: Sequence[Run]) -> int:
    """What would be done, and whether `ssdkd` would do it; one seed of an experiment stands for all."""
    is_fine, checked = True, set()
    for run in (run for run in runs if run.is_wanted):
        if run.is_over:
            print(f"{run}: is {run.status} already")
        elif run.status != ABSENT:
            print(f"{run}: is {run.status} and would be resumed in {run.path}")
        else:
            print(f"{run}:\n  ssdkd {run.command} {shlex.join([*run.options, '--out', str(run.path)])}")
            if run.experiment.name not in checked:
                checked_run = check(run)
                verdict = "ok" if checked_run.problem is None else f"REFUSED: {checked_run.problem}"
                print("  " + "; ".join(filter(None, [verdict, checked_run.warnings])))
                is_fine &= checked_run.problem is None
                checked.add(run.experiment.name)
            else:
                print("  as with its first seed")
    return 0 if is_fine else 2


def _write(experiments: ExperimentList, runs: Sequence[Run], machine: Machine, table: Path) -> None:
    document = results(experiments, runs, machine)
    for path, text in (
        (table, markdown(document)),
        (table.with_suffix(".json"), json.dumps(document, indent=1, ensure_ascii=False) + "\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)


def _reached(run: Run) -> str:
    student = (run.document or {}).get("student")
    if run.status != "done" or not student:
        return ""
    name, value = next(iter(student.items()))
    return f", student {name} {value:.4f} in {run.document['seconds']['total'] / 60:.1f} min"


def _way_on(run: Run) -> str:
    if run.status == "diverged":
        return ""
    if run.status == "failed":
        return f"; `ssdkd {run.command} --resume {shlex.quote(str(run.path))}` tries again from its last checkpoint"
    return "; the same command tries again"


def _left(num_runs: int, durations_s: Sequence[float]) -> str:
    if not durations_s:
        return ""
    minutes = num_runs * sum(durations_s) / len(durations_s) / 60
    return f", about {minutes:.0f} min left"


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
