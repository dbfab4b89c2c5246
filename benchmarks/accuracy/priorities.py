"""What the priorities in the replay buffers of runs know of how hard their images are to the student.

    python benchmarks/accuracy/priorities.py first=RUN second=RUN [--views 8] [--images 1000]

A priority is delta of Eq. 4 for the one augmented view that was drawn last, and then stays until the image is drawn
again: an image that was easy in one view is seldom drawn, so seldom gets another one. Here the student that the run
wrote judges some of the images in several views each, drawn as the run draws them but mixed with no other.

- KL: of teacher and student at `distillation.delta_temperature`, in eval mode; mean and median over images and views.
- Stored: the priorities as they are in the buffer; mean and median.
- Of the image: the share of the variance of log KL that is between images; the rest is between views of one image.
- Known: Spearman's rank correlation of an image's stored priority with its mean KL.
- Knowable: that of its KL in one view with the mean over its other views, which is what one look can tell.
- Drawn as: the effective sample size, as a share of the images, by the stored priorities and by the mean KL.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import torch
from networks import Network, exit_code_of
from product import labelled
from torch import Tensor

from stages.buffer.file import read_buffer
from stages.buffer.priorities import effective_sample_size, sampling_probabilities
from stages.config import Config
from stages.data.augment import augmented, draw_augmentation
from stages.divergence import kl_divergence
from stages.errors import ConfigError
from stages.models.normalized import NormalizedModel
from stages.run_directory import RunDirectory
from stages.student import load_student
from stages.tasks.task import task_of

BATCH_SIZE = 500
HEADS = (
    *("images", "number", "KL, mean", "median", "stored, mean", "median"),
    *("of the image", "known", "knowable", "drawn as, stored", "by KL"),
)


@dataclass(frozen=True)
class Knowledge:
    """The numbers of one buffer; see the module's text."""

    kl_mean: float
    kl_median: float
    stored_mean: float
    stored_median: float
    of_the_image: float
    known: float
    knowable: float
    stored_share: float
    kl_share: float


def measure(divergence_NV: Tensor, stored_N: Tensor, *, alpha: float, epsilon: float) -> Knowledge:
    """From KL of N images in V views, V > 1, and the stored priorities."""
    mean_N = divergence_NV.mean(dim=1)
    log_NV = (divergence_NV + epsilon).log()
    within = log_NV.var(dim=1).mean()
    between = (log_NV.mean(dim=1).var() - within / log_NV.shape[1]).clamp(min=0)

    def drawn_share(priority_N: Tensor) -> float:
        return effective_sample_size(sampling_probabilities(priority_N, alpha=alpha, epsilon=epsilon)) / len(priority_N)

    return Knowledge(
        kl_mean=divergence_NV.mean().item(),
        kl_median=divergence_NV.median().item(),
        stored_mean=stored_N.mean().item(),
        stored_median=stored_N.median().item(),
        of_the_image=(between / (between + within)).item(),
        known=rank_correlation(stored_N, mean_N),
        knowable=rank_correlation(divergence_NV[:, 0], divergence_NV[:, 1:].mean(dim=1)),
        stored_share=drawn_share(stored_N),
        kl_share=drawn_share(mean_N),
    )


def rank_correlation(one_N: Tensor, other_N: Tensor) -> float:
    """Spearman's rho; equal values, which priorities hardly have, are in the order they come in."""
    ranks = torch.stack([values.argsort(stable=True).argsort() for values in (one_N, other_N)])
    return torch.corrcoef(ranks.double())[0, 1].item()


@torch.no_grad()
def divergences(
    teacher: NormalizedModel, student: NormalizedModel, images_NCHW: Tensor, *, config: Config, num_views: int
) -> Tensor:
    """KL(f_t || f_s) of each image in each of its views [N, V]."""
    task, rng = task_of(config.task), torch.Generator().manual_seed(0)
    views = [
        draw_augmentation(
            len(images_NCHW),
            padding=config.task.crop_padding,
            flip=config.task.horizontal_flip,
            rng=rng,
            device=images_NCHW.device,
        )
        for _ in range(num_views)
    ]
    columns = []
    for view in views:
        parts = [
            task.per_sample(
                kl_divergence(
                    teacher(batch_BCHW), student(batch_BCHW), temperature=config.distillation.delta_temperature
                )
            )
            for batch_BCHW in augmented(images_NCHW, view).split(BATCH_SIZE)
        ]
        columns.append(torch.cat(parts))
    return torch.stack(columns, dim=1)


def of_run(run: RunDirectory, *, num_images: int, num_views: int) -> tuple[int, Knowledge]:
    """How many images were looked at, drawn at random and always the same, and what they tell. Raises SsdkdError."""
    network = Network.of(run)
    buffer = read_buffer(run.buffer_file)
    if buffer.meta.teacher_sha256 != network.file.sha256:
        raise ConfigError(
            f"the buffer of {run.path} is not of the teacher {network.file.path}",
            hint="name the teacher's file that the run had by `teacher.weights` in its config.toml",
        )
    chosen_N = np.sort(np.random.default_rng(0).permutation(len(buffer))[:num_images])
    config = network.config
    divergence_NV = divergences(
        network.model,
        load_student(run.path),
        torch.from_numpy(buffer.images[chosen_N]),
        config=config,
        num_views=num_views,
    )
    alpha, epsilon = config.distillation.alpha, config.distillation.epsilon
    stored_N = torch.from_numpy(buffer.priority[chosen_N])
    return len(chosen_N), measure(divergence_NV, stored_N, alpha=alpha, epsilon=epsilon)


def _at_least_two(text: str) -> int:
    if (number := int(text)) < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, not {number}")
    return number


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="[LABEL=]RUN")
    parser.add_argument("--views", type=_at_least_two, default=8, metavar="N", help="views of each image")
    parser.add_argument("--images", type=_at_least_two, default=1000, metavar="N", help="images of each, at most")
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _print_all(options))


def _print_all(options: argparse.Namespace) -> None:
    print(f"| {' | '.join(HEADS)} |\n|{'---|' * len(HEADS)}")
    for label, paths in labelled(options.runs).items():
        for path in paths:
            num_images, known = of_run(RunDirectory(path), num_images=options.images, num_views=options.views)
            cells = (label, f"{num_images:,}", *(f"{value:.3f}" for value in astuple(known)))
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
