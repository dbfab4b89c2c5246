"""What people read before and after runs, and mean and spread over seeds against numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ssdkd_cli import summary
from stages.events import Evaluation, EventLog, RunFinished
from stages.run_directory import RunDirectory


def run_summary(top1, loss=1.0, agreement=0.5):
    student = {"top1": top1, "loss": loss, "num_samples": 10}
    return {"status": "done", "student": student, "agreement": agreement}


def test_mean_and_sample_deviation_over_seeds():
    values, agreements = [0.9, 0.92, 0.97], [0.8, 0.85, 0.7]
    document = summary.over_seeds(
        [run_summary(value, agreement=share) for value, share in zip(values, agreements, strict=True)]
    )
    assert document["student"]["top1"]["mean"] == pytest.approx(np.mean(values))
    assert document["student"]["top1"]["std"] == pytest.approx(np.std(values, ddof=1))
    assert document["agreement"]["std"] == pytest.approx(np.std(agreements, ddof=1))
    assert len(document["runs"]) == 3


def test_one_seed_has_no_spread():
    assert summary.over_seeds([run_summary(0.9)])["student"]["top1"] == {"mean": 0.9, "std": 0.0}


def test_without_real_data_there_are_no_student_metrics():
    document = summary.over_seeds([run_summary(0.9) | {"student": None, "agreement": share} for share in (0.5, None)])
    assert document["student"] is None
    assert document["agreement"] is None


def test_only_runs_that_are_done_count():
    summaries = [run_summary(0.9), run_summary(0.8), run_summary(0.1) | {"status": "diverged"}]
    document = summary.over_seeds(summaries)
    assert document["student"]["top1"]["mean"] == pytest.approx(0.85)
    assert len(document["runs"]) == 3


def test_series_are_told_with_what_was_left_out(capfd):
    runs = [run_summary(0.9, agreement=0.75) | {"ece": ece} for ece in (0.1, 0.3)]
    summary.print_over_seeds(summary.over_seeds([*runs, run_summary(0.1) | {"status": "diverged"}]))
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "2 runs, mean ± standard deviation (left out: 1 diverged)"
    assert "  student top-1  90.00% ± 0.00%" in lines
    assert lines[-3:] == ["  ECE  20.00% ± 14.14%", *summary.ECE_EXPLAINED.splitlines()]


def test_one_run_has_no_mean(capfd):
    summary.print_over_seeds(summary.over_seeds([run_summary(0.9), run_summary(0.1) | {"status": "stopped"}]))
    assert capfd.readouterr().out.splitlines() == ["1 done, 1 stopped: no mean over seeds"]


def test_a_loss_that_is_no_number_stays_one():
    document = summary.over_seeds([run_summary(0.1, loss=math.nan), run_summary(0.2)])
    assert math.isnan(document["student"]["loss"]["mean"])


def test_metrics_of_any_task_are_shown(capfd):
    metrics = {"miou": 0.5, "pixel_accuracy": 0.75, "num_samples": 654}
    summary.print_metrics({"teacher": metrics, "student": None})
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["mIoU", "pixel", "accuracy", "images"]
    assert lines[1].split() == ["teacher", "50.00%", "75.00%", "654"]
    assert len(lines) == 2


def test_a_stopped_invert_run_is_told_without_student(capfd, place):
    (place / "buffer.safetensors").write_bytes(b"")
    document = {
        **{"status": "stopped", "epochs": 2, "device": "cpu", "images_synthesized": 512, "buffer_size": 512},
        **{"seconds": {"total": 75.0, "inversion": 70.0}, "teacher": None, "student": None, "agreement": None},
    }
    summary.print_summary(document, place)
    text = capfd.readouterr().out
    assert "stopped" in text
    assert "1 min 15 s" in text
    assert "512 images made" in text
    assert "ssdkd distill --buffer" in text
    assert "student.safetensors" not in text


@pytest.mark.parametrize(("status", "is_to_be_evaluated"), [("done", True), ("stopped", False), ("diverged", False)])
def test_only_a_student_that_is_done_is_to_be_evaluated(capfd, place, status, is_to_be_evaluated):
    for name in ("buffer.safetensors", "student.safetensors"):
        (place / name).write_bytes(b"")
    document = {
        **{"status": status, "epochs": 2, "device": "cpu", "images_synthesized": 512, "buffer_size": 512},
        **{"seconds": {"total": 75.0}, "teacher": None, "student": None, "agreement": None},
    }
    summary.print_summary(document, place)
    text = capfd.readouterr().out
    assert "ssdkd inspect-buffer" in text
    assert ("ssdkd evaluate" in text) == is_to_be_evaluated


@pytest.mark.parametrize(("status", "is_told"), [("done", False), ("stopped", True)])
def test_a_student_that_was_measured_before_the_run_stopped(capfd, place, status, is_told):
    (place / "student.safetensors").write_bytes(b"")
    document = {
        **{"status": status, "epochs": 14, "device": "cpu", "images_synthesized": 512, "buffer_size": 512},
        **{"seconds": {"total": 75.0}, "teacher": None, "student": {"top1": 0.5}, "agreement": None},
    }
    with RunDirectory(place).events_file.open("a", encoding="utf-8") as file:
        log = EventLog(file)
        log.emit(Evaluation(real={"student": {"top1": 0.5}}, synthetic=None), epoch=12)
        log.emit(RunFinished(status=status, message="", summary=document), epoch=14)
    summary.print_summary(document, place)
    assert ("measured at epoch 12" in capfd.readouterr().out) == is_told


def test_a_run_without_files_leads_nowhere(capfd, place):
    document = {
        **{"status": "diverged", "epochs": 1, "device": "cpu", "images_synthesized": 128, "buffer_size": 96},
        **{"seconds": {"total": 6.0}, "teacher": None, "student": None, "agreement": None},
    }
    summary.print_summary(document, place)
    lines = capfd.readouterr().out.splitlines()
    assert "next:" not in lines
    assert lines[1] == "1 epoch in 6 s on cpu"


def test_a_plan_is_one_fact_a_line(capfd):
    augmentation = {"crop_padding": 4, "horizontal_flip": True}
    stages = ["inversion", "evaluation"]
    summary.print_plan({"stages": stages, "augmentation": augmentation, "disk_mib": 1234.5, "evaluation_data": None})
    assert capfd.readouterr().out.splitlines() == [
        "stages           inversion, evaluation",
        "augmentation     crop padding 4, horizontal flip yes",
        "disk [MiB]       1,234.5",
        "evaluation data  -",
    ]
