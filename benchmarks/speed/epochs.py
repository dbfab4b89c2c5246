"""Whole epochs of ssdkd's own pipeline, events and report of the buffer included, timed from outside.

    python benchmarks/speed/epochs.py --preset cifar10-resnet20

The buffer is filled first, with images of the untrained generator, and before those that are timed one epoch runs, on
a CUDA device as many as it takes until all steps are recorded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measuring import Clock, Spread, clock_of, machine, table, told_machine, write_json
from workload import Workload, add_arguments, build_workload, fill_buffer

from stages.events import Device, Event, EventLog, StageFinished, StageStarted
from stages.machine.recorded_step import NUM_REHEARSALS
from stages.pipeline import Pipeline
from stages.recorder import Recorder
from stages.run import Run, StopRequested
from stages.run_directory import RunDirectory


@dataclass
class EpochTimes:
    """One epoch: from the start of its first stage to its last event. A checkpoint after it does not count."""

    epoch: int
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)
    num_images: int = 0
    """Images through training steps: each step of inversion and of distillation counts its batch."""

    def document(self) -> dict[str, Any]:
        return vars(self) | {"images_per_s": self.num_images / self.seconds}


def run_epochs(workload: Workload, folder: Path, num: int) -> list[EpochTimes]:
    """The next `num` epochs of the run, at the earliest the first in which the student learns.

    Each call makes a run directory in `folder`, which the events and reports go to.
    """
    run = workload.run
    run.epoch = max(run.epoch, workload.first_epoch - 1)
    if run.epoch + num > run.schedule.epochs:
        raise SystemExit(f"error: the preset has {run.schedule.epochs} epochs, {run.epoch + num} are needed")
    directory = RunDirectory.create(folder / f"epochs-from-{run.epoch + 1}", "epochs")
    with directory.events_file.open("ab", buffering=0) as file:
        log = EventLog(file)
        recorder = Recorder(run, directory, log, buffer_meta=workload.planned.buffer_meta())
        watch = _EpochWatch(workload, num, clock_of(run.device))
        log.listeners.append(watch)
        run.emit = recorder.emit
        try:
            Pipeline(run, workload.stages, recorder).train()
        except StopRequested:
            return watch.epochs
        finally:
            run.emit = lambda _event: None
    raise AssertionError("the watch ends the run")


class _EpochWatch:
    """Times epochs by the events they emit, and stops the run after the last that was asked for."""

    def __init__(self, workload: Workload, num: int, clock: Clock) -> None:
        self.epochs: list[EpochTimes] = []
        self._run = workload.run
        self._num = num
        self._clock = clock
        self._began_s = self._stage_began_s = 0.0
        self._num_trained = 0

    def __call__(self, event: Event, epoch: int) -> None:
        match event:
            case StageStarted():
                now_s = self._clock()  # only where a time is taken: it waits for the device
                if not self.epochs or self.epochs[-1].epoch != epoch:
                    self.epochs.append(EpochTimes(epoch))
                    self._began_s, self._num_trained = now_s, self._run.num_trained
                self._stage_began_s = now_s
            case StageFinished():
                self.epochs[-1].stages[event.stage] = self._clock() - self._stage_began_s
            case Device():
                self.epochs[-1].seconds = self._clock() - self._began_s
                self.epochs[-1].num_images = self._run.num_trained - self._num_trained
                if len(self.epochs) == self._num:
                    raise StopRequested


def add_epoch_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a command that times epochs, ssdkd's or the reference's."""
    add_arguments(parser)
    parser.add_argument("--epochs", type=int, default=1, help="epochs to time")
    parser.add_argument("--fill", type=int, default=5_000, help="images to begin with, at most the buffer's capacity")


def document_of(
    side: str,
    times: Sequence[EpochTimes],
    arguments: argparse.Namespace,
    machine_facts: dict[str, Any],
    teacher: str,
    *,
    precision: str,
    acceleration: str,
) -> dict[str, Any]:
    """What a command that times epochs found."""
    return {
        "side": side,
        "machine": machine_facts,
        "preset": arguments.preset,
        "set": arguments.set,
        "teacher": teacher,
        "precision": precision,
        "acceleration": acceleration,
        "fill": arguments.fill,
        "epochs": [epoch.document() for epoch in times],
    }


def tell(document: dict[str, Any]) -> None:
    """The table of a command that times epochs."""
    print(told_machine(document["machine"]))
    side, epochs = document["side"], document["epochs"]
    how = f"{document['precision']}, {document['acceleration']}"
    print(f"{side}: {how}, teacher {document['teacher']}, {document['fill']} images at first\n")
    values = {name: Spread(tuple(epoch["stages"][name] for epoch in epochs)) for name in epochs[0]["stages"]}
    values["epoch"] = Spread(tuple(epoch["seconds"] for epoch in epochs))
    print(table(("stage", "s, median (range)"), [(name, str(spread)) for name, spread in values.items()]))
    rate = Spread(tuple(epoch["images_per_s"] for epoch in epochs))
    print(f"images a second through training steps: {rate}")


def num_untimed_epochs(run: Run) -> int:
    """Epochs after which nothing happens for the first time. Each step is called in each epoch at least once, and the
    first epoch in which none is rehearsed or recorded still makes its images alone."""
    return 1 if run.tape is None else NUM_REHEARSALS + 2 + run.schedule.overlaps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_epoch_arguments(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        workload = build_workload(arguments.preset, arguments.set, device=arguments.device, folder=folder)
        workload.run.epoch = 1
        arguments.fill = min(arguments.fill, workload.run.config.buffer.capacity)
        fill_buffer(workload.run, arguments.fill)
        run_epochs(workload, folder, num_untimed_epochs(workload.run))
        times = run_epochs(workload, folder, arguments.epochs)
        facts = machine(workload.run.device)
    precision, acceleration = workload.run.precision, workload.run.config.run.acceleration
    document = document_of(
        "ssdkd", times, arguments, facts, workload.teacher, precision=precision, acceleration=acceleration
    )
    tell(document)
    write_json(arguments.json, document)


if __name__ == "__main__":
    main()
