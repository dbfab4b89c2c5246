"""A teacher's training that is not over, kept beside the file it is to become: the same command goes on with it."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.checkpoint import load_checkpoint, save_checkpoint
from stages.errors import FileError, StorageError

SAVE_EVERY_S = 10.0
"""Seconds between two saves at least, so that short epochs do not wait for the disk."""


class UnfinishedTraining:
    """The last saved epoch of a training, as `OUT.DIGEST.unfinished`. Another training has another digest."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        """`settings` is everything, in JSON's types, that the trained weights depend on."""
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self._path = out.with_name(f"{out.stem}.{digest}.unfinished")
        self._saved_s = -math.inf

    def load(self, into: Callable[[dict[str, Any]], None]) -> None:
        """Give the saved state to `into`, if there is one. Raises FileError where it is damaged or does not fit."""
        if not self._path.is_file():
            return
        hint = "delete it: the training then begins anew"
        try:
            into(load_checkpoint(self._path))
        except FileError as error:
            raise FileError(error.message, hint=hint) from error
        except (KeyError, ValueError, RuntimeError) as error:  # what torch raises where names or shapes differ
            raise FileError(
                f"{self._path}, a training that was interrupted, does not fit the network: {error}", hint=hint
            ) from error

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """Save after the first epoch, and then now and then."""
        if time.monotonic() - self._saved_s < SAVE_EVERY_S:
            return
        with suppress(StorageError):  # a disk that is full now may not be when the teacher is written
            save_checkpoint(self._path, state())
        self._saved_s = time.monotonic()

    def remove(self) -> None:
        """The training is over."""
        self._path.unlink(missing_ok=True)
