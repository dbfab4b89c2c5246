"""A disk that holds the run up is told of, once."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from run_outputs import At, events, warnings

from stages.checkpoint import save_checkpoint


@pytest.mark.parametrize(
    ("saving_s", "epoch_s", "message"),
    [
        (30.0, 60.0, "saving took 30 s of the 150 s since the last checkpoint"),
        (30.0, 0.0, "saving took 30 s of the 30 s"),
        (30.0, 1000.0, None),  # a small part of the run
        (5.0, 1.0, None),  # a moment
    ],
)
def test_slow_saving(
    start, out: Path, monkeypatch: pytest.MonkeyPatch, saving_s: float, epoch_s: float, message: str | None
) -> None:
    now_s = [0.0]

    def save_slowly(*arguments) -> None:
        now_s[0] += saving_s
        save_checkpoint(*arguments)

    def work() -> None:
        now_s[0] += epoch_s

    clock = SimpleNamespace(perf_counter=lambda: now_s[0], process_time=time.process_time)
    monkeypatch.setattr("stages.recorder.time", clock)
    monkeypatch.setattr("stages.recorder.save_checkpoint", save_slowly)
    start(listeners=[At("buffer_state", work, epoch=epoch) for epoch in range(1, 5)])
    assert [event["seconds"] for event in events(out, "checkpoint_saved")] == [saving_s, saving_s]
    told = [event["message"] for event in warnings(out)]
    assert len(told) == (message is not None)
    assert message is None or message in told[0]
