"""The accuracy harness: lists, numbers, the table, and real runs that are stopped, go on, fail and are refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from benchmark_modules import BENCHMARKS, import_beside
from child_process import PATIENCE_S, Result, run_python

from stages.config import load
from stages.planning.idle_settings import warnings_of
from stages.schedule import Schedule

HARNESS = BENCHMARKS / "accuracy"
LISTS = sorted((HARNESS / "lists").glob("*.toml"))
experiment_list, product, series, results, table = import_beside(
    "accuracy", "experiment_list", "product", "series", "results", "table"
)


# -- the shipped lists ---------------------------------------------------------------------------------------


def rows(path: Path, overlays: list[str] | None = None) -> list[Any]:
    return [
        pytest.param(experiment, id=f"{path.stem}-{experiment.name}")
        for experiment in experiment_list.read_list(path, overlays=overlays).experiments
    ]


def test_lists_are_where_they_are_looked_for() -> None:
    assert {path.stem for path in LISTS} >= {"table4", "fig4", "calibration", "fast5-like", "flagship", "digits"}


@pytest.mark.parametrize("experiment", [row for path in LISTS for row in rows(path)])
def test_every_row_resolves_and_has_no_setting_without_effect(experiment) -> None:
    config = load(experiment.presets, experiment.overrides)
    assert warnings_of(config, Schedule.of("run", config)) == ()


@pytest.mark.parametrize(
    "experiment", [row for path in LISTS if path.stem != "digits" for row in rows(path, overlays=["full"])]
)
def test_every_row_resolves_at_full_length(experiment) -> None:
    config = load(experiment.presets, experiment.overrides)
    assert (config.run.epochs, config.run.warmup_epochs) == (220, 20)
    assert warnings_of(config, Schedule.of("run", config)) == ()


@pytest.mark.parametrize("overlays", [None, ["cifar10-wrn", "full"]], ids=["as it is", "another pair"])
@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_no_two_rows_are_the_same_and_each_has_a_baseline(path: Path, overlays: list[str] | None) -> None:
    read = experiment_list.read_list(path, overlays=overlays)
    configs = [load(experiment.presets, experiment.overrides) for experiment in read.experiments]
    assert all(one != other for index, one in enumerate(configs) for other in configs[:index])
    assert all(experiment.baseline is not None for experiment in read.experiments)
    assert len({experiment.title for experiment in read.experiments}) == len(read.experiments)


def test_table_4_switches_one_part_at_a_time() -> None:
    read = experiment_list.read_list(HARNESS / "lists" / "table4.toml")
    switches = {}
    for experiment in read.experiments:
        config = load(experiment.presets, experiment.overrides)
        assert (config.run.epochs, config.run.warmup_epochs) == (60, 20)
        is_priority = config.distillation.sampling == "priority"
        switches[experiment.name] = (is_priority, config.inversion.difficulty, config.inversion.diversity)
    assert switches == {
        "baseline": (False, False, False),
        "priority": (True, False, False),
        "difficulty": (False, True, False),
        "diversity": (False, False, True),
        "both": (False, True, True),
        "all": (True, True, True),
    }


def test_fig_4_scales_the_updates_with_the_buffer() -> None:
    read = experiment_list.read_list(HARNESS / "lists" / "fig4.toml")
    configs = [load(experiment.presets, experiment.overrides) for experiment in read.experiments]
    scales = [(config.buffer.capacity, config.num_distillation_steps) for config in configs]
    assert scales == [(500, 4), (2_500, 20), (5_000, 40), (10_000, 80), (50_000, 400)]


# -- reading lists and machine files -------------------------------------------------------------------------


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_experiments_take_from_the_list_what_they_do_not_have(tmp_path: Path) -> None:
    read = experiment_list.read_list(
        write(
            tmp_path / "mine.toml",
            """
            presets = ["digits"]
            overlays = ["short", "more.toml"]
            seeds = [0, 1]
            baseline = "a"
            [experiments.a]
            [experiments.b]
            title = "another"
            presets = ["mine/b.toml"]
            seeds = [7]
            paper = 0.5
            set.task.mean = [0.5, 0.25]
            set.inversion.diversity = false
            set.inversion.targets = "teacher"
            set.inversion.options.strength = 1e-5
            """,
        )
    )
    a, b = read.experiments
    overlays = (str(HARNESS / "overlays" / "short.toml"), str(tmp_path / "more.toml"))
    assert read.name == "mine-short-more"
    assert (a.title, a.presets, a.overrides, a.seeds, a.baseline) == ("a", ("digits", *overlays), (), (0, 1), "a")
    assert (b.title, b.presets, b.seeds, b.paper) == ("another", (str(tmp_path / "mine/b.toml"), *overlays), (7,), 0.5)
    assert b.overrides == (
        "task.mean=[0.5, 0.25]",
        "inversion.diversity=false",
        "inversion.targets=teacher",
        "inversion.options.strength=1e-05",
    )
    with_others = experiment_list.read_list(tmp_path / "mine.toml", overlays=["full"], seeds=[3])
    assert with_others.name == "mine-full"
    assert with_others.experiments[1].presets[1:] == (str(HARNESS / "overlays" / "full.toml"),)
    assert {experiment.seeds for experiment in with_others.experiments} == {(3,)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = ", "not valid TOML"),
        ("presets = ['digits']", "no table [experiments.NAME]"),
        ("preset = ['digits']\n[experiments.a]", "unknown key `preset`, did you mean `presets`?"),
        ("presets = ['digits']\n[experiments.a]\nseed = [1]", "unknown key `experiments.a.seed`"),
        ("presets = 'digits'\n[experiments.a]", "`presets` is 'digits'"),
        ("command = 'evaluate'\n[experiments.a]", "`command` is 'evaluate', which does not fit"),
        ("presets = [1]\n[experiments.a]", "`presets` is [1], which does not fit"),
        ("presets = ['digits']\nseeds = [true]\n[experiments.a]", "`seeds` is [True], which does not fit"),
        ("presets = ['digits']\n[experiments]\na = 1", "`experiments.a` must be a table"),
        ("[experiments.a]", "`a` has no presets"),
        ("presets = ['digits']\nbaseline = 'b'\n[experiments.a]", "the baseline of `a`, `b`"),
        ("presets = ['digits']\nseeds = [1, 1]\n[experiments.a]", "the seeds of `a`"),
        ("presets = ['digits']\n[experiments.'a/b']", "`a/b` cannot be the name of a folder"),
    ],
)
def test_what_is_wrong_with_a_list_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(product.HarnessError, match=r"mine\.toml") as caught:
        experiment_list.read_list(write(tmp_path / "mine.toml", text))
    assert told in caught.value.message


def test_a_machine_file_says_where_things_lie(tmp_path: Path) -> None:
    machine = experiment_list.read_machine(
        write(
            tmp_path / "machine.toml",
            """
            [machine]
            note = "one core"
            set.run.threads = 1
            data.cifar10 = { data = "imagefolder", root = "images" }
            teachers.resnet32-cifar10 = "resnet32.th"
            teachers.wrn40_2-cifar10 = "~/wrn.th"
            """,
        )
    )
    assert (machine.note, machine.overrides) == ("one core", ("run.threads=1",))
    settings = {
        "evaluation.data": "cifar10",
        "teacher.model": "resnet32",
        "teacher.trained_on": "cifar10",
        "teacher.weights": "auto",
    }
    data = ["evaluation.data=imagefolder", f"evaluation.root={tmp_path / 'images'}"]
    teacher = [f"teacher.weights={tmp_path / 'resnet32.th'}"]
    assert machine.places(settings, []) == data + teacher
    assert machine.places(settings, ["evaluation.root=elsewhere"]) == teacher
    assert machine.places(settings, ["teacher.weights=mine.pt"]) == data
    assert machine.places(settings | {"teacher.weights": "mine.pt"}, []) == data
    assert machine.places(settings | {"teacher.model": "wrn40_2"}, [])[2] == f"teacher.weights={Path.home() / 'wrn.th'}"
    assert machine.places(settings | {"evaluation.data": "digits", "teacher.model": "resnet20"}, []) == []


@pytest.mark.parametrize("text", ["data.cifar10 = 'images'", "teachers.a = 3", "note = 1", "set = 'x'"])
def test_what_is_wrong_with_a_machine_file_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(product.HarnessError, match=r"`machine\.\w+` is .*, which does not fit"):
        experiment_list.read_machine(write(tmp_path / "machine.toml", f"[machine]\n{text}"))


def test_no_machine_file_is_fine_but_a_named_one_must_be_there(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(experiment_list, "MACHINE_FILE", tmp_path / "none.toml")
    assert experiment_list.read_machine(None) == experiment_list.Machine()
    with pytest.raises(product.HarnessError, match="cannot read"):
        experiment_list.read_machine(tmp_path / "none.toml")


# -- numbers and the table -----------------------------------------------------------------------------------

EXPERIMENT = experiment_list.Experiment(
    name="all", title="all parts", presets=("digits",), overrides=("a.b=1",), seeds=(0, 1), baseline=None, paper=None
)


def a_run(folder: Path, seed: int, top1: float, *, status: str = "done", rates: tuple[float, ...] = (), **changes: Any):
    """A run as it would have been found on the disk."""
    path = folder / "all" / f"seed-{seed}"
    path.mkdir(parents=True)
    events = [{"kind": "run_started", "seq": 0, "epoch": 0, "warmup_epochs": 1}]
    events += [
        {"kind": "device", "seq": epoch, "epoch": epoch, "images_per_s": rate} for epoch, rate in enumerate(rates, 1)
    ]
    lines = [json.dumps(event) for event in events]
    path.joinpath("events.jsonl").write_text("\n".join([*lines, '{"kind": "torn']))
    document = {
        "epoch": 4,
        "student": {"top1": top1, "loss": 1.0},
        "teacher": {"top1": 0.8, "loss": 0.5},
        "summary": {"agreement": top1 / 2, "ece": 0.1},
        "seconds": {"total": 100.0 + seed, "inversion": 40.0, "distillation": 50.0, "evaluation": 1.0},
        "manifest": {
            "machine": {"device": "a CPU", "threads": 1},
            "versions": {"python": "3.11", "torch": "2.8"},
            "git_revision": "0123456789abcdef",
        },
    }
    return series.Run(
        experiment=changes.pop("experiment", EXPERIMENT),
        seed=seed,
        path=path,
        overrides=("a.b=1", "teacher.weights=/secret/teacher.pt", "teacher.model=/secret/net.py:f", f"run.seed={seed}"),
        settings={
            "a.b": 1,
            "run.seed": seed,
            "teacher.weights": "/secret/teacher.pt",
            "teacher.model": "/secret/net.py:f",
            "student.model": "resnet20",
        },
        is_wanted=True,
        status=status,
        document=document,
        **changes,
    )


def document_of(*runs: Any, experiments: tuple[Any, ...] = (EXPERIMENT,)) -> dict[str, Any]:
    read = experiment_list.ExperimentList(name="mine", title="Mine", note="", command="run", experiments=experiments)
    document = results.results(read, runs, experiment_list.Machine(note="a quiet one"))
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    return document


def test_mean_and_spread_are_over_runs_that_are_done(tmp_path: Path) -> None:
    top1 = [0.5, 0.6, 0.64]
    runs = [a_run(tmp_path, seed, value) for seed, value in enumerate(top1)]
    failed = a_run(tmp_path, 3, 0.1, status="diverged", message=f"{tmp_path}/all/seed-3 is no good")
    (row,) = document_of(*runs, failed)["experiments"]
    assert row["mean"]["student.top1"] == pytest.approx(np.mean(top1))
    assert row["std"]["student.top1"] == pytest.approx(np.std(top1, ddof=1))
    assert row["mean"]["share_of_teacher"] == pytest.approx(np.mean(top1) / 0.8)
    assert row["mean"]["agreement"] == pytest.approx(np.mean(top1) / 2)
    assert row["mean"]["seconds.total"] == 101.0
    assert [run["status"] for run in row["runs"]] == ["done", "done", "done", "diverged"]


def test_one_run_has_no_spread(tmp_path: Path) -> None:
    (row,) = document_of(a_run(tmp_path, 0, 0.5))["experiments"]
    assert row["std"]["student.top1"] is None
    assert "**.5000**" in table.markdown(document_of(a_run(tmp_path / "other", 0, 0.5)))


def test_images_per_second_are_the_median_after_warm_up(tmp_path: Path) -> None:
    (row,) = document_of(a_run(tmp_path, 0, 0.5, rates=(9000.0, 100.0, 300.0, 800.0)))["experiments"]
    assert row["mean"]["images_per_s"] == 300.0  # the first epoch was warm-up


def test_what_a_resumption_supersedes_does_not_count(tmp_path: Path) -> None:
    run = a_run(tmp_path, 0, 0.5, rates=(1.0, 1.0, 5.0, 5.0))
    with run.path.joinpath("events.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"kind": "run_resumed", "seq": 9, "epoch": 2, "checkpoint_seq": 2}) + "\n")
        file.write(json.dumps({"kind": "device", "seq": 10, "epoch": 3, "images_per_s": 7.0}) + "\n")
    (row,) = document_of(run)["experiments"]
    assert row["mean"]["images_per_s"] == 4.0  # of 1 and 7


def test_the_difference_to_the_baseline_is_seed_by_seed(tmp_path: Path) -> None:
    mine = replace(EXPERIMENT, name="mine", baseline="all")
    pairs = {0: (0.5, 0.58), 1: (0.7, 0.72)}
    base = [a_run(tmp_path / "base", seed, value) for seed, (value, _) in pairs.items()]
    own = [a_run(tmp_path / "own", seed, value, experiment=mine) for seed, (_, value) in pairs.items()]
    # One seed that the other has not, each.
    alone = [a_run(tmp_path / "more", 2, 0.99, experiment=mine), a_run(tmp_path / "more base", 3, 0.01)]
    row = document_of(*base, *own, *alone, experiments=(EXPERIMENT, mine))["experiments"][1]
    assert row["against_baseline"]["seeds"] == [0, 1]
    assert row["against_baseline"]["mean"] == pytest.approx(0.05)
    assert row["against_baseline"]["std"] == pytest.approx(np.std([0.08, 0.02], ddof=1))


def test_the_table(tmp_path: Path) -> None:
    mine = replace(EXPERIMENT, name="mine", title="mine | yours", baseline="all", paper=0.5196)
    never = replace(EXPERIMENT, name="never", title="never begun")
    runs = [
        a_run(tmp_path / "base", 0, 0.5, rates=(1.0, 1234.4)),
        a_run(tmp_path / "own", 0, 0.58, experiment=mine),
        a_run(tmp_path / "own", 1, 0.62, experiment=mine),
        a_run(tmp_path / "own", 2, 0.1, experiment=mine, status="diverged", message="the loss is nan"),
    ]
    text = table.markdown(document_of(*runs, experiments=(EXPERIMENT, mine, never)))
    lines = text.splitlines()
    head, _, *body = [line for line in lines if line.startswith("|")]
    cells = [dict(zip(head.strip("| ").split(" | "), line.strip("| ").split(" | "), strict=True)) for line in body]
    assert cells[0]["student top-1, last epoch"] == "**.5000**"
    assert cells[0]["against the baseline"] == "baseline"
    assert cells[0]["images/s"] == "1,234"
    assert cells[1]["experiment"] == "mine \\| yours (`mine`)"
    assert cells[1]["seeds"] == "0, 1; 2 diverged"
    assert cells[1]["student top-1, last epoch"] == "**.6000 ± .0283** †"
    assert cells[1]["paper"] == ".5196"
    assert cells[1]["share of the teacher's"] == ".7500 ± .0354"
    assert cells[1]["against the baseline"] == "+.0800"
    assert cells[1]["ECE"] == ".1000 ± .0000"
    assert cells[1]["total, s"] == "100"
    assert cells[2]["student top-1, last epoch"] == "-"
    assert cells[2]["against the baseline"] == "-"
    assert "- mine | yours, seed 2: diverged (the loss is nan)" in lines
    assert "- all parts: `ssdkd run --preset digits --set a.b=1 --set teacher.model=net.py:f`" in lines
    assert "Teacher -> student: net.py:f -> resnet20." in lines
    assert "a CPU, 1 thread; a quiet one; Python 3.11, torch 2.8; ssdkd at 0123456789." in text
    assert "secret" not in text + json.dumps(document_of(*runs, experiments=(EXPERIMENT, mine, never)))
    assert str(tmp_path) not in text


def test_a_row_that_is_a_baseline_and_has_one_tells_its_difference(tmp_path: Path) -> None:
    experiments = (
        replace(EXPERIMENT, name="a"),
        replace(EXPERIMENT, name="b", baseline="a"),
        replace(EXPERIMENT, name="c", baseline="b"),
    )
    accuracies = dict(zip(experiments, (0.5, 0.6, 0.62), strict=True))
    runs = [a_run(tmp_path / each.name, 0, top1, experiment=each) for each, top1 in accuracies.items()]
    text = table.markdown(document_of(*runs, experiments=experiments))
    assert [part for part in ("| baseline |", "| +.1000 |", "| +.0200 |") if text.count(part) != 1] == []


def test_a_mean_over_other_seeds_than_the_baselines_is_marked(tmp_path: Path) -> None:
    mine = replace(EXPERIMENT, name="mine", baseline="all")
    base = [a_run(tmp_path / "base", seed, 0.5) for seed in (0, 1)]
    own = [a_run(tmp_path / "own", seed, 0.6, experiment=mine) for seed in (0, 1)]
    assert "†" not in table.markdown(document_of(*base, *own, experiments=(EXPERIMENT, mine)))
    text = table.markdown(document_of(*base, own[0], experiments=(EXPERIMENT, mine)))
    assert "**.6000** †" in text
    assert "† other seeds than the baseline's" in text


@pytest.mark.parametrize(
    ("key", "asked", "found", "is_same"),
    [
        ("student.start", "random", "teacher", False),
        ("distillation.steps", "auto", 40, False),
        ("run.acceleration", "graphs", "eager", True),
        ("run.acceleration", "eager", "graphs", False),
        ("run.device", "cuda", "cuda:0", True),
        ("run.device", "cpu", "cuda:0", False),
        ("evaluation.root", "images", str(Path("images").absolute()), True),
        ("evaluation.root", "images", "/images", False),
        ("distillation.alpha", 0.6, 0.5, False),
        ("teacher.trained_on", None, "digits", False),
    ],
)
def test_when_a_run_has_the_settings_that_are_asked_for(key, asked, found, is_same) -> None:
    assert series._is_same(key, asked, found) == is_same


def test_what_was_set_by_hand_is_not_what_auto_stood_for(tmp_path: Path) -> None:
    run = a_run(tmp_path, 0, 0.5)
    asked = {"student.start": "auto", "distillation.lr": "auto", "run.threads": "auto", "teacher.weights": "auto"}
    run.settings = asked
    found = {"student": {"start": "random"}, "distillation": {"lr": 0.01}, "run": {"threads": 2}}
    found["teacher"] = {"weights": "/cache/wrn40_2-cifar100.safetensors"}
    (run.path / "config.toml").write_text(tomli_w.dumps(found), encoding="utf-8")
    assert series.differing_settings(run) == [], "of a version that did not say what had been automatic"
    run.document["manifest"]["automatic"] = ["run.threads", "distillation.lr"]
    assert series.differing_settings(run) == [("student.start", "auto", "random")]
    run.document["manifest"]["automatic"] = ["student.start"]
    assert [key for key, *_ in series.differing_settings(run)] == ["distillation.lr", "run.threads"]


def test_runs_of_two_teachers_of_one_name_have_no_mean(tmp_path: Path) -> None:
    runs = [a_run(tmp_path, seed, 0.5) for seed in (0, 1, 2)]
    for run, sha256 in zip(runs, ("1" * 64, "1" * 64, None), strict=True):
        run.document["manifest"]["teacher_sha256"] = sha256
        run.settings = {"teacher.model": "wrn40_2", "teacher.weights": "auto", "teacher.trained_on": "cifar100"}
    assert series._several_teachers(runs) == []
    runs[1].document["manifest"]["teacher_sha256"] = "2" * 64
    (told,) = series._several_teachers(runs)
    assert told == f"{runs[0].path}, {runs[1].path} are of different teachers, all called wrn40_2, auto"
    assert series._several_teachers(runs[1:]) == []

    weights = tmp_path / "teacher.pt"
    weights.write_bytes(b"another")
    for run in runs:
        run.settings = {**run.settings, "teacher.weights": str(weights)}
    (told,) = series._several_teachers(runs[1:])
    assert str(weights) in told, "a run that is to be started would begin with that one"


# -- a list of real runs -------------------------------------------------------------------------------------

STUDENTS = """
import time
from pathlib import Path

