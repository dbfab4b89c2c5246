from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from run_files import append_events, finished, make_run, started

from stages.errors import FileError
from stages.events import Device, Evaluation, Measured, RunResumed, Warning
from stages.run_directory.overview import details, files, flat, listed, metrics, overview, settings

SECONDS = {"inversion": 1.0, "distillation": 2.0, "total": 3.5}


def evaluation(top1: float) -> Evaluation:
    return Evaluation(real={"student": {"top1": top1}, "teacher": None}, synthetic={"agreement": 0.5})


def device(total: float) -> Device:
    seconds = {**SECONDS, "total": total}
    return Device(device="cpu", seconds=seconds, utilisation=None, mem_mib=None, images_per_s=None)


def test_finished_run_shows_its_summary(tmp_path: Path) -> None:
    end = finished(student={"top1": 0.9}, teacher={"top1": 0.95}, agreement=0.8, seconds=SECONDS, device="cpu")
    document = overview(make_run(tmp_path / "a", started(seed=3), evaluation(0.1), end))
    assert document["status"] == "done"
    assert (document["preset"], document["seed"], document["epochs"], document["epoch"]) == ("digits", 3, 40, 1)
    assert document["student"] == {"top1": 0.9}
    assert document["seconds"] == SECONDS
    assert document["started_s"] == 1_700_000_000.0


def test_unfinished_run_shows_its_newest_results(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", started(), evaluation(0.1), device(1.0), evaluation(0.2), device(2.0))
    document = overview(run)
    assert document["status"] == "dead"
    assert document["student"] == {"top1": 0.2}
    assert document["teacher"] is None
    assert document["agreement"] == 0.5
    assert document["seconds"]["total"] == 2.0


def test_an_evaluation_of_the_teacher_alone_is_none_of_the_student(tmp_path: Path) -> None:
    of_teacher = Evaluation(real={"student": None, "teacher": {"top1": 0.95}}, synthetic=None)
    document = overview(make_run(tmp_path / "a", started(), of_teacher))
    assert document["teacher"] == {"top1": 0.95}
    assert document["evaluated_epoch"] is None
    assert overview(make_run(tmp_path / "b", started(), evaluation(0.4)))["evaluated_epoch"] == 1


def test_all_seconds_together_come_last(tmp_path: Path) -> None:
    seconds = {"total": 3.5, "inversion": 1.0, "distillation": 2.0}
    document = overview(make_run(tmp_path / "a", started(), finished(seconds=seconds)))
    assert list(document["seconds"].items()) == list(SECONDS.items())


def test_a_run_that_stopped_within_an_epoch_has_not_finished_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", started(), evaluation(0.4))
    append_events(run, [finished("stopped", epochs=39, student={"top1": 0.4})], epoch=40)
    document = overview(run)
    assert (document["epoch"], document["epochs"], document["evaluated_epoch"]) == (39, 40, 1)


def test_a_run_that_cannot_be_read_is_listed_by_its_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", started())
    assert listed(run) == overview(run)
    run.events_file.unlink()
    run.events_file.mkdir()
    with pytest.raises(FileError, match="cannot read"):
        overview(run)
    document = listed(run)
    assert (document["name"], document["status"]) == ("a", "unreadable")
    assert document.keys() == overview(make_run(tmp_path / "b", started())).keys()


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ({"student": [1], "seconds": 3.0}, {"student": None, "seconds": None}),
        ({"student": {"top1": "x", "top5": None, "loss": 1.5}}, {"student": {"top5": None, "loss": 1.5}}),
        ({"seconds": {"total": None, "inversion": 10**400, "evaluation": 2.0}}, {"seconds": {"evaluation": 2.0}}),
        ({"agreement": {}, "ece": True, "buffer_size": "9"}, {"agreement": None, "ece": None, "buffer_size": None}),
    ],
)
def test_a_result_of_another_kind_counts_as_none(tmp_path: Path, results: dict, expected: dict) -> None:
    document = overview(make_run(tmp_path / "a", started(), finished("done", **results)))
    assert {key: document[key] for key in expected} == expected


