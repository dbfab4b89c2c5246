"""The cores that a run computes with are those that were asked for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from run_outputs import stop_at

from stages.events import Event


class Seen:
    """Notes how many threads an operation has, and which threads there are, whenever a stage begins or goes on."""

    def __init__(self) -> None:
        self.num_threads: set[int] = set()
        self.names: set[str] = set()

    def __call__(self, event: Event, _epoch: int) -> None:
        if event.kind in ("stage_started", "distillation_step"):
            self.num_threads.add(torch.get_num_threads())
            self.names |= {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_run_has_its_threads_and_so_has_what_goes_on_with_it(start, go_on, out: Path, num_threads: int) -> None:
    begun, gone_on = Seen(), Seen()
    torch.set_num_threads(3)
    stop = stop_at(out, epoch=3)
    assert start(f"run.threads={num_threads}", listeners=[begun, stop]).summary["status"] == "stopped"
    torch.set_num_threads(3)
    assert go_on(gone_on).summary["status"] == "done"
    assert begun.num_threads == gone_on.num_threads == {num_threads}


@pytest.mark.parametrize(
    ("num_threads", "shares"), [(1, {1}), (2, {1, 2})], ids=["one after the other", "side by side"]
)
def test_stages_side_by_side_share_the_threads(start, num_threads: int, shares: set[int]) -> None:
    seen = Seen()
    outcome = start("inversion.overlap=true", f"run.threads={num_threads}", listeners=[seen])
    assert outcome.summary["status"] == "done"
    assert seen.num_threads == shares
    assert ("inversion" in seen.names) == (num_threads > 1)
