"""Orthogonal steps for matrices, plain ones for the rest."""

from __future__ import annotations

import pytest
import torch
from image_task import image_task
from torch import Tensor, nn

from stages.models.build import build_model
from stages.muon import MATRIX_RATE, Muon, matrices_and_others, newton_schulz

F32 = torch.float32


def muon(matrices: list[nn.Parameter], others: list[nn.Parameter] = (), **settings: float) -> Muon:
    settings = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0} | settings
    return Muon(matrices, others, dtype=F32, fused=False, **settings)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (7, 7), (1, 9)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 1e-3), (torch.bfloat16, 0.05)])
def test_singular_values_become_about_one_and_vectors_stay(shape, dtype: torch.dtype, tolerance: float) -> None:
    matrices = drawn(3, *shape) * torch.tensor([1e-4, 1.0, 1e4]).view(3, 1, 1)
    found = newton_schulz(matrices, dtype).float()
    for matrix, result in zip(matrices, found, strict=True):
        u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
        turned = u.mT @ result @ vh.mT  # diagonal where the singular vectors are kept
        values = turned.diagonal()
        if shape != (7, 7):  # a square matrix has singular values near zero, which stay behind
            assert values.min() > 0.6
        assert values.max() < 1.3
        assert (turned - values.diag()).abs().max() < tolerance


def test_small_singular_values_are_raised_too() -> None:
    """What sets it apart from a plain step: two iterations would leave the smallest of these at a thirtieth."""
    u, _ = torch.linalg.qr(drawn(16, 5, seed=1))
    v, _ = torch.linalg.qr(drawn(40, 5, seed=2))
    matrix = u @ torch.tensor([1.0, 0.1, 0.03, 0.01, 0.003]).diag() @ v.mT
    values = (u.mT @ newton_schulz(matrix[None], F32)[0] @ v).diagonal()
    assert values.min() > 0.6
    assert values.max() < 1.3


@pytest.mark.parametrize("scale", [1e-5, 1.0])
def test_each_singular_value_goes_five_times_through_the_quintic(scale: float) -> None:
    values = [0.8, 0.5, 0.2, 0.01]
    norm = sum(value**2 for value in values) ** 0.5
    expected = [value / norm for value in values]
    for _iteration in range(5):
        expected = [3.4445 * s - 4.775 * s**3 + 2.0315 * s**5 for s in expected]
    found = newton_schulz(scale * torch.tensor(values).diag()[None], F32)[0]
    torch.testing.assert_close(found, torch.tensor(expected).diag(), rtol=1e-3, atol=1e-4)


def test_how_far_a_matrix_moves() -> None:
    """For a rate of 1, by singular values of about .2."""
    weight = nn.Parameter(torch.zeros(16, 40))
    weight.grad = drawn(16, 40)
    muon([weight], lr=1.0).step()
    values = torch.linalg.svdvals(weight.detach())
    assert values.min() > 0.2 * 0.6
    assert values.max() < 0.2 * 1.3


@pytest.mark.parametrize(("shape", "is_small"), [((64, 64), False), ((32, 64), True)])
def test_large_matrices_are_made_orthogonal_in_the_type_of_the_run(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], is_small: bool
) -> None:
    types = []
    monkeypatch.setattr(
        "stages.muon.newton_schulz", lambda matrices, dtype: types.append(dtype) or newton_schulz(matrices, dtype)
    )
    weight = nn.Parameter(drawn(*shape))
    weight.grad = drawn(*shape, seed=1)
    Muon([weight], (), lr=0.1, momentum=0.0, weight_decay=0.0, dtype=torch.bfloat16, fused=False).step()
    assert types == [F32 if is_small else torch.bfloat16]


def test_a_matrix_without_a_gradient_of_any_size_stays() -> None:
    assert newton_schulz(torch.zeros(1, 4, 9), F32).abs().max() == 0


def test_convolutions_are_matrices_and_the_classes_rows_are_not() -> None:
    model = build_model("wrn16_2", task=image_task(), where="student.model")
    matrices, others = matrices_and_others(model, num_classes=10)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    convolutions = {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert {names[id(parameter)] for parameter in matrices} == {f"{name}.weight" for name in convolutions}
    assert {"fc.weight", "fc.bias", "bn1.weight"} <= {names[id(parameter)] for parameter in others}
    assert len(matrices) + len(others) == len(names)


def test_weights_that_are_made_of_others_are_no_matrices() -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), nn.Linear(6, 3))
    matrices, others = matrices_and_others(model, num_classes=3)
    assert matrices == []
    assert len(others) == len(list(model.parameters()))


