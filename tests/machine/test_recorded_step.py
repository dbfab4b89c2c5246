"""When a step is run, recorded and played, and what happens to one that cannot be recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from operation_tape import OperationTape
from same_values import assert_same
from torch import Tensor, nn

from stages.machine.recorded_step import NUM_REHEARSALS, RecordedStep

NUM_CALLS = NUM_REHEARSALS + 4


class Inputs(NamedTuple):
    """A batch, its weights or none."""

    values_B: Tensor
    weight_B: Tensor | None


class Outputs(NamedTuple):
    loss: Tensor
    values_B: Tensor


def inputs(seed: int, *, num: int = 5, has_weight: bool = True) -> Inputs:
    rng = torch.Generator().manual_seed(seed)
    return Inputs(torch.randn(num, 3, generator=rng), torch.rand(num, 1, generator=rng) if has_weight else None)


class Training:
    """A small network that learns; `look` is called in each step, with the loss."""

    def __init__(self, tape: Any, look: Callable[[Tensor], object] = lambda _loss: None) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.2), nn.Linear(3, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.look = look
        self.num_python_runs = 0
        self.is_alone = True
        self.accounts: list[str] = []
        self.events: list[Any] = []
        self.run = SimpleNamespace(
            tape=tape, may_record=self.may_record, emit=self.events.append, charged_to=self.charged_to
        )
        self.step = RecordedStep(self.run, "the test's step", self.learn)

    def may_record(self) -> bool:
        return self.is_alone

    @contextmanager
    def charged_to(self, account: str) -> Iterator[None]:
        self.accounts.append(f"+{account}")
        yield
        self.accounts.append(f"-{account}")

    def learn(self, given: Inputs) -> Outputs:
        self.num_python_runs += 1
        values_B = self.model(given.values_B)
        loss = (values_B**2 if given.weight_B is None else given.weight_B * values_B**2).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.look(loss)
        self.optimizer.step()
        return Outputs(loss.detach(), values_B.detach())

    def call(self, seed: int, **kinds: Any) -> list[Tensor]:
        torch.manual_seed(100 + seed)  # for the dropout
        return [value.clone() for value in self.step(inputs(seed, **kinds))]

    def state(self) -> list[Tensor]:
        return [*self.model.state_dict().values(), *(p["momentum_buffer"] for p in self.optimizer.state.values())]


def test_a_recorded_step_does_what_the_step_does() -> None:
    plain, recorded = Training(None), Training(tape := OperationTape())
    for seed in range(NUM_CALLS):
        assert_same(recorded.call(seed), plain.call(seed))
        assert_same(recorded.state(), plain.state())
    assert plain.num_python_runs == NUM_CALLS
    assert recorded.num_python_runs == NUM_REHEARSALS + 1
    assert (tape.num_recorded, tape.num_played) == (1, NUM_CALLS - NUM_REHEARSALS)
    assert recorded.accounts == ["+setup", "-setup"] * 2, "the first rehearsal, and the recording"
    assert recorded.events == []


def test_recording_changes_nothing() -> None:
    training = Training(tape := OperationTape())
    for seed in range(NUM_REHEARSALS):
        training.call(seed)
    before = [value.clone() for value in training.state()]
    tape.record(lambda: training.learn(inputs(9)))
    assert_same(training.state(), before)


@pytest.mark.parametrize("first", [0, 2, NUM_REHEARSALS])
def test_nothing_is_rehearsed_or_recorded_beside_other_work(first: int) -> None:
    plain, recorded = Training(None), Training(tape := OperationTape())
    for seed in range(NUM_CALLS + 5):
        recorded.is_alone = seed not in range(first, first + 5)
        assert_same(recorded.call(seed), plain.call(seed))
        assert_same(recorded.state(), plain.state())
    assert (tape.num_recorded, tape.num_played) == (1, NUM_CALLS - NUM_REHEARSALS)


def test_a_recorded_step_is_played_beside_other_work() -> None:
    training = Training(tape := OperationTape())
    for seed in range(NUM_CALLS):
        training.is_alone = seed <= NUM_REHEARSALS
        training.call(seed)
    assert tape.num_played == NUM_CALLS - NUM_REHEARSALS


def test_inputs_of_another_shape_are_run_as_they_are() -> None:
    plain, recorded = Training(None), Training(OperationTape())
    for seed in range(NUM_CALLS):
        assert_same(recorded.call(seed), plain.call(seed))
    for kinds in ({"num": 4}, {"has_weight": False}, {}):
        before = recorded.num_python_runs
        assert_same(recorded.call(50, **kinds), plain.call(50, **kinds))
        assert_same(recorded.state(), plain.state())
        assert recorded.num_python_runs == before + bool(kinds)


def test_outputs_hold_until_the_next_call() -> None:
    training = Training(OperationTape())
    for seed in range(NUM_CALLS):
        training.call(seed)
    first = training.step(inputs(20)).loss
    value = first.item()
    assert training.step(inputs(21)).loss is first
    assert first.item() != value


class BrokenTape(OperationTape):
    """Fails when the step is done."""

    def record(self, step: Callable[[], Any]) -> Any:
        super().record(step)
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors might...")


def branch(loss: Tensor) -> None:
    """Data-dependent control flow."""
    if loss > 1e9:
        raise AssertionError


@pytest.mark.parametrize(
    ("tape", "look", "num_python_runs", "reason"),
    [
        (BrokenTape(), lambda _loss: None, NUM_CALLS + 1, "RuntimeError: CUDA error: operation not permitted"),
        (OperationTape(), branch, NUM_CALLS, "it waits for the device"),
    ],
    ids=["recording fails", "the step waits"],
)
def test_a_step_that_cannot_be_recorded_is_run_as_it_is(tape, look, num_python_runs: int, reason: str) -> None:
    plain, training = Training(None), Training(tape, look)
    for seed in range(NUM_CALLS):
        assert_same(training.call(seed), plain.call(seed))
        assert_same(training.state(), plain.state())
    assert training.num_python_runs == num_python_runs
    assert tape.num_played == 0
    (warning,) = training.events
    assert warning.kind == "warning"
    assert warning.message.startswith(f"the test's step is not recorded and runs slower: {reason}")
    assert "\n" not in warning.message
    assert "run.acceleration=eager" in warning.hint


class FragileTape(OperationTape):
    """Nothing of it can be used any more once a recording has failed."""

    def record(self, step: Callable[[], Any]) -> Any:
        try:
            return super().record(step)
        except RuntimeError:
            self.is_spent = True
            raise


def test_a_device_that_does_not_bear_a_failure_runs_all_steps_as_they_are() -> None:
    """What was recorded before is not played after it, and what is not yet recorded never is."""
    tape = FragileTape()
    trainings = [Training(tape) for _ in range(3)]
    recorded, failing, late = trainings
    plain = Training(None)
    for training, num_calls in ((recorded, NUM_REHEARSALS + 1), (failing, NUM_REHEARSALS), (late, 1)):
        for seed in range(num_calls):
            training.call(seed)
    for seed in range(NUM_REHEARSALS + 1):
        plain.call(seed)
    failing.look = lambda loss: loss.item()
    failing.call(NUM_REHEARSALS)
    assert tape.is_spent
    failing.look = recorded.look
    expected = plain.call(NUM_REHEARSALS + 1)
    for training in (recorded, failing):
        assert_same(training.call(NUM_REHEARSALS + 1), expected)
        assert_same(training.state(), plain.state())
    for seed in range(1, NUM_CALLS):
        late.call(seed)
    assert [training.num_python_runs for training in trainings] == [
        NUM_REHEARSALS + 2,  # the recording is one, and the last call
        NUM_REHEARSALS + 3,  # the recording that failed, the same step as it is, the last call
        NUM_CALLS,
    ]
    assert tape.num_played == 1
    assert [[event.message for event in training.events] for training in (recorded, late)] == [[], []]
    (warning,) = failing.events
    assert warning.message.startswith("the test's step is not recorded and runs slower: WaitError")
    assert warning.message.endswith("; nor is any other step from now on")


def test_a_step_that_waits_only_at_first_is_recorded() -> None:
    """Libraries that load and kernels that are chosen make the first steps wait."""
    num_looks = iter(range(1000))
    training = Training(tape := OperationTape(), lambda loss: next(num_looks) < NUM_REHEARSALS - 1 and loss.item())
    for seed in range(NUM_CALLS):
        training.call(seed)
    assert tape.num_recorded == 1
    assert training.events == []


@pytest.mark.parametrize("call", [0, NUM_REHEARSALS])
def test_an_error_that_is_the_steps_own_is_told(call: int) -> None:
    def fail(_loss: Tensor) -> None:
        raise ZeroDivisionError("of the step")

    training = Training(OperationTape())
    for seed in range(call):
        training.call(seed)
    training.look = fail
    with pytest.raises(ZeroDivisionError, match="of the step"):
        training.call(call)
