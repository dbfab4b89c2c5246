"""`ssdkd teacher`: train one into the cache, find it again, look at it."""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from weight_files import write_weights

import presets
from ssdkd_cli import progress
from stages.config import load
from stages.errors import MachineError
from stages.teachers.train import EPOCHS

SMALL = ["--set", "teacher.model=wrn10_1", "--set", "run.device=cpu", "--set", "run.threads=1"]


def test_a_trained_teacher_is_kept_in_the_cache_and_found_again(call, tmp_path):
    arguments = ["--preset", "digits", *SMALL]
    missing = call("teacher", "check", *arguments)
    assert missing.code == 3
    assert "ssdkd teacher train" in missing.err

    trained = call("teacher", "train", *arguments, "--epochs", "2", "--seed", "1", "--json")
    assert trained.code == 0, trained.err
    document = json.loads(trained.out)
    file = Path(document["file"])
    assert file == tmp_path / "cache" / "ssdkd" / "teachers" / "wrn10_1-digits.safetensors"
    assert document["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert document["epochs"] == 2
    assert document["teacher"]["top1"] > 0.2

    checked = call("teacher", "check", *arguments, "--json")
    assert checked.code == 0, checked.err
    found = json.loads(checked.out)
    assert found["file"] == document["file"]
    assert found["sha256"] == document["sha256"]
    assert found["teacher"]["top1"] == pytest.approx(document["teacher"]["top1"])

    again = call("teacher", "train", *arguments, "--epochs", "1")
    assert (again.code, again.out) == (2, "")
    assert "is there already" in again.err


def test_after_an_interruption_the_same_command_goes_on(call, tmp_path, monkeypatch):
    """To the same weights as without it."""
    command = ["teacher", "train", "--preset", "digits", *SMALL, "--epochs", "2", "--json"]
    whole = json.loads(call(*command, "--out", str(tmp_path / "whole.safetensors")).out)
    drawn = progress._training_drawn

    @contextmanager
    def interrupted_after_an_epoch(*arguments, **options):
        with drawn(*arguments, **options) as draw:

            def tell(epoch, *rest):
                draw(epoch, *rest)
                raise KeyboardInterrupt

            yield tell

    with monkeypatch.context() as patch:
        patch.setattr(progress, "_training_drawn", interrupted_after_an_epoch)
        first = call(*command)
    assert (first.code, first.out) == (130, "")
    assert "the same command goes on from the last epoch saved" in first.err
    second = call(*command)
    assert second.code == 0, second.err
    assert "goes on after epoch 1" in second.err
    assert json.loads(second.out)["sha256"] == whole["sha256"]


@pytest.mark.parametrize(("arguments", "seed"), [([], 7), (["--seed", "3"], 3), (["--seed", "0"], 0)])
def test_the_seed_is_the_presets_unless_another_is_typed(call, place, monkeypatch, arguments, seed):
    seeds = []

    def train(*_, seed, **_options):
        seeds.append(seed)
        raise MachineError("that is enough")

    monkeypatch.setattr("stages.teachers.train.train_teacher", train)
    own = ["--preset", "digits", *SMALL, "--set", "run.seed=7", "--out", "mine.safetensors"]
    assert call("teacher", "train", *own, *arguments).code == 4
    assert seeds == [seed]


def test_beside_a_shipped_teacher_another_one_needs_a_place_of_its_own(call, place):
    refused = call("teacher", "train", "--preset", "digits", "--epochs", "1")
    assert (refused.code, refused.out) == (2, "")
    assert "wrn16_2-digits.safetensors" in refused.err
    assert "--out FILE" in refused.err
    assert call("teacher", "train", "--preset", "digits", "--epochs", "1", "--out", "mine.safetensors").code == 0
    used = call("teacher", "check", "--preset", "digits", "--set", "teacher.weights=mine.safetensors", "--json")
    assert json.loads(used.out)["file"].endswith("mine.safetensors")


def test_a_teacher_of_other_images_is_not_measured_on_the_presets_part_of_them(call, labelled_folder):
    """A folder with a part to learn alone is enough."""
    (labelled_folder / "train").mkdir()
    for folder in [path for path in labelled_folder.iterdir() if path.name != "train"]:
        folder.rename(labelled_folder / "train" / folder.name)
    own = ["--data", "imagefolder", "--root", str(labelled_folder), "--epochs", "1", "--out", "mine.safetensors"]
    trained = call("teacher", "train", "--preset", "digits", *SMALL, *own, "--json")
    assert trained.code == 0, trained.err
    document = json.loads(trained.out)
    assert (document["data"], document["split"], document["teacher"]) == ("imagefolder", "train", None)


def test_a_teacher_that_another_process_was_faster_with_lies_beside_it(call, place, monkeypatch):
    drawn = progress._training_drawn

    @contextmanager
    def overtaken(*arguments, **options):
        with drawn(*arguments, **options):
            yield lambda *_: (place / "mine.safetensors").write_bytes(b"of another process")

    monkeypatch.setattr(progress, "_training_drawn", overtaken)
    trained = call(
        "teacher", "train", "--preset", "digits", *SMALL, "--epochs", "1", "--out", "mine.safetensors", "--json"
    )
    assert trained.code == 0, trained.err
    file = Path(json.loads(trained.out)["file"])
    assert file.name != "mine.safetensors"
    assert file.is_file()
    assert (place / "mine.safetensors").read_bytes() == b"of another process"
    assert (
        "mine.safetensors is there by now, made by another process, and stays: this teacher lies beside it"
        in trained.err
    )


def test_check_says_what_the_teacher_is(call):
    result = call("teacher", "check", "--preset", "digits", "--json")
    assert result.code == 0, result.err
    document = json.loads(result.out)
    # WRN16-2 has 13 convolutions of 3x3, 3 of 1x1 (shortcuts) and 13 batch-norms, and one linear layer.
    assert document["layers"] == {"Conv2d": 16, "BatchNorm2d": 13, "Linear": 1}
    assert document["batch_norm_layers"] == 13
    assert document["parameters"] == 691_386
    assert (document["mean"], document["std"]) == ([0.3055], [0.3761])
    assert document["data"] == "digits"
    assert document["split"] == "test"
    assert document["teacher"]["top1"] > 0.95
    people = call("teacher", "check", "--preset", "digits")
    assert "16 Conv2d" in people.out
    assert "691,386" in people.out
    assert "mean of its images  0.3055 (digits.toml)\n" in people.out
    assert "top-1" in people.out


def test_check_counts_the_layers_that_inversion_can_use(call, tmp_path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def net(num_classes):\n"
        "    norms = [nn.BatchNorm2d(1, affine=False), nn.BatchNorm2d(1, track_running_stats=False)]\n"
        "    network = nn.Sequential(*norms, nn.Flatten(), nn.Linear(64, num_classes))\n"
        "    network[0].of_training = nn.BatchNorm2d(1, affine=False)\n"
        "    return network\n"
    )
    weights = tmp_path / "net.safetensors"
    save_file(
        {
            "0.running_mean": torch.zeros(1),
            "0.running_var": torch.ones(1),
            "0.num_batches_tracked": torch.tensor(1),
            "0.of_training.running_mean": torch.zeros(1),
            "0.of_training.running_var": torch.ones(1),
            "1.weight": torch.ones(1),
            "1.bias": torch.zeros(1),
            "3.weight": torch.zeros(10, 64),
            "3.bias": torch.zeros(10),
        },
        weights,
    )
    own = ["--set", f"teacher.model={tmp_path / 'net.py'}:net", "--set", f"teacher.weights={weights}"]
    result = call("teacher", "check", *own, "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["batch_norm_layers"] == 1


def test_check_without_data_says_what_was_not_looked_at(call):
    result = call("teacher", "check", "--preset", "digits", "--set", "evaluation.data=none")
    assert result.code == 0, result.err
    assert "accuracy is not measured: no data is named" in result.err


def test_check_without_the_data_at_hand(call, place, monkeypatch):
    away = 'extends = "digits"\n[evaluation]\ndata = "imagefolder"\nroot = "nowhere"\n'
    (place / "away.toml").write_text(away, encoding="utf-8")
    result = call("teacher", "check", "--preset", "away.toml", "--json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["teacher"] is None
    assert "accuracy is not measured" in result.err

    def too_many(_config: object) -> None:
        raise MachineError("they do not fit into memory")

    with monkeypatch.context() as patch:
        patch.setattr("stages.teachers.report.real_images", too_many)
        large = call("teacher", "check", "--preset", "digits")
    assert large.code == 0, large.err
    assert "accuracy is not measured: they do not fit into memory" in large.err

    for named in (["--data", "imagefolder", "--root", "nowhere"], ["--set", "evaluation.root=nowhere"]):
        refused = call("teacher", "check", "--preset", "away.toml", *named)
        assert (refused.code, refused.out) == (3, "")
        assert "nowhere" in refused.err


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["--data", "digit"], 2, "digit"),
        (["--data", "imagefolder", "--root", "nowhere"], 3, "nowhere"),
        (["--set", "evaluation.data=none"], 2, "--data"),
        (["--out", "taken.safetensors"], 2, "taken.safetensors"),
        (["--out", "."], 2, "is a folder"),
        (["--epochs", "0"], 2, "--epochs"),
        (["--device", "cuda:99"], 4, "cuda:99"),
    ],
)
def test_training_refused_at_once(call, place, arguments, code, names):
    (place / "taken.safetensors").write_bytes(b"precious")
    result = call("teacher", "train", "--preset", "digits", "--set", "teacher.model=wrn10_1", *arguments)
    assert (result.code, result.out) == (code, ""), result.err
    assert names in result.err
    assert (place / "taken.safetensors").read_bytes() == b"precious"


def test_a_teacher_is_checked_by_as_many_threads_as_asked_for(call, monkeypatch):
    asked_for = []
    monkeypatch.setattr(torch, "set_num_threads", asked_for.append)
    assert call("teacher", "check", "--preset", "digits", "--set", "run.threads=1", "--device", "cpu").code == 0
    assert asked_for == [1]


def test_a_teacher_no_better_than_chance_is_doubted(call, tmp_path):
    weights = write_weights(tmp_path / "untrained.safetensors", "wrn16_2", load(["digits"]).task)
    untrained = ["--set", f"teacher.weights={weights}", "--preset", "digits"]
    checked = call("teacher", "check", *untrained, "--json")
    assert checked.code == 0, checked.err
    assert any("better than chance" in warning for warning in json.loads(checked.out)["warnings"])
    student = str(presets.teachers_folder() / "wrn16_2-digits.safetensors")
    evaluated = call("evaluate", student, *untrained, "--set", "student.model=wrn16_2", "--json")
    assert evaluated.code == 0, evaluated.err
    assert "better than chance" in evaluated.err


def test_the_help_names_the_epochs_of_the_recipe(call):
    assert f"[epochs; {EPOCHS}]" in call("teacher", "train", "--help").out
