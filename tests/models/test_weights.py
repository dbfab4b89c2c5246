"""Weights in files: every public layout loads, every broken file says what is wrong with it."""

import argparse
import json
import re
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from image_task import image_task
from torch import nn

from stages.errors import ConfigError, FileError
from stages.files.file_digest import sha256_of
from stages.models.build import build_model
from stages.models.weight_file import read_weights
from stages.models.weights import load_weights, save_weights


def build(name="wrn10_1", num_classes=10, image_shape=(3, 16, 16)):
    return build_model(name, task=image_task(num_classes, image_shape), where="teacher.model")


@pytest.fixture
def trained(randomised):
    """A network whose every weight differs from what another initialisation gives."""
    return randomised(build())


def same_outputs(one, other):
    images = torch.randn(4, 3, 16, 16)
    with torch.inference_mode():
        return torch.equal(one.eval()(images), other.eval()(images))


def other_family(state_dict):
    """The second family of names of WRN checkpoints."""
    return {name.replace("block", "layer", 1).replace("fc.", "linear."): value for name, value in state_dict.items()}


# ---- layouts that load


def test_round_trip(trained, tmp_path):
    save_weights(trained, tmp_path / "weights.safetensors")
    model = build()
    assert not same_outputs(model, trained)
    load_weights(model, tmp_path / "weights.safetensors")
    assert same_outputs(model, trained)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


