"""A small task: 1x8x8 digits and the smallest WRN as their teacher."""

from collections.abc import Callable
from pathlib import Path

import pytest

from stages.config import Config, load

MakeConfig = Callable[..., Config]

PRESET = """
[task]
num_classes = 10
image_shape = [1, 8, 8]
mean = [0.5]
std = [0.5]
crop_padding = 1
horizontal_flip = false

[run]
precision = "fp32"

[teacher]
model = "wrn10_1"

[student]
model = "wrn10_1"
"""


@pytest.fixture
def make_config(tmp_path: Path) -> MakeConfig:
    """A configuration with some keys set as `--set` would."""

    def make(*overrides: str) -> Config:
        path = tmp_path / "small.toml"
        path.write_text(PRESET)
        return load([str(path)], overrides)

    return make
