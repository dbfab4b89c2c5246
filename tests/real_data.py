"""Where tests look for real teachers and images: in the folder SSDKD_TEST_DATA, or in `shared` beside the checkout.

    teachers/          weights of public networks; the tests that use them name the files
    data/cifar10/test  and cifar100: what `data/unpack.py NAME test FOLDER`, beside them, writes out as a folder of
                       pictures a class

Tests that find nothing there skip and say so.
"""

from __future__ import annotations

import os
from pathlib import Path

SHARED = Path(os.environ.get("SSDKD_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared")