def test_equal_weights_give_equal_bytes(trained, tmp_path):
    save_weights(trained, tmp_path / "one.safetensors")
    save_weights(trained.to(memory_format=torch.channels_last), tmp_path / "other.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    assert sha256_of(tmp_path / "one.safetensors") == sha256_of(tmp_path / "other.safetensors")


def test_no_weight_is_lost_where_only_some_names_look_wrapped(tmp_path):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = nn.ModuleDict({"conv": nn.Conv2d(1, 2, 3)})
            self.conv = nn.Conv2d(1, 2, 3)

    save_weights(Half(), tmp_path / "half.safetensors")
    assert set(read_weights(tmp_path / "half.safetensors").weights) == set(Half().state_dict())


def test_sha256_is_the_standard_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert sha256_of(tmp_path / "abc") == expected


def test_saving_replaces_and_leaves_no_other_file(trained, tmp_path):
    (tmp_path / "weights.safetensors").write_text("old")
    save_weights(trained, tmp_path / "weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    assert read_weights(tmp_path / "weights.safetensors").weights.keys() == trained.state_dict().keys()


def test_a_wrapped_network_is_saved_under_its_own_names(trained, tmp_path):
    save_weights(nn.DataParallel(trained), tmp_path / "weights.safetensors")
    assert read_weights(tmp_path / "weights.safetensors").weights.keys() == trained.state_dict().keys()


LAYOUTS = {
    "flat": lambda weights: weights,
    "state_dict": lambda weights: {"state_dict": weights, "best_prec1": 91.7, "epoch": 3},
    "model_state_dict": lambda weights: {
        "epoch": 3,
        "model_state_dict": weights,
        "optimizer_state_dict": {"state": {}},
    },
    "net": lambda weights: {"net": weights, "acc": 95.0},
    "model": lambda weights: {
        "model": weights,
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}},
    },
    "nested": lambda weights: {"model": {"state_dict": weights}},
    "container beside a tensor": lambda weights: {"best_acc": torch.tensor(95.0), "model": weights},
    "settings": lambda weights: {"state_dict": weights, "args": argparse.Namespace(lr=0.1)},
    "numbers of numpy's": lambda weights: {"net": weights, "acc": np.float64(95.5), "epoch": np.int64(3)},
    "DataParallel": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "compiled": lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
    "both": lambda weights: {"net": {f"module._orig_mod.{name}": value for name, value in weights.items()}},
    "Lightning": lambda weights: {"state_dict": {f"model.{name}": value for name, value in weights.items()}},
    "other family": other_family,
    "other family, wrapped": lambda weights: {
        "model_state_dict": {f"module.{name}": value for name, value in other_family(weights).items()}
    },
    "no batch counters": lambda weights: {
        name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")
    },
    "float64": lambda weights: {
        name: value.double() if value.is_floating_point() else value for name, value in weights.items()
    },
    "parameters": lambda weights: {
        name: nn.Parameter(value) if value.is_floating_point() else value for name, value in weights.items()
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_public_layouts_load_as_they_are(trained, tmp_path, layout, zipped):
    stored = LAYOUTS[layout](trained.state_dict())
    torch.save(stored, tmp_path / "teacher.pth", _use_new_zipfile_serialization=zipped)
    model = build()
    load_weights(model, tmp_path / "teacher.pth")
    assert same_outputs(model, trained)


def test_numbers_of_an_older_numpy(trained, tmp_path):
    stored = {"state_dict": trained.state_dict(), "acc": np.float32(95.5)}
    torch.save(stored, tmp_path / "teacher.pth", _use_new_zipfile_serialization=False)
    content = (tmp_path / "teacher.pth").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in content
    (tmp_path / "teacher.pth").write_bytes(content)
    model = build()
    load_weights(model, tmp_path / "teacher.pth")
    assert same_outputs(model, trained)


@pytest.mark.parametrize(("name", "part_of_place"), [("resnet18", (0, 1, 3, 4)), ("resnet34", (0, 1, 3, 4))])
def test_names_of_a_public_cifar_100_zoo(randomised, tmp_path, name, part_of_place):
    """weiaicunzai/pytorch-cifar100: stages from conv2_x on, blocks in a row with their ReLUs."""
    trained = randomised(build(name))
    parts = dict(zip(("conv1", "bn1", "conv2", "bn2"), part_of_place, strict=True))

    def theirs(own):
        if own.startswith(("conv1.", "bn1.")):
            return own.replace("conv1.", "conv1.0.").replace("bn1.", "conv1.1.")
        stage, *inner = own.split(".")
        if not stage.startswith("layer"):
            return own
        block, part, *rest = inner
        place = [f"residual_function.{parts[part]}"] if part in parts else [part]
        return ".".join([f"conv{int(stage[-1]) + 1}_x", block, *place, *rest])

    stored = {theirs(own): value for own, value in trained.state_dict().items()}
    assert "conv3_x.0.residual_function.3.weight" in stored
    assert "conv1.1.running_var" in stored
    torch.save(stored, tmp_path / "teacher.pth")
    model = build(name)
    load_weights(model, tmp_path / "teacher.pth")
    assert same_outputs(model, trained)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_saved_on_a_gpu_loads_without_one(trained, tmp_path, monkeypatch, zipped):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        torch.save(trained.state_dict(), tmp_path / "teacher.pth", _use_new_zipfile_serialization=zipped)
    model = build()
    load_weights(model, tmp_path / "teacher.pth")
    assert same_outputs(model, trained)


def test_the_other_family_in_safetensors(trained, tmp_path):
    safetensors.torch.save_file(other_family(trained.state_dict()), tmp_path / "teacher.safetensors")
    model = build()
    load_weights(model, tmp_path / "teacher.safetensors")
    assert same_outputs(model, trained)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files_become_float32(trained, tmp_path, dtype):
    halved = {
        name: value.to(dtype) if value.is_floating_point() else value for name, value in trained.state_dict().items()
    }
    safetensors.torch.save_file(halved, tmp_path / "teacher.safetensors")
    weights = read_weights(tmp_path / "teacher.safetensors").weights
    assert weights["conv1.weight"].dtype == torch.float32
    assert weights["bn1.num_batches_tracked"].dtype == torch.int64
    assert torch.equal(weights["conv1.weight"], halved["conv1.weight"].float())


def test_the_content_decides_not_the_file_name(trained, tmp_path):
    save_weights(trained, tmp_path / "teacher.pth")
    torch.save(trained.state_dict(), tmp_path / "teacher.safetensors")
    for name in ("teacher.pth", "teacher.safetensors"):
        load_weights(network := build(), tmp_path / name)
        assert same_outputs(network, trained)


def test_names_that_fit_as_they_are_are_never_renamed(tmp_path):
    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.linear = nn.Linear(2, 2)

    one, other = TwoHeads(), TwoHeads()
    save_weights(one, tmp_path / "two-heads.safetensors")
    load_weights(other, tmp_path / "two-heads.safetensors")
    assert torch.equal(other.fc.weight, one.fc.weight)
    assert torch.equal(other.linear.weight, one.linear.weight)


def test_two_candidates_for_one_part_are_not_guessed_between(trained, tmp_path):
    weights = dict(trained.state_dict())
    weights["linear.weight"] = weights.pop("fc.weight")
    weights["classifier.weight"] = torch.zeros_like(weights["linear.weight"])
    torch.save(weights, tmp_path / "teacher.pt")
    refused(FileError, r"1 unexpected \(`classifier\.weight`\)", tmp_path / "teacher.pt")


def test_published_densenet_names(tmp_path):
    model = build("torchvision:densenet121", image_shape=(3, 32, 32))
    published = {
        name.replace(".norm1.", ".norm.1.").replace(".norm2.", ".norm.2.").replace(".conv1.", ".conv.1."): value
        for name, value in model.state_dict().items()
    }
    assert published.keys() != model.state_dict().keys()
    torch.save(published, tmp_path / "densenet.pth")
    with torch.no_grad():
        expected = [parameter.clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.zero_()
    load_weights(model, tmp_path / "densenet.pth")
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), expected, strict=True))


