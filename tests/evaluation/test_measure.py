"""How good a network is said to be, and that saying so changes nothing."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stages.data.dataset import LabelledImages
from stages.errors import ConfigError
from stages.evaluation.measure import TeacherComparison, compare_with_teacher, doubt, measure, measure_with_teacher
from stages.evaluation.stage import EvaluationStage
from stages.events import Evaluation, Warning
from stages.run import Run
from stages.tasks.classification import Classification

WARMUP, LAST = 3, 7


def labelled(num: int = 30) -> LabelledImages:
    rng = torch.Generator().manual_seed(4)
    return LabelledImages(
        images_NCHW=torch.randint(256, (num, 2, 8, 6), generator=rng, dtype=torch.uint8),
        labels_N=torch.randint(5, (num,), generator=rng),
        class_names=None,
        name="noise",
        split="test",
    )


def logits(run: Run, name: str) -> torch.Tensor:
    """Logits of the labelled images, normalised by hand, in eval mode."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in ((0.4, 0.5), (0.2, 0.3)))
    network = copy.deepcopy(getattr(run, name).model).eval()
    with torch.no_grad():
        return network((labelled().images_NCHW / 255 - mean) / std)


def measured(run: Run, *, batch_size: int = 8) -> dict[str, Any]:
    return measure(run.student, labelled(), run.task, batch_size=batch_size)


def compared(run: Run, *, batch_size: int = 8) -> TeacherComparison:
    images_NCHW = labelled().images_NCHW
    return compare_with_teacher(run.teacher, run.student, images_NCHW, run.task, batch_size=batch_size)


def test_metrics_against_counting(make_run) -> None:
    run = make_run()
    result = measured(run)
    logits_NK, label_N = logits(run, "student"), labelled().labels_N
    assert 0 < result["top1"] < 1
    assert result == pytest.approx(
        {
            "top1": (logits_NK.argmax(dim=1) == label_N).double().mean().item(),
            "top5": 1.0,
            "loss": F.cross_entropy(logits_NK, label_N).item(),
            "num_samples": 30,
        },
        rel=1e-4,
    )


def test_agreement_against_counting(make_run) -> None:
    run = make_run()
    same_N = logits(run, "teacher").argmax(dim=1) == logits(run, "student").argmax(dim=1)
    assert 0 < same_N.sum() < 30
    assert compared(run).agreement == pytest.approx(same_N.double().mean().item())


def test_agreement_by_chance_is_the_share_of_the_teachers_most_frequent_class(make_run) -> None:
    run = make_run()
    counts = logits(run, "teacher").argmax(dim=1).bincount()
    assert 0 < counts.max() < 30
    assert compared(run, batch_size=7).agreement_by_chance == pytest.approx(int(counts.max()) / 30)


def test_calibration_against_counting(make_run) -> None:
    run = make_run()
    confidence_N, class_N = logits(run, "student").softmax(dim=1).max(dim=1)
    is_same_N = logits(run, "teacher").argmax(dim=1) == class_N
    bin_N = np.digitize(confidence_N.numpy(), np.arange(1, 15) / 15, right=True)
    assert len(set(bin_N)) > 3
    gaps = [is_same_N[bin_N == m].sum() - confidence_N[bin_N == m].sum() for m in set(bin_N)]
    assert compared(run).ece == pytest.approx(sum(abs(float(gap)) for gap in gaps) / 30, rel=1e-4)


def test_where_each_pixel_has_a_class_agreement_is_the_share_of_pixels(make_run) -> None:
    class Pixels(Classification):
        def per_sample(self, values_BHW: torch.Tensor) -> torch.Tensor:
            return values_BHW.flatten(1).mean(dim=1)

    run = make_run(teacher=nn.Conv2d(2, 5, 3, padding=1), student=nn.Conv2d(2, 5, 3, padding=1))
    run.task = Pixels(5)
    teacher_NHW, student_NHW = (logits(run, name).argmax(dim=1) for name in ("teacher", "student"))
    result = compared(run)
    assert 0 < result.agreement < 1
    assert result.agreement == pytest.approx((teacher_NHW == student_NHW).double().mean().item())
    counts = teacher_NHW.flatten().bincount()
    assert result.agreement_by_chance == pytest.approx(int(counts.max()) / (30 * 8 * 6))


