"""Single images out of a run's replay buffer, for terminals: chosen by class, hardest first.

Only the images that are asked for are read, so that the size of the buffer does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stages.errors import FileError
from stages.paths import in_shell
from stages.pictures import as_colour
from stages.run_directory import RunDirectory


@dataclass(frozen=True, eq=False)  # compared by identity: the key under which what was drawn of it is cached
class Picture:
    """One buffered image: uint8 [H, W, 3], with the teacher's class and probability, its priority and age in epochs."""

    pixels_HW3: npt.NDArray[np.uint8]
    class_index: int
    probability: float
    priority: float
    age: int


def buffer_stamp(run: RunDirectory) -> tuple[int, int] | None:
    """Changes whenever the run has written its buffer anew; None while there is none."""
    try:
        status = run.buffer_file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def hardest_pictures(
    run: RunDirectory, *, class_index: int | None = None, limit: int = 64, newest_first: bool = False
) -> list[Picture]:
    """At most `limit` images of the buffer, of one class or of all, highest priority first.

    With `newest_first` those inserted last come before the others, and among equals the hardest.

    Raises FileError where the buffer is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    from stages.pictures import main_class, mean_probability

    try:
        with safe_open(run.buffer_file, framework="np") as file:
            class_N = main_class(file.get_tensor("teacher_class"))
            probability_N = mean_probability(file.get_tensor("teacher_prob"))
            priority_N, age_N = file.get_tensor("priority"), file.get_tensor("age")
            images = file.get_slice("images")
            wanted = np.flatnonzero(class_N == class_index) if class_index is not None else np.arange(len(class_N))
            insertion_N = age_N[wanted] if newest_first else np.zeros(len(wanted))
            wanted = wanted[np.lexsort((-priority_N[wanted], insertion_N))][:limit]
            return [
                Picture(
                    as_colour(images[int(row) : int(row) + 1][0]),
                    int(class_N[row]),
                    float(probability_N[row]),
                    float(priority_N[row]),
                    int(age_N[row]),
                )
                for row in wanted
            ]
    except FileNotFoundError as error:
        if not run.is_alive():
            raise FileError("no buffer: the run saved none", hint="it comes with a run's first checkpoint") from error
        raise FileError(
            "no buffer yet: it comes with the first checkpoint",
            hint=f"`ssdkd runs checkpoint {in_shell(run.path)}` asks for one now",
        ) from error
    except (OSError, SafetensorError, ValueError, IndexError) as error:
        raise FileError(
            f"{run.buffer_file} cannot be read: {error}",
            hint=f"`ssdkd runs verify {in_shell(run.path)}` looks at all files of the run",
        ) from error
