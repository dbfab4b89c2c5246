"""`call` types a command in this process, which is fast; `child_process.run_ssdkd` is the real thing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from child_process import Result

Call = Callable[..., Result]


def settings(**values: object) -> list[str]:
    """`--set` options; a double underscore stands for the dot of a key."""
    return [text for key, value in values.items() for text in ("--set", f"{key.replace('__', '.', 1)}={value}")]


TINY = settings(
    run__epochs=3,
    run__warmup_epochs=1,
    run__threads=1,
    run__device="cpu",
    buffer__capacity=64,
    inversion__batch_size=32,
    inversion__steps=2,
    distillation__batch_size=32,
    distillation__steps=2,
    evaluation__num_holdout=16,
)
"""Digits in about a second: every part of the chain, none of it for long."""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test is in a folder of its own, with a cache of its own and no opinion on colours."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Type `ssdkd ...` in this process."""
    from ssdkd_cli.main import main

    def type_in(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(arguments)
        captured = capfd.readouterr()
        return Result(int(code), captured.out, captured.err)

    return type_in


@pytest.fixture
def tiny() -> list[str]:
    """The options that make a run on digits tiny."""
    return list(TINY)


@pytest.fixture
def labelled_folder(place: Path) -> Path:
    """Pictures of digits in a folder a class, as people keep them."""
    from PIL import Image

    from stages.data.digits import load_digits

    images, num_written = load_digits(None, "test", image_shape=(1, 8, 8), resize=False, download=False), 0
    for image_CHW, label in zip(images.images_NCHW, images.labels_N.tolist(), strict=True):
        path = place / "images" / str(label) / f"{(num_written := num_written + 1)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image_CHW[0].numpy()).save(path)
    return place / "images"