def test_both_at_once_are_measured_as_each_alone(make_run) -> None:
    run = make_run()
    data = labelled(23)
    of_teacher, of_student, compared = measure_with_teacher(run.teacher, run.student, data, run.task, batch_size=8)
    assert of_teacher == measure(run.teacher, data, run.task, batch_size=8)
    assert of_student == measure(run.student, data, run.task, batch_size=8)
    assert compared == compare_with_teacher(run.teacher, run.student, data.images_NCHW, run.task, batch_size=8)


def test_a_student_equal_to_its_teacher_agrees_on_everything(make_run) -> None:
    run = make_run()
    run.student.load_state_dict(run.teacher.state_dict())
    assert compared(run).agreement == 1.0


def test_a_student_of_one_other_class_agrees_on_nothing(make_run) -> None:
    run = make_run()
    with torch.no_grad():
        run.teacher.model.linear.bias[1] += 1e4
        run.student.model.linear.bias[2] += 1e4
    assert compared(run) == TeacherComparison(agreement=0.0, agreement_by_chance=1.0, ece=1.0)  # sure of another


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_batch_size_has_no_influence(make_run, batch_size: int) -> None:
    run = make_run()
    assert measured(run, batch_size=batch_size) == pytest.approx(measured(run), rel=1e-5)
    assert compared(run, batch_size=batch_size).agreement == compared(run).agreement
    assert compared(run, batch_size=batch_size).ece == pytest.approx(compared(run).ece, rel=1e-5)


@pytest.mark.parametrize("is_training", [True, False])
def test_measuring_changes_nothing(make_run, is_training: bool) -> None:
    run = make_run()
    run.student.train(is_training)
    before = copy.deepcopy((run.student.state_dict(), run.teacher.state_dict()))
    random_state = torch.get_rng_state()
    measured(run)
    compared(run)
    torch.testing.assert_close((run.student.state_dict(), run.teacher.state_dict()), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training == is_training for module in run.student.modules())
    assert all(parameter.requires_grad for parameter in run.student.parameters())
    assert not any(module.training for module in run.teacher.modules())


