"""What a run knows of itself: its epochs, which steps it tells of, how its threads share what they cast."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize("overlap", [False, True])
def test_threads_that_cast_weights_at_once_do_not_share_them(make_run, overlap: bool) -> None:
    run = make_run(run={"threads": 2}, inversion={"overlap": overlap})
    run.precision = "bf16"
    assert run.schedule.overlaps == overlap
    with run.autocast():
        assert torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_cache_enabled() != overlap


def test_logged_steps(make_run) -> None:
    run = make_run(run={"log_every": 4})
    assert [step for step in range(10) if run.should_log(step, 10)] == [3, 7, 9]


def test_epochs_of_a_run(make_run) -> None:
    run = make_run()
    seen = []
    for run.epoch in range(1, 8):
        seen.append((run.in_warmup, run.is_last_epoch))
    assert seen == [(True, False)] * 3 + [(False, False)] * 3 + [(False, True)]
