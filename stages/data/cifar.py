"""CIFAR-10 and CIFAR-100 (A. Krizhevsky, 2009) through torchvision.

torchvision compares every file with its published checksum before it opens one, so a pickle that is not the
original is refused unread. It takes as long to import as torch, and is left out where there is nothing to read.
"""

from __future__ import annotations

import errno
import pickle
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch

from stages.data.dataset import LabelledImages
from stages.errors import ConfigError, FileError, MachineError, NotDownloadedError
from stages.paths import typed_path, user_cache

DOWNLOAD_TIMEOUT_S = 30.0

_FOLDERS = {"CIFAR10": "cifar-10-batches-py", "CIFAR100": "cifar-100-python"}
"""What the original archives of torchvision's classes unpack to."""


def default_root() -> Path:
    """Where downloaded data sets are kept."""
    return user_cache() / "data"


def _load_cifar(
    name: str,
    class_name: str,
    root: Path | None,
    split: str,
    *,
    image_shape: tuple[int, int, int],  # noqa: ARG001
    resize: bool | int,  # noqa: ARG001
    download: bool,
) -> LabelledImages:
    """The `train` (50,000) or `test` (10,000) split: uint8 [N, 3, 32, 32].

    Read from the files of torchvision's class below `root` (default: the user's cache), which are downloaded if asked.

    Raises NotDownloadedError where the files are missing or damaged, FileError where they cannot be read or the
    download fails, MachineError where the disk is full, ConfigError for a split that does not exist.
    """
    if split not in ("train", "test"):
        raise ConfigError(f"`{name}` has no split `{split}`", hint="its splits are train and test")
    folder = default_root() if root is None else typed_path(root)
    data = None
    if download or (folder / _FOLDERS[class_name]).exists():
        data = _read_or_download(name, class_name, folder, split, download=download)
    if data is None:
        raise NotDownloadedError(
            f"{name} is not in {folder}, or its files are damaged",
            hint=f"name the folder that holds `{_FOLDERS[class_name]}` by `--root` or `--set evaluation.root=FOLDER`; "
            "`--set evaluation.download=true` fetches it",
        )
    images_NCHW = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(images_NCHW, torch.tensor(data.targets), tuple(data.classes), name, split)


load_cifar10 = partial(_load_cifar, "cifar10", "CIFAR10")
load_cifar100 = partial(_load_cifar, "cifar100", "CIFAR100")


def _read_or_download(name: str, class_name: str, folder: Path, split: str, *, download: bool) -> Any | None:
    from torchvision import datasets

    kind = getattr(datasets, class_name)
    data = _read(kind, folder, split)
    if data is None and download:
        _download(name, kind, folder, split)
        data = _read(kind, folder, split)
    return data


def _read(kind: Any, folder: Path, split: str) -> Any | None:
    """The data set, or None where torchvision does not find it whole."""
    try:
        with warnings.catch_warnings():
            # The original pickles are older than today's numpy, which says so.
            warnings.simplefilter("ignore")
            return kind(folder, train=split == "train", download=False)
    except (RuntimeError, FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, pickle.UnpicklingError, EOFError, KeyError, UnicodeDecodeError) as error:
        raise FileError(
            f"cannot read {folder / kind.base_folder}: {error}", hint="delete it and fetch it again"
        ) from error


def _download(name: str, kind: Any, folder: Path, split: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Some torchvision versions report on stdout, which belongs to data.
        with redirect_stdout(sys.stderr), _network_timeout(DOWNLOAD_TIMEOUT_S):
            kind(folder, train=split == "train", download=True)
    except (OSError, RuntimeError, EOFError, HTTPException) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise MachineError(
                f"no space left for {name} in {folder}", hint="free some, or set `evaluation.root`"
            ) from error
        raise FileError(
            f"cannot download {name} to {folder}: {error}",
            hint=f"fetch {kind.url} on a machine with a network and unpack it in {folder}",
        ) from error


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens its URLs without a time-out; nothing here waits for a network that is not there."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
