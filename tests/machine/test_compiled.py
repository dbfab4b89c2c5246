"""Functions that torch's compiler translates: when, what it costs, and what happens where it fails."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._functorch.config
import torch._inductor.config

from stages.distillation.stage import Distillation
from stages.events import CompilationFinished, CompilationStarted
from stages.inversion.stage import Inversion
from stages.machine.compiled import Compiled, forget_compiled


def test_what_earlier_runs_have_compiled_is_forgotten_where_anything_was(monkeypatch: pytest.MonkeyPatch) -> None:
    forgotten: list[str] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: forgotten.append("all"))
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    monkeypatch.delitem(sys.modules, "torch._dynamo")
    forget_compiled()
    assert forgotten == []
    monkeypatch.setitem(sys.modules, "torch._dynamo", SimpleNamespace())
    forget_compiled()
    assert forgotten == ["all"]


class Watched:
    """Doubles its argument, a run that wants it compiled or not, and a compiler that notes what it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, acceleration: str, *, has_fixed_weights: bool = False) -> None:
        self.calls: list[str] = []
        self.accounts: list[str] = []
        self.events: list[Any] = []
        self.error: Exception | None = None
        self.has_fixed_weights = has_fixed_weights
        config = SimpleNamespace(run=SimpleNamespace(acceleration=acceleration))
        device = torch.device("cpu")
        self.run = SimpleNamespace(config=config, device=device, emit=self.events.append, charged_to=self.charged_to)
        monkeypatch.setattr(torch, "compile", self.compile)
        self.function = Compiled(self.run, "the test's function", self.double, has_fixed_weights=has_fixed_weights)

    @contextmanager
    def charged_to(self, account: str) -> Iterator[None]:
        self.accounts.append(account)
        yield

    def double(self, value: int) -> int:
        self.calls.append("plain")
        return 2 * value

    def compile(self, function: Any, **settings: Any) -> Any:
        assert function == self.double
        assert settings == {"fullgraph": True, "dynamic": False}

        def compiled(value: int) -> int:
            is_first = "compiled" not in self.calls
            assert torch._inductor.config.freezing == (is_first and self.has_fixed_weights)
            is_backward_too = is_first and not self.has_fixed_weights
            # An early torch has no such setting.
            setting = getattr(torch._functorch.config, "force_non_lazy_backward_lowering", is_backward_too)
            assert setting == is_backward_too
            self.calls.append("compiled")
            if self.error is not None:
                raise self.error
            return 2 * value

        return compiled


@pytest.mark.parametrize("has_fixed_weights", [False, True])
def test_it_is_compiled_once_at_its_first_call(monkeypatch: pytest.MonkeyPatch, has_fixed_weights: bool) -> None:
    watched = Watched(monkeypatch, "compile", has_fixed_weights=has_fixed_weights)
    assert [watched.function(value) for value in range(4)] == [0, 2, 4, 6]
    assert watched.calls == ["compiled"] * 4
    assert watched.accounts == ["setup"]
    started, finished = watched.events
    assert started == CompilationStarted(what="the test's function")
    assert finished == CompilationFinished(what="the test's function", seconds=finished.seconds)
    assert 0 <= finished.seconds < 60


def test_nobody_hears_of_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    looks_for_cuda, told = logging.getLogger("torch.utils.cpp_extension"), []
    handler = logging.Handler()
    handler.emit = told.append  # type: ignore[method-assign]
    looks_for_cuda.addHandler(handler)
    watched = Watched(monkeypatch, "compile")
    watched.double = lambda value: looks_for_cuda.warning("No CUDA runtime is found") or 2 * value  # type: ignore[method-assign]
    monkeypatch.setattr(torch, "compile", lambda function, **_settings: function)
    watched.function = Compiled(watched.run, "the test's function", watched.double)
    try:
        assert [watched.function(value) for value in range(2)] == [0, 2]
        assert len(told) == 1, "not while it is compiled, but in later calls, which are somebody else's"
    finally:
        looks_for_cuda.removeHandler(handler)


@pytest.mark.parametrize("acceleration", ["eager", "graphs"])
def test_without_being_asked_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch, acceleration: str) -> None:
    watched = Watched(monkeypatch, acceleration)
    assert [watched.function(value) for value in range(3)] == [0, 2, 4]
    assert watched.calls == ["plain"] * 3
    assert watched.accounts == []


@pytest.mark.parametrize("call", [0, 1])
def test_where_it_fails_the_function_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    watched = Watched(monkeypatch, "compile")
    for value in range(call):
        watched.function(value)
    watched.error = RuntimeError("g++ is missing\nsomewhere")
    assert [watched.function(value) for value in (3, 4)] == [6, 8]
    assert watched.calls == [*["compiled"] * (call + 1), "plain", "plain"]
    _, finished, warning = watched.events
    assert isinstance(finished, CompilationFinished)
    assert warning.message == "the test's function is not compiled and runs as it is: RuntimeError: g++ is missing"


def test_memory_that_is_out_is_no_reason_to_do_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch, "compile")
    watched.error = torch.OutOfMemoryError("2 GiB")
    with pytest.raises(torch.OutOfMemoryError):
        watched.function(3)
    assert watched.calls == ["compiled"]
    assert [type(event) for event in watched.events] == [CompilationStarted, CompilationFinished]


def test_in_a_recording_an_error_breaks_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ran as it is in a broken recording would be recorded in part: whoever records decides what to do."""
    watched = Watched(monkeypatch, "compile")
    watched.function(1)
    watched.error = RuntimeError("operation not permitted when stream is capturing")
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with pytest.raises(RuntimeError, match="capturing"):
        watched.function(2)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    watched.error = None
    assert watched.function(3) == 6
    assert watched.calls == ["compiled"] * 3, "it is not given up"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_training_is_the_same_up_to_rounding(make_run, fill) -> None:
    """Every network is translated, the teacher together with the watch on its batch-norm layers."""
    told = []
    for acceleration in ("eager", "compile"):
        # Small rates: Adam turns the sign of a gradient that is only rounding noise into a whole step.
        rates = {"lr_generator": 1e-4, "lr_latent": 1e-3, "lr_meta": 1e-4}
        run = make_run(run={"acceleration": acceleration}, distillation={"lr": 0.01}, inversion=rates)
        for stage in (Inversion(run.config.inversion), Distillation(run.config.distillation)):
            fill(run, 40)
            stage.setup(run)
            for run.epoch in (1, 4, 5):  # without and with the adversary
                stage.run_epoch(run)
        told.append(run.events)
    whats = [event.what for event in told[1] if isinstance(event, CompilationStarted)]
    told[1] = [event for event in told[1] if not isinstance(event, CompilationStarted | CompilationFinished)]
    assert "the generator" in whats
    assert whats.count("the student") == 2, "in eval mode for inversion, in train mode for its updates"
    assert [event.kind for event in told[1]] == [event.kind for event in told[0]]  # and no warning
    for plain, compiled in zip(*told, strict=True):
        assert vars(compiled).keys() == vars(plain).keys()
        for name, value in vars(plain).items():
            expected = pytest.approx(value, rel=1e-2, abs=1e-3) if isinstance(value, float) else value
            assert vars(compiled)[name] == expected, name
