"""Inversion methods of a test's own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stages import registry
from stages.registry import Spec


@pytest.fixture
def add_method(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Make a class of a test known as an inversion method: `add_method("noise", "test_file:Noise")`."""

    def add(name: str, target: str) -> None:
        spec, installed = Spec(name=name, target=target, summary=name), registry.all_specs
        monkeypatch.setattr(
            registry, "all_specs", lambda group: (*installed(group), spec) if group == "methods" else installed(group)
        )

    return add
