"""`ssdkd evaluate`: runs and weight files, on real images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

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
    settings = Path("r/config.toml")
    settings.write_text(settings.read_text().replace('device = "cpu"', 'device = "cuda:99"'))
    moved = call("evaluate", "r", "--json")
    assert moved.code == 0, f"where it was trained need not be here: {moved.err}"
    assert json.loads(moved.out)["student"] == pytest.approx(document["student"], rel=1e-5)

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


def test_images_of_ones_own_in_folders(call, labelled_folder: Path):
    """They are the digits themselves: a folder of them measures as they do."""
    own = ["--data", "imagefolder", "--root", str(labelled_folder), "--json"]
    weights = ["evaluate", TEACHER, "--preset", "digits", "--set", "student.model=wrn16_2"]
    found, expected = (json.loads(call(*weights, *options).out) for options in (own, ["--json"]))
    assert found["data"] == "imagefolder"
    assert found["student"] == pytest.approx(expected["student"])
    assert found["agreement"] == expected["agreement"]
    checked = json.loads(call("teacher", "check", "--preset", "digits", *own).out)
    assert checked["teacher"] == pytest.approx(expected["teacher"])


def test_what_speaks_against_a_file_is_told(call, place):
    weights = load_file(TEACHER)
    average = {name: value + 1 for name, value in weights.items()}
    torch.save({"state_dict": weights, "state_dict_ema": average}, "both.pt")
    Path("sure.py").write_text(SURE, encoding="utf-8")
    keys = {"student.model": "wrn16_2", "teacher.model": "sure.py:build", "teacher.weights": "sure.pt"}
    named = [text for key, value in keys.items() for text in ("--set", f"{key}={value}")]
    torch.save({f"network.{name}": value for name, value in weights.items()}, "sure.pt")
    result = call("evaluate", "both.pt", "--preset", "digits", *named, "--json")
    assert result.code == 0, result.err
    assert 'also holds other weights of this network, ["state_dict_ema"]' in result.err
    assert "answers with probabilities" in result.err


SURE = """
from torch import nn

from stages.models.wrn import wide_resnet

class Sure(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = wide_resnet(depth=16, width=2, num_classes=10, in_channels=1, image_size=(8, 8))

    def forward(self, images):
        return self.network(images).softmax(dim=1)

def build():
    return Sure()
"""


def test_a_run_without_its_settings_is_told_as_such(call, place):
    (place / "r" / "checkpoints").mkdir(parents=True)
    for name in ("events.jsonl", "manifest.json", "buffer.safetensors", "student.safetensors"):
        (place / "r" / name).write_text("{}", encoding="utf-8")
    for command in (["evaluate", "r"], ["distill", "--buffer", "r"]):
        result = call(*command)
        assert (result.code, result.out) == (3, "")
        assert "no such file: `r/config.toml`" in result.err
        assert "every run keeps its settings there" in result.err


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["nowhere"], 3, "nowhere"),
        (["rubbish.pt"], 2, "--preset"),
        (["rubbish.pt", "--preset", "digits"], 3, "rubbish.pt"),
        ([TEACHER, "--preset", "digits"], 3, "the teacher's network"),
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
