"""The first part of a real run: a public teacher, networks of real size, measured on real images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from told_events import events_of

pytestmark = pytest.mark.slow

WARMUP_EPOCHS, EPOCHS, IMAGES_AN_EPOCH = 12, 20, 128
FIRST_LATE_EPOCH = 18
"""Warm-up, and eight epochs of distillation; in the sixth of them the loss becomes another one."""


class RealRun(NamedTuple):
    """The run that all of these tests look at."""

    out: Path
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def real_run(teachers, images, ssdkd, tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    out = tmp_path_factory.mktemp("real") / "run"
    settings = {
        "teacher.weights": teachers / "resnet32-d509ac18.th",
        "evaluation.data": "imagefolder",
        "evaluation.root": images("cifar10"),
        "run.epochs": EPOCHS,
        "run.warmup_epochs": WARMUP_EPOCHS,
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return RealRun(out, ssdkd("run", "--preset", "cifar10-resnet20", *overrides, "--out", out))


def test_a_short_run_from_a_real_teacher(real_run):
    out, summary = real_run
    assert summary["status"] == "done"
    assert summary["epochs"] == EPOCHS
    assert summary["images_synthesized"] == EPOCHS * IMAGES_AN_EPOCH
    assert summary["teacher"]["top1"] == pytest.approx(0.9263, abs=0.002)
    assert summary["student"]["top1"] > 0.8, "chance is .1, the start .2"

    events = events_of(out)
    bn = [event["loss_bn"] for event in events if event["kind"] == "inversion_step"]
    told = [event for event in events if event["kind"] == "distillation_step"]
    distillation = [event["loss"] for event in told if event["epoch"] < FIRST_LATE_EPOCH]
    late = [event["loss"] for event in told if event["epoch"] >= FIRST_LATE_EPOCH]
    assert all(math.isfinite(loss) for loss in [*bn, *distillation, *late])
    assert sum(bn[-3:]) < 0.5 * sum(bn[:3])
    assert sum(distillation[-3:]) < 0.7 * sum(distillation[:3])


def test_its_buffer_is_balanced_and_sound(ssdkd, real_run):
    report = ssdkd("inspect-buffer", real_run.out, "--verify")
    assert report["verified"] is True
    assert report["num_samples"] == EPOCHS * IMAGES_AN_EPOCH
    assert report["image_shape"] == [3, 32, 32]
    assert min(report["class_counts"]) > 0
    assert report["class_entropy"] > 0.9


def test_evaluating_the_run_again_gives_the_same_figures(ssdkd, real_run):
    last = events_of(real_run.out, "evaluation")[-1]
    document = ssdkd("evaluate", real_run.out)
    assert document["student"] == pytest.approx(last["real"]["student"])
    assert document["teacher"] == pytest.approx(last["real"]["teacher"])
    assert document["agreement"] == pytest.approx(last["synthetic"]["agreement"])
