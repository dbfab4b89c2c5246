"""What the replay buffer costs as it grows: `python benchmarks/speed/growth.py [--sizes 500,5000] [--plot FILE.png]`.

Every operation on a full buffer of images of 3x32x32: median and range of several calls, and the memory that a call
takes for itself (the highest resident set during it, less that before it). A size is measured in a process of its own,
memory before time: for the times the heap is kept warm, as a run keeps it.

Files are written to --folder (default: the temporary folder), synced to the disk as a run's are, and read back from the
kernel's cache: writing is the disk's time, reading is ours.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch

from stages.buffer.config import BufferConfig
from stages.buffer.file import BufferMeta, read_buffer
from stages.buffer.replay_buffer import ReplayBuffer
from stages.buffer.statistics import buffer_report
from stages.checkpoint import load_checkpoint, save_checkpoint
from stages.machine.device import device_name
from stages.machine.heap import keep_heap_warm
from stages.pictures import choose_tiles

SIZES = (500, 5_000, 50_000, 500_000, 1_000_000)
IMAGE_SHAPE = (3, 32, 32)
NUM_CLASSES = 100
BATCH = 256
ALPHA, EPSILON = 0.6, 1e-6

_MOST_CALLS = 30
_SECONDS_PER_OPERATION = 1.5
_MIB = 2**20


class Operation(NamedTuple):
    """`group` is the panel of the plot: at each update, at each epoch, or at each checkpoint."""

    name: str
    group: str
    call: Callable[[], object]


def new_buffer(size: int, *, eviction: str) -> ReplayBuffer:
    return ReplayBuffer(
        BufferConfig(capacity=size, eviction=eviction),
        image_shape=IMAGE_SHAPE,
        label_shape=(),
        num_classes=NUM_CLASSES,
        device=torch.device("cpu"),
        num_expected=size,
    )


class Inserter:
    """Inserts random batches, as an epoch of inversion does."""

    def __init__(self) -> None:
        self._rng = torch.Generator().manual_seed(0)
        self._images = torch.randint(256, (4096, *IMAGE_SHAPE), generator=self._rng, dtype=torch.uint8)

    def insert(self, buffer: ReplayBuffer, num: int = BATCH) -> None:
        class_B = torch.randint(NUM_CLASSES, (num,), generator=self._rng)
        buffer.insert(
            self._images[:num],
            teacher_class_B=class_B,
            teacher_prob_B=torch.rand(num, generator=self._rng) * 0.9 + 0.1,
            priority_B=torch.randn(num, generator=self._rng).exp() * 0.1,
            target_B=class_B,
            epoch=1,
        )

    def filled(self, size: int, *, eviction: str) -> ReplayBuffer:
        buffer = new_buffer(size, eviction=eviction)
        while buffer.size < size:
            self.insert(buffer, min(4096, size - buffer.size))
        return buffer


def operations(size: int, folder: Path) -> Iterator[list[Operation]]:
    """Groups of operations that share a buffer; that of the one before is gone when the next one is asked for."""
    inserter = Inserter()
    rng = torch.Generator().manual_seed(1)
    buffer = inserter.filled(size, eviction="oldest")
    meta = BufferMeta(
        task="classification",
        num_classes=NUM_CLASSES,
        class_names=None,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        capacity=size,
        alpha=ALPHA,
        epsilon=EPSILON,
        teacher_sha256="0" * 64,
    )
    slots_B = torch.randint(size, (BATCH,), generator=rng)
    priority_B = torch.rand(BATCH, generator=rng)
    buffer_file, checkpoint_file = folder / "buffer.safetensors", folder / "checkpoint.safetensors"

    def draw(sampling: str) -> object:
        return buffer.draw(BATCH, rng, sampling=sampling, alpha=ALPHA, epsilon=EPSILON)

    def tiles() -> object:
        class_N, priority_N = buffer.column("teacher_class").numpy(), buffer.column("priority").numpy()
        return choose_tiles(class_N, priority_N, num_tiles=64)

    def load() -> None:
        new_buffer(size, eviction="oldest").load_state_dict(load_checkpoint(checkpoint_file)["buffer"])

    def inspect() -> object:
        rows = read_buffer(buffer_file)
        return buffer_report(
            teacher_class=rows.teacher_class,
            teacher_prob=rows.teacher_prob,
            priority=rows.priority,
            age=rows.age,
            num_classes=NUM_CLASSES,
            alpha=ALPHA,
            epsilon=EPSILON,
        )

    yield [
        Operation("draw 256 by priority", "update", lambda: draw("priority")),
        Operation("draw 256 uniformly", "update", lambda: draw("uniform")),
        Operation("update 256 priorities", "update", lambda: buffer.update_priorities(slots_B, priority_B)),
        Operation("insert 256, oldest leave", "epoch", lambda: inserter.insert(buffer)),
        Operation("class counts", "epoch", lambda: buffer.class_counts()),
        Operation("class shares", "epoch", lambda: buffer.class_share()),
        Operation("report (buffer_state)", "epoch", lambda: buffer.report(epoch=9, alpha=ALPHA, epsilon=EPSILON)),
        Operation("choose 64 tiles", "checkpoint", tiles),
        Operation("write buffer file", "checkpoint", lambda: buffer.save(buffer_file, meta, epoch=9)),
        Operation("inspect buffer file", "checkpoint", inspect),
        Operation(
            "write checkpoint", "checkpoint", lambda: save_checkpoint(checkpoint_file, {"buffer": buffer.state_dict()})
        ),
        Operation("read checkpoint", "checkpoint", load),
    ]
    del buffer
    buffer = inserter.filled(size, eviction="lowest_priority")
    yield [Operation("insert 256, lowest leave", "epoch", lambda: inserter.insert(buffer))]


def measure(size: int, folder: Path, threads: int) -> dict[str, Any]:
    """All operations at one size; to be called in a process of its own."""
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None)
    with tempfile.TemporaryDirectory(dir=folder) as own_folder:
        memory = {
            operation.name: _added_mib(operation.call, libc)
            for group in operations(size, Path(own_folder))
            for operation in group
        }
        keep_heap_warm()
        rows = [
            {
                "operation": operation.name,
                "group": operation.group,
                "size": size,
                "milliseconds": _milliseconds(operation.call),
                "added_mib": memory[operation.name],
            }
            for group in operations(size, Path(own_folder))
            for operation in group
        ]
        files = {path.name: path.stat().st_size / _MIB for path in Path(own_folder).iterdir()}
    return {"size": size, "rows": rows, "file_mib": files}


def _milliseconds(call: Callable[[], object]) -> list[float]:
    """Times of several calls after one that does not count; of a call that takes seconds, of two."""
    call()
    values: list[float] = []
    while len(values) < 2 or (len(values) < _MOST_CALLS and sum(values) < 1000 * _SECONDS_PER_OPERATION):
        began_s = time.perf_counter()
        call()
        values.append(1000 * (time.perf_counter() - began_s))
    return values


def _added_mib(call: Callable[[], object], libc: ctypes.CDLL) -> float | None:
    """Highest resident memory during a call less that before it; None where the kernel does not tell."""
    try:
        libc.malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the highest is counted anew
        before = _status_mib("VmRSS")
        call()
        return max(0.0, _status_mib("VmHWM") - before)
    except (OSError, AttributeError, KeyError):
        return None


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) / 1024


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Milliseconds, median (lowest to highest), and what a call adds to the memory at the largest size."""
    table = _by_operation(results)
    sizes = [result["size"] for result in results]
    print(f"{'milliseconds':<26}" + "".join(f"{size:>27,}" for size in sizes) + f"{'memory at largest':>20}")
    for name, rows in table.items():
        cells = [
            f"{statistics.median(t):9.3g} ({min(t):.3g} to {max(t):.3g})" for t in (r["milliseconds"] for r in rows)
        ]
        added = rows[-1]["added_mib"]
        memory = "-" if added is None else f"{added:,.1f} MiB"
        print(f"{name:<26}" + "".join(f"{cell:>27}" for cell in cells) + f"{memory:>20}")


