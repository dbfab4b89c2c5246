"""What a labelled data set is, and how one is loaded by name and checked against the task.

Legend: N images, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stages.errors import ConfigError, FileError
from stages.paths import typed_path
from stages.registry import build
from stages.tasks.task import task_of

if TYPE_CHECKING:
    from stages.config import Config, TaskTable

UNSPLIT = "all"


@dataclass(frozen=True)
class LabelledImages:
    """One split of a data set, whole and in memory; images are not normalised."""

    images_NCHW: Tensor
    """uint8 [N, C, H, W]."""

    labels_N: Tensor
    """int64 [N, ...], from 0 to K - 1; of tasks with a label for each pixel -1 where there is none."""

    class_names: tuple[str, ...] | None
    """In the order of the labels, where the data set knows them."""

    name: str
    split: str
    """The part of the data set these are; `UNSPLIT` where it has no parts."""

    def __len__(self) -> int:
        return len(self.labels_N)


def real_images(config: Config, *, split: str | None = None) -> LabelledImages:
    """The images that `[evaluation]` names, of another split than its own where one is given.

    Raises as `load_data`.
    """
    evaluation = config.evaluation
    return load_data(
        evaluation.data,
        root=None if evaluation.root is None else typed_path(evaluation.root),
        split=split or evaluation.split,
        task=config.task,
        resize=evaluation.resize,
        download=evaluation.download,
    )


def load_data(
    name: str, *, root: Path | None, split: str, task: TaskTable, resize: bool | int = False, download: bool = False
) -> LabelledImages:
    """The split of the data set that the registry knows as `name`, checked to fit the task.

    A data set is a callable `(root, split, *, image_shape, resize, download) -> LabelledImages`.

    Raises FileError where the data is missing, unreadable, or has another image shape or number of classes
    than the task; ConfigError where no data set has the name or the settings make no sense.
    """
    image_shape = (task.image_shape[0], task.image_shape[1], task.image_shape[2])
    data: object = build(
        "datasets",
        name,
        root,
        split,
        where="evaluation.data",
        takes="root, split",
        image_shape=image_shape,
        resize=resize,
        download=download,
    )
    if not isinstance(data, LabelledImages):
        raise ConfigError(
            f"the data set `{name}` gives a {type(data).__name__}, not LabelledImages",
            hint="`stages.api` says what a plugin's data set gives",
        )
    dtypes = (data.images_NCHW.dtype, data.labels_N.dtype)
    if dtypes != (torch.uint8, torch.int64):
        raise ConfigError(
            f"the data set `{name}` gives images of {dtypes[0]} with labels of {dtypes[1]}, not uint8 with int64",
            hint="`stages.api` says what a plugin's data set gives",
        )
    if len(data.images_NCHW) != len(data.labels_N):
        raise ConfigError(
            f"the data set `{name}` gives {len(data.images_NCHW):,} images with {len(data.labels_N):,} labels",
            hint="`stages.api` says what a plugin's data set gives",
        )
    _check_shape(data, image_shape)
    _check_labels(data, task, root)
    return data


def _check_shape(data: LabelledImages, image_shape: tuple[int, int, int]) -> None:
    shape = tuple(data.images_NCHW.shape[1:])
    if shape != image_shape:
        raise FileError(
            f"images of `{data.name}` are {list(shape)}, but `task.image_shape` is {list(image_shape)}",
            hint=f"set `task.image_shape` to {list(shape)} if that is what the teacher takes, "
            "or choose another `evaluation.data`",
        )


def _check_labels(data: LabelledImages, task: TaskTable, root: Path | None) -> None:
    num_classes = task.num_classes
    where = f"`{data.name}`" if root is None else f"`{data.name}` in {root}"
    if len(data) == 0:
        raise FileError(f"{where} has no images in its split `{data.split}`", hint="choose `evaluation.split`")
    if data.class_names is not None:
        classes = len(data.class_names)
        if classes != num_classes:
            shown = ", ".join(data.class_names[:3]) + (", ..." if classes > 3 else "")
            raise FileError(
                f"{where} has {classes} classes ({shown}), but `task.num_classes` is {num_classes}",
                hint="the data must have the teacher's classes, all of them, in the teacher's order",
            )
    shape, wanted = tuple(data.labels_N.shape[1:]), task_of(task).label_shape(task.image_shape)
    if shape != wanted:
        raise FileError(
            f"a label of {where} has the shape {list(shape)}, but one of task.kind = {task.kind} has {list(wanted)}",
            hint="choose another `evaluation.data`, or `none`",
        )
    lowest, highest = int(data.labels_N.min()), int(data.labels_N.max())
    if lowest < (-1 if shape else 0) or highest >= num_classes:
        raise FileError(
            f"{where} has labels from {lowest} to {highest}, but `task.num_classes` is {num_classes}",
            hint="the data must have the teacher's classes, in the teacher's order",
        )
