"""Where the time goes and how far that is from what the machine can do: a profile of the stages, and its floor.

    python benchmarks/speed/profile_stages.py --preset cifar10-resnet20

units   each stage's unit of work, through the product's own objects: FLOP and bytes counted as it runs, milliseconds,
        and the floor, max(FLOP / best matrix product, bytes / best copy), both measured in this process
epoch   whole epochs of the pipeline: seconds of each stage, images a second, the same floor, and the overhead: the
        share of an epoch outside of the networks' forward and backward passes and the optimisers' steps
heap    the units again in fresh processes, with glibc's heap kept warm (as `ssdkd run` does) and as it is by default

It needs no data and no teacher. Nothing that is timed is timed the first time it runs. Steps are launched eagerly, for
what is compiled or recorded cannot be counted; `--set run.acceleration=...` says otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ceilings import Ceilings, measure_ceilings
from epochs import run_epochs
from measuring import Spread, clock_of, machine, table, told_machine, write_json
from observing import cost_of, timing_networks
from units import Measured, measured, units_of
from workload import Workload, add_arguments, build_workload, fill_buffer

import stages.planning.plan

PARTS = ("units", "epoch", "heap")
HEAPS = ("warm", "default")
FULL_BUFFER = 5_000


def profile(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything but the comparison of heaps, which needs processes of its own."""
    if arguments.heap == "default":
        stages.planning.plan.keep_heap_warm = lambda: False
    workload = build_workload(arguments.preset, arguments.set, device=arguments.device, folder=folder)
    run = workload.run
    if run.schedule.overlaps:
        raise SystemExit(
            "error: with inversion.overlap two threads work at once, and neither can be told from the other"
        )
    ceilings = measure_ceilings(run.device)
    num_filled = min(arguments.fill, run.config.buffer.capacity)
    run.epoch = 1
    fill_buffer(run, num_filled)
    found: dict[str, Any] = {}
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    units: list[Measured] = []
    if "units" in arguments.parts:
        each = units_of(workload, kd_steps=arguments.kd_steps)
        units = [measured(unit, workload, repeats=arguments.repeats) for unit in each]
    if "epoch" in arguments.parts:
        found["epoch"] = _epochs(workload, folder, arguments.epochs)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    ceilings = ceilings.best_with(measure_ceilings(run.device))
    found["units"] = [unit.document() | _against(ceilings, unit) for unit in units]
    if epoch := found.get("epoch"):
        epoch["floor_s"] = ceilings.floor_s(epoch["flop"], epoch["bytes"], run.precision)
    return {
        "machine": machine(run.device),
        "cpu_share": cpu_s / (wall_s * run.config.run.threads),
        "heap": arguments.heap,
        "preset": arguments.preset,
        "set": arguments.set,
        "teacher": workload.teacher,
        "student": run.config.student.model,
        "precision": run.precision,
        "buffer": num_filled,
        "ceilings": {"flop_per_s": ceilings.flop_per_s, "bytes_per_s": ceilings.bytes_per_s},
    } | found


def _against(ceilings: Ceilings, unit: Measured) -> dict[str, Any]:
    """A unit's speed, and how far from the floor it is."""
    document = unit.document()
    floor_s = ceilings.floor_s(document["flop"], document["bytes"], unit.unit.precision)
    flop_per_s = document["flop"] / unit.seconds.median
    return {
        "flop_per_s": flop_per_s,
        "share_of_gemm": flop_per_s / ceilings.flop_per_s[unit.unit.precision],
        "floor_s": floor_s,
        "times_floor": unit.seconds.median / floor_s,
    }


def _epochs(workload: Workload, folder: Path, num: int) -> dict[str, Any]:
    """Epochs timed as they are; then one counted, and one with the networks timed apart."""
    run_epochs(workload, folder, 1)
    plain = run_epochs(workload, folder, num)
    cost = cost_of(lambda: run_epochs(workload, folder, 1))
    with timing_networks(clock_of(workload.run.device)) as watch:
        (observed,) = run_epochs(workload, folder, 1)
    steps = workload.run.config.inversion.steps + workload.run.config.num_distillation_steps
    is_visible = watch.num_passes >= steps  # not where steps are recorded and replayed without Python
    return {
        "flop": cost.flop,
        "bytes": cost.num_bytes,
        "plain": [epoch.document() for epoch in plain],
        "seconds": Spread(tuple(epoch.seconds for epoch in plain)).document(),
        "images_per_s": Spread(tuple(epoch.num_images / epoch.seconds for epoch in plain)).document(),
        "observed_seconds": observed.seconds,
        "overhead_share": 1 - watch.seconds / observed.seconds if is_visible else None,
    }