def _by_operation(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    table: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        for row in result["rows"]:
            table.setdefault(row["operation"], []).append(row)
    return table


def draw_plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Time against size, both logarithmic: a panel for what is done at each update, epoch and checkpoint."""
    titles = {"update": "at each update", "epoch": "at each epoch", "checkpoint": "at each checkpoint, and reading"}
    figure, axes = plt.subplots(1, len(titles), figsize=(15, 6), sharey=True, layout="constrained")
    markers = "osD^vPX*"
    table = _by_operation(results)
    for axis, (group, title) in zip(axes, titles.items(), strict=True):
        shown = {name: rows for name, rows in table.items() if rows[0]["group"] == group}
        for marker, (name, rows) in zip(markers, shown.items(), strict=False):
            sizes = [row["size"] for row in rows]
            medians = [statistics.median(row["milliseconds"]) for row in rows]
            low = [median - min(row["milliseconds"]) for median, row in zip(medians, rows, strict=True)]
            high = [max(row["milliseconds"]) - median for median, row in zip(medians, rows, strict=True)]
            axis.errorbar(sizes, medians, yerr=[low, high], marker=marker, capsize=3, linewidth=1.5, label=name)
        axis.set(title=title, xscale="log", yscale="log", xlabel="images in the buffer")
        axis.grid(which="major", alpha=0.3)
        axis.legend(loc="upper left", fontsize=10)
    axes[0].set_ylabel("milliseconds, median and range")
    bottom, top = axes[0].get_ylim()
    axes[0].set_ylim(bottom, top * 30)  # room for the legends
    images = "x".join(map(str, IMAGE_SHAPE))
    figure.suptitle(f"Cost of the replay buffer, images {images} uint8, {results[0]['threads']} thread")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="images in the buffer, comma-separated")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads [default 1]")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files are written")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw time against size")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    results = []
    for size in sorted(int(text) for text in arguments.sizes.split(",")):
        with ProcessPoolExecutor(1, mp_context=context) as process:
            result = process.submit(measure, size, arguments.folder, arguments.threads).result()
        results.append({**result, "threads": arguments.threads})
    print_table(results)
    largest = results[-1]
    print(", ".join(f"{name} {mib:,.1f} MiB" for name, mib in largest["file_mib"].items()), f"at {largest['size']:,}")
    if arguments.json:
        processor = device_name(torch.device("cpu"))
        machine = {"processor": processor, "python": platform.python_version(), "torch": torch.__version__}
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    if arguments.plot:
        draw_plot(results, arguments.plot)


if __name__ == "__main__":
    main()
