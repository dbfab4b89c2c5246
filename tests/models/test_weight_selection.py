"""The student's first weights out of the teacher's: which layers, which channels, and what stays as it was."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages.models.build import build_model
from stages.models.weight_selection import select_weights


class Images:
    """What networks are built for."""

    kind = "classification"
    num_classes = 7
    image_shape = (3, 16, 16)


class LargerImages(Images):
    """As large as CIFAR's, which some networks insist on."""

    image_shape = (3, 32, 32)


def network(name: str, *, seed: int, task: type[Images] = Images) -> nn.Module:
    """With batch-norm statistics that differ from layer to layer, as those of a trained network do."""
    torch.manual_seed(seed)
    model = build_model(name, task=task(), where="student.model")
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    return model


def outputs(model: nn.Module) -> Tensor:
    images = torch.rand(4, *Images.image_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(images)


@pytest.mark.parametrize("name", ["resnet20", "resnet20b", "wrn16_1", "vgg11", "resnet18"])
def test_a_network_of_the_same_architecture_becomes_the_teacher(name: str) -> None:
    teacher, student = network(name, seed=0), network(name, seed=1)
    assert not torch.allclose(outputs(student), outputs(teacher))
    assert select_weights(student, teacher).share == 1
    torch.testing.assert_close(outputs(student), outputs(teacher), rtol=0, atol=0)


def test_of_a_longer_row_of_blocks_some_are_taken_from_the_first_to_the_last() -> None:
    teacher, student = network("resnet32", seed=0), network("resnet20", seed=1)
    assert select_weights(student, teacher) == (1, 1)
    theirs = teacher.state_dict()
    for name, value in student.state_dict().items():
        parts = name.split(".")
        if name.startswith("layer"):
            parts[1] = str({0: 0, 1: 2, 2: 4}[int(parts[1])])
        if value.is_floating_point():
            assert torch.equal(value, theirs[".".join(parts)]), name


def test_the_first_block_serves_a_row_of_one() -> None:
    teacher, student = network("wrn16_1", seed=0), network("wrn10_1", seed=1)
    assert select_weights(student, teacher).share == 1
    theirs, own = teacher.state_dict(), student.state_dict()
    names = [name for name in own if own[name].is_floating_point()]
    assert all(torch.equal(own[name], theirs[name]) for name in names)
    assert any(".0." in name for name in names)


def test_every_second_channel_of_a_network_twice_as_wide() -> None:
    teacher, student = network("wrn16_2", seed=0), network("wrn16_1", seed=1)
    assert select_weights(student, teacher) == (1, pytest.approx(432 / 180_000, rel=0.3))  # the stem alone is whole
    theirs = teacher.state_dict()
    num_narrower = 0
    for name, value in student.state_dict().items():
        if value.is_floating_point():
            expected = theirs[name]
            for dimension in range(min(2, value.ndim)):
                if value.shape[dimension] < expected.shape[dimension]:
                    assert 2 * value.shape[dimension] == expected.shape[dimension]
                    expected = expected.unflatten(dimension, (-1, 2)).select(dimension + 1, 0)
                    num_narrower += 1
            assert torch.equal(value, expected), name
    assert num_narrower > 20


def test_a_narrower_network_computes_what_a_pruned_teacher_computes() -> None:
    """What one layer writes the next one reads: the other channels' ways out are cut, in a copy of the teacher."""
    teacher, student = network("wrn16_4", seed=0), network("wrn16_2", seed=1)
    select_weights(student, teacher)
    pruned = copy.deepcopy(teacher)
    with torch.no_grad():
        for module in pruned.modules():
            is_wide = isinstance(module, nn.Conv2d | nn.Linear) and module.weight.shape[1] > 16  # behind the stem
            if is_wide:
                module.weight[:, 1::2] = 0
    torch.testing.assert_close(outputs(student), outputs(pruned), rtol=1e-4, atol=1e-4)


def test_layers_of_another_family_are_matched_by_their_depth() -> None:
    file = Path(__file__).with_name("nonstandard_resnet20.py")
    teacher, student = (
        network(name, seed=seed, task=LargerImages) for seed, name in enumerate((f"{file}:resnet20", "wrn16_1"))
    )
    assert select_weights(student, teacher) == (1, 0)
    stem, second = student.conv1, student.block1.layer[0].conv1
    assert torch.equal(stem.weight, teacher.conv1.weight[::4])
    assert torch.equal(second.weight, teacher.layer1[0].conv1.weight[:, ::4]), "it reads what the stem writes"
    for stage in range(1, 4):
        own, other = getattr(student, f"block{stage}").layer, getattr(teacher, f"layer{stage}")
        assert torch.equal(own[1].conv2.weight, other[2].conv2.weight), "the last of a stage is the last of a stage"
    assert torch.equal(student.bn1.running_var, teacher.layer3[2].bn2.running_var)
    assert torch.equal(student.fc.weight, teacher.linear.weight[:, ::4])


@pytest.mark.parametrize(("name", "other"), [("resnet18", "vgg11"), ("resnet20", "wrn40_2"), ("wrn16_1", "resnet18")])
def test_pairs_of_two_families_share_nearly_all_layers(name: str, other: str) -> None:
    student = network(name, seed=1)
    share, whole = select_weights(student, network(other, seed=0))
    assert share > 0.95
    assert whole == 0, "where they lie now they compute something else"
    assert outputs(student).isfinite().all()


def test_what_has_no_counterpart_stays_as_it_was() -> None:
    teacher, student = network("resnet20", seed=0), network("vgg11", seed=1)
    before = copy.deepcopy(student.state_dict())
    share, whole = select_weights(student, teacher)
    changed = [key for key, value in student.state_dict().items() if not torch.equal(value, before[key])]
    assert whole <= share < 0.1
    assert {key.rpartition(".")[0] for key in changed} == {"block0.0", "block0.1"}, "no other layer is as narrow"


def test_a_wider_network_than_the_teacher_keeps_its_own_wide_layers() -> None:
    teacher, student = network("wrn16_1", seed=0), network("wrn16_2", seed=1)
    before = copy.deepcopy(student.state_dict())
    assert select_weights(student, teacher).share < 0.5
    assert torch.equal(student.state_dict()["fc.weight"], before["fc.weight"])


def test_layers_of_a_sequence_are_matched_by_their_kind() -> None:
    def plain(*widths: int) -> nn.Module:
        layers: list[nn.Module] = []
        for few, many in pairwise(widths):
            layers += [nn.Linear(few, many), nn.ReLU()]
        return nn.Sequential(*layers)

    deep, shallow = plain(4, 4, 4, 4), plain(4, 4, 4)
    assert select_weights(shallow, deep).share == 1
    assert torch.equal(shallow[0].weight, deep[0].weight)
    assert torch.equal(shallow[2].weight, deep[4].weight)


def test_blocks_of_a_file_of_ones_own_are_of_one_kind_though_the_file_is_run_for_each_network(tmp_path) -> None:
    file = tmp_path / "networks.py"
    file.write_text(
        "from torch import nn\n"
        "class Block(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = nn.Conv2d(3, 3, 3, padding=1)\n"
        "    def forward(self, x):\n"
        "        return x + self.conv(x)\n"
        "def build(num_classes, blocks):\n"
        "    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))\n"
        "    return nn.Sequential(nn.Sequential(*[Block() for _ in range(blocks)]), head)\n"
        "def large(num_classes): return build(num_classes, 5)\n"
        "def small(num_classes): return build(num_classes, 2)\n",
        encoding="utf-8",
    )
    teacher, student = network(f"{file}:large", seed=0), network(f"{file}:small", seed=1)
    assert select_weights(student, teacher) == (1, 1)
    assert torch.equal(student[0][1].conv.weight, teacher[0][4].conv.weight)
