"""How much of the real images the replay buffers of runs cover, in the eyes of their teacher.

    python benchmarks/accuracy/coverage.py first=RUN second=RUN --data imagefolder --root FOLDER [--judge RUN]

Needs real images, which a data-free run has not: it explains runs, and chooses nothing in them. All numbers are taken
where the teacher's last linear layer is (its input, F features): half of the real images stand for what is to be
covered, the other half for the best that a buffer could be. All the runs must have had the same teacher. A judge is
another network of the same classes, the teacher of another run: what it sees in images that it had no part in tells
what they show from what only their own teacher reads in them.

- Frechet distance (Heusel et al. 2017) in units of the real features' variance: 0 where mean and covariance agree.
- Coverage and density (Naeem et al. 2020): the share of real images with an image of the buffer among what lies nearer
  than their 5th real neighbour; and how many such spheres hold an image of the buffer, against 5.
- Recall (Kynkaanniemi et al. 2019): the share of real images within the spheres of the buffer's own images.
- Same class: the share of real images whose nearest one in the buffer is of the same class to the teacher.
- Mean p_T: how sure the teacher is of the images' classes.
- Both: the share of images of whose class the judge and the teacher are of one mind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import torch
from networks import Network, exit_code_of
from product import labelled
from torch import Tensor

from stages.buffer.file import read_buffer
from stages.config import Config, TaskTable
from stages.data.dataset import load_data
from stages.errors import ConfigError
from stages.models.layers import classifying_layer
from stages.models.normalized import NormalizedModel
from stages.run_directory import RunDirectory

NUM_NEIGHBOURS = 5
BATCH_SIZE = 500
HEADS = ("images", "number", "Frechet / variance", "coverage", "density", "recall", "same class", "mean p_T")


@dataclass(frozen=True)
class Seen:
    """What the teacher makes of N images."""

    features_NF: Tensor
    logits_NK: Tensor


@dataclass(frozen=True)
class Coverage:
    """The numbers of one set of images; see the module's text."""

    frechet: float
    coverage: float
    density: float
    recall: float
    same_class: float
    mean_probability: float


@torch.no_grad()
def look(network: NormalizedModel, images_NCHW: Tensor, *, num_classes: int) -> Seen:
    """Features before the last linear layer with `num_classes` outputs, and logits. Raises ConfigError without one."""
    layer = classifying_layer(network, num_classes=num_classes)
    if layer is None:
        raise ConfigError("the network has no last linear layer to look at", hint="take a run with another teacher")
    features: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0].flatten(1).float()))
    try:
        logits = [
            network(batch.contiguous(memory_format=torch.channels_last)).float()
            for batch in images_NCHW.split(BATCH_SIZE)
        ]
    finally:
        handle.remove()
    return Seen(torch.cat(features), torch.cat(logits))


def seen_by(network: Network, images_NCHW: Tensor) -> Seen:
    """The same for the teacher of a run."""
    return look(network.model, images_NCHW, num_classes=network.config.task.num_classes)


def measure(real: Seen, made: Seen) -> Coverage:
    """How well the made images stand for the real ones."""
    distance_RM = torch.cdist(real.features_NF, made.features_NF)
    is_inside_RM = distance_RM < _radius(real.features_NF).unsqueeze(1)
    is_reached_RM = distance_RM < _radius(made.features_NF)
    nearest_R = distance_RM.argmin(dim=1)
    class_R, class_M = real.logits_NK.argmax(dim=1), made.logits_NK.argmax(dim=1)
    return Coverage(
        frechet=frechet_distance(real.features_NF, made.features_NF) / real.features_NF.var(dim=0).sum().item(),
        coverage=is_inside_RM.any(dim=1).float().mean().item(),
        density=is_inside_RM.sum(dim=0).float().mean().item() / NUM_NEIGHBOURS,
        recall=is_reached_RM.any(dim=1).float().mean().item(),
        same_class=(class_M[nearest_R] == class_R).float().mean().item(),
        mean_probability=made.logits_NK.softmax(dim=1).amax(dim=1).mean().item(),
    )


