"""Seconds go where they belong, by a clock that is moved by hand."""

from __future__ import annotations

import pytest
from hand_clock import HandClock

from stages.accounts import Accounts


@pytest.fixture
def clock() -> HandClock:
    return HandClock(100.0)


@pytest.fixture
def accounts(clock: HandClock) -> Accounts:
    return Accounts(clock)


def test_the_stages_of_the_contract_always_have_an_account(accounts: Accounts) -> None:
    assert accounts.seconds() == {"inversion": 0.0, "distillation": 0.0, "evaluation": 0.0, "total": 0.0}


def test_time_in_a_stage_is_its_own_and_all_of_it_counts(accounts: Accounts, clock: HandClock) -> None:
    clock.now_s += 1
    with accounts.stage("inversion"):
        clock.now_s += 2
        assert accounts.seconds()["inversion"] == 2
        clock.now_s += 3
    clock.now_s += 4
    with accounts.stage("mine"):
        clock.now_s += 5
    assert accounts.seconds() == {"inversion": 5, "distillation": 0, "evaluation": 0, "mine": 5, "total": 15}
    assert accounts.training_seconds() == 5


def test_an_account_within_a_stage_takes_its_time_from_the_stage(accounts: Accounts, clock: HandClock) -> None:
    with accounts.stage("inversion"):
        clock.now_s += 1
        with accounts.stage("setup"):
            clock.now_s += 10
        clock.now_s += 2
    clock.now_s += 4
    assert accounts.seconds() == {"inversion": 3, "distillation": 0, "evaluation": 0, "setup": 10, "total": 17}
    assert accounts.training_seconds() == 3


def test_a_stage_that_fails_is_charged(accounts: Accounts, clock: HandClock) -> None:
    def fail() -> None:
        with accounts.stage("distillation"):
            clock.now_s += 2
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        fail()
    clock.now_s += 3
    assert accounts.seconds() == {"inversion": 0, "distillation": 2, "evaluation": 0, "total": 5}


def test_waiting_counts_for_nothing_even_when_looked_at(accounts: Accounts, clock: HandClock) -> None:
    with accounts.stage("distillation"):
        clock.now_s += 1
        with accounts.waiting():
            clock.now_s += 100
            assert accounts.seconds()["distillation"] == 1
            clock.now_s += 100
        clock.now_s += 2
    assert accounts.seconds() == {"inversion": 0, "distillation": 3, "evaluation": 0, "total": 3}


def test_they_continue_from_earlier_ones(accounts: Accounts, clock: HandClock) -> None:
    clock.now_s += 1
    accounts.continue_from({"inversion": 10.0, "mine": 2.0, "total": 20.0})
    assert accounts.seconds() == {"inversion": 10, "distillation": 0, "evaluation": 0, "mine": 2, "total": 21}
