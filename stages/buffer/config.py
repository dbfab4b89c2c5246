"""Settings of the replay buffer."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt

from stages.config_table import Table


class BufferConfig(Table):
    """The `[buffer]` table: how many synthetic images are kept, and which leave first (Algorithm 1, lines 14-15)."""

    capacity: PositiveInt = 5_000
    """Most images held, |B|.

    Not stated in the paper, whose data scale is the number of images that an epoch of distillation uses: 5,000, or as
    many as Fast5's in its relaxed setting, for which the relaxed presets take 50,000. Here |B| is that number.
    """

    eviction: Literal["oldest", "lowest_priority"] = "oldest"
    """Who leaves a full buffer.

    "oldest" as in Algorithm 1, line 15 ("remove old samples"). The caption of Fig. 3, which measures priorities to
    update a portion of the samples, can be read as "lowest_priority".
    """