@pytest.mark.parametrize("is_wanted", [True, False])
def test_no_kernels_are_searched_for_batches_of_odd_sizes(make_run, monkeypatch, is_wanted: bool) -> None:
    """In training they are, where the device is prepared for it, and again once something was measured."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", is_wanted)
    run = make_run()
    seen: list[bool] = []
    for network in (run.teacher, run.student):
        network.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cudnn.benchmark))
    measured(run)
    compared(run)
    measure_with_teacher(run.teacher, run.student, labelled(), run.task, batch_size=8)
    assert seen == [False] * (4 + 8 + 8)
    assert torch.backends.cudnn.benchmark == is_wanted


def test_a_run_in_bf16_is_measured_in_fp32(make_run) -> None:
    run = make_run(epoch=LAST)
    run.precision, run.evaluation_data, run.holdout_NCHW = "bf16", labelled(), labelled().images_NCHW
    seen: list[tuple[str, torch.dtype]] = []
    for name in ("teacher", "student"):
        getattr(run, name).register_forward_hook(
            lambda _module, _inputs, logits, name=name: seen.append((name, logits.dtype))
        )
    EvaluationStage(run.config.evaluation).run_epoch(run)
    assert set(seen) == {("teacher", torch.float32), ("student", torch.float32)}


# The stage.


def evaluated_epochs(run: Run) -> dict[int, Evaluation]:
    """The event of each epoch that has one."""
    stage = EvaluationStage(run.config.evaluation)
    stage.setup(run)
    events = {}
    for epoch in range(1, run.schedule.epochs + 1):
        run.epoch, run.events[:] = epoch, []
        if epoch >= WARMUP and run.schedule.command == "run":
            run.holdout_NCHW = labelled().images_NCHW
        stage.run_epoch(run)
        told = [event for event in run.events if isinstance(event, Evaluation)]
        if told:
            (events[epoch],) = told
    assert stage.state_dict() == {}
    return events


def test_the_student_is_measured_once_it_learns_and_at_the_end(make_run) -> None:
    run = make_run()  # every second epoch
    run.evaluation_data = labelled()
    events = evaluated_epochs(run)
    assert list(events) == [4, 6, 7]
    expected = {
        "student": measured(run),
        "teacher": measure(run.teacher, labelled(), run.task, batch_size=8),
    }
    assert events[LAST].real == expected
    assert events[LAST].synthetic == asdict(compared(run))
    assert run.results.student == expected["student"]
    assert run.results.teacher == expected["teacher"]
    results = run.results
    assert TeacherComparison(results.agreement, results.agreement_by_chance, results.ece) == compared(run)


@pytest.mark.parametrize(
    ("top1", "num_classes", "is_doubted"),
    [(0.1, 10, True), (0.18, 10, True), (0.2, 10, False), (0.1, 100, True), (0.15, 100, False), (0.6, 2, False)],
)
def test_a_teacher_no_better_than_chance_is_doubted(top1: float, num_classes: int, is_doubted: bool) -> None:
    told = doubt({"top1": top1, "loss": 1.0}, num_classes=num_classes)
    assert (told is not None) == is_doubted
    assert doubt({"miou": 0.0}, num_classes=num_classes) is None


def test_a_doubt_is_told_once(make_run) -> None:
    run = make_run()
    run.evaluation_data = labelled()
    run.results.teacher = None
    stage = EvaluationStage(run.config.evaluation)
    for run.epoch in (4, 6, LAST):
        stage.run_epoch(run)
    warnings = [event for event in run.events if isinstance(event, Warning)]
    expected = doubt(run.results.teacher, num_classes=5)
    assert [warning.message for warning in warnings] == ([] if expected is None else [expected])
    assert expected is not None, "the teacher of this test knows nothing"


def test_other_images_with_the_same_labels_are_measured_anew(make_run) -> None:
    """A run that goes on may find another version of its data: the teacher is measured on what there is."""
    run = make_run(epoch=4)
    data = labelled()
    stage = EvaluationStage(run.config.evaluation)
    run.evaluation_data = data
    stage.run_epoch(run)
    first = run.results.teacher
    stage.run_epoch(run)
    assert run.results.teacher is first, "measured once on the same images"
    run.evaluation_data = replace(data, images_NCHW=data.images_NCHW.flip(0))
    stage.run_epoch(run)
    assert run.results.teacher == measure(run.teacher, run.evaluation_data, run.task, batch_size=8)
    assert run.results.teacher != first


def test_without_real_data_there_is_agreement(make_run) -> None:
    run = make_run()
    event = evaluated_epochs(run)[LAST]
    assert event.real is None
    assert event.synthetic == asdict(compared(run))
    assert run.results.student is None


def test_invert_measures_the_teacher_alone(make_run) -> None:
    run = make_run(command="invert")
    run.evaluation_data = labelled()
    events = evaluated_epochs(run)
    assert list(events) == [run.schedule.epochs]
    (event,) = events.values()
    assert event.real["student"] is None
    assert event.real["teacher"]["num_samples"] == 30
    assert event.synthetic is None


@pytest.mark.parametrize("select_best", [True, False])
def test_the_best_student_is_kept_only_where_asked(make_run, select_best: bool) -> None:
    run = make_run(evaluation={"select_best": select_best})
    run.evaluation_data = labelled()
    stage = EvaluationStage(run.config.evaluation)
    scores = []
    for epoch in (4, 6, LAST):
        run.epoch = epoch
        if epoch == 6:  # the best: it knows one class of all
            labels_N = labelled().labels_N
            with torch.no_grad():
                run.student.model.linear.bias[labels_N.bincount().argmax()] += 1e4
        if epoch == LAST:
            run.student.model.linear.bias.data.zero_()[labelled().labels_N.bincount().argmin()] = 1e4
        stage.run_epoch(run)
        scores.append(run.results.student["top1"])
        if epoch == 6:
            bias = run.student.model.linear.bias.detach().clone()
    assert scores.index(max(scores)) == 1
    if not select_best:
        assert run.best_student is None
        return
    assert (run.best_student.score, run.best_student.epoch) == (scores[1], 6)
    assert torch.equal(run.best_student.weights["linear.bias"], bias)  # a copy: the student went on


@pytest.mark.parametrize("found", [{"loss": 0.5}, {"loss": 0.5, "top1": [0.5]}])
def test_what_a_task_gives_is_looked_at(make_run, monkeypatch, found: dict[str, Any]) -> None:
    run = make_run()
    monkeypatch.setattr("stages.tasks.classification.ClassificationMetrics.result", lambda _: found)
    with pytest.raises(ConfigError, match="`top1` one of them"):
        measured(run)


def test_the_headline_comes_first(make_run, monkeypatch) -> None:
    run = make_run()
    monkeypatch.setattr(
        "stages.tasks.classification.ClassificationMetrics.result", lambda _: {"loss": 0.5, "top1": 0.25}
    )
    assert list(measured(run).items()) == [("top1", 0.25), ("loss", 0.5)]
