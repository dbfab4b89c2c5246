"""Fused optimisers do what torch's others do, and let a step out where the device says so."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from same_values import assert_same
from torch import Tensor, nn

from stages import optimizers
from stages.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")

Make = Callable[[nn.Module], torch.optim.Optimizer]


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2))
    return model.to(memory_format=torch.channels_last)


def make_adam(model: nn.Module) -> torch.optim.Optimizer:
    groups = [{"params": list(model[0].parameters()), "lr": 0.01}, {"params": list(model[3].parameters()), "lr": 0.1}]
    return optimizers.adam(groups, betas=(0.5, 0.999), device=CPU)


def make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return optimizers.sgd(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, device=CPU)


def make_plain_sgd(model: nn.Module) -> torch.optim.Optimizer:
    return optimizers.sgd(model.parameters(), lr=0.1, momentum=0.0, weight_decay=0.0, device=CPU)


def make_nesterov(model: nn.Module) -> torch.optim.Optimizer:
    return optimizers.sgd(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True, device=CPU)


def make_muon(model: nn.Module) -> torch.optim.Optimizer:
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    return optimizers.of_student("muon", model, num_classes=2, precision="fp32", device=CPU, **settings)


MAKERS = [make_adam, make_sgd, make_plain_sgd, make_nesterov, make_muon]


@pytest.fixture(params=[False, True], ids=["default", "fused"])
def fused(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    fuse(monkeypatch, request.param)
    return request.param


def fuse(monkeypatch: pytest.MonkeyPatch, is_fused: bool) -> None:
    monkeypatch.setattr(optimizers, "is_fused", lambda _device: is_fused)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int, *, is_wanted: bool = True) -> None:
    images_BCHW = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    (model(images_BCHW) ** 2).mean().backward()
    optimizers.step_if(optimizer, torch.tensor(is_wanted))


def numbers(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    state = [value for values in optimizer.state.values() for value in values.values()]
    return [value.detach().clone() for value in (*model.parameters(), *state)]


def test_on_a_cuda_device_they_are_fused() -> None:
    assert optimizers.is_fused(torch.device("cuda:0"))
    assert not optimizers.is_fused(CPU)


@pytest.mark.parametrize("make", MAKERS)
def test_fused_is_the_same_mathematics(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []
    for is_fused in (False, True):
        fuse(monkeypatch, is_fused)
        model = network()
        optimizer = make(model)
        assert bool(optimizer.defaults["fused"]) == is_fused
        for seed in range(6):
            learn(model, optimizer, seed)
        trained.append(numbers(model, optimizer))
    torch.testing.assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-6)


def test_nesterovs_momentum_is_torchs() -> None:
    model, other = network(), network()
    optimizer = make_nesterov(model)
    reference = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for seed in range(3):
        learn(model, optimizer, seed)
        learn(other, reference, seed)
    assert_same(numbers(model, optimizer), numbers(other, reference))


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("first", [0, 2])
def test_a_step_that_is_not_wanted_leaves_everything_as_it_was(make: Make, fused: bool, first: int) -> None:
    model, other = network(), network()
    optimizer, other_optimizer = make(model), make(other)
    for seed in range(first):
        learn(model, optimizer, seed)
        learn(other, other_optimizer, seed)
    before = numbers(model, optimizer)
    learn(model, optimizer, 9, is_wanted=False)
    if first > 0 or fused:
        assert_same(numbers(model, optimizer)[: len(before)], before)
    for seed in (3, 4):
        learn(model, optimizer, seed)
        learn(other, other_optimizer, seed)
    assert_same(numbers(model, optimizer), numbers(other, other_optimizer))


def test_a_reset_adam_is_a_new_one_in_the_same_tensors(fused: bool) -> None:
    start = network()
    model = copy.deepcopy(start)
    optimizer = make_adam(model)
    optimizers.reset(optimizer)  # before its first step there is nothing to reset
    for seed in range(3):
        learn(model, optimizer, seed)
    addresses = [value.data_ptr() for values in optimizer.state.values() for value in values.values()]
    model.load_state_dict(start.state_dict())
    optimizers.reset(optimizer)
    new_model = copy.deepcopy(start)
    new_optimizer = make_adam(new_model)
    for seed in (5, 6):
        learn(model, optimizer, seed)
        learn(new_model, new_optimizer, seed)
    assert_same(numbers(model, optimizer), numbers(new_model, new_optimizer))
    assert [value.data_ptr() for values in optimizer.state.values() for value in values.values()] == addresses


def test_the_learning_rate_of_the_next_steps(fused: bool) -> None:
    model = network()
    optimizer = make_plain_sgd(model)
    weight = model[3].weight
    steps = []
    for lr in (0.1, 0.2):
        optimizers.set_learning_rate(optimizer, lr)
        before = weight.detach().clone()
        optimizer.zero_grad()
        weight.sum().backward()
        optimizer.step()
        steps.append((before - weight).mean().item())
    assert steps == pytest.approx([0.1, 0.2])
    if fused:  # one tensor: what is recorded reads it again
        rate = optimizer.param_groups[0]["lr"]
        optimizers.set_learning_rate(optimizer, 0.3)
        assert optimizer.param_groups[0]["lr"] is rate


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("was_fused", [False, True])
@pytest.mark.parametrize("num_steps", [0, 3])
def test_a_state_goes_from_one_implementation_to_the_other(
    make: Make, was_fused: bool, num_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of a GPU is resumed on a CPU, and the other way round."""
    fuse(monkeypatch, was_fused)
    model = network()
    optimizer = make(model)
    for seed in range(num_steps):
        learn(model, optimizer, seed)

    fuse(monkeypatch, not was_fused)
    resumed = copy.deepcopy(model)
    resumed_optimizer = make(resumed)
    settings = copy.deepcopy(resumed_optimizer.state_dict()["param_groups"])
    optimizers.set_learning_rate(optimizer, 0.03)
    optimizers.load(resumed_optimizer, copy.deepcopy(optimizer.state_dict()))
    for group, built in zip(resumed_optimizer.state_dict()["param_groups"], settings, strict=True):
        assert group == built | {"lr": pytest.approx(0.03)}
        assert type(group["lr"]) is type(built["lr"])
    for seed in (7, 8):
        learn(resumed, resumed_optimizer, seed)
        learn(model, optimizer, seed)
    torch.testing.assert_close(
        numbers(resumed, resumed_optimizer), numbers(model, optimizer), rtol=1e-4, atol=1e-6, check_dtype=False
    )
    for parameter, values in resumed_optimizer.state.items():
        for value in values.values():
            assert value.shape != parameter.shape or value.stride() == parameter.stride()


@pytest.mark.parametrize("make", MAKERS)
def test_loaded_state_has_the_strides_of_its_parameters(tmp_path: Path, make: Make) -> None:
    model = network()
    optimizer = make(model)
    learn(model, optimizer, seed=1)
    save_checkpoint(tmp_path / "c", {"optimizer": optimizer.state_dict()})
    loaded = make(model)
    optimizers.load(loaded, load_checkpoint(tmp_path / "c")["optimizer"])
    assert strides_of(loaded, model[0].weight) == strides_of(optimizer, model[0].weight)
    learn(model, loaded, seed=2)


def strides_of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, tuple[int, ...]]:
    tensors = {name: value for name, value in optimizer.state[parameter].items() if isinstance(value, Tensor)}
    return {name: value.stride() for name, value in tensors.items()}
