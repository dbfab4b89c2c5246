"""`ssdkd evaluate`: runs and weight files, on real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import presets

KEYS = {"task", "data", "split", "student", "teacher", "agreement"}
TEACHER = str(presets.teachers_folder() / "wrn16_2-digits.safetensors")


def test_a_run_is_measured_as_it_measured_itself(call, tiny):
    run = call("run", *tiny, "--out", "r", "--json")
    assert run.code == 0, run.err
    summary = json.loads(run.out)
    result = call("evaluate", "r", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert set(document) == KEYS
    assert (document["task"], document["data"], document["split"]) == ("classification", "digits", "test")
    for role in ("student", "teacher"):
        assert document[role] == pytest.approx(summary[role], rel=1e-5)
    assert document["agreement"] == pytest.approx(summary["agreement"])

    on_train = json.loads(call("evaluate", "r", "--split", "train", "--json").out)
    assert on_train["split"] == "train"
    assert on_train["student"]["num_samples"] > document["student"]["num_samples"]

    # Its student file alone: the settings lie beside it.
    file = json.loads(call("evaluate", "r/student.safetensors", "--json").out)
    assert file["student"] == document["student"]

    for elsewhere in (["--device", "cuda:99"], ["--set", "run.device=cuda:99"]):
        assert call("evaluate", "r", *elsewhere).code == 4
    people = call("evaluate", "r")
    assert "r on digits, test split" in people.out
    assert "top-1" in people.out


def test_weights_are_measured_as_the_presets_student(call):
    result = call("evaluate", TEACHER, "--preset", "digits", "--set", "student.model=wrn16_2", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert set(document) == KEYS
    assert document["student"]["top1"] > 0.95
    assert document["student"] == pytest.approx(document["teacher"])


def test_weights_need_no_teacher(call):
    away = ["--set", "student.model=wrn16_2", "--set", "teacher.weights=nowhere.pt"]
    result = call("evaluate", TEACHER, "--preset", "digits", *away, "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    assert document["student"]["top1"] > 0.95
    assert document["teacher"] is None
    assert document["agreement"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["nowhere"], 3, "nowhere"),
        (["rubbish.pt"], 2, "--preset"),
        (["rubbish.pt", "--preset", "digits"], 3, "rubbish.pt"),
        ([TEACHER, "--preset", "digits"], 3, "another network"),
        ([TEACHER, "--preset", "digits", "--data", "digit"], 2, "digit"),
        (
            [TEACHER, "--preset", "digits", "--set", "student.model=wrn16_2", "--root", "x", "--data", "imagefolder"],
            3,
            "x",
        ),
        (["folder"], 3, "folder"),
        ([TEACHER, "--preset", "digits", "--device", "gpu"], 2, "gpu"),
        ([TEACHER, "--preset", "digits", "--set", "student.modl=x"], 2, "student.model"),
    ],
)
def test_what_cannot_be_measured(call, place, arguments, code, names):
    Path("rubbish.pt").write_bytes(b"no weights")
    Path("folder").mkdir()
    result = call("evaluate", *arguments, "--json")
    assert (result.code, result.out) == (code, ""), result.err
    assert names in result.err
    assert "Traceback" not in result.err


def test_a_run_brings_its_own_settings(call, place):
    (place / "r").mkdir()
    shown = call("presets", "show", "digits").out
    (place / "r" / "config.toml").write_text(shown, encoding="utf-8")
    result = call("evaluate", "r", "--preset", "digits")
    assert (result.code, result.out) == (2, "")
    assert "--preset does not apply" in result.err