# ---- files that do not fit


def refused(kind, message, path, model=None):
    """The error, after seeing that the network was left alone."""
    model = model or build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(kind, match=message) as raised:
        load_weights(model, path)
    assert raised.value.hint
    assert path.name in raised.value.message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return raised.value


def test_shortcuts_with_weights_have_a_name_of_their_own(tmp_path):
    renamed = {
        name.replace("shortcut", "downsample").replace("linear", "fc"): value
        for name, value in build("resnet20b").state_dict().items()
    }
    torch.save({"epoch": 240, "model": renamed}, tmp_path / "resnet20.pth")
    error = refused(FileError, "12 unexpected", tmp_path / "resnet20.pth", build("resnet20"))
    assert "`resnet56b`" in error.hint
    load_weights(build("resnet20b"), tmp_path / "resnet20.pth")
    save_weights(build("resnet20"), tmp_path / "plain.safetensors")
    error = refused(FileError, "10 missing", tmp_path / "plain.safetensors", build("resnet20b"))
    assert "without the b" in error.hint


def test_a_file_that_brings_its_normalisation_says_what_that_is(trained, tmp_path):
    """Left out without a word it would be another teacher's images that the network sees."""
    own = {"normalize.mean": torch.tensor([0.5, 0.25, 0.125]), "normalize.std": torch.tensor([0.2, 0.3, 0.4])}
    for name, stored in {"one": own, "other": {"mu": own["normalize.mean"], "sigma": own["normalize.std"]}}.items():
        torch.save(trained.state_dict() | stored, tmp_path / f"{name}.pt")
        error = refused(FileError, "2 unexpected", tmp_path / f"{name}.pt")
        assert "task.mean=[0.5, 0.25, 0.125] and task.std=[0.2, 0.3, 0.4]" in error.hint


def test_a_number_beside_weights_under_a_name_of_their_own(trained, tmp_path):
    torch.save({"student_model": trained.state_dict(), "best_acc": torch.tensor(91.0)}, tmp_path / "teacher.pt")
    load_weights(network := build(), tmp_path / "teacher.pt")
    assert same_outputs(network, trained)


def test_weights_whose_names_have_no_dot_are_found(tmp_path):
    linear = nn.Linear(3, 2)
    torch.save({**linear.state_dict(), "options": {"epochs": 3}}, tmp_path / "teacher.pt")
    assert read_weights(tmp_path / "teacher.pt").weights.keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: "backbone." + name if not name.startswith("linear") else name.replace("linear", "head.fc"),
        lambda name: "encoder." + name if not name.startswith("linear") else name.replace("linear", "fc"),
        lambda name: name.replace("layer2.", "layer2.module."),
    ],
    ids=["OpenMMLab", "SimCLR", "DataParallel around a part"],
)
def test_names_of_networks_in_two_parts(randomised, tmp_path, rename):
    teacher = randomised(build("resnet20"))
    torch.save({rename(name): value for name, value in teacher.state_dict().items()}, tmp_path / "teacher.pt")
    load_weights(network := build("resnet20"), tmp_path / "teacher.pt")
    assert same_outputs(network, teacher)