from torch import nn


class Waiting(nn.Sequential):
    def forward(self, images):
        while self.training and len(images) > 2 and Path("wait").exists():  # two are tried before the first step
            time.sleep(0.01)
        return super().forward(images)


def waiting(num_classes):
    return Waiting(nn.Flatten(), nn.Linear(64, num_classes))
"""
LIST = """
title = "Small"
presets = ["digits"]
baseline = "good"

[experiments.good]

[experiments.diverging]
set.distillation.lr = 1e30
"""
REFUSED = """
presets = ["digits"]
[experiments.refused]
set.teacher.weights = "nowhere.pt"
[experiments.good]
"""
ONE = 'presets = ["digits"]\n[experiments.good]\n'
SMALL = {
    "student.model": "students.py:waiting",
    "run.epochs": 3,
    "run.warmup_epochs": 1,
    "run.threads": 1,
    "run.device": "cpu",
    "buffer.capacity": 64,
    "inversion.batch_size": 32,
    "inversion.steps": 1,
    "distillation.batch_size": 32,
    "distillation.steps": 2,
    "evaluation.num_holdout": 16,
}


COMMAND = [str(HARNESS / "run.py"), "list.toml", "--out", "out", "--machine", "machine.toml"]


def harness(*more: str, expected_code: int = 0) -> Result:
    return run_python(*COMMAND, *more, expected_code=expected_code)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "students.py", STUDENTS)
    write(tmp_path / "list.toml", LIST)
    settings = "\n".join(f"set.{key} = {json.dumps(value)}" for key, value in SMALL.items())
    write(tmp_path / "machine.toml", f"[machine]\n{settings}\n")
    return tmp_path


def test_a_list_without_its_real_images_does_not_start(place: Path) -> None:
    write(place / "pair.toml", 'extends = "digits"\n[evaluation]\ndata = "cifar10"\n')
    write(place / "list.toml", 'presets = ["pair.toml"]\n[experiments.good]\n')
    refused = harness(expected_code=2)
    assert "error: good, seed 0 would not be measured on real images: the student will not be" in refused.err
    assert "hint: say where they lie" in refused.err
    assert not (place / "out" / "good").exists()
    harness("--set", "evaluation.data=none")


def wait_for(path: Path) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < deadline_s, f"{path} does not come"
        time.sleep(0.02)


def test_a_list_is_stopped_goes_on_and_tells_what_failed(place: Path) -> None:
    # The first run hangs in its second epoch, until it is stopped. Meanwhile nobody else may work here.
    (place / "wait").touch()
    with subprocess.Popen([sys.executable, *COMMAND], stderr=subprocess.PIPE, text=True) as first:
        try:
            wait_for(place / "out/good/seed-0/events.jsonl")
            second = harness(expected_code=2)
            assert second.out == ""
            assert "another harness works in out" in second.err
            first.send_signal(signal.SIGTERM)  # SIGINT is ignored where the tests run in the background
            assert first.stderr is not None
            while "saves everything" not in first.stderr.readline():
                assert first.poll() is None
        finally:
            (place / "wait").unlink()
        _, said = first.communicate(timeout=PATIENCE_S)
    assert first.returncode == 75, said
    assert "the same command goes on" in said
    assert not (place / "out/diverging").exists()
    assert "0 stopped" in (place / "out/results.md").read_text()

    # The same command resumes it and makes the others.
    result = harness(expected_code=1)
    assert "good, seed 0 goes on (stopped)" in result.err
    document = json.loads((place / "out/results.json").read_text())
    runs = {row["name"]: row["runs"][0] for row in document["experiments"]}
    assert {name: run["status"] for name, run in runs.items()} == {
        "good": "done",
        "diverging": "diverged",
    }
    assert runs["good"]["epochs"] == 3
    assert "is nan" in runs["diverging"]["message"]
    assert 0 <= document["experiments"][0]["mean"]["ece"] <= 1
    assert document["experiments"][0]["mean"]["images_per_s"] > 0
    assert str(place) not in (place / "out/results.json").read_text()
    assert "not done: diverging, seed 0, diverged" in result.err
    assert "| diverging (`diverging`) | 0 diverged |" in (place / "out/results.md").read_text()

    # What is over is not made again.
    before = (place / "out/good/seed-0/events.jsonl").read_bytes()
    again = harness("--only", "good", "--table", "told/table.md")
    assert "starts" not in again.err
    assert (place / "out/good/seed-0/events.jsonl").read_bytes() == before
    assert "| good (`good`) | 0 |" in (place / "told/table.md").read_text()

    # Other settings are refused in words, and nothing is touched.
    other = harness("--set", "distillation.alpha=0.5", expected_code=2)
    assert "good/seed-0 was made with other settings: distillation.alpha is 0.6, not 0.5" in other.err
    assert (place / "out/good/seed-0/events.jsonl").read_bytes() == before


@pytest.mark.slow
def test_what_ssdkd_refuses_is_told_and_the_list_goes_on(place: Path) -> None:
    write(place / "list.toml", REFUSED)
    described = harness("--dry-run", expected_code=2)
    assert "refused, seed 0:\n  ssdkd run --preset digits" in described.out
    assert "REFUSED: the teacher's file nowhere.pt does not exist (`teacher.weights`); hint: name" in described.out
    assert described.out.count("REFUSED: ") == 1
    assert not (place / "out").exists()

    harness(expected_code=1)
    told = (place / "out/results.md").read_text()
    assert "| refused (`refused`) | 0 refused | - |" in told
    assert "| good (`good`) | 0 |" in told
    assert "nowhere.pt does not exist" in told
    assert not (place / "out/refused/seed-0").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--only", "god"], "no such experiment: god"),
        (["--set", "distillation.alpa=1"], "did you mean `distillation.alpha`?"),
        (["--machine", "none.toml"], "cannot read none.toml"),
        (["--overlay", "none"], "unknown preset `none`"),
    ],
)
def test_what_cannot_be_asked_for(place: Path, more: list[str], told: str) -> None:
    write(place / "list.toml", ONE)
    result = harness(*more, expected_code=2)
    assert result.out == ""
    assert told in result.err
    assert "Traceback" not in result.err
    assert not list(place.glob("out/*/seed-*"))


@pytest.mark.slow
def test_a_list_that_inverts_nothing_distils_from_one_buffer(place: Path) -> None:
    write(place / "list.toml", ONE)
    harness()
    made = place / "out/good/seed-0"
    write(place / "list.toml", f'command = "distill"\n{LIST}')
    students = ["--out", "students", "--set", "run.epochs=2", "--only", "good"]
    for more, told in {
        (): "say which: --buffer FILE|RUN",
        ("--buffer", "nowhere"): "no buffer at nowhere",
    }.items():
        refused = harness(*students, *more, expected_code=2)
        assert refused.out == ""
        assert told in refused.err
    assert not (place / "students").exists()

    described = harness(*students, "--buffer", str(made), "--dry-run")
    assert "ssdkd distill --preset digits" in described.out

    harness(*students, "--buffer", str(made))
    student = place / "students/good/seed-0"
    manifest = json.loads((student / "manifest.json").read_text())
    assert manifest["buffer"] == str(made / "buffer.safetensors")
    assert "--buffer BUFFER`" in (place / "students/results.md").read_text()
    assert "starts" not in harness(*students, "--buffer", str(made / "buffer.safetensors")).err

    # Of other images it would be another experiment.
    write(place / "list.toml", LIST)
    harness("--only", "good", "--out", "other", "--seeds", "1")
    write(place / "list.toml", f'command = "distill"\n{LIST}')
    other = harness(*students, "--buffer", str(place / "other/good/seed-1"), expected_code=2)
    assert "good/seed-0 was made from another buffer" in other.err


def test_a_list_that_makes_its_buffers_takes_none(place: Path) -> None:
    result = harness("--buffer", str(place), expected_code=2)
    assert "error: the runs of this list make their own buffers" in result.err


def test_a_folder_that_is_no_run_is_not_overwritten(place: Path) -> None:
    write(place / "list.toml", ONE)
    (place / "out/good/seed-0").mkdir(parents=True)
    write(place / "out/good/seed-0/mine.txt", "mine")
    result = harness("--only", "good", expected_code=2)
    assert "cannot be read, remove it" in result.err
    assert [path.name for path in (place / "out/good/seed-0").iterdir()] == ["mine.txt"]


def test_presets_are_told_as_they_are_typed_in_a_checkout(tmp_path):
    assert results._as_typed("cifar10-wrn") == "cifar10-wrn"
    assert results._as_typed(str(experiment_list.OVERLAYS / "short.toml")) == "benchmarks/accuracy/overlays/short.toml"
    assert results._as_typed(str(tmp_path / "mine.toml")) == "mine.toml"