def compare_heaps(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Median seconds of the units, each heap in processes of its own, in turn."""
    seconds: dict[str, dict[str, list[float]]] = {heap: {} for heap in HEAPS}
    for index in range(arguments.heap_rounds):
        for heap in HEAPS if index % 2 == 0 else reversed(HEAPS):
            file = folder / f"{heap}-{index}.json"
            given = [f"--preset={name}" for name in arguments.preset] + [f"--set={text}" for text in arguments.set]
            options = {
                "device": arguments.device,
                "heap": heap,
                "parts": "units",
                "repeats": arguments.repeats,
                "kd-steps": arguments.kd_steps,
                "fill": arguments.fill,
                "json": file,
            }
            given += [f"--{name}={value}" for name, value in options.items()]
            subprocess.run([sys.executable, __file__, *given], check=True, stdout=subprocess.DEVNULL)
            for unit in json.loads(file.read_text(encoding="utf-8"))["units"]:
                seconds[heap].setdefault(unit["name"], []).extend(unit["seconds"]["values"])
    return {name: {heap: Spread(tuple(seconds[heap][name])).document() for heap in HEAPS} for name in seconds[HEAPS[0]]}


def tell(document: dict[str, Any]) -> None:
    """The tables, and what their numbers are of."""
    print(told_machine(document["machine"]))
    print(
        f"teacher {document['teacher']}; student {document['student']}; {document['precision']};"
        f" {document['buffer']} images in the buffer; heap {document['heap']}"
    )
    print(f"processor time its threads had, of the time that passed: {document['cpu_share']:.0%}")
    rates = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in document["ceilings"]["flop_per_s"].items())
    print(f"ceilings: matrix product {rates}; copy {document['ceilings']['bytes_per_s'] / 1e9:.1f} GB/s\n")
    if document["units"]:
        header = ("unit", "GFLOP", "GB", "ms, median (range)", "GFLOP/s", "of GEMM", "floor ms", "times floor")
        print(table(header, map(_unit_row, document["units"])))
    if epoch := document.get("epoch"):
        print("\n" + _told_epoch(epoch))
    if heaps := document.get("heaps"):
        rows = [_heap_row(name, values) for name, values in heaps.items()]
        print("\n" + table(("unit", "ms, heap warm", "ms, heap as by default", "default / warm"), rows))


def _unit_row(unit: dict[str, Any]) -> tuple[str, ...]:
    return (
        unit["name"],
        f"{unit['flop'] / 1e9:.1f}",
        f"{unit['bytes'] / 1e9:.2f}",
        str(Spread(tuple(unit["seconds"]["values"])).scaled(1e3)),
        f"{unit['flop_per_s'] / 1e9:.0f}",
        f"{unit['share_of_gemm']:.0%}",
        f"{1e3 * unit['floor_s']:.1f}",
        f"{unit['times_floor']:.2f}",
    )


def _told_epoch(epoch: dict[str, Any]) -> str:
    plain = epoch["plain"]
    names = list(plain[0]["stages"])
    total = Spread(tuple(times["seconds"] for times in plain))
    stages_s = {name: Spread(tuple(times["stages"][name] for times in plain)) for name in names}
    between = [times["seconds"] - sum(times["stages"].values()) for times in plain]
    stages_s["between stages"] = Spread(tuple(between))
    rows = [(name, str(spread), f"{spread.median / total.median:.1%}") for name, spread in stages_s.items()]
    rows.append(("epoch", str(total), f"{epoch['flop'] / 1e9:.0f} GFLOP, floor {epoch['floor_s']:.2f} s"))
    lines = [table(("stage", "s, median (range)", "share"), rows)]
    lines.append(f"images a second through training steps: {Spread(tuple(epoch['images_per_s']['values']))}")
    share = epoch["overhead_share"]
    told = "not to be seen where steps are recorded" if share is None else f"{share:.1%}"
    lines.append(f"overhead outside of the networks and optimisers: {told}")
    return "\n".join(lines)


def _heap_row(name: str, values: dict[str, Any]) -> tuple[str, ...]:
    warm, default = (Spread(tuple(values[heap]["values"])).scaled(1e3) for heap in HEAPS)
    return name, str(warm), str(default), f"{default.median / warm.median:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each unit")
    parser.add_argument("--kd-steps", type=int, default=5, help="distillation steps in one timing of that unit")
    parser.add_argument("--fill", type=int, default=FULL_BUFFER, help="images in the buffer, at most its capacity")
    parser.add_argument("--epochs", type=int, default=2, help="epochs to time")
    parser.add_argument("--heap", choices=HEAPS, default="warm", help="of this process (Linux with glibc)")
    parser.add_argument("--heap-rounds", type=int, default=1, help="processes for each heap")
    arguments = parser.parse_args()
    arguments.set.insert(0, "run.acceleration=eager")
    with tempfile.TemporaryDirectory() as text:
        document = profile(arguments, Path(text))
        if "heap" in arguments.parts:
            document["heaps"] = compare_heaps(arguments, Path(text))
    tell(document)
    write_json(arguments.json, document)


if __name__ == "__main__":
    main()
