"""ssdkd against the plain loop of `reference.py`: the same work, end to end, in turn.

    python benchmarks/speed/compare.py --pair resnet32-resnet20
    python benchmarks/speed/compare.py --pair wrn40_2-wrn16_1 --shipped

Each round runs an epoch of the reference and one of ssdkd in a fresh process each (the other way round in every second
round), after a warm-up of both and with equally many images to begin with; the adversarial term is on. Images a second
count every step: inversion.calls x steps x batch_size and distillation.steps x batch_size, divided by the seconds of
the epoch, evaluation and checkpoints left out. Nothing is extrapolated: both do all steps of the preset's epoch.
`--set distillation.steps=10` makes it shorter for both.

Both make and see their images by the paper's recipe alone (the overlay `paper`, over the preset). With `--shipped`
that is so for the loop alone, and ssdkd does what the preset says: as many images through training steps, where the
preset is no lighter, but teacher views from its cache, and images made in its own way. `--set` goes to both, but
reaches the reference only as far as it knows the setting: distillation.views=8, say, is ssdkd's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import Spread, table, told_machine, write_json
from workload import with_teacher

COMMANDS = {"reference": "reference.py", "ssdkd": "epochs.py"}
HERE = Path(__file__).resolve().parent
PLAIN = "paper"
PAIRS = {"resnet32-resnet20": ["cifar10-resnet20-paper"], "wrn40_2-wrn16_1": ["cifar100-wrn"]}


def presets_of(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """What each side is to do."""
    presets = arguments.preset or PAIRS[arguments.pair]
    return {"reference": [*presets, PLAIN], "ssdkd": presets if arguments.shipped else [*presets, PLAIN]}


def compare(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all rounds; every process's document, by side."""
    presets = presets_of(arguments)
    config, _ = with_teacher(presets["ssdkd"], arguments.set, folder)
    overrides = [*arguments.set, f"teacher.weights={config.teacher.weights}"]
    arguments.fill = min(arguments.fill, config.buffer.capacity)
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in COMMANDS}
    for index in range(arguments.rounds):
        for side in COMMANDS if index % 2 == 0 else reversed(COMMANDS):
            document = _run_side(side, presets[side], overrides, arguments, folder / f"{side}-{index}.json")
            found[side].append(document)
            told = ", ".join(f"{epoch['images_per_s']:.1f}" for epoch in document["epochs"])
            print(f"round {index + 1}, {side}: {told} images a second", file=sys.stderr, flush=True)
    rates = {side: _values(documents, lambda epoch: epoch["images_per_s"]) for side, documents in found.items()}
    rounds = zip(found["ssdkd"], found["reference"], strict=True)
    return {
        "preset": presets,
        "set": arguments.set,
        "rounds": arguments.rounds,
        "images_per_s": {side: spread.document() for side, spread in rates.items()},
        "ratio": Spread(tuple(_rate(ours) / _rate(theirs) for ours, theirs in rounds)).document(),
        "sides": found,
    }


def _run_side(
    side: str, presets: list[str], overrides: list[str], arguments: argparse.Namespace, file: Path
) -> dict[str, Any]:
    command = [sys.executable, str(HERE / COMMANDS[side]), f"--json={file}"]
    command += [f"--preset={preset}" for preset in presets]
    command += [f"--device={arguments.device}", f"--epochs={arguments.epochs}", f"--fill={arguments.fill}"]
    command += [f"--set={text}" for text in overrides]
    # What a user's shell has: torch chooses for the reference, ssdkd for itself.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if arguments.threads is not None:
        environment["OMP_NUM_THREADS"] = str(arguments.threads)
        command.append(f"--set=run.threads={arguments.threads}")
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return document


def _rate(document: dict[str, Any]) -> float:
    return statistics.median(epoch["images_per_s"] for epoch in document["epochs"])


def _values(documents: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> Spread:
    return Spread(tuple(value(epoch) for document in documents for epoch in document["epochs"]))


def tell(document: dict[str, Any]) -> None:
    """One row for each side, and the ratio."""
    sides = document["sides"]
    for side, documents in sides.items():
        facts = documents[0]
        told = f"{facts['precision']}, {facts['acceleration']}, {facts['fill']} images at first"
        print(f"{side}: {told}, {told_machine(facts['machine'])}")
        print(f"  settings {' '.join([*document['preset'][side], *document['set']])}")
    print(f"teacher {sides['ssdkd'][0]['teacher']}\n")
    header = ("", "images an epoch", "images a second", "inversion s", "distillation s", "epoch s")
    rows = []
    for side, documents in sides.items():
        columns = [
            documents[0]["epochs"][0]["num_images"],
            _values(documents, lambda epoch: epoch["images_per_s"]),
            _values(documents, lambda epoch: epoch["stages"]["inversion"]),
            _values(documents, lambda epoch: epoch["stages"]["distillation"]),
            _values(documents, lambda epoch: epoch["seconds"]),
        ]
        rows.append((side, *map(str, columns)))
    print(table(header, rows))
    ratio = Spread(tuple(document["ratio"]["values"]))
    print(f"\nssdkd / reference, images a second, round by round: {ratio}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pair", choices=PAIRS, help="teacher and student")
    what.add_argument("--preset", action="append", help="any other preset, as of `ssdkd run`; may be given again")
    parser.add_argument("--shipped", action="store_true", help="ssdkd does as the preset says, and not as `paper`")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `ssdkd run`")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--epochs", type=int, default=1, help="epochs timed in each process")
    parser.add_argument("--fill", type=int, default=5_000, help="images to begin with")
    parser.add_argument("--threads", type=int, help="of both; default: torch's and ssdkd's own choice")
    parser.add_argument("--json", type=Path, help="write all numbers to this file, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as text:
        document = compare(arguments, Path(text))
    tell(document)
    write_json(arguments.json, document)


if __name__ == "__main__":
    main()
