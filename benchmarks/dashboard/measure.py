"""What the dashboard costs: `python benchmarks/dashboard/measure.py`. Prints a table and a JSON document.

first paint   `ssdkd watch` on a run of a million events, from the start of the process to the run's preset on the
              screen; and its memory until the whole history has been read (limits: 2 s, 200 MiB)
cpu           share of one core while a run emits 50 events a second (limit: 10 %)
slowdown      digits, one thread, with every step told and a viewer, against no step told and no viewer: the two sides
              in turn, seconds of inversion and distillation (limit: 3 %, or what two equal runs differ by)

The viewer sits in a pseudo-terminal of 120x40 that is read all the time. The machine should be quiet and have two
cores, one for the trainer and one for the viewer; the trainer's CPU seconds mean something on a busy one, too.
It takes about eight minutes; `--events 20000 --seconds 3 --repeats 1 --pairs 2 --epochs 3` tries everything in one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from generated_run import events, write_run
from viewer import Viewer

from stages.events import to_line
from stages.machine.device import device_name
from stages.run_directory import RunDirectory

PARTS = ("first-paint", "cpu", "slowdown")
_PRESET = b"cifar100-wrn"  # of the generated run, seen on the screen once it is painted


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure_first_paint(folder: Path, num_events: int, repeats: int) -> dict[str, Any]:
    run = folder / "long"
    _note(f"writing {num_events:,} events")
    write_run(run, num_events)
    wall_s, cpu_s, peak_mib, whole_s = [], [], [], []
    for index in range(repeats):
        _note(f"first paint {index + 1} of {repeats}")
        viewer = Viewer(run, _PRESET)
        began_s = time.perf_counter()
        viewer.wait_for_paint()
        _wait_until_idle(viewer)
        whole_s.append(time.perf_counter() - began_s)
        wall_s.append(viewer.first_paint_s)
        cpu_s.append(viewer.first_paint_cpu_s)
        peak_mib.append(viewer.peak_mib())
        viewer.close()
    return {
        "num_events": num_events,
        "file_mib": (run / "events.jsonl").stat().st_size / 2**20,
        "first_paint_s": wall_s,
        "first_paint_cpu_s": cpu_s,
        "whole_history_s": whole_s,
        "peak_mib": peak_mib,
    }


def _wait_until_idle(viewer: Viewer, timeout_s: float = 300.0) -> None:
    """Until the viewer has used less than 15 % of a core for two seconds."""
    deadline_s = time.perf_counter() + timeout_s
    quiet = 0
    while quiet < 2 and time.perf_counter() < deadline_s:
        before_s = viewer.cpu_s()
        time.sleep(1.0)
        quiet = quiet + 1 if viewer.cpu_s() - before_s < 0.15 else 0


def measure_cpu(folder: Path, num_events: int, *, rate: int, seconds: float, repeats: int) -> dict[str, Any]:
    measured = []
    for index in range(repeats):
        _note(f"cpu {index + 1} of {repeats}")
        measured.append(_watch_events_come(folder / f"live-{index}", num_events, rate=rate, seconds=seconds))
    return {name: [one[name] for one in measured] for name in measured[0]}


def _watch_events_come(path: Path, num_events: int, *, rate: int, seconds: float) -> dict[str, float]:
    """A viewer on a run that says something `rate` times a second."""
    run = RunDirectory(path)
    write_run(run.path, num_events)
    told = list(events(num_events + int(rate * seconds)))[num_events:]
    with run.lock.held(), run.events_file.open("a", encoding="utf-8") as file:
        viewer = Viewer(run.path, _PRESET)
        viewer.wait_for_paint()
        _wait_until_idle(viewer)
        began_s, before_s, bytes_before = time.perf_counter(), viewer.cpu_s(), viewer.num_bytes
        for index, (event, epoch) in enumerate(told):
            file.write(to_line(event, seq=num_events + index, epoch=epoch, time_s=round(time.time(), 3)))
            file.flush()
            time.sleep(max(0.0, began_s + (index + 1) / rate - time.perf_counter()))
        elapsed_s = time.perf_counter() - began_s
        result = {
            "events_per_s": len(told) / elapsed_s,
            "seconds": elapsed_s,
            "cpu_share": (viewer.cpu_s() - before_s) / elapsed_s,
            "screen_bytes_per_s": (viewer.num_bytes - bytes_before) / elapsed_s,
            "peak_mib": viewer.peak_mib(),
        }
        viewer.close()
    return result


class Trained(NamedTuple):
    """One training run: seconds of inversion and distillation, CPU seconds of the whole process, events told."""

    seconds: float
    cpu_s: float
    num_events: int


def measure_slowdown(folder: Path, *, pairs: int, epochs: int) -> dict[str, Any]:
    """`slowdown` is the median over pairs of neighbours; `equal_runs_differ_by` is that of neighbouring bare runs."""
    _train(folder / "first", epochs=2, is_watched=False)  # what is read from disk is in memory afterwards
    bare: list[Trained] = []
    watched: list[Trained] = []
    for index in range(pairs):
        for is_watched in (False, True) if index % 2 == 0 else (True, False):
            _note(f"pair {index + 1} of {pairs}, {'watched' if is_watched else 'bare'}")
            run = folder / f"{'watched' if is_watched else 'bare'}-{index}"
            (watched if is_watched else bare).append(_train(run, epochs=epochs, is_watched=is_watched))
    changes = [seen.seconds / alone.seconds - 1 for alone, seen in zip(bare, watched, strict=True)]
    differences = [abs(later.seconds / earlier.seconds - 1) for earlier, later in pairwise(bare)]
    cpu_changes = [seen.cpu_s / alone.cpu_s - 1 for alone, seen in zip(bare, watched, strict=True)]
    return {
        "epochs": epochs,
        "bare": [one._asdict() for one in bare],
        "watched": [one._asdict() for one in watched],
        "slowdown": statistics.median(changes),
        "slowdown_of_each_pair": changes,
        "equal_runs_differ_by": statistics.median(differences) if differences else None,
        "trainer_cpu_change": statistics.median(cpu_changes),
    }


def _train(run: Path, *, epochs: int, is_watched: bool) -> Trained:
    settings = {
        "run.epochs": epochs,
        "run.warmup_epochs": 1,
        "run.device": "cpu",
        "run.threads": 1,
        "run.eval_every": epochs,
        "run.log_every": 1 if is_watched else 1_000_000,
        "evaluation.num_holdout": 16,
    }
    options = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "ssdkd_cli", "run", "--no-tui", "--json", "--out", str(run), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as trainer:
        viewer = None
        if is_watched:
            while not (run / "events.jsonl").exists() and trainer.poll() is None:
                time.sleep(0.05)
            viewer = Viewer(run, b"digits")
        assert trainer.stdout is not None
        output = trainer.stdout.read()
        _, status, usage = os.wait4(trainer.pid, 0)
        trainer.returncode = os.waitstatus_to_exitcode(status)
        assert trainer.returncode == 0, trainer.returncode
        if viewer is not None:
            assert viewer.first_paint_s is not None, "the run was over before the viewer showed it"
            assert viewer.process.poll() is None, "the viewer ended before the run"
            viewer.close()
    seconds = json.loads(output)["seconds"]
    return Trained(
        seconds=float(seconds["inversion"] + seconds["distillation"]),
        cpu_s=usage.ru_utime + usage.ru_stime,
        num_events=(run / "events.jsonl").read_bytes().count(b"\n"),
    )


class Row(NamedTuple):
    """A line of the table; without a limit there is no verdict."""

    name: str
    value: str
    limit: str = ""
    is_met: bool = True


def _rows(result: dict[str, Any]) -> list[Row]:
    rows = []
    if paint := result.get("first_paint"):
        rows.append(_row("first paint", paint["first_paint_s"], "{:.2f} s", "2 s", 2.0))
        rows.append(_row("  its CPU time", paint["first_paint_cpu_s"], "{:.2f} s"))
        rows.append(_row("whole history read", paint["whole_history_s"], "{:.1f} s"))
        rows.append(_row("memory", paint["peak_mib"], "{:.0f} MiB", "200 MiB", 200.0))
    if cpu := result.get("cpu"):
        name = f"CPU at {statistics.median(cpu['events_per_s']):.0f} events/s"
        rows.append(_row(name, cpu["cpu_share"], "{:.1%}", "10 % of a core", 0.10))
        rows.append(_row("  written to the screen", cpu["screen_bytes_per_s"], "{:,.0f} B/s"))
    if slowdown := result.get("slowdown"):
        noise, changes = slowdown["equal_runs_differ_by"], slowdown["slowdown_of_each_pair"]
        rows.append(_row("slowdown", changes, "{:+.1%}", "3 %, or equal runs", max(0.03, noise or 0.0)))
        rows.append(Row("  equal runs differ by", "-" if noise is None else f"{noise:.1%}"))
        rows.append(Row("  trainer's CPU time", f"{slowdown['trainer_cpu_change']:+.1%}"))
        rows += [
            _row(f"  {side}", [one["seconds"] for one in slowdown[side]], "{:.2f} s") for side in ("bare", "watched")
        ]
    return rows


def _row(name: str, values: list[float], form: str, limit: str = "", most: float = float("inf")) -> Row:
    """Median and range; met where the median is below the limit."""
    median = statistics.median(values)
    text = f"{form.format(median)} ({form.format(min(values))} to {form.format(max(values))}, n = {len(values)})"
    return Row(name, text, limit, median < most)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rate", type=int, default=50, help="events per second")
    parser.add_argument("--seconds", type=float, default=15.0, help="for which events come")
    parser.add_argument("--pairs", type=int, default=5, help="pairs of training runs")
    parser.add_argument("--epochs", type=int, default=30, help="of each training run")
    parser.add_argument("--json", type=Path, help="write the document here, too")
    arguments = parser.parse_args()
    result: dict[str, Any] = {
        "processor": device_name(torch.device("cpu")),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg(),
        "python": platform.python_version(),
    }
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        if "first-paint" in arguments.parts:
            result["first_paint"] = measure_first_paint(folder, arguments.events, arguments.repeats)
        if "cpu" in arguments.parts:
            result["cpu"] = measure_cpu(
                folder, 20_000, rate=arguments.rate, seconds=arguments.seconds, repeats=arguments.repeats
            )
        if "slowdown" in arguments.parts:
            result["slowdown"] = measure_slowdown(folder, pairs=arguments.pairs, epochs=arguments.epochs)
    result["load_after"] = os.getloadavg()
    for row in _rows(result):
        verdict = f"below {row.limit}: {'yes' if row.is_met else 'NO'}" if row.limit else ""
        print(f"{row.name:<24} {row.value:<44} {verdict}".rstrip())
    document = json.dumps(result, indent=2)
    print(document)
    if arguments.json is not None:
        arguments.json.write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
