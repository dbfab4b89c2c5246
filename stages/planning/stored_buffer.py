"""The buffer file that `distill` starts from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from stages.buffer.file import BufferContents, is_as_written, read_buffer
from stages.config import Config
from stages.errors import ConfigError, DivergedError, FileError
from stages.run import Run, derived_seed
from stages.scoring import insert_scored


def read(config: Config, path: Path) -> BufferContents:
    """The rows of the file, known to fit the task and to leave some to learn from.

    Raises FileError where they are damaged or do not fit, ConfigError where the hold-out would take them all.
    """
    rows = read_buffer(path)
    if not is_as_written(rows):
        raise FileError(
            f"{path} is damaged: its rows are not those that were written (their sha256 is another one)",
            hint="copy it again from where it was made, or make another by `ssdkd invert`",
        )
    found = (rows.meta.task, list(rows.images.shape[1:]), rows.meta.num_classes)
    expected = (config.task.kind, list(config.task.image_shape), config.task.num_classes)
    if found != expected:
        raise FileError(
            f"{path} is for {found[0]}, images {found[1]} of {found[2]} classes;"
            f" the preset is for {expected[0]}, {expected[1]} of {expected[2]}",
            hint="name the preset that the buffer was made with (`--preset RUN/config.toml`)",
        )
    if len(rows) == 0:
        raise FileError(f"{path} holds no images", hint="`ssdkd invert` fills a buffer")
    num_holdout = config.evaluation.num_holdout
    if num_holdout >= len(rows):
        raise ConfigError(
            f"{path} has {len(rows)} images, evaluation.num_holdout would set {num_holdout} of them aside",
            hint=f"--set evaluation.num_holdout={len(rows) // 10}",
        )
    return rows


def warnings_of(rows: BufferContents, config: Config, *, path: Path, teacher_sha256: str) -> tuple[str, ...]:
    """Where the run will not use the rows as they are."""
    warnings = []
    if rows.meta.teacher_sha256 != teacher_sha256:
        warnings.append(f"{path} was made from another teacher: what the new one says of its images is computed anew")
    num_left, capacity = len(rows) - config.evaluation.num_holdout, config.buffer.capacity
    if num_left > capacity:
        warnings.append(f"of {num_left} images in {path} the newest {capacity} are used (buffer.capacity)")
    return tuple(warnings)


def fill(run: Run, rows: BufferContents) -> None:
    """Set the hold-out aside, drawn at random, and put the rest into the buffer, scored by this run's networks.

    The oldest stay out where there are more than the buffer may hold.

    The file's priorities are of another student, which had learned some of its images and not others: delta_0 is of
    the present one (Eq. 4). Raises DivergedError where the networks' answers cannot be used.
    """
    rng = torch.Generator().manual_seed(derived_seed(run.config.run.seed, "holdout"))
    is_held_out = np.zeros(len(rows), dtype=bool)
    is_held_out[torch.randperm(len(rows), generator=rng)[: run.config.evaluation.num_holdout].numpy()] = True
    if is_held_out.any():
        run.holdout_NCHW = torch.from_numpy(rows.images[is_held_out]).to(run.device)
    chosen_M = np.flatnonzero(~is_held_out)[-run.config.buffer.capacity :]
    batch_size = run.config.distillation.batch_size
    for first in range(0, len(chosen_M), batch_size):
        chosen_B = chosen_M[first : first + batch_size]
        images_BCHW = torch.from_numpy(rows.images[chosen_B]).to(run.device)
        target_B, age_B = (torch.from_numpy(rows_N[chosen_B]).to(run.device) for rows_N in (rows.target, rows.age))
        if not insert_scored(run, images_BCHW, target_B, epoch=-age_B, batch_size=batch_size).all():
            raise DivergedError(
                "the KL divergence of teacher and student is not finite on images of the buffer",
                hint="use run.precision=fp32; `ssdkd teacher check` looks at the teacher",
            )
