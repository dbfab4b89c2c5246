"""Settings of the replay buffer."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from stages.config_table import Table


class BufferConfig(Table):
    """The `[buffer]` table: how many synthetic images are kept, and which leave first (Sec. 3.2)."""

    capacity: PositiveInt = 5_000
    """Most images held, |B|. The paper's data scale: 5,000, or 50,000 in its relaxed setting."""

    eviction: Literal["oldest", "lowest_priority"] = "oldest"
    """Who leaves a full buffer. Not stated in the paper: the oldest first, as in a replay buffer."""
