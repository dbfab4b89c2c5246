"""What classification says of classes, targets and metrics, against loops and counts."""

from __future__ import annotations

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.errors import ConfigError
from stages.registry import find
from stages.tasks.classification import Classification
from stages.tasks.task import task_of

NUM_CLASSES = 7


@pytest.fixture
def task() -> Classification:
    return Classification(NUM_CLASSES)


def logits(num: int, num_classes: int = NUM_CLASSES, *, seed: int = 0) -> Tensor:
    return torch.randn(num, num_classes, generator=torch.Generator().manual_seed(seed)) * 3


def targets(policy: str, num: int, *, counts: list[int] | None = None, seed: int = 0) -> Tensor | None:
    return Classification(NUM_CLASSES).draw_targets(
        policy,
        num,
        class_counts_K=torch.tensor(counts or [0] * NUM_CLASSES),
        image_shape=(3, 8, 8),
        rng=torch.Generator().manual_seed(seed),
    )


def chi_squared(target_B: Tensor, weights: list[float]) -> float:
    expected_K = len(target_B) * np.array(weights) / sum(weights)
    count_K = np.bincount(target_B.numpy(), minlength=NUM_CLASSES)
    return float(((count_K - expected_K) ** 2 / expected_K).sum())


def test_it_is_registered() -> None:
    assert find("tasks", "classification", where="task.kind").spec.load() is Classification


def test_class_and_probability_against_a_loop(task: Classification) -> None:
    logits_BK = logits(20)
    class_B, probability_B = task.predict(logits_BK)
    for row, class_index, probability in zip(logits_BK.tolist(), class_B.tolist(), probability_B.tolist(), strict=True):
        powers = [math.exp(value) for value in row]
        assert class_index == powers.index(max(powers))
        assert probability == pytest.approx(max(powers) / sum(powers), rel=1e-5)
    assert class_B.dtype == torch.int64
    assert task.predict(logits_BK.bfloat16())[1].dtype == torch.float32


def test_one_label_and_one_value_an_image(task: Classification) -> None:
    assert task.label_shape((3, 32, 32)) == ()
    values_B = torch.arange(4.0)
    assert torch.equal(task.per_sample(values_B), values_B)


# Chi-squared with 6 degrees of freedom is above 28 once in 10,000 times.


def test_uniform_targets() -> None:
    target_B = targets("uniform", 20_000)
    assert target_B.dtype == torch.int64
    assert chi_squared(target_B, [1] * NUM_CLASSES) < 28
    # Independent draws: counts of a batch vary as they must, unlike balanced ones.
    assert torch.bincount(targets("uniform", 70), minlength=NUM_CLASSES).unique().numel() > 2


@pytest.mark.parametrize("num", [3, 7, 23, 256])
def test_balanced_targets(num: int) -> None:
    target_B = targets("balanced", num)
    assert target_B.shape == (num,)
    count_K = torch.bincount(target_B, minlength=NUM_CLASSES)
    assert set(count_K.tolist()) <= {num // NUM_CLASSES, math.ceil(num / NUM_CLASSES)}


def test_balanced_targets_favour_no_class_and_no_place() -> None:
    draws_ND = torch.stack([targets("balanced", 10, seed=seed) for seed in range(1500)])
    # Of 10 targets three classes come twice: over many draws each as often as the others, at every place.
    assert chi_squared(draws_ND.flatten(), [1] * NUM_CLASSES) < 28
    assert chi_squared(draws_ND[:, 0], [1] * NUM_CLASSES) < 28
    assert chi_squared(draws_ND[:, 9], [1] * NUM_CLASSES) < 28
    # Nor do they come in turns: the eighth is any class, not the first one's again.
    assert 0.05 < (draws_ND[:, 0] == draws_ND[:, 7]).double().mean() < 0.2


def test_targets_of_rare_classes_are_likelier() -> None:
    counts = [0, 1, 3, 9, 0, 99, 4]
    target_B = targets("inverse_frequency", 20_000, counts=counts)
    assert chi_squared(target_B, [1 / (count + 1) for count in counts]) < 28


def test_teachers_targets_are_left_to_the_teacher() -> None:
    assert targets("teacher", 5) is None


@pytest.mark.parametrize("policy", ["uniform", "balanced", "inverse_frequency"])
def test_targets_depend_on_the_generator_alone(policy: str) -> None:
    assert torch.equal(targets(policy, 50, seed=1), targets(policy, 50, seed=1))
    assert not torch.equal(targets(policy, 50, seed=1), targets(policy, 50, seed=2))


def test_an_unknown_policy_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="alphabetical"):
        targets("alphabetical", 5)


def metrics_of(logits_BK: Tensor, label_B: Tensor, *, batch: int) -> dict[str, float]:
    metrics = Classification(logits_BK.shape[1]).new_metrics()
    for part_BK, part_B in zip(logits_BK.split(batch), label_B.split(batch), strict=True):
        metrics.update(part_BK, part_B)
    return metrics.result()


@pytest.mark.parametrize("batch", [100, 7])
def test_metrics_against_a_loop(batch: int) -> None:
    logits_BK = logits(40)
    label_B = torch.randint(NUM_CLASSES, (40,), generator=torch.Generator().manual_seed(1))
    top1 = top5 = loss = 0.0
    for row, label in zip(logits_BK.double().tolist(), label_B.tolist(), strict=True):
        rank = sorted(range(NUM_CLASSES), key=lambda index: -row[index]).index(label)
        top1 += rank == 0
        top5 += rank < 5
        loss += math.log(sum(math.exp(value) for value in row)) - row[label]
    result = metrics_of(logits_BK, label_B, batch=batch)
    assert 0 < result["top1"] < result["top5"] < 1
    assert result == pytest.approx({"top1": top1 / 40, "top5": top5 / 40, "loss": loss / 40, "num_samples": 40})


@pytest.mark.parametrize("num_classes", [2, 5])
def test_top5_of_five_classes_or_fewer_is_one(num_classes: int) -> None:
    result = metrics_of(logits(9, num_classes), torch.zeros(9, dtype=torch.int64), batch=4)
    assert result["top5"] == 1
    assert result["top1"] < 1


def test_metrics_of_nothing() -> None:
    assert Classification(3).new_metrics().result() == {"top1": 0, "top5": 0, "loss": 0, "num_samples": 0}


def test_labels_are_of_images_or_of_pixels(make_small_config, monkeypatch: pytest.MonkeyPatch) -> None:
    table = make_small_config().task
    for shape, is_right in (((), True), ((8, 6), True), ((2, 8, 6), False), ((4, 3), False)):
        monkeypatch.setattr(Classification, "label_shape", lambda _, __, shape=shape: shape)
        with nullcontext() if is_right else pytest.raises(ConfigError, match="has labels of shape"):
            task_of(table)