def test_superseded_results_do_not_count(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", started(), evaluation(0.1), evaluation(0.2))
    append_events(run, [RunResumed(checkpoint="c", checkpoint_seq=1)])
    assert overview(run)["student"] == {"top1": 0.1}


@pytest.mark.parametrize("content", ["", "garbage\n", '{"kind": "evaluation", "seq": 0, "real": 3, "synthetic": []}\n'])
def test_run_that_says_nothing(tmp_path: Path, content: str) -> None:
    run = make_run(tmp_path / "a")
    run.events_file.write_text(content)
    document = overview(run)
    assert document["status"] == "dead"
    assert document["student"] is document["epochs"] is None


def test_details(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", started(), Warning(message="first"), Warning(message="second"), finished("diverged"))
    run.manifest_file.write_text('{"seed": 0}')
    document = details(run)
    assert document["message"] == "diverged"
    assert document["warnings"] == ["first", "second"]
    assert document["config"] == {"run": {"seed": 0}}
    assert document["manifest"] == {"seed": 0}
    assert document["files"]["config.toml"] == run.config_file.stat().st_size
    assert json.loads(json.dumps(document)) == document
    with run.lock.held():  # it is being resumed
        document = details(run)
    assert (document["status"], document["message"], document["hint"]) == ("starting", None, None)


def test_the_newest_of_all_that_stages_have_measured(tmp_path: Path) -> None:
    told = [Measured(stage="drift", values={"x": x, "once": 1}) for x in (1.0, 2.0)]
    told += [Measured(stage="drift", values={"x": 3.0}), Measured(stage="ahead", values={"x": float("nan")})]
    run = make_run(tmp_path / "a", started(), *told)
    assert details(run)["measured"] == {"ahead/x": None, "drift/once": 1, "drift/x": 3.0}
    append_events(run, [RunResumed(checkpoint="c", checkpoint_seq=1)])
    assert details(run)["measured"] == {"drift/once": 1, "drift/x": 1.0}


@pytest.mark.parametrize("values", [None, [1.0], 3])
def test_measured_values_of_another_kind_count_as_none(tmp_path: Path, values: object) -> None:
    run = make_run(tmp_path / "a", started())
    append_events(run, [Measured(stage="drift", values=values)])
    assert details(run)["measured"] == {}


def test_files_of_a_run_at_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", started())
    run.checkpoints_dir.mkdir(exist_ok=True)
    (run.checkpoints_dir / ".epoch-000002.safetensors.7.tmp").write_bytes(b"half of it")
    run.checkpoint_file(1).write_bytes(b"1234")
    run.checkpoint_file(2).write_bytes(b"12345")
    stat = Path.stat

    def stat_late(path: Path, **options: bool) -> os.stat_result:
        if path == run.checkpoint_file(1):
            path.unlink(missing_ok=True)  # pruned since the folder was listed
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_late)
    sizes = files(run)
    assert {name: size for name, size in sizes.items() if "epoch" in name} == {
        "checkpoints/epoch-000002.safetensors": 5
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[run\n", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"x = " + b"[" * 100_000, "is damaged"),
        (None, "cannot read"),
    ],
    ids=["torn", "no text", "deep", "missing"],
)
def test_settings_that_cannot_be_read(tmp_path: Path, content: bytes | None, message: str) -> None:
    run = make_run(tmp_path / "a")
    if content is None:
        run.config_file.unlink()
    else:
        run.config_file.write_bytes(content)
    with pytest.raises(FileError, match=message):
        settings(run)


def test_flat() -> None:
    assert flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {"a.b.c": 1, "a.d": [2], "e": None}


def test_metrics_are_finite_numbers(tmp_path: Path) -> None:
    document = overview(
        make_run(tmp_path / "a", finished(student={"top1": 0.5, "loss": None, "note": "x"}, seconds=SECONDS))
    )
    assert metrics(document) == {
        "student.top1": 0.5,
        "seconds.inversion": 1.0,
        "seconds.distillation": 2.0,
        "seconds.total": 3.5,
    }