def _radius(features_NF: Tensor) -> Tensor:
    """Distance of each from its 5th neighbour [N]."""
    distance_NN = torch.cdist(features_NF, features_NF)
    # Itself is the nearest: the one after five others.
    return distance_NN.kthvalue(NUM_NEIGHBOURS + 1, dim=1).values


def frechet_distance(one_NF: Tensor, other_NF: Tensor) -> float:
    """Of the two Gaussians with these means and covariances, squared."""
    one, other = one_NF.double(), other_NF.double()
    gap = (one.mean(dim=0) - other.mean(dim=0)).square().sum()
    cov_one, cov_other = torch.cov(one.T), torch.cov(other.T)
    values, vectors = torch.linalg.eigh(cov_one)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ cov_other @ root).clamp(min=0).sqrt().sum()
    return float(gap + cov_one.trace() + cov_other.trace() - 2 * shared)


def print_table(labels: Sequence[str], real: Seen, made: Sequence[Seen], own: Sequence[Seen] | None = None) -> None:
    """A line for each label. `own`: the same images as their teacher sees them, where this is what a judge sees."""
    heads = HEADS if own is None else (*HEADS, "both")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for index, (label, seen) in enumerate(zip(labels, made, strict=True)):
        found = astuple(measure(real, seen))
        if own is not None:
            is_both_N = seen.logits_NK.argmax(dim=1) == own[index].logits_NK.argmax(dim=1)
            found += (is_both_N.float().mean().item(),)
        cells = (label, f"{len(seen.logits_NK):,}", *(f"{value:.3f}" for value in found))
        print(f"| {' | '.join(cells)} |", flush=True)


def halves(config: Config, *, data: str, root: Path) -> tuple[Tensor, Tensor]:
    """The real images in two halves, drawn at random and always the same."""
    images_NCHW = load_data(data, root=root, split="test", task=config.task).images_NCHW
    one, other = torch.randperm(len(images_NCHW), generator=torch.Generator().manual_seed(0)).chunk(2)
    return images_NCHW[one], images_NCHW[other]


def _is_same_kind(one: TaskTable, other: TaskTable) -> bool:
    return (one.num_classes, one.image_shape) == (other.num_classes, other.image_shape)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN")
    parser.add_argument("--data", default="imagefolder", metavar="NAME")
    parser.add_argument("--root", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--judge", type=Path, metavar="RUN", help="a run with another teacher of the same classes")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _print_all(options))


def _print_all(options: argparse.Namespace) -> None:
    runs = [(label, RunDirectory(path)) for label, paths in labelled(options.runs).items() for path in paths]
    teacher = Network.of(runs[0][1])
    judge = None if options.judge is None else Network.of(RunDirectory(options.judge))
    task = teacher.config.task
    if judge is not None and not _is_same_kind(judge.config.task, task):
        raise ConfigError(
            f"the teacher of {options.judge} was made for other classes or images",
            hint="take the run of another network for the same data",
        )
    buffers = [(label, read_buffer(run.buffer_file)) for label, run in runs]
    if {buffer.meta.teacher_sha256 for _label, buffer in buffers} != {teacher.file.sha256}:
        raise ConfigError(
            f"not all of these buffers are of the teacher {teacher.file.path}",
            hint="compare the runs of one teacher, whose file is the one that they had",
        )
    one, other = halves(teacher.config, data=options.data, root=options.root)
    labels = ["real ones", *(label for label, _buffer in buffers)]
    images = [other, *(torch.from_numpy(buffer.images) for _label, buffer in buffers)]
    own = [seen_by(teacher, images_NCHW) for images_NCHW in images]
    print_table(labels, seen_by(teacher, one), own)
    if judge is not None:
        print(f"\nAs {judge.config.teacher.model} ({options.judge}) sees them:\n")
        print_table(labels, seen_by(judge, one), [seen_by(judge, images_NCHW) for images_NCHW in images], own)


if __name__ == "__main__":
    sys.exit(main())
