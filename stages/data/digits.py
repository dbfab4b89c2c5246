"""The UCI handwritten digits, shipped with the package: 1,797 scans of 8x8 pixels in 17 levels of grey.

The split is fixed and the same for everyone: of each digit's images, in the order of the original file, every
fifth (the first, the sixth, ...) belongs to `test`, the others to `train`. That gives 364 test and 1,433
training images, about 36 and 143 of each digit. Source and licence: DIGITS.md beside this file.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from stages.data.dataset import LabelledImages
from stages.errors import ConfigError

NUM_CLASSES = 10
TEST_EVERY = 5


def load_digits(
    root: Path | None,  # noqa: ARG001
    split: str,
    *,
    image_shape: tuple[int, int, int],  # noqa: ARG001
    resize: bool | int,  # noqa: ARG001
    download: bool,  # noqa: ARG001
) -> LabelledImages:
    """The `train` or `test` split: uint8 [N, 1, 8, 8], 17 levels from 0 to 255. Raises ConfigError."""
    if split not in ("train", "test"):
        raise ConfigError(f"`digits` has no split `{split}`", hint="its splits are train and test")
    with as_file(files("stages.data") / "digits.safetensors") as path:
        stored = load_file(path)
    images_NCHW, labels_N = stored["images"], stored["labels"].long()
    in_split_N = is_test(labels_N) if split == "test" else ~is_test(labels_N)
    names = tuple(str(digit) for digit in range(NUM_CLASSES))
    return LabelledImages(images_NCHW[in_split_N], labels_N[in_split_N], names, "digits", split)


def is_test(labels_N: Tensor) -> Tensor:
    """Which images are held out for testing: every fifth of each class. Shapes: int64 [N] -> bool [N]."""
    member_NK = F.one_hot(labels_N, NUM_CLASSES)
    rank_N = member_NK.cumsum(0).gather(1, labels_N[:, None]).squeeze(1) - 1
    return rank_N % TEST_EVERY == 0
