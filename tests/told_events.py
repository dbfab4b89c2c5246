"""What a run told, for tests to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stages.run_directory import RunDirectory


def events_of(run: Path, *kinds: str) -> list[dict[str, Any]]:
    """The events of a run, of the given kinds or of all, oldest first, without those that a resumption supersedes."""
    return list(RunDirectory(run).events.newest_first(*kinds))[::-1]