@pytest.mark.parametrize("is_first", [False, True])
def test_the_classes_rows_are_found_wherever_they_are_registered(is_first: bool) -> None:
    hidden, classes = nn.Linear(6, 8), nn.Conv2d(8, 3, 1)
    model = nn.Sequential(classes, hidden) if is_first else nn.Sequential(hidden, classes)
    matrices, others = matrices_and_others(model, num_classes=3)
    assert [id(parameter) for parameter in matrices] == [id(hidden.weight)]
    assert any(parameter is classes.weight for parameter in others)


def test_of_layers_with_as_many_outputs_as_classes_the_last_gives_the_classes() -> None:
    model = nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3))
    matrices, others = matrices_and_others(model, num_classes=3)
    assert [id(parameter) for parameter in matrices] == [id(model[0].weight)]
    assert any(parameter is model[1].weight for parameter in others)


def test_a_filter_of_each_channel_alone_is_no_matrix() -> None:
    depthwise, shared = nn.Conv2d(6, 6, 3, groups=6), nn.Linear(6, 6)
    model = nn.Sequential(depthwise, nn.Conv2d(6, 4, 1), shared, shared, nn.Linear(6, 2))
    matrices, others = matrices_and_others(model, num_classes=2)
    assert [id(parameter) for parameter in matrices] == [id(model[1].weight), id(shared.weight)]
    assert any(parameter is depthwise.weight for parameter in others)


def test_a_step_of_a_matrix_is_orthogonal_whatever_its_gradient_measures() -> None:
    moves = []
    for scale in (1e-3, 1e3):
        weight = nn.Parameter(torch.zeros(4, 3, 3, 3).to(memory_format=torch.channels_last))
        optimizer = muon([weight])
        weight.grad = scale * drawn(4, 3, 3, 3)
        optimizer.step()
        moves.append(-weight.detach())
    torch.testing.assert_close(moves[0], moves[1], rtol=1e-4, atol=1e-6)
    values = torch.linalg.svdvals(moves[0].flatten(1)) / (0.5 * MATRIX_RATE)
    assert 0.6 < values.min() <= values.max() < 1.3
    assert (moves[0] * drawn(4, 3, 3, 3)).sum() > 0, "down the gradient"


def test_the_momentum_is_nesterovs() -> None:
    weight = nn.Parameter(torch.zeros(2, 5))
    optimizer = muon([weight], momentum=0.9)
    gradients = [drawn(2, 5, seed=seed) for seed in range(3)]
    expected, buffer = torch.zeros(2, 5), torch.zeros(2, 5)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        buffer = 0.9 * buffer + gradient
        expected -= 0.5 * MATRIX_RATE * newton_schulz((gradient + 0.9 * buffer)[None], F32)[0]
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-4, atol=1e-5)


def test_decay_of_a_matrix_is_a_step_of_its_own() -> None:
    weight = nn.Parameter(drawn(2, 5))
    before = weight.detach().clone()
    weight.grad = torch.zeros(2, 5)
    muon([weight], weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), before * (1 - 0.5 * 0.1))


def test_all_other_parameters_learn_by_sgd() -> None:
    one, other = nn.Parameter(drawn(5)), nn.Parameter(drawn(5))
    optimizer = muon([], [one], momentum=0.9, weight_decay=0.1)
    reference = torch.optim.SGD([other], lr=0.5, momentum=0.9, weight_decay=0.1)
    for seed in range(4):
        one.grad, other.grad = drawn(5, seed=seed), drawn(5, seed=seed)
        optimizer.step()
        reference.step()
    torch.testing.assert_close(one, other)


def test_parameters_without_gradients_stay() -> None:
    one, other = nn.Parameter(drawn(2, 3)), nn.Parameter(drawn(2, 3))
    optimizer = muon([one, other])
    one.grad = drawn(2, 3)
    optimizer.step()
    assert torch.equal(other.detach(), drawn(2, 3))
    assert not torch.equal(one.detach(), drawn(2, 3))


def test_each_of_several_matrices_gets_its_own_step() -> None:
    """Of equal shapes some, and in an order that is not that of their shapes."""
    shapes = [(3, 4), (2, 5), (3, 4), (2, 5)]
    together = [nn.Parameter(drawn(*shape, seed=seed)) for seed, shape in enumerate(shapes)]
    alone = [nn.Parameter(parameter.detach().clone()) for parameter in together]
    for seed, parameters in enumerate(zip(together, alone, strict=True)):
        for parameter in parameters:
            parameter.grad = drawn(*parameter.shape, seed=10 + seed)
    muon(together).step()
    for parameter, expected in zip(together, alone, strict=True):
        muon([expected]).step()
        torch.testing.assert_close(parameter, expected)
