"""torch, imported with the garbage collector at rest and a heap that stays warm."""

from __future__ import annotations

import gc
import sys

from stages.machine.heap import keep_heap_warm


def import_torch() -> None:
    """Import torch, faster than the bare statement does.

    Its thousand modules make some 300,000 objects and hardly any garbage; looking for it again and again takes a sixth
    of the import. What is there afterwards stays for good, so later collections leave it out (`gc.freeze`).
    """
    if "torch" in sys.modules:
        return
    keep_heap_warm()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        # First, because torch imports it from C, where a Ctrl-C is swallowed and leaves half of numpy behind.
        import numpy  # noqa: F401
        import torch  # noqa: F401
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
