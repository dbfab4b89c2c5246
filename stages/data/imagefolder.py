"""Images in class folders: `root/split/<class>/*.png`, or `root/<class>/*.png` without a split folder.

The class folders' names in alphabetical order are the classes 0 to K - 1. Any file below a class folder that
Pillow knows by its suffix is an image of the class; hidden files and others are passed over.
"""

from __future__ import annotations

import math
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, UnidentifiedImageError

from stages.data.dataset import UNSPLIT, LabelledImages
from stages.errors import ConfigError, FileError, MachineError
from stages.machine.device import num_usable_cpus
from stages.machine.memory import machine_memory
from stages.paths import typed_path

PILLOW_MODES = {1: "L", 3: "RGB"}
SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})


def load_imagefolder(
    root: Path | None,
    split: str,
    *,
    image_shape: tuple[int, int, int],
    resize: bool | int,
    download: bool,  # noqa: ARG001
) -> LabelledImages:
    """All images of a split as uint8 [N, C, H, W], converted to grey or RGB as the task takes them.

    `resize` is `evaluation.resize`. Raises ConfigError for a number of channels that pictures do not have, or a shorter
    side too short for the images; FileError without a root, for a missing folder, one that cannot be read or has no
    classes or images, a file that is no readable image, an image of another size; MachineError for more images than
    there is memory for.
    """
    if root is None:
        raise FileError(
            "`evaluation.data = imagefolder` needs `evaluation.root`",
            hint="`--set evaluation.root=DIR`, the folder that holds one folder a class",
        )
    channels = image_shape[0]
    if channels not in PILLOW_MODES:
        raise ConfigError(
            f"image folders hold grey (1) or RGB (3) images, but `task.image_shape` has {channels} channels",
            hint="a data set of another kind can be added as a plugin of the group ssdkd.datasets",
        )
    root = typed_path(root)
    base = root / split if (root / split).is_dir() else root
    classes = _class_folders(root, base, split)
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = _image_files(folder)
        if not found:
            raise FileError(f"no images in the class folder {folder}", hint="remove the folder or put its images in")
        paths += found
        labels += [label] * len(found)

    pixels_NCHW = _room_for(len(paths), image_shape)

    def decode(index: int) -> None:
        pixels_NCHW[index] = _decode(paths[index], image_shape, resize=resize).transpose(2, 0, 1)

    with ThreadPoolExecutor(num_usable_cpus()) as pool:
        list(pool.map(decode, range(len(paths))))  # raises for the first unreadable file, in their order
    names = tuple(folder.name for folder in classes)
    part = UNSPLIT if base == root else split
    return LabelledImages(torch.from_numpy(pixels_NCHW), torch.tensor(labels), names, "imagefolder", part)


def _class_folders(root: Path, base: Path, split: str) -> list[Path]:
    if not root.is_dir():
        raise FileError(f"no such folder: {root}", hint="set `evaluation.root` to the folder with the images")
    try:
        folders = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise _unreadable(error) from error
    if not folders:
        raise FileError(f"no class folders in {base}", hint="images are expected in ROOT/SPLIT/CLASS/ or ROOT/CLASS/")
    names = [folder.name for folder in folders]
    if base == root and SPLIT_NAMES.issuperset(names):
        raise FileError(
            f"{root} has no folder for the split `{split}`",
            hint=f"it has {', '.join(names)}: choose what is measured with `--set evaluation.split=`, what a teacher"
            " learns with `ssdkd teacher train --split`",
        )
    return folders


def _unreadable(error: OSError) -> FileError:
    return FileError(f"cannot read the folder {error.filename}: {error.strerror}", hint="check its permissions")


def _room_for(num: int, image_shape: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    num_bytes, memory = num * math.prod(image_shape), machine_memory()
    is_known_to_fit = memory is None or num_bytes <= memory.available  # else the process would end without a word
    with suppress(MemoryError):
        if is_known_to_fit:
            return np.empty((num, *image_shape), dtype=np.uint8)
    raise MachineError(
        f"{num:,} images of {image_shape[1]} x {image_shape[2]} pixels take {num_bytes / 2**30:,.1f} GiB of memory,"
        " more than is available",
        hint="they are kept there as they are decoded: name a folder with fewer of them",
    )


def _image_files(folder: Path) -> list[Path]:
    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = []
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]  # thumbnails, say: not walked into
        shown = (name for name in names if not name.startswith("."))
        files += [Path(parent, name) for name in shown if os.path.splitext(name)[1].lower() in suffixes]  # noqa: PTH122
    return sorted(files)


def _decode(path: Path, image_shape: tuple[int, int, int], *, resize: bool | int) -> np.ndarray:
    """The pixels of a file, uint8 [H, W, C]; scaled and cropped as torchvision's `Resize` and `CenterCrop` do it."""
    channels, height, width = image_shape
    try:
        with Image.open(path) as opened:
            image = _to_mode(opened, PILLOW_MODES[channels])
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        # Pillow's plugins raise SyntaxError and ValueError for damaged files.
        raise FileError(
            f"cannot read the image {path}: {error}",
            hint="replace the file, or remove it from the class folder",
        ) from error
    if resize is False and image.size != (width, height):
        raise FileError(
            f"{path} is {image.height} x {image.width} pixels, but `task.image_shape` wants {height} x {width}",
            hint="`--set evaluation.resize=true` scales and centre-crops every image; 256 first scales its shorter side"
            " to so many pixels",
        )
    if resize is not False:
        scale = _scale(image, height, width, shorter_side=None if resize is True else resize)
        scaled_height, scaled_width = int(image.height * scale), int(image.width * scale)
        if scaled_height < height or scaled_width < width:
            raise ConfigError(
                f"`evaluation.resize` = {resize} leaves {scaled_height} x {scaled_width} pixels of {path}, too few for"
                f" {height} x {width}",
                hint="it is the shorter side of what is cropped; true takes the shortest that there can be",
            )
        image = image.resize((scaled_width, scaled_height), Image.Resampling.BILINEAR)
        top, left = round((scaled_height - height) / 2), round((scaled_width - width) / 2)
        image = image.crop((left, top, left + width, top + height))
    return np.asarray(image, dtype=np.uint8).reshape(height, width, channels)


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"32-bit pixels (mode {image.mode}) have no known range")
    if image.mode.startswith("I;16"):
        # Pillow cuts 16-bit grey off at 255 instead of scaling it.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(mode)


def _scale(image: Image.Image, height: int, width: int, *, shorter_side: int | None) -> Fraction:
    """By how much an image is scaled until its shorter side is so long, or it just covers H x W."""
    if shorter_side is not None:
        return Fraction(shorter_side, min(image.size))
    return max(Fraction(height, image.height), Fraction(width, image.width))
