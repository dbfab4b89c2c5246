"""Stages are built, set up, and closed whatever happens."""

from __future__ import annotations

from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from stages.errors import ConfigError
from stages.planning.beginning import set_up_stages
from stages.registry import Spec
from stages.stage import Stage


class Noted(Stage):
    """Notes what is done to it; `config` says what fails."""

    def setup(self, run):
        run.notes.append("set up")
        if "setup" in self.config:
            raise ValueError("no network")

    def run_epoch(self, run):
        raise AssertionError("not run")

    def close(self):
        self.config["notes"].append("closed")
        if "close" in self.config:
            raise AttributeError("half set up")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (lambda: None, "`run.stages` = `theirs` cannot be built: TypeError"),
        (lambda config: config, "`theirs` gives a dict, not a Stage"),
    ],
)
def test_what_makes_no_stage_of_its_table_is_told(install, target, said) -> None:
    install("stages", target)
    run = SimpleNamespace(
        config=SimpleNamespace(tables=lambda: {"theirs": {}}), schedule=SimpleNamespace(stages=("theirs",))
    )
    with ExitStack() as closing, pytest.raises(ConfigError, match=said):
        set_up_stages(run, closing)


def test_what_a_stages_name_says_is_not_handed_to_it(install) -> None:
    install("stages", Noted, "built")
    install("stages", Spec("theirs", "their_code:built", "a stranger's", pattern=r"every(?P<number>\d+)"))
    tables = {"every3": {"notes": []}}
    run = SimpleNamespace(
        notes=[], config=SimpleNamespace(tables=lambda: tables), schedule=SimpleNamespace(stages=tuple(tables))
    )
    with ExitStack() as closing:
        assert isinstance(set_up_stages(run, closing)["every3"], Noted)


@pytest.mark.parametrize("fails", [("setup",), ("setup", "close")])
def test_a_stage_whose_setup_fails_is_closed_once(install, fails) -> None:
    notes: list[str] = []
    tables = {"fine": {"notes": notes}, "broken": {"notes": notes} | dict.fromkeys(fails)}
    for name in tables:
        install("stages", Noted, name)
    run = SimpleNamespace(
        notes=notes, config=SimpleNamespace(tables=lambda: tables), schedule=SimpleNamespace(stages=tuple(tables))
    )
    with ExitStack() as closing, pytest.raises(ValueError, match="no network"):
        set_up_stages(run, closing)
    assert notes == ["set up", "set up", "closed", "closed"]
