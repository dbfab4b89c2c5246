"""The shipped digits: what is in the file, and that its split is what the text says."""

import hashlib
import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from stages.data.dataset import LabelledImages
from stages.data.digits import load_digits
from stages.errors import ConfigError

SHA256 = "32ab692ad5bab14131ae40adb3af4976206430932c57feb379115fef3b7e998f"


def load(split: str) -> LabelledImages:
    return load_digits(None, split, image_shape=(1, 8, 8), resize=False, download=False)


def test_splits_are_whole_and_balanced() -> None:
    train, test = load("train"), load("test")
    assert train.images_NCHW.shape == (1433, 1, 8, 8)
    assert test.images_NCHW.shape == (364, 1, 8, 8)
    for data in (train, test):
        counts = data.labels_N.bincount(minlength=10)
        assert counts.max() - counts.min() <= 7  # the source itself has 174 to 183 of each digit
        assert data.class_names == tuple("0123456789")


def test_every_fifth_of_a_digit_is_test() -> None:
    """The split told in the text, made again by a plain loop over the original order."""
    sklearn = importlib.util.find_spec("sklearn")  # its file is read without the seconds its import takes
    if sklearn is None or sklearn.origin is None:
        pytest.skip("scikit-learn, whose copy of the digits is the source, is not installed")
    source = np.loadtxt(Path(sklearn.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    seen = [0] * 10
    expected: dict[str, list[tuple[int, list[int]]]] = {"train": [], "test": []}
    for *scan, digit in source.astype(int).tolist():
        split = "test" if seen[digit] % 5 == 0 else "train"
        seen[digit] += 1
        expected[split].append((digit, [int(value * 255 / 16 + 0.5) for value in scan]))
    for split, pairs in expected.items():
        data = load(split)
        assert data.labels_N.tolist() == [digit for digit, _ in pairs]
        assert data.images_NCHW.flatten(1).tolist() == [pixels for _, pixels in pairs]


def test_seventeen_levels_of_grey() -> None:
    images = torch.cat([load("train").images_NCHW, load("test").images_NCHW])
    assert images.unique().tolist() == [int(level * 255 / 16 + 0.5) for level in range(17)]


def test_unknown_split() -> None:
    with pytest.raises(ConfigError, match="validation") as caught:
        load("validation")
    assert caught.value.hint == "its splits are train and test"


def test_the_file_is_the_one_that_was_made() -> None:
    """By `docs/make_digits.py` from scikit-learn's copy, which the tests cannot rely on."""
    assert hashlib.sha256((files("stages.data") / "digits.safetensors").read_bytes()).hexdigest() == SHA256
