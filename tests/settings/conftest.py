"""What the tests of presets share: a small whole preset on disk, what loading complains of."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from stages.config import load
from stages.errors import ConfigError, Problem

WHOLE = """
[run]
epochs = 30
warmup_epochs = 5

[task]
num_classes = 4
image_shape = [3, 16, 24]
mean = [0.5, 0.4, 0.3]
std = [0.2, 0.2, 0.2]

[teacher]
model = "wrn16_1"

[student]
model = "resnet20"
"""


@pytest.fixture
def write(tmp_path: Path):
    """Write a preset file and give its path back."""

    def write_preset(name: str, text: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write_preset


@pytest.fixture
def whole(write) -> str:
    """Path of a preset that sets what has no default, and the epochs."""
    return write("whole.toml", WHOLE)


@pytest.fixture
def problems_of(whole: str):
    """All that loading complains of: `problems_of("a=1", "b=2")` on top of the whole preset."""

    def load_badly(*overrides: str, presets: Sequence[str] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as caught:
            load([whole] if presets is None else presets, overrides)
        return caught.value.problems

    return load_badly


@pytest.fixture
def problem_of(problems_of):
    """The only thing that loading complains of."""

    def load_badly(*overrides: str, presets: Sequence[str] | None = None) -> Problem:
        (problem,) = problems_of(*overrides, presets=presets)
        return problem

    return load_badly
