"""A run's directory: its files and their lock, requests to it, and what can be told of it, all without torch."""

from stages.run_directory.directory import (
    FINAL_STATUSES,
    LIVE_STATUSES,
    RESUMABLE_STATUSES,
    RUNS_ROOT,
    RunDirectory,
    is_run,
)

__all__ = [
    "FINAL_STATUSES",
    "LIVE_STATUSES",
    "RESUMABLE_STATUSES",
    "RUNS_ROOT",
    "RunDirectory",
    "is_run",
]
