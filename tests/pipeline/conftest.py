"""Whole runs, tiny ones, and what happens to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import PRESET, MakeConfig, PlanRun, Start, make_teacher_file

from stages.config import Config, load
from stages.events import Listener
from stages.trainer import Launch, Outcome, Plan, execute, plan, resume


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a teacher that nobody trained."""
    return make_teacher_file(tmp_path_factory.mktemp("teacher") / "teacher.safetensors")


@pytest.fixture(scope="session")
def make_config(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeConfig:
    """The settings of a tiny run, with overrides as `--set` takes them."""
    preset = tmp_path_factory.mktemp("preset") / "tiny.toml"
    preset.write_text(PRESET, encoding="utf-8")

    def make(*overrides: str) -> Config:
        return load([str(preset)], [f"teacher.weights={teacher_file}", *overrides])

    return make


@pytest.fixture(scope="session")
def plan_run(make_config: MakeConfig) -> PlanRun:
    """Plan a tiny run: `plan_run("run.seed=1", command="invert")`."""

    def make_plan(*overrides: str, is_resumption: bool = False, **launch: Any) -> Plan:
        settings = {"command": "run", "preset_name": "tiny"} | launch
        return plan(make_config(*overrides), Launch(**settings), is_resumption=is_resumption)

    return make_plan


@pytest.fixture(scope="session")
def start_in(plan_run: PlanRun) -> Start:
    """Run a tiny run in a directory of choice: `start_in(path, "run.seed=1", listeners=[...], command="invert")`."""

    def start_run(out: Path, *overrides: str, listeners: Iterable[Listener] = (), **launch: Any) -> Outcome:
        return execute(plan_run(*overrides, out=out, **launch), listeners)

    return start_run


@pytest.fixture(scope="session")
def undisturbed(start_in: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that nothing happened to."""
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert start_in(path).summary["status"] == "done"
    return path


@pytest.fixture(scope="session")
def inverted(start_in: Start, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run of `invert`."""
    path = tmp_path_factory.mktemp("runs") / "inverted"
    assert start_in(path, command="invert").summary["status"] == "done"
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the run of this test goes."""
    return tmp_path / "run"


@pytest.fixture
def start(start_in: Start, out: Path) -> Start:
    """`start_in` for the run of this test."""
    return lambda *overrides, **launch: start_in(launch.pop("out", out), *overrides, **launch)


@pytest.fixture
def go_on(out: Path) -> Callable[..., Outcome]:
    """Resume the run of this test."""
    return lambda *listeners: resume(out, listeners=listeners)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused runs and held locks are looked at again at once."""
    monkeypatch.setattr("stages.safe_point._PAUSE_POLL_S", 0.001)
    monkeypatch.setattr("stages.run_directory.lock._PATIENCE_S", 0.0)
    monkeypatch.setattr("stages.run_directory.control._POLL_S", 0.001)
