"""The memory that the CPU's arithmetic works in.

Nothing here imports torch: the command line sets it up before torch is imported. Functions that are called from Python
do so at the start of their work.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
"""Parameters of glibc's mallopt(3), from malloc.h."""


def keep_heap_warm() -> bool:
    """Tell glibc to keep freed memory instead of returning it to the kernel at every training step.

    Activations of tens of MiB are freed and allocated again at each step; by default glibc unmaps them and the kernel
    zeroes the pages anew, which costs up to half of the time on a CPU. All threads share one arena, for those of their
    own are given back all the same. True where it took effect (Linux with glibc).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_ARENA_MAX, 1))
    return all(mallopt(name, value) == 1 for name, value in settings)