def test_networks_that_are_often_taken_for_ours_are_named(tmp_path):
    features = {f"features.{index}.weight": torch.ones(2, 2) for index in range(4)}
    torch.save(features, tmp_path / "vgg.pt")
    assert "name its own code" in refused(FileError, "another network", tmp_path / "vgg.pt", build("vgg11")).hint
    stem = build("resnet18").state_dict() | {"conv1.weight": torch.zeros(64, 3, 7, 7)}
    torch.save(stem, tmp_path / "resnet.pt")
    assert "`torchvision:NAME`" in refused(FileError, "1 shapes differ", tmp_path / "resnet.pt", build("resnet18")).hint


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_newer_pickle_is_not_called_damaged(trained, tmp_path, protocol):
    torch.save(trained.state_dict(), tmp_path / "teacher.pt", pickle_protocol=protocol)
    error = refused(FileError, "reading it would run code", tmp_path / "teacher.pt")
    assert "state_dict" in error.hint


@pytest.mark.parametrize("rename", [dict, other_family], ids=["own names", "other family"])
def test_another_number_of_classes(tmp_path, rename):
    torch.save(rename(build(num_classes=100).state_dict()), tmp_path / "teacher.pt")
    error = refused(ConfigError, "has 100 classes, the preset says 10", tmp_path / "teacher.pt")
    assert "task.num_classes=100" in error.hint


def test_a_bias_that_is_a_number(tmp_path):
    stored = build().state_dict()
    stored["fc.bias"] = torch.tensor(1.0)
    safetensors.torch.save_file(stored, tmp_path / "teacher.safetensors")
    refused(FileError, r"another network: 1 shapes differ, `fc.bias` is \[\]", tmp_path / "teacher.safetensors")


def test_another_number_of_channels(tmp_path):
    save_weights(build(image_shape=(1, 16, 16)), tmp_path / "teacher.safetensors")
    error = refused(ConfigError, "images of 1 channels, the preset says 3", tmp_path / "teacher.safetensors")
    assert "task.image_shape" in error.hint


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("wrn16_1", "36 unexpected"),
        ("wrn10_2", r"1 unexpected \(`block1\.layer\.0\.convShortcut\.weight`\)"),
        ("resnet20", r"missing \(`block1"),
    ],
)
def test_another_network(tmp_path, stored, message):
    save_weights(build(stored), tmp_path / "teacher.safetensors")
    refused(FileError, "another network.*" + message, tmp_path / "teacher.safetensors")


def test_a_narrower_network_of_the_same_kind(tmp_path):
    save_weights(build("wrn10_2"), tmp_path / "teacher.safetensors")
    message = r"34 shapes differ, `block1\.layer\.0\.conv1\.weight` is \[32, 16, 3, 3\], expected \[48, 16, 3, 3\]"
    refused(FileError, message, tmp_path / "teacher.safetensors", build("wrn10_3"))


