"""Whose fault an error is: each kind of code at the innermost place of a traceback."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from stages.foreign_code import foreign_place
from stages.inversion.bn_statistics import BatchNormMatching
from stages.models.normalized import NormalizedModel

NETWORK = """
import json
from torch import nn

class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, images):
        if images.sum() == 0:
            return self.layer(images)  # torch refuses the shape
        if images.sum() < 0:
            return json.loads("half a")
        return undefined
"""


def place_of(function, *arguments):
    try:
        function(*arguments)
    except Exception as error:
        return foreign_place(error)
    raise AssertionError("nothing was raised")


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A network in a library of somebody's, called by a part of ssdkd."""
    (tmp_path / "somebodys_library.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "somebodys_library", raising=False)
    return NormalizedModel(importlib.import_module("somebodys_library").Network(), mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(("value", "line"), [(1, 15), (0, 12), (-1, 14)])
def test_what_others_code_does_and_what_it_makes_torch_and_python_do(
    network: nn.Module, tmp_path: Path, value: float, line: int
) -> None:
    images = torch.full((1, 1, 3, 3), float(value))
    assert place_of(network, images) == f"{tmp_path}/somebodys_library.py:{line}"


def test_what_we_say_is_misused_is_the_callers_doing() -> None:
    matching = BatchNormMatching(nn.BatchNorm2d(1), (1, 3, 3), momentum=0.0)
    assert str(place_of(matching.loss)).startswith(f"{__file__}:"), "nothing ran before it"


def test_what_we_make_libraries_do_is_ours() -> None:
    layer = NormalizedModel(nn.Linear(4, 4), mean=(0.0,), std=(1.0,))
    assert place_of(layer, torch.zeros(1, 1, 3, 3)) is None


def test_what_was_never_raised_is_from_nowhere() -> None:
    assert foreign_place(ValueError("x")) is None
