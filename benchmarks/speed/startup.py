"""How long `ssdkd` takes to begin: `python benchmarks/speed/startup.py [--repeat 7] [--json FILE]`.

commands   --help, presets ls, a run refused for its key, watch --once: from the start of the process to its end
run        digits and cifar100-wrn (with its shipped teacher): from the start of the process to the `stage_started`
           event of the first inversion ("step begins") and to the first `inversion_step` event ("step done"; with
           run.log_every = 1 it follows the step itself)
phases     the same two runs, in a process that sets a mark between its phases; the second step shows what of the first
           one is paid once (primitives of oneDNN, first allocations)
means      the same to the step's beginning, with one of the means that shorten the start undone; "without nothing" is
           the run as it is, in turn with them

All in fresh processes: seconds on the clock and processor seconds (on a busy machine only the latter mean something),
median, least and most. Bytecode is "kept" (as after any earlier start) or "absent" (as where PYTHONDONTWRITEBYTECODE is
set). "warm": everything was read just before. "cold": Python's and the packages' files were put out of the page cache
first, but for what other processes have mapped; the number of major page faults says how cold it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

PARTS = ("commands", "run", "phases", "means")
PRESETS = ("digits", "cifar100-wrn")
MEANS = {"digits": ("collector-at-rest", "lazy-compiler"), "cifar100-wrn": ("torchvision-left-out",)}
LIMITS_S = {"--help": 0.3, "digits: step begins": 6.0, "cifar100-wrn: step begins": 6.0}
"""What the project promises, on a CPU."""

PROJECT = Path(__file__).resolve().parents[2]
FINISHED = "finished"
"""Name of the run that `watch` looks at."""

_REFUSED = "refused key"
_USAGE_ERROR = 2

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.002
_PATIENCE_S = 300.0


class Times(NamedTuple):
    """One start: seconds on the clock, processor seconds, page faults that waited for the disk."""

    wall_s: float
    cpu_s: float
    num_major_faults: int


def time_command(name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> dict[str, Times]:
    """A command from its start to its end."""
    began_s = time.perf_counter()
    process = _start(["-m", "ssdkd_cli", *arguments], environment, folder)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - began_s
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != (_USAGE_ERROR if name == _REFUSED else 0):
        raise SystemExit(f"ssdkd {' '.join(arguments)} ended with {process.returncode}")
    return {name: Times(wall_s, usage.ru_utime + usage.ru_stime, usage.ru_majflt)}


def time_run(name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> dict[str, Times]:
    """A run from its start to the beginning and to the end of its first inversion step; then it is killed."""
    out = folder / "run"
    began_s = time.time()
    process = _start(["-m", "ssdkd_cli", *arguments, "--out", str(out)], environment, folder)
    reached: dict[str, Times] = {}
    names = {"stage_started": f"{name}: step begins", "inversion_step": f"{name}: step done"}
    while len(reached) < len(names):
        time.sleep(_POLL_S)
        if process.poll() is not None or time.time() - began_s > _PATIENCE_S:
            process.kill()
            raise SystemExit(f"no first step: ssdkd {' '.join(arguments)}")
        cpu_s, num_major_faults = _used(process.pid)
        for event in _events(out / "events.jsonl"):
            if event["kind"] in names:
                times = Times(event["time_s"] - began_s, cpu_s, num_major_faults)
                reached.setdefault(names[event["kind"]], times)
    process.kill()
    process.wait()
    shutil.rmtree(out)
    return reached


def time_phases(
    name: str, arguments: Sequence[str], environment: Mapping[str, str], folder: Path, *, without: str | None = None
) -> dict[str, Any]:
    """Seconds of each phase of a run to its second inversion step, and which large packages it has imported.

    With `without` only to the beginning of the first step, and without this means ("" undoes none).
    """
    report, out = folder / "report.json", folder / "run"
    child = [str(Path(__file__).with_name("startup_phases.py")), str(report)]
    undone = [] if without is None else ["--without", without]
    began_s = time.time()
    process = _start([*child, *undone, "--", *arguments, "--out", str(out)], environment, folder)
    process.wait(_PATIENCE_S)
    marked = json.loads(report.read_text())
    phases: dict[str, dict[str, float]] = {}
    wall_s, cpu_s = began_s, 0.0
    for phase, at_s, used_s in marked["marks"]:
        spent = phases.setdefault(phase, {"wall_s": 0.0, "cpu_s": 0.0})
        spent["wall_s"] += at_s - wall_s
        spent["cpu_s"] += used_s - cpu_s
        wall_s, cpu_s = at_s, used_s
    report.unlink()
    shutil.rmtree(out)
    return {name: {"phases": phases, "imported": marked["imported"]}}


def _start(arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=dict(environment),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _used(pid: int) -> tuple[float, int]:
    """Processor seconds and major page faults of a process so far (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S, int(fields[9])


def _events(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    for line in path.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def forget_files(bytecode: Path) -> None:
    """Put Python's, the packages', the project's and the bytecode's files out of the page cache."""
    places = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    for place in (*places, bytecode, *(PROJECT / name for name in ("ssdkd_cli", "stages", "presets"))):
        for path in Path(place).rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Conditions(NamedTuple):
    """Under which starts are measured."""

    bytecode: str
    cache: str
    repeats: int
    environment: Mapping[str, str]

    @property
    def is_usual(self) -> bool:
        """Whether the start is that of everyday use: here the causes are looked for, too."""
        return (self.bytecode, self.cache) == ("kept", "warm")


def measure(conditions: Conditions, parts: Sequence[str], run_options: Sequence[str], folder: Path) -> dict[str, Any]:
    """Results of each case, all cases in turn; where files shall be warm, after a first turn that does not count."""
    cases = list(_cases(conditions, parts, run_options, folder))
    found: dict[str, list[Any]] = {}
    for turn in range(-1 if conditions.cache == "warm" else 0, conditions.repeats):
        for case in cases:
            if conditions.cache == "cold":
                forget_files(Path(conditions.environment["PYTHONPYCACHEPREFIX"]))
            for name, result in case().items():
                if turn >= 0:
                    found.setdefault(name, []).append(result)
    return found


def _cases(
    conditions: Conditions, parts: Sequence[str], run_options: Sequence[str], folder: Path
) -> Iterator[Callable[[], Mapping[str, Any]]]:
    environment = conditions.environment
    commands = {
        "--help": ["--help"],
        "presets ls": ["presets", "ls"],
        _REFUSED: ["run", "--set", "run.epohs=3"],
        "watch --once": ["watch", "--once", str(folder / FINISHED)],
    }
    for name, arguments in commands.items() if "commands" in parts else ():
        yield partial(time_command, name, arguments, environment, folder)
    for preset in PRESETS:
        arguments = ["run", "--no-tui", "--preset", preset, *run_options]
        if "run" in parts:
            yield partial(time_run, preset, arguments, environment, folder)
        if "phases" in parts and conditions.is_usual:
            yield partial(time_phases, f"phases of {preset}", arguments, environment, folder)
        if "means" in parts and conditions.is_usual:
            for without in ("", *MEANS[preset]):
                name = f"{preset} without {without or 'nothing'}"
                yield partial(time_phases, name, arguments, environment, folder, without=without)


def show(found: Mapping[str, list[Any]]) -> None:
    """One table of all cases, then one of phases for each preset."""
    print(f"{'':56}{'wall [s]':>10}{'least':>8}{'most':>8}{'cpu [s]':>10}{'faults':>8}")
    for case, results in found.items():
        if isinstance(results[0], Times):
            limit = f"   limit {LIMITS_S[case]}" if case in LIMITS_S else ""
            wall_s, cpu_s, faults = (list(column) for column in zip(*results, strict=True))
            print(_row(case, wall_s, cpu_s) + f"{statistics.median(faults):8.0f}{limit}")
    for case, results in found.items():
        if isinstance(results[0], Times):
            continue
        until_step = [_until_first_step(result, "wall_s") for result in results]
        cpu_s = [_until_first_step(result, "cpu_s") for result in results]
        print(_row(f"{case}: step begins", until_step, cpu_s))
        if not case.startswith("phases"):
            continue
        for phase in results[0]["phases"]:
            spent = [result["phases"][phase] for result in results]
            print(_row(f"    {phase}", [each["wall_s"] for each in spent], [each["cpu_s"] for each in spent]))
        imported = [name for name, is_there in results[0]["imported"].items() if is_there]
        print(f"    imported by then, of those watched: {', '.join(imported) or 'none'}")


def _until_first_step(result: Mapping[str, Any], unit: str) -> float:
    return sum(spent[unit] for phase, spent in result["phases"].items() if not phase.endswith(" step"))


def _row(name: str, wall_s: Sequence[float], cpu_s: Sequence[float]) -> str:
    wall = f"{statistics.median(wall_s):10.3f}{min(wall_s):8.3f}{max(wall_s):8.3f}"
    return f"{name:56}{wall}{statistics.median(cpu_s):10.3f}"


def _environment(folder: Path, bytecode: str) -> dict[str, str]:
    """This process's, with a bytecode cache of its own: written to, or for ever without the packages'."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(PROJECT)
    environment["XDG_CACHE_HOME"] = str(folder / "cache")
    environment["PYTHONPYCACHEPREFIX"] = str(folder / bytecode)
    return environment if bytecode == "kept" else environment | {"PYTHONDONTWRITEBYTECODE": "1"}


def _leave_standard_library(kept: Path, absent: Path) -> None:
    """A bytecode cache as where packages are never compiled: of all that is kept only Python's own modules."""
    packages = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    shutil.copytree(kept, absent)
    for place in (*packages, PROJECT):
        shutil.rmtree(absent / place.relative_to(place.anchor), ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=7, help="starts of each case with warm files")
    parser.add_argument("--cold-repeat", type=int, default=3, help="starts of each case with cold files; 0: none")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--bytecode", nargs="+", choices=("kept", "absent"), default=("kept", "absent"))
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="for the runs"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number there")
    options = parser.parse_args()

    run_options = ["--device", "cpu"]
    for override in ("run.log_every=1", "run.epochs=2", "run.warmup_epochs=1", "inversion.steps=2", *options.overrides):
        run_options += ["--set", override]
    document: dict[str, Any] = {
        "machine": {"cpu": _cpu_name(), "num_cpus": os.cpu_count(), "load_average": os.getloadavg()},
        "versions": {"python": platform.python_version(), "torch": version("torch"), "typer": version("typer")},
        "run_options": run_options,
        "results": [],
    }
    print(
        f"{_cpu_name()}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, ",
        end="",
    )
    print(f"torch {version('torch')}, typer {version('typer')}")
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        _make_finished_run(folder)
        _leave_standard_library(folder / "kept", folder / "absent")
        for bytecode in options.bytecode:
            environment = _environment(folder, bytecode)
            for cache, repeats in (("warm", options.repeat), ("cold", options.cold_repeat)):
                if repeats == 0:
                    continue
                found = measure(Conditions(bytecode, cache, repeats, environment), options.parts, run_options, folder)
                print(f"\nbytecode {bytecode}, files {cache}, {repeats} starts each")
                show(found)
                results = {
                    case: [result._asdict() if isinstance(result, Times) else result for result in results]
                    for case, results in found.items()
                }
                document["results"].append({"bytecode": bytecode, "cache": cache, "cases": results})
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1))


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _make_finished_run(folder: Path) -> None:
    """A small run that has come to its end, for `watch`."""
    out = folder / FINISHED
    settings = ("run.epochs=2", "run.warmup_epochs=1", "inversion.batch_size=8", "distillation.steps=1")
    chosen = [text for setting in settings for text in ("--set", setting)]
    process = _start(
        ["-m", "ssdkd_cli", "run", "--no-tui", "--device", "cpu", "--out", str(out), *chosen],
        _environment(folder, "kept"),
        folder,
    )
    if process.wait(_PATIENCE_S) != 0:
        raise SystemExit("the small run for `watch` has failed")


if __name__ == "__main__":
    main()