def test_a_shallower_network_of_the_same_kind(tmp_path):
    save_weights(build("wrn10_1"), tmp_path / "teacher.safetensors")
    refused(FileError, "30 missing", tmp_path / "teacher.safetensors", build("wrn16_1"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_diverged(trained, tmp_path, value):
    trained.fc.weight.data[0, 0] = value
    save_weights(trained, tmp_path / "teacher.safetensors")
    refused(FileError, r"`fc\.weight` .* NaN or infinity", tmp_path / "teacher.safetensors")


# ---- files that are broken


def test_missing_file(tmp_path):
    refused(FileError, "no such file", tmp_path / "nowhere.pt")


def test_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    refused(FileError, "is a folder", tmp_path / "folder")


def test_a_file_below_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    refused(FileError, "cannot be read", tmp_path / "file" / "teacher.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n\n<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"\x1f\x8b\x08" + bytes(100), "gzip"),
        (b"hello", "not a readable"),
        (bytes(1000), "not a readable"),
        (b"\x80\x02", "not a readable"),
        (b"\x80\x02}q\x00.", "not a readable|no weights"),
        (b"PK\x03\x04" + bytes(50), "not a readable"),
        (b"PK\x05\x06" + bytes(18), "not a readable"),
    ],
)
def test_foreign_content(tmp_path, content, message):
    (tmp_path / "teacher.pth").write_bytes(content)
    refused(FileError, message, tmp_path / "teacher.pth")


@pytest.mark.parametrize("mark", [b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"])
def test_an_archive_with_a_broken_byte_in_its_structure(trained, tmp_path, mark):
    path = tmp_path / "teacher.pt"
    torch.save(trained.state_dict(), path)
    content = bytearray(path.read_bytes())
    content[content.rfind(mark)] = 0
    path.write_bytes(content)
    refused(FileError, "not a readable|damaged", path)
    path.write_bytes(path.read_bytes()[len(content) // 2 :])  # the end of it, with its table of contents
    refused(FileError, "not a readable", path)


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["safetensors", "zip", "legacy"])
def test_cut_off_anywhere(trained, tmp_path, kind, kept):
    path = tmp_path / f"teacher.{kind}"
    if kind == "safetensors":
        save_weights(trained, path)
    else:
        torch.save(trained.state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refused(FileError, "damaged", path)


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes(b"{not json}"),
        struct.pack("<Q", 2**60) + b"{}",
        safetensors_bytes({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
        safetensors_bytes({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]}}, bytes(8)),
        safetensors_bytes({"w": {"dtype": "Q7", "shape": [1], "data_offsets": [0, 4]}}, bytes(4)),
        safetensors_bytes({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    ],
    ids=["json", "length", "no data", "shape", "dtype", "huge"],
)
def test_damaged_safetensors(tmp_path, content):
    (tmp_path / "teacher.safetensors").write_bytes(content)
    refused(FileError, "damaged safetensors", tmp_path / "teacher.safetensors")


def test_safetensors_without_tensors(tmp_path):
    (tmp_path / "teacher.safetensors").write_bytes(safetensors_bytes({}))
    refused(FileError, "no weights found .* its entries are none", tmp_path / "teacher.safetensors")


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_pickle_is_never_run(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(1)}, "extra": Exploit(tmp_path / "proof")}, tmp_path / "teacher.pt")
    refused(FileError, r"Python objects \(`\S*open`\).*run code", tmp_path / "teacher.pt")
    assert not (tmp_path / "proof").exists()


def test_a_whole_pickled_network(trained, tmp_path):
    torch.save(trained, tmp_path / "teacher.pt")
    error = refused(FileError, r"`stages\.models\.wrn\.WideResNet`", tmp_path / "teacher.pt")
    command = re.search(r"(torch\.save\(.*?, ANOTHER_FILE\))$", error.hint)
    assert command is not None, "the only one there"
    files = {"FILE": tmp_path / "teacher.pt", "ANOTHER_FILE": tmp_path / "weights.pt"}
    exec(command[1], {"torch": torch, **files})
    network = build()
    load_weights(network, tmp_path / "weights.pt")
    assert same_outputs(network, trained)


def test_a_whole_network_in_a_checkpoint_or_in_an_old_file(trained, tmp_path):
    torch.save({"net": trained, "epoch": 3}, tmp_path / "checkpoint.pt")
    hint = refused(FileError, "Python objects", tmp_path / "checkpoint.pt").hint
    assert '["state_dict"], ANOTHER_FILE), or whatever' in hint
    assert 'is the network itself, `["net"].state_dict()`' in hint
    assert "of a whole network" not in hint
    torch.save(trained, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save(SimpleNamespace(state_dict=trained.state_dict()), tmp_path / "namespace.pt")
    for file in ("old.pt", "namespace.pt"):
        hint = refused(FileError, "Python objects", tmp_path / file).hint
        assert "of a whole network torch.save(" in hint
        assert "; of a checkpoint torch.save(" in hint


def test_files_of_other_kinds_are_told_as_what_they_are(trained, tmp_path):
    weights = trained.state_dict()
    np.savez(tmp_path / "w.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    command = refused(FileError, "holds arrays of numpy's", tmp_path / "w.npz").hint
    exec(command, {"torch": torch, "numpy": np, "FILE": tmp_path / "w.npz", "ANOTHER_FILE": tmp_path / "w.pt"})
    load_weights(network := build(), tmp_path / "w.pt")
    assert same_outputs(network, trained)

    np.save(tmp_path / "w.npy", np.zeros(3))
    refused(FileError, "a single array of numpy's", tmp_path / "w.npy")
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.write(tmp_path / "w.pt", "teacher.pt")
    error = refused(FileError, "is a zip archive of `teacher.pt`", tmp_path / "w.zip")
    assert "unpack it" in error.hint
    (tmp_path / "w.onnx").write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x051.7.0:\x80\x01")
    error = refused(FileError, "or of another kind", tmp_path / "w.onnx")
    assert "in place of ONNX" in error.hint


def test_a_torchscript_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "teacher.pt", "w") as archive:
        archive.writestr("teacher/constants.pkl", b"\x80\x02).")
        archive.writestr("teacher/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("teacher/version", b"3\n")
    assert "torch.jit.load" in refused(FileError, "is TorchScript", tmp_path / "teacher.pt").hint


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({}, "its entries are none"),
        ({"epoch": 3, "loss": 0.5}, "its entries are `epoch`, `loss`"),
        ({"state_dict": {}, "a": 1, "b": 2, "c": 3}, r"`state_dict`, `a`, `b`, \.\.\."),
        ([torch.ones(2)], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({"w": torch.eye(2).to_sparse()}, "`w` .* not a plain tensor"),
        ({"w": torch.empty(2, device="meta")}, "`w` .* not a plain tensor"),
    ],
)
def test_pytorch_files_without_plain_weights(tmp_path, stored, message):
    torch.save(stored, tmp_path / "teacher.pt")
    refused(FileError, message, tmp_path / "teacher.pt")


def test_a_checkpoint_that_holds_itself(tmp_path):
    stored = {"epoch": 1}
    stored["model"] = stored
    torch.save(stored, tmp_path / "teacher.pt")
    refused(FileError, "no weights found", tmp_path / "teacher.pt")


def test_weights_under_a_name_of_their_own(trained, tmp_path):
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"best_ema": trained.state_dict(), "optimizer": optimizer, "epoch": 3}, tmp_path / "teacher.pt")
    load_weights(network := build(), tmp_path / "teacher.pt")
    assert same_outputs(network, trained)


def test_two_networks_under_names_of_their_own(trained, tmp_path):
    torch.save({"teacher": trained.state_dict(), "student": build().state_dict()}, tmp_path / "both.pt")
    error = refused(FileError, "in 2 places: `teacher`, `student`", tmp_path / "both.pt")
    assert 'torch.load(FILE, map_location="cpu", weights_only=False)["teacher"]' in error.hint


def average_of(state_dict):
    return {name: value + 1 if value.is_floating_point() else value for name, value in state_dict.items()}


@pytest.mark.parametrize(
    ("checkpoint", "index"),
    [
        (lambda own, other: {"state_dict": own, "state_dict_ema": other}, '["state_dict_ema"]'),
        (lambda own, other: {"model": own, "model_ema": {"module": other}}, '["model_ema"]["module"]'),
        (lambda own, other: {"params": own, "params_ema": {f"module.{n}": v for n, v in other.items()}},
         '["params_ema"]'),
        (lambda own, other: {**own, "callbacks": {"EMA": {"weights": other}}}, '["callbacks"]["EMA"]["weights"]'),
    ],
)  # fmt: skip
def test_an_average_beside_the_weights_is_told_of(trained, tmp_path, checkpoint, index):
    own = trained.state_dict()
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}}
    torch.save(checkpoint(own, average_of(own)) | {"optimizer": optimizer}, tmp_path / "teacher.pt")
    others = load_weights(network := build(), tmp_path / "teacher.pt")
    assert others == (index,)
    assert same_outputs(network, trained)
    stored = torch.load(tmp_path / "teacher.pt")
    torch.save(eval(f"stored{index}", {"stored": stored}), tmp_path / "average.pt")
    load_weights(averaged := build(), tmp_path / "average.pt")
    assert torch.equal(averaged.fc.bias, trained.fc.bias + 1)


