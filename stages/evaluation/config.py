"""Settings of stage 3: what the student is measured on."""

from __future__ import annotations

from pydantic import NonNegativeInt, PositiveInt

from stages.config_table import Table

NO_DATA = "none"
"""Value of `data` where there are no real images."""

SELECTED = "best, selected on labelled data"
"""How whatever was chosen by accuracy on labelled data is labelled; the headline is the last epoch."""


class EvaluationConfig(Table):
    """The `[evaluation]` table: the only stage that may open real images.

    The student never depends on it, but that `distill` takes the `num_holdout` images from those it learns from.
    """

    data: str = NO_DATA
    """Real data set with labels: the name of a registered one, or "none"."""

    root: str | None = None
    """Folder the data set is in, where it needs one."""

    split: str = "test"
    """Which part of the data set."""

    resize: bool | PositiveInt = False
    """How pictures of a folder come to `task.image_shape`: true scales those of another size until they cover it, a
    number scales all until their shorter side has so many pixels (256 is usual for networks of 224), both bilinearly;
    then the centre is cut out. False refuses other sizes.
    """

    download: bool = False
    """Whether the data set may be downloaded into `root`."""

    batch_size: PositiveInt = 256
    """Images per forward pass; has no influence on the result beyond rounding."""

    num_holdout: NonNegativeInt = 256
    """Synthetic images kept out of the buffer, on which student and teacher are compared (agreement); `distill` sets so
    many of its buffer's aside. It does so whether `evaluation` is in `run.stages` or not: that changes no student."""

    select_best: bool = False
    """Whether the student of the epoch that does best on the labelled data is kept too, and labelled as so selected."""
