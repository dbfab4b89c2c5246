"""Checkpoints as strangers published them score what they are known to score, through `ssdkd evaluate`."""

from __future__ import annotations

import pytest

NONSTANDARD = "tests/models/nonstandard_resnet20.py:resnet20"

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("file", "data", "preset", "settings", "top1"),
    [
        ("resnet20-12fca82f.th", "cifar10", "cifar10-resnet20", [], 0.9173),
        ("resnet32-d509ac18.th", "cifar10", "cifar10-resnet20", ["student.model=resnet32"], 0.9263),
        ("WRN16_1_cifar10.pth", "cifar10", "cifar10-wrn", [], 0.9175),
        (
            "resnet20_cifar100.pth",
            "cifar100",
            "cifar100-wrn",
            [
                f"student.model={NONSTANDARD}",
                "task.mean=[0.507, 0.487, 0.441]",
                "task.std=[0.267, 0.256, 0.276]",
            ],
            0.6969,
        ),
        # Its stated accuracy was measured in bf16, ours is in fp32.
        ("wrn40_2_cifar100.safetensors", "cifar100", "cifar100-wrn", ["student.model=wrn40_2"], 0.710),
    ],
)
def test_a_public_checkpoint_scores_its_stated_accuracy(
    teachers, images, ssdkd, file: str, data: str, preset: str, settings: list[str], top1: float
):
    overrides = [part for setting in settings for part in ("--set", setting)]
    # Without the preset's teacher only the student is measured.
    overrides += ["--set", "teacher.weights=nowhere.safetensors"]
    document = ssdkd(
        "evaluate", teachers / file, "--preset", preset, *overrides, "--data", "imagefolder", "--root", images(data)
    )
    assert document["student"]["num_samples"] == 10_000
    assert document["student"]["top1"] == pytest.approx(top1, abs=0.002)
    assert document["teacher"] is None
    assert document["agreement"] is None