def test_the_same_weights_twice_are_no_other_ones(trained, tmp_path):
    own = trained.state_dict()
    torch.save({"state_dict": own, "best": {name: value.clone() for name, value in own.items()}}, tmp_path / "it.pt")
    assert load_weights(build(), tmp_path / "it.pt") == ()


def test_a_loss_among_the_weights(trained, tmp_path):
    torch.save(trained.state_dict() | {"criterion.weight": torch.ones(10)}, tmp_path / "teacher.pt")
    error = refused(FileError, r"1 unexpected \(`criterion\.weight`\)", tmp_path / "teacher.pt")
    assert "all of the network's names are there" in error.hint


def test_two_networks_under_their_names(trained, tmp_path):
    own = trained.state_dict()
    state_dict = {f"{prefix}.{name}": value for prefix in ("model", "ema_model") for name, value in own.items()}
    torch.save(state_dict, tmp_path / "teacher.pt")
    error = refused(FileError, rf"{len(own)} unexpected \(`ema_model\.", tmp_path / "teacher.pt")
    assert "two such networks are in it, one under `ema_model.`" in error.hint
    torch.save(eval(error.hint.split("`")[-2], {"state_dict": state_dict}), tmp_path / "one.pt")
    load_weights(network := build(), tmp_path / "one.pt")
    assert same_outputs(network, trained)


