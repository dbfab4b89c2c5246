"""What a CUDA tape does when a recording fails. There is no device: torch's part is played, as before 2.13 or later."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.torch_version import TorchVersion

from stages.machine import cuda_tape
from stages.machine.cuda_tape import CudaTape, can_record

DEVICE = torch.device("cuda", 1)


class CannotEndError(RuntimeError):
    """The recording cannot be ended."""


class Generator:
    """Thinks that a recording is under way until it gets another state."""

    is_recording = False
    seed = 0

    def clone_state(self) -> Generator:
        clone = Generator()
        clone.seed = self.seed
        return clone

    def graphsafe_set_state(self, other: Generator) -> None:
        self.is_recording, self.seed = other.is_recording, other.seed


class Graph:
    """A recording, or none."""

    def __init__(self) -> None:
        self.has_been_reset = False

    def replay(self) -> None:
        """There is nothing to play."""

    def reset(self) -> None:
        self.has_been_reset = True


class Torch:
    """The state of torch, its device and its allocator."""

    def __init__(self, *, can_end: bool) -> None:
        self.can_end = can_end
        self.generator = Generator()
        self.generator.seed = 7
        self.graphs: list[weakref.ref[Graph]] = []
        self.under_way: list[tuple[int, int]] = []
        self.released: list[tuple[int, int]] = []
        self.num_pools = 0
        self.stream = "the run's"

    def another_pool(self) -> tuple[int, int]:
        self.num_pools += 1
        return 0, self.num_pools

    def another_graph(self) -> Graph:
        graph = Graph()
        self.graphs.append(weakref.ref(graph))
        return graph

    @contextmanager
    def switched_to(self, stream: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def recording(self, _graph: Graph, *, pool: tuple[int, int], stream: str) -> Iterator[None]:
        self.stream = stream
        self.under_way.append(pool)
        self.generator.is_recording = True
        has_failed = True
        try:
            yield
            has_failed = False
        finally:
            if has_failed and not self.can_end:
                raise CannotEndError  # as early versions do: the stream stays, and all that is said to be under way
            self.end(pool)
            self.generator.is_recording = False
            self.stream = "the run's"

    def end(self, pool: tuple[int, int]) -> None:
        if pool not in self.under_way:
            raise RuntimeError("not currently recording to mempool_id")
        self.under_way.remove(pool)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Play a version of torch."""

    def start(version: str, *, can_end: bool) -> Torch:
        playing = Torch(can_end=can_end)
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        parts = {
            "CUDAGraph": playing.another_graph,
            "Stream": lambda _device: "the tape's",
            "current_stream": lambda _device: playing.stream,
            "default_generators": {1: playing.generator},
            "device": lambda _device: nullcontext(),
            "graph": playing.recording,
            "graph_pool_handle": playing.another_pool,
            "stream": playing.switched_to,
        }
        for name, part in parts.items():
            monkeypatch.setattr(torch.cuda, name, part)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", lambda _index, pool: playing.end(pool))
        monkeypatch.setattr(torch._C, "_cuda_releasePool", lambda _index, pool: playing.released.append(pool))
        monkeypatch.setattr(cuda_tape, "_failed", {})
        return playing

    return start


def fail() -> None:
    raise ZeroDivisionError("of the step")


@pytest.mark.parametrize(
    ("version", "can_end", "is_spent"),
    [("2.8.0", False, True), ("2.11.0+cu130", False, True), ("2.14.1", True, True), ("2.15.0", True, False)],
)
def test_after_a_failure_nothing_is_under_way(play, version: str, can_end: bool, is_spent: bool) -> None:
    playing = play(version, can_end=can_end)
    tape = CudaTape(DEVICE)
    beside = tape.another()
    assert tape.record(lambda: "outputs")[0] == "outputs"
    assert not tape.is_spent
    assert playing.graphs[0]() is not None, "none dies before the others"

    with pytest.raises(ZeroDivisionError, match="of the step"):
        tape.record(fail)
    assert playing.under_way == []
    assert not playing.generator.is_recording
    assert playing.generator.seed == 7
    assert playing.stream == "the run's"
    assert (playing.graphs[0]() is None) == is_spent, "what cannot be played keeps no memory"
    failed = playing.graphs[-1]()
    assert (failed is not None) == is_spent, "allocators may still ask it"
    assert failed is None or failed.has_been_reset == can_end, "it gives its own memory back where it was ended"
    assert playing.released == ([] if can_end else [(0, 1)])

    assert tape.is_spent == beside.is_spent == is_spent
    assert can_record(DEVICE) == (not is_spent)
    assert can_record(torch.device("cuda", 0)), "another device is as it was"


def test_after_a_failure_a_new_torch_records_on_in_other_memory(play) -> None:
    playing = play("2.15.0", can_end=True)
    tape = CudaTape(DEVICE)
    with pytest.raises(ZeroDivisionError):
        tape.record(fail)
    assert playing.num_pools == 2
    assert tape.record(lambda: 3)[0] == 3
