"""Randomness is counter-based: a draw depends on what it is for, and on nothing else."""

import itertools

import pytest
import torch
from torch import Tensor

from stages.run import Run, derived_seed


def draw(run: Run, stage: str = "inversion", purpose: str = "latent", step: int = 0) -> Tensor:
    return torch.rand(4, generator=run.rng(stage, purpose, step))


def test_the_same_counters_draw_the_same(make_run) -> None:
    first, second = make_run(epoch=4), make_run(epoch=4)
    assert torch.equal(draw(first, step=2), draw(second, step=2))
    assert torch.equal(draw(first, step=2), draw(first, step=2))  # a fresh stream each time


def test_any_other_counter_draws_others(make_run) -> None:
    draws = [
        tuple(draw(make_run(run={"seed": seed}, epoch=epoch), stage, purpose, step).tolist())
        for seed, epoch, stage, purpose, step in itertools.product(
            (0, 1), (1, 2, 12), ("inversion", "distillation"), ("latent", "targets"), (0, 1, 2, 21)
        )
    ]
    assert len(set(draws)) == len(draws) == 96


def test_draws_do_not_depend_on_other_draws(make_run) -> None:
    run = make_run()
    expected = draw(run)
    torch.manual_seed(123)
    torch.rand(100)
    torch.rand(7, generator=run.rng("evaluation", "anything"))
    run.rng("inversion", "latent").manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(draw(run), expected)
    assert torch.equal(torch.get_rng_state(), state)  # nor others on these


def test_layers_are_seeded_by_the_same_counters(make_run) -> None:
    run = make_run()
    run.seed_layers("distillation", "student", 3)
    first = torch.rand(4)
    torch.rand(9)
    run.seed_layers("distillation", "student", 3)
    assert torch.equal(torch.rand(4), first)
    run.seed_layers("distillation", "student", 4)
    assert not torch.equal(torch.rand(4), first)


def test_layers_draw_as_after_torchs_own_seeding(make_run) -> None:
    run = make_run()
    run.seed_layers("distillation", "student", 3)
    drawn = torch.rand(4)
    torch.manual_seed(derived_seed(run.config.run.seed, "distillation", "student", run.epoch, 3))
    assert torch.equal(torch.rand(4), drawn)


def test_seeds_are_stable_and_in_range() -> None:
    """The seeds of runs that were begun with an earlier version must not change: a resumed run draws on."""
    assert derived_seed(0, "inversion", "epoch latent", 1, 0) == 8047800433995806506
    seeds = [derived_seed(seed, "holdout") for seed in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62


@pytest.mark.parametrize(("first", "second"), [((1, "a", "b"), (1, "ab", "")), ((1, 23), (12, 3)), ((1, "2"), (1, 2))])
def test_counters_do_not_run_into_each_other(first: tuple, second: tuple) -> None:
    assert derived_seed(*first) != derived_seed(*second)
