"""What loading a preset complains of."""

from collections.abc import Sequence

import pytest

from stages.config import load
from stages.errors import ConfigError, Problem


@pytest.fixture
def problems_of(whole: str):
    """All that loading complains of: `problems_of("a=1", "b=2")` on top of the whole preset."""

    def load_badly(*overrides: str, presets: Sequence[str] | None = None) -> tuple[Problem, ...]:
        with pytest.raises(ConfigError) as caught:
            load([whole] if presets is None else presets, overrides)
        return caught.value.problems

    return load_badly


@pytest.fixture
def problem_of(problems_of):
    """The only thing that loading complains of."""

    def load_badly(*overrides: str, presets: Sequence[str] | None = None) -> Problem:
        (problem,) = problems_of(*overrides, presets=presets)
        return problem

    return load_badly
