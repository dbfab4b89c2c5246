"""`ssdkd inspect-buffer`: the report, the JSON document, the pictures, and what damaged files get."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from buffer_files import make_contents, write_buffer
from child_process import run_ssdkd
from rich.cells import cell_len

from stages.run_directory import RunDirectory

KEYS = [
    "path",
    "num_samples",
    "capacity",
    "image_shape",
    "class_counts",
    "class_entropy",
    "difficulty",
    "priority",
    "verified",
]
SHA256 = "0123456789abcdef" * 4


def make_rows(num: int = 40, *, num_classes: int = 4, names: tuple[str, ...] | None = None, capacity: int = 50):
    classes, age = np.arange(num) % num_classes, np.arange(num)[::-1]
    columns = {"teacher_class": classes, "target": classes, "teacher_prob": 0.85, "priority": 0.25, "age": age}
    meta = {"class_names": names, "capacity": capacity, "teacher_sha256": SHA256}
    return make_contents(num, num_classes=num_classes, **columns, **meta)


@pytest.fixture
def run(place: Path) -> RunDirectory:
    """A run in ./runs, with a buffer and the manifest that belongs to it."""
    made = RunDirectory.create(None, "digits", "20260101-120000")
    made.config_file.write_text("[run]\n")
    made.manifest_file.write_text(json.dumps({"teacher_sha256": SHA256}))
    write_buffer(made.buffer_file, make_rows())
    return made


# -- the document --------------------------------------------------------------------------------------------


def test_json_is_the_document_of_the_contract(call, run):
    result = call("inspect-buffer", str(run.buffer_file), "--json")
    assert (result.code, result.err) == (0, "")
    document = json.loads(result.out)
    assert list(document) == KEYS
    assert document["path"] == str(run.buffer_file)
    assert (document["num_samples"], document["capacity"], document["image_shape"]) == (40, 50, [1, 8, 8])
    assert document["class_counts"] == [10, 10, 10, 10]
    assert document["class_entropy"] == pytest.approx(1.0)
    assert document["difficulty"]["counts"] == [0, 40, 0, 0, 0, 0, 0, 0, 0, 0]
    assert set(document["difficulty"]) == {"counts", "edges"}
    assert set(document["priority"]) == {"min", "mean", "max", "effective_sample_size", "counts", "edges"}
    assert document["priority"]["effective_sample_size"] == pytest.approx(40)
    assert document["verified"] is None


@pytest.mark.parametrize("source", [[], ["digits-20260101-120000"], ["runs/digits-20260101-120000"]])
def test_a_run_stands_for_its_buffer(call, run, source):
    document = json.loads(call("inspect-buffer", *source, "--json").out)
    assert Path(document["path"]).resolve() == run.buffer_file.resolve()


def test_the_newest_run_is_the_default(call, run):
    newer = RunDirectory.create(None, "digits", "20260101-130000")
    run.lock_file.write_text('{"since_s": 100.0}')
    newer.lock_file.write_text('{"since_s": 200.0}')
    write_buffer(newer.buffer_file, make_rows(8))
    assert json.loads(call("inspect-buffer", "--json").out)["num_samples"] == 8


def test_empty_buffer_has_nulls(call, place):
    write_buffer(place / "empty.safetensors", make_rows(0))
    document = json.loads(call("inspect-buffer", "empty.safetensors", "--json").out)
    assert document["num_samples"] == 0
    assert document["class_entropy"] is None
    assert document["priority"]["effective_sample_size"] is None


# -- the report ----------------------------------------------------------------------------------------------


def test_report_says_what_the_buffer_is(call, run):
    result = call("inspect-buffer")
    assert result.code == 0
    assert result.err == ""
    for text in ("40 of 50", "1 x 8 x 8", "classification, 4 classes", "alpha 0.6", "entropy 1.000", "schema 1"):
        assert text in result.out
    assert "effective sample size 40.0 of 40 (100%)" in result.out
    assert "█" in result.out
    assert "\x1b" not in result.out


@pytest.mark.parametrize(("alpha", "told"), [(0.6, "by priority, alpha 0.6, epsilon 1e-06"), (0.0, "uniform")])
def test_how_samples_are_drawn_is_told(call, place, alpha: float, told: str) -> None:
    rows = make_rows()
    write_buffer(place / "buffer.safetensors", replace(rows, meta=replace(rows.meta, alpha=alpha)))
    assert f"  sampling    {told}\n" in call("inspect-buffer", "buffer.safetensors").out


@pytest.mark.parametrize("num_classes", [2, 20, 21, 1000])
def test_report_fits_80_columns(call, place, num_classes):
    names = tuple(f"größte Möwe der Welt 猫 {index}" for index in range(num_classes))
    write_buffer(place / "buffer.safetensors", make_rows(3000, num_classes=num_classes, names=names, capacity=10**7))
    lines = call("inspect-buffer", "buffer.safetensors").out.splitlines()
    assert max(cell_len(line) for line in lines) <= 80


def test_report_of_many_classes_names_the_extremes(call, place):
    rows = make_rows(100, num_classes=100, names=tuple(f"name-{index}" for index in range(100)), capacity=100)
    rows.teacher_class[:60] = 7  # class 7 is the commonest; classes 0 to 59 but 7 have none
    write_buffer(place / "buffer.safetensors", rows)
    out = call("inspect-buffer", "buffer.safetensors").out
    lines = out.splitlines()
    commonest, rarest = (lines.index(f"  the 5 {kind}") + 1 for kind in ("most frequent", "rarest"))
    assert lines[commonest].split()[0] == "name-7"
    assert [line.split()[0] for line in lines[rarest : rarest + 5]] == [f"name-{index}" for index in (4, 3, 2, 1, 0)]


def test_report_is_ascii_where_the_stream_is(run, place):
    write_buffer(run.buffer_file, make_rows(names=("cat", "Möwe", "猫", "\x1b[31mred")))
    result = run_ssdkd("inspect-buffer", environment={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert result.code == 0, result.err
    assert result.out.isascii()
    assert "####" in result.out
    assert "M\\xf6we" in result.out
    assert "\x1b" not in result.out


def test_report_of_an_empty_buffer(call, place):
    write_buffer(place / "empty.safetensors", make_rows(0))
    result = call("inspect-buffer", "empty.safetensors")
    assert result.code == 0
    assert "The buffer is empty." in result.out


# -- pictures ------------------------------------------------------------------------------------------------


def test_pictures_are_written(call, run, place):
    result = call("inspect-buffer", "--grid", "grid.png", "--plot", "plot.png", "--json")
    assert result.code == 0
    json.loads(result.out)
    assert "wrote grid.png" in result.err
    for name in ("grid.png", "plot.png"):
        assert (place / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--grid", "--plot"])
def test_picture_that_is_no_png_is_refused(call, run, option):
    before = run.buffer_file.read_bytes()
    result = call("inspect-buffer", option, str(run.buffer_file))
    assert (result.code, result.out) == (2, "")
    assert "hint:" in result.err
    assert run.buffer_file.read_bytes() == before


def test_a_folder_is_no_picture(call, place):
    (place / "folder.png").mkdir()
    result = call("inspect-buffer", "--grid", "folder.png")
    assert (result.code, result.out) == (3, "")
    assert "folder.png is a folder" in result.err


def test_picture_without_a_folder(call, run):
    result = call("inspect-buffer", "--grid", "gone/grid.png")
    assert (result.code, result.out) == (3, "")
    assert "there is no folder gone" in result.err


def test_grid_of_an_empty_buffer(call, place):
    write_buffer(place / "empty.safetensors", make_rows(0))
    result = call("inspect-buffer", "empty.safetensors", "--grid", "grid.png")
    assert result.code == 3
    assert not (place / "grid.png").exists()


# -- integrity -----------------------------------------------------------------------------------------------


def test_verify_says_yes(call, run):
    assert json.loads(call("inspect-buffer", "--json", "--verify").out)["verified"] is True
    assert "verified: digest, order, plausible values, the run's teacher\n" in call("inspect-buffer", "--verify").out
    alone = call("inspect-buffer", str(shutil.copy(run.buffer_file, "alone.safetensors")), "--verify")
    assert "verified: digest, order, plausible values\n" in alone.out


def test_verify_notices_another_teacher(call, run):
    run.manifest_file.write_text(json.dumps({"teacher_sha256": "f" * 64}))
    result = call("inspect-buffer", "--json", "--verify")
    assert result.code == 3
    assert json.loads(result.out)["verified"] is False
    assert "another teacher" in result.err
    assert call("inspect-buffer", "--json").code == 0


def test_verify_notices_a_single_changed_byte(call, run):
    path = run.buffer_file
    data = bytearray(path.read_bytes())
    for position in (len(data) - 1, len(data) // 2):
        data[position] ^= 1
        path.write_bytes(data)
        assert call("inspect-buffer", str(path)).code == 0, "every reader can cope with it"
        result = call("inspect-buffer", str(path), "--verify", "--json")
        assert result.code == 3
        assert json.loads(result.out)["verified"] is False
        assert "sha256" in result.err
        data[position] ^= 1


def test_verify_notices_another_order(call, run):
    rows = make_rows()
    rows.age[:] = rows.age[::-1].copy()
    write_buffer(run.buffer_file, rows)
    result = call("inspect-buffer", "--verify")
    assert result.code == 3
    assert "NOT verified" in result.out
    assert "oldest first" in result.err


@pytest.mark.parametrize("options", [[], ["--json"], ["--verify"]])
def test_damaged_file(call, run, options):
    run.buffer_file.write_bytes(run.buffer_file.read_bytes()[:-1])
    result = call("inspect-buffer", *options)
    assert (result.code, result.out) == (3, "")
    assert str(run.buffer_file) in result.err
    assert "hint:" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing", "there is no run `nothing`"),
        ("nothing.safetensors", "there is no buffer file nothing.safetensors"),
        (".", "not a run directory"),
    ],
)
def test_source_that_is_not_there(call, place, source, message):
    result = call("inspect-buffer", source)
    assert (result.code, result.out) == (3, "")
    assert message in result.err
    assert "hint:" in result.err


def test_no_run_at_all(call, place):
    result = call("inspect-buffer")
    assert (result.code, result.out) == (3, "")
    assert "hint:" in result.err


def test_run_without_a_buffer(call, run):
    run.buffer_file.unlink()
    result = call("inspect-buffer")
    assert result.code == 3
    assert "holds no buffer yet" in result.err
