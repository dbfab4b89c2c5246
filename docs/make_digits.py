"""Make stages/data/digits.safetensors from scikit-learn's copy of the UCI handwritten digits.

    uv run --with scikit-learn python docs/make_digits.py

scikit-learn is needed for this only: the product reads the file.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

TARGET = Path(__file__).parents[1] / "stages" / "data" / "digits.safetensors"
LEVELS = 16
ABOUT = (
    "Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, "
    "1998, doi 10.24432/C50P49, CC BY 4.0. The file optdigits.tes as shipped with scikit-learn; changed: "
    "grey levels 0..16 scaled to 0..255."
)


def main() -> None:
    scans = load_digits()
    # 0..16 becomes 0..255; halves go up, as on paper.
    grey_NHW = np.floor(scans.images * 255 / LEVELS + 0.5).astype(np.uint8)
    save_file(
        {"images": grey_NHW[:, None].copy(), "labels": scans.target.astype(np.uint8)},
        TARGET,
        # One key only: safetensors writes several in no fixed order, and the bytes are to be reproducible.
        metadata={"about": ABOUT},
    )
    print(f"{TARGET}: {len(grey_NHW)} images, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
