from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from run_files import finished, make_run, started

from stages.config import load
from stages.errors import FileError
from stages.run_directory import RunDirectory
from stages.run_directory.comparison import compare
from stages.run_directory.overview import settings


def seeded(
    folder: Path,
    seed: int,
    top1: float,
    *,
    status: str = "done",
    command: str = "run",
    alpha: float = 0.6,
    more: str = "",
) -> RunDirectory:
    config = f"[distillation]\nalpha = {alpha}\n[run]\nseed = {seed}\n{more}"
    name = f"{command}-{alpha}-{seed}-{status}"
    end = finished(status, student={"top1": top1})
    return make_run(folder / name, started(seed=seed, command=command), end, config=config)


OF_A_MACHINE = 'threads = 2\n[evaluation]\nroot = "/a"\n[teacher]\nweights = "/a/t"\n'


def groups_of(*runs: RunDirectory) -> list[dict[str, Any]]:
    return compare(runs)["seed_groups"]


def test_results_are_side_by_side(tmp_path: Path) -> None:
    document = compare([seeded(tmp_path, 0, 0.5), seeded(tmp_path, 1, 0.75), make_run(tmp_path / "empty")])
    assert document["metrics"] == {"student.top1": [0.5, 0.75, None]}
    assert [run["status"] for run in document["runs"]] == ["done", "done", "dead"]
    assert json.loads(json.dumps(document)) == document


def test_differences_are_the_settings_that_differ(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", config="[run]\nseed = 0\n[x]\nsame = [1, 2]\nlist = [1, 2]\nonly_a = true\n")
    b = make_run(tmp_path / "b", config="[run]\nseed = 1\n[x]\nsame = [1, 2]\nlist = [1, 3]\n")
    assert compare([a, b])["differences"] == {
        "run.seed": [0, 1],
        "x.list": [[1, 2], [1, 3]],
        "x.only_a": [True, None],
    }


def test_who_wrote_the_settings_is_none_of_them(tmp_path: Path) -> None:
    config = load(["digits"])
    runs = [
        make_run(tmp_path / "before", started(), finished(), config=config.tables_as_toml()),
        make_run(tmp_path / "now", started(), finished(), config=config.to_toml()),
    ]
    assert compare(runs)["differences"] == {}
    assert settings(runs[0]) == settings(runs[1]) == tomllib.loads(config.tables_as_toml())


def test_mean_and_sample_deviation_over_seeds(tmp_path: Path) -> None:
    runs = [seeded(tmp_path, seed, top1) for seed, top1 in enumerate((0.88, 0.90, 0.95))]
    (group,) = groups_of(*runs)
    assert group["seeds"] == [0, 1, 2]
    # By hand: mean 0.91, squared distances 9e-4 + 1e-4 + 16e-4 = 26e-4, divided by n - 1 = 2.
    assert group["metrics"]["student.top1"]["mean"] == pytest.approx(0.91)
    assert group["metrics"]["student.top1"]["std"] == pytest.approx(13e-4**0.5)


def test_runs_that_differ_in_more_than_the_seed_are_kept_apart(tmp_path: Path) -> None:
    runs = [seeded(tmp_path, seed, 0.5, alpha=alpha) for alpha in (0.0, 0.6) for seed in (0, 1)]
    groups = groups_of(*runs)
    assert [group["seeds"] for group in groups] == [[0, 1], [0, 1]]
    assert groups_of(runs[0], runs[3]) == []
    assert groups_of(seeded(tmp_path, 5, 0.5), seeded(tmp_path, 6, 0.5, command="invert")) == []


def test_where_a_seed_was_run_does_not_matter(tmp_path: Path) -> None:
    """On another machine, with the images elsewhere; a teacher elsewhere is known by its checksum."""
    here = seeded(tmp_path, 0, 0.5, more=OF_A_MACHINE)
    there = seeded(tmp_path, 1, 0.6, more=OF_A_MACHINE.replace("/a", "/b").replace("2", "16"))
    assert groups_of(here, there) == []  # two files, for all that is known
    for run in (here, there):
        run.manifest_file.write_text(json.dumps({"teacher_sha256": "0" * 64}))
    (group,) = groups_of(here, there)
    assert group["seeds"] == [0, 1]
    assert {"run.threads", "evaluation.root", "teacher.weights"} <= set(compare([here, there])["differences"])
    other = seeded(tmp_path, 2, 0.6, more=OF_A_MACHINE.replace("threads", 'precision = "bf16"\nthreads'))
    other.manifest_file.write_text(here.manifest_file.read_text())
    assert groups_of(here, other) == []


def test_a_seed_on_two_machines_is_one_of_each(tmp_path: Path) -> None:
    runs = [
        seeded(tmp_path / f"{threads}", seed, 0.5, more=f"threads = {threads}\n")
        for threads in (2, 16)
        for seed in (0, 1)
    ]
    groups = groups_of(*runs)
    assert [group["seeds"] for group in groups] == [[0, 1], [0, 1]]
    assert groups[0]["runs"] == [str(run.path) for run in runs[:2]]
    assert [group["seeds"] for group in groups_of(*runs[:3])] == [[0, 1]]


def test_a_network_of_ones_own_is_known_by_its_code(tmp_path: Path) -> None:
    runs = [
        seeded(tmp_path, seed, 0.5, more=f'[student]\nmodel = "/{place}/net.py:build"\n')
        for seed, place in enumerate(("a", "b", "b"))
    ]
    for run, sha256 in zip(runs, ("1" * 64, "1" * 64, "2" * 64), strict=True):
        run.manifest_file.write_text(json.dumps({"code_sha256": {"student.model": sha256}}))
    (group,) = groups_of(*runs)
    assert group["seeds"] == [0, 1]


def test_runs_that_are_not_done_are_not_averaged(tmp_path: Path) -> None:
    runs = [seeded(tmp_path, 0, 0.5), seeded(tmp_path, 1, 0.6), seeded(tmp_path, 2, 0.1, status="diverged")]
    (group,) = groups_of(*runs)
    assert group["seeds"] == [0, 1]
    assert group["left_out"] == [str(runs[2].path)]
    assert groups_of(*runs[1:]) == []  # one is no mean


def test_one_seed_twice_is_no_spread(tmp_path: Path) -> None:
    assert groups_of(seeded(tmp_path / "a", 0, 0.5), seeded(tmp_path / "b", 0, 0.5)) == []


def test_run_without_settings(tmp_path: Path) -> None:
    run = seeded(tmp_path, 0, 0.5)
    run.config_file.unlink()
    with pytest.raises(FileError, match="cannot read"):
        compare([run, seeded(tmp_path, 1, 0.5)])


def test_runs_from_other_files_are_no_other_seeds(tmp_path: Path) -> None:
    runs = [seeded(tmp_path, seed, 0.5, command="distill") for seed in range(3)]
    for run, buffer in zip(runs, ("a" * 64, "b" * 64, "b" * 64), strict=True):
        run.manifest_file.write_text(json.dumps({"teacher_sha256": "c" * 64, "buffer_sha256": buffer}))
    document = compare(runs)
    assert document["differences"] == {
        "run.seed": [0, 1, 2],
        "buffer": ["sha256 aaaaaaaaaaaa", "sha256 bbbbbbbbbbbb", "sha256 bbbbbbbbbbbb"],
    }
    assert [group["seeds"] for group in document["seed_groups"]] == [[1, 2]]
    runs[0].manifest_file.write_text('{"buffer_sha256": 3}')  # damaged by hand
    assert compare(runs)["differences"]["buffer"][0] == "sha256 3"