def test_a_classifier_of_ones_own(trained, tmp_path):
    trained.fc = nn.Sequential(nn.Dropout(), trained.fc)
    torch.save(trained.state_dict(), tmp_path / "teacher.pt")
    error = refused(FileError, r"2 missing \(`fc.weight`, `fc.bias`\), 2 unexpected \(`fc.1", tmp_path / "teacher.pt")
    assert "all but `fc` fits" in error.hint
    assert "path/to/file.py:factory" in error.hint


def test_a_classifier_of_ones_own_in_what_else_wraps_a_network(trained, tmp_path):
    trained.fc = nn.Sequential(nn.Dropout(), trained.fc)
    weights = {f"model.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2.0"}, tmp_path / "teacher.ckpt")
    error = refused(FileError, r"2 missing \(`fc.weight`, `fc.bias`\), 2 unexpected", tmp_path / "teacher.ckpt")
    assert "all but `fc` fits" in error.hint


def test_one_logit(trained, tmp_path):
    trained.fc = nn.Linear(trained.fc.in_features, 1)
    save_weights(trained, tmp_path / "teacher.safetensors")
    error = refused(ConfigError, "has one logit, the preset says 10 classes", tmp_path / "teacher.safetensors")
    assert "[-z / 2, z / 2]" in error.hint
    assert "num_classes=1" not in error.hint


def test_buffers_that_no_file_holds(trained, tmp_path):
    save_weights(trained, tmp_path / "teacher.safetensors")
    network = build()
    network.register_buffer("mean", torch.zeros(3))
    error = refused(FileError, r"1 missing \(`mean`\)", tmp_path / "teacher.safetensors", network)
    assert "persistent=False" in error.hint


def test_statistics_that_were_not_saved(trained, tmp_path):
    torch.save(dict(trained.named_parameters()), tmp_path / "teacher.pt")
    error = refused(FileError, r"missing \(`block1\.layer\.0\.bn1\.running_mean`", tmp_path / "teacher.pt")
    assert "Save `model.state_dict()`" in error.hint
    network = build()
    network.register_buffer("own", torch.zeros(3))
    error = refused(FileError, r"missing \(`own`, `block1", tmp_path / "teacher.pt", network)
    assert "Save `model.state_dict()`" in error.hint


def test_a_backbone_alone(trained, tmp_path):
    weights = {name: value for name, value in trained.state_dict().items() if not name.startswith("fc.")}
    torch.save(weights, tmp_path / "teacher.pt")
    error = refused(FileError, r"2 missing \(`fc.weight`, `fc.bias`\)", tmp_path / "teacher.pt")
    assert "weights of a backbone alone" in error.hint
    torch.save(weights | {"fc.weight": trained.fc.weight}, tmp_path / "no-bias.pt")
    error = refused(FileError, r"1 missing \(`fc.bias`\)", tmp_path / "no-bias.pt")
    assert "name the network they belong to" in error.hint


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "model.conv_stem.weight", "cls_token"])
def test_networks_of_timm(trained, tmp_path, name):
    torch.save({name: torch.ones(2, 2), "head.weight": torch.ones(2, 2)}, tmp_path / "teacher.pt")
    error = refused(FileError, "another network", tmp_path / "teacher.pt")
    assert "timm.create_model" in error.hint


def test_a_prefix_of_all_names(trained, tmp_path):
    torch.save({f"student.{name}": value for name, value in trained.state_dict().items()}, tmp_path / "teacher.pt")
    load_weights(network := build(), tmp_path / "teacher.pt")
    assert same_outputs(network, trained)


def test_what_averaging_and_counting_leave_behind(trained, tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(trained)
    left = {"total_ops": torch.zeros(1), "block1.layer.0.total_params": torch.zeros(1)}
    torch.save(averaged.state_dict() | left, tmp_path / "teacher.pt")
    load_weights(network := build(), tmp_path / "teacher.pt")
    assert same_outputs(network, trained)
