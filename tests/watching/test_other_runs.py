"""Which runs can be laid over the one that is shown, what they are called, and how their settings differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripted_run import append, lines_of, raw_line, run_of_lines, whole_run

from ssdkd_cli.watching.comparison import UNKNOWN, candidates, differences, lettered
from stages.run_directory import RunDirectory


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The folder that the command is called in has no runs."""
    (tmp_path / "nowhere").mkdir()
    monkeypatch.chdir(tmp_path / "nowhere")


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    return run_of_lines(tmp_path / "runs" / "a-run", lines_of(whole_run(4)))


def test_other_runs_to_lay_over_this_one(run, tmp_path):
    other = run_of_lines(tmp_path / "runs" / "b-run", lines_of(whole_run(6)))
    for each, seed in ((run, 0), (other, 1)):
        each.config_file.write_text(f"[run]\nseed = {seed}\nepochs = 6\n", encoding="utf-8")
    found = candidates(run)
    assert [(candidate.name, candidate.epoch, candidate.epochs, candidate.status) for candidate in found] == [
        ("b-run", 6, 6, "dead")
    ]
    assert [(each.key, each.values) for each in differences([run, other])[0]] == [("run.seed", (0, 1))]
    append(other, [raw_line(kind="run_finished", seq=9999, epoch=6, status="stopped", summary={"epochs": 5})])
    assert candidates(run)[0].epoch == 5, "as `runs ls` counts them: those that are over"
    other.events_file.unlink()
    other.events_file.mkdir()
    assert [candidate.status for candidate in candidates(run)] == ["unreadable"]
    assert [each.key for each in differences([run, other])[0]] == ["run.seed"], "settings are read alone"
    other.events_file.rmdir()
    broken = run_of_lines(tmp_path / "runs" / "c-run", lines_of(whole_run(6)))
    rows, unreadable = differences([run, broken, other])
    assert [(each.key, each.values) for each in rows] == [("run.seed", (0, UNKNOWN, 1))]
    assert unreadable == [broken]


def test_runs_of_a_group_are_other_runs_too(run, tmp_path, monkeypatch):
    seeds = [run_of_lines(tmp_path / "runs" / "group" / f"seed-{seed}", lines_of(whole_run(6))) for seed in (0, 1)]
    monkeypatch.chdir(tmp_path)
    assert {other.name: other.path for other in candidates(run)} == {
        f"group/{seed.name}": seed.path.resolve() for seed in seeds
    }
    assert {other.name for other in candidates(seeds[0])} == {"group/seed-1", run.name}


def test_runs_of_the_folder_that_is_watched_are_other_runs_too(run, tmp_path):
    """Wherever it is, and in groups there: of those the dashboard says that one is at work."""
    folder = tmp_path / "elsewhere"
    shown = run_of_lines(folder / "one" / "a-run", lines_of(whole_run(6)))
    other = run_of_lines(folder / "two" / "a-run", lines_of(whole_run(6)))
    assert candidates(shown) == []
    (found,) = candidates(shown, folder)
    assert (found.name, found.path) == ("two/a-run", other.path.resolve())


def test_runs_of_the_groups_beside_are_other_runs_too(tmp_path):
    """As a list of experiments leaves them, with a folder of seeds for each."""
    shown = run_of_lines(tmp_path / "one" / "seed-0", lines_of(whole_run(6)))
    for other in ("one/seed-1", "two/seed-0"):
        run_of_lines(tmp_path / other, lines_of(whole_run(6)))
    assert {found.name for found in candidates(shown)} == {"one/seed-1", "two/seed-0"}


def test_a_name_that_two_runs_have_is_told_with_its_folder():
    runs = [Path("runs/one/seed-0"), Path("runs/two/seed-0"), Path("runs/two/seed-1")]
    assert lettered(runs) == [("A", "one/seed-0"), ("B", "two/seed-0"), ("C", "seed-1")]
