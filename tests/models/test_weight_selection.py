"""The student's first weights out of the teacher's: which layers, which channels, and what stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise, permutations
from pathlib import Path

import pytest
import torch
from image_task import image_task
from torch import Tensor, nn

from stages.config import TaskTable
from stages.models.build import build_model
from stages.models.weight_selection import select_weights

TASK = image_task(7, (3, 16, 16))
LARGER_IMAGES = image_task(7)
"""As large as CIFAR's, which some networks insist on."""


def network(name: str, *, seed: int, task: TaskTable = TASK) -> nn.Module:
    """With batch-norm statistics that differ from layer to layer, as those of a trained network do."""
    torch.manual_seed(seed)
    model = build_model(name, task=task, where="student.model")
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += 0.1 * torch.rand_like(value)
    return model


def outputs(model: nn.Module) -> Tensor:
    images = torch.rand(4, *TASK.image_shape, generator=torch.Generator().manual_seed(0))
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
    assert select_weights(student, teacher)[:2] == (1, 1)
    theirs = teacher.state_dict()
    for name, value in student.state_dict().items():
        parts = name.split(".")
        if name.startswith("layer"):
            parts[1] = str({0: 0, 1: 2, 2: 4}[int(parts[1])])
        if value.is_floating_point():
            assert torch.equal(value, theirs[".".join(parts)]), name


class Wrapper(nn.Module):
    """A network and what it does to its images."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, 1, 1))
        self.net = net

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.net(images_BCHW - self.mean)
        return logits_BK


WRAPPERS = {
    "wrapper": Wrapper,
    "parallel": nn.DataParallel,
    "behind a layer without weights": lambda net: nn.Sequential(nn.Identity(), net),
    "twice": lambda net: Wrapper(nn.DataParallel(net)),
}


@pytest.mark.parametrize("which", ["teacher", "student", "both"])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_what_wraps_a_network_does_not_count(wrap: Callable[[nn.Module], nn.Module], which: str) -> None:
    teacher, student = network("resnet32", seed=0), network("resnet20", seed=1)
    expected = network("resnet20", seed=1)
    inherited = select_weights(expected, teacher)
    assert inherited.whole == pytest.approx(1.0)
    wrapped = (student if which == "teacher" else wrap(student), teacher if which == "student" else wrap(teacher))
    assert select_weights(*wrapped) == inherited
    for value, wanted in zip(student.parameters(), expected.parameters(), strict=True):
        assert torch.equal(value, wanted)


def test_the_first_block_serves_a_row_of_one() -> None:
    teacher, student = network("wrn16_1", seed=0), network("wrn10_1", seed=1)
    assert select_weights(student, teacher).share == 1
    theirs, own = teacher.state_dict(), student.state_dict()
    names = [name for name in own if own[name].is_floating_point()]
    assert all(torch.equal(own[name], theirs[name]) for name in names)
    assert any(".0." in name for name in names)


def test_every_second_channel_of_a_network_twice_as_wide() -> None:
    teacher, student = network("wrn16_2", seed=0), network("wrn16_1", seed=1)
    assert select_weights(student, teacher)[:2] == (1, pytest.approx(432 / 180_000, rel=0.3))  # the stem alone is whole
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


FLATTENED = """
from torch import nn


def net(num_classes, width):
    return nn.Sequential(nn.Conv2d(3, width, 3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, num_classes))


def wide(num_classes): return net(num_classes, 12)
def narrow(num_classes): return net(num_classes, 8)
"""


def test_of_a_flattened_map_all_pixels_of_the_same_channels_are_read(tmp_path: Path) -> None:
    """Eight channels of twelve: not every second, and of each all sixteen pixels."""
    file = tmp_path / "flattened.py"
    file.write_text(FLATTENED, encoding="utf-8")
    teacher, student = network(f"{file}:wide", seed=0), network(f"{file}:narrow", seed=1)
    select_weights(student, teacher)
    chosen = torch.tensor([0, 1, 3, 4, 6, 7, 9, 10])
    assert torch.equal(student[0].weight, teacher[0].weight[chosen])
    pruned = copy.deepcopy(teacher)
    with torch.no_grad():
        by_channel = pruned[3].weight.unflatten(1, (12, 16))
        by_channel[:, [2, 5, 8, 11]] = 0
    torch.testing.assert_close(outputs(student), outputs(pruned), rtol=1e-4, atol=1e-5)


DEEPER = """
from torch import nn


def net(num_classes, width, in_channels=3):
    stem = nn.Conv2d(in_channels, width, 3, 4)
    convs = [nn.Conv2d(width, width, kernel, padding=kernel // 2) for kernel in (5, 1, 7, 3)]
    hidden = nn.Linear(16 * width, width)
    return nn.Sequential(stem, *convs, nn.ReLU(), nn.Flatten(), hidden, nn.Linear(width, num_classes))


def wide(num_classes): return nn.Sequential(nn.Conv2d(3, 5, 1), *net(num_classes, 12, in_channels=5))
def narrow(num_classes): return net(num_classes, 8)
"""


def test_where_rows_have_other_stages_a_flattened_map_is_still_read_by_its_channels(tmp_path: Path) -> None:
    """Whatever kinds of layers there are, they are taken in their order: what one writes the next one reads."""
    file = tmp_path / "deeper.py"
    file.write_text(DEEPER, encoding="utf-8")
    teacher, student = network(f"{file}:wide", seed=0), network(f"{file}:narrow", seed=1)
    select_weights(student, teacher)
    chosen = torch.tensor([0, 1, 3, 4, 6, 7, 9, 10])
    by_channel = teacher[-2].weight[chosen].unflatten(1, (12, 16))[:, chosen].flatten(1)
    assert torch.equal(student[-2].weight, by_channel)


NAMED_HEAD = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes, name):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.name = name
        self.add_module(name, nn.Linear(16, num_classes))

    def forward(self, images):
        return getattr(self, self.name)(self.stem(images).mean(dim=(2, 3)))


def classifier(num_classes): return Net(num_classes, "classifier")
def linear(num_classes): return Net(num_classes, "linear")
def fc(num_classes): return Net(num_classes, "fc")
"""


@pytest.mark.parametrize(("theirs", "mine"), list(permutations(("classifier", "linear", "fc"), 2)))
def test_a_last_layer_is_found_by_any_of_its_usual_names(tmp_path: Path, theirs: str, mine: str) -> None:
    file = tmp_path / "named.py"
    file.write_text(NAMED_HEAD, encoding="utf-8")
    teacher, student = network(f"{file}:{theirs}", seed=0), network(f"{file}:{mine}", seed=1)
    assert select_weights(student, teacher)[:2] == (1, 1)
    assert torch.equal(getattr(student, mine).weight, getattr(teacher, theirs).weight)


def test_layers_of_another_family_are_matched_by_their_depth() -> None:
    file = Path(__file__).with_name("nonstandard_resnet20.py")
    teacher, student = (
        network(name, seed=seed, task=LARGER_IMAGES) for seed, name in enumerate((f"{file}:resnet20", "wrn16_1"))
    )
    assert select_weights(student, teacher)[:2] == (1, 0)
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
    share, whole, *_ = select_weights(student, network(other, seed=0))
    assert share > 0.95
    assert whole == 0, "where they lie now they compute something else"
    assert outputs(student).isfinite().all()


def test_what_has_no_counterpart_stays_as_it_was() -> None:
    teacher, student = network("resnet20", seed=0), network("vgg11", seed=1)
    before = copy.deepcopy(student.state_dict())
    share, whole, *_ = select_weights(student, teacher)
    changed = [key for key, value in student.state_dict().items() if not torch.equal(value, before[key])]
    assert whole <= share < 0.1
    assert {key.rpartition(".")[0] for key in changed} == {"block0.0", "block0.1"}, "no other layer is as narrow"


def test_a_wider_network_than_the_teacher_keeps_its_own_wide_layers() -> None:
    teacher, student = network("wrn16_1", seed=0), network("wrn16_2", seed=1)
    before = copy.deepcopy(student.state_dict())
    assert select_weights(student, teacher).share < 0.5
    for name in ("fc.weight", "fc.bias"):
        assert torch.equal(student.state_dict()[name], before[name]), "a layer is taken whole or not at all"


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


def test_a_layer_of_a_sequence_brings_its_batch_norm_along() -> None:
    """What has no weights, a max-pool here, makes no difference."""

    def plain(*widths: int, is_pooled: bool = False) -> nn.Module:
        layers: list[nn.Module] = []
        for few, many in pairwise(widths):
            pooling = [nn.MaxPool2d(2)] if is_pooled else []
            layers += [nn.Conv2d(few, many, 3, padding=1), nn.BatchNorm2d(many), nn.ReLU(), *pooling]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 7))

    torch.manual_seed(0)
    deep, shallow = plain(3, 8, 8, 16, 16, 16), plain(3, 8, 16, 16, is_pooled=True)
    for layer in deep:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean)
    assert select_weights(shallow, deep)[:2] == (1, 1)
    own = [layer for layer in shallow if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    theirs = [layer for layer in deep if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
    for layer, other in zip(own, [*theirs[:2], *theirs[4:6], *theirs[8:]], strict=True):
        assert torch.equal(layer.weight, other.weight)
        if isinstance(layer, nn.BatchNorm2d):
            assert torch.equal(layer.running_mean, other.running_mean)


@pytest.mark.parametrize(("num_student", "num_teacher"), [(2, 5), (1, 4), (3, 5), (3, 3)])
def test_all_stages_may_lie_in_one_sequence(tmp_path: Path, num_student: int, num_teacher: int) -> None:
    """Its blocks are taken from the first to the last of each."""
    file = tmp_path / "stages_in_a_row.py"
    file.write_text(THEIR_RESNET + STAGES_IN_A_ROW, encoding="utf-8")
    teacher, student = (
        network(f"{file}:net{number}", seed=seed) for seed, number in enumerate((num_teacher, num_student))
    )
    assert select_weights(student, teacher)[:3] == (1, 1, None)
    for stage in range(3):
        for own in {0, num_student - 1}:
            place = 0 if own == 0 else num_teacher - 1
            block, other = student[1][stage * num_student + own], teacher[1][stage * num_teacher + place]
            torch.testing.assert_close(block.state_dict(), other.state_dict(), rtol=0, atol=0)
    assert torch.equal(student[1][-1].running_mean, teacher[1][-1].running_mean)


def test_stages_of_a_narrower_network_are_matched_one_by_one(tmp_path: Path) -> None:
    """Though some have the widths of another stage."""
    file = tmp_path / "stages_in_a_row.py"
    file.write_text(THEIR_RESNET + STAGES_IN_A_ROW, encoding="utf-8")
    teacher, student = network(f"{file}:wide", seed=0), network(f"{file}:net2", seed=1)
    assert select_weights(student, teacher).share == 1
    for own, place in enumerate((0, 4, 5, 9, 10, 14)):
        assert torch.equal(student[1][own].conv2.weight, teacher[1][place].conv2.weight[::2, ::2])


def test_layers_of_a_sequence_are_matched_though_only_one_network_has_batch_norms() -> None:
    def plain(*layers: nn.Module) -> nn.Module:
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 7))

    torch.manual_seed(0)
    with_norms = plain(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16))
    without = plain(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU())
    for student, teacher in ((with_norms, without), (without, with_norms)):
        student = copy.deepcopy(student)
        select_weights(student, teacher)
        assert torch.equal(student[-1].weight, teacher[-1].weight)
        convolutions = [[layer for layer in net if isinstance(layer, nn.Conv2d)] for net in (student, teacher)]
        for own, other in zip(*convolutions, strict=True):
            assert torch.equal(own.weight, other.weight)


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
    assert select_weights(student, teacher)[:2] == (1, 1)
    assert torch.equal(student[0][1].conv.weight, teacher[0][4].conv.weight)


THEIR_RESNET = """
import torch.nn.functional as F
from torch import nn

class Block(nn.Module):
    def __init__(self, few, many, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(few, many, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(many)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(many, many, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(many)
        self.downsample = None
        if few != many:
            self.downsample = nn.Sequential(nn.Conv2d(few, many, 1, stride, bias=False), nn.BatchNorm2d(many))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for stage, (few, many) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            blocks = [Block(many if i else few, many, 1 if i or stage == 1 else 2) for i in range(5)]
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(F.relu(self.bn1(self.conv1(x))))))
        return self.fc(x.mean((2, 3)))
"""


def test_two_files_may_have_other_blocks_by_the_same_names(tmp_path: Path) -> None:
    """The class is called the same, and computes something else: nothing of it counts as the teacher's."""
    shares = []
    for folder, text in (("one", THEIR_RESNET), ("two", THEIR_RESNET.replace("F.relu", "F.gelu"))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(text, encoding="utf-8")
        student, teacher = (network(f"{tmp_path / name / 'net.py'}:Net", seed=0) for name in ("one", folder))
        shares.append(select_weights(student, teacher)[:2])
    assert shares[0] == (1, 1)
    assert shares[1][0] == 1
    assert shares[1][1] < 0.1


STAGES_IN_A_ROW = """
def net(num_classes, number, width=16):
    widths = [(width, width), (width, 2 * width), (2 * width, 4 * width)]
    blocks = [Block(many if i else few, many, 1) for few, many in widths for i in range(number)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, num_classes))
    return nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.Sequential(*blocks, nn.BatchNorm2d(4 * width)), head)

def net1(num_classes): return net(num_classes, 1)
def net2(num_classes): return net(num_classes, 2)
def net3(num_classes): return net(num_classes, 3)
def net4(num_classes): return net(num_classes, 4)
def net5(num_classes): return net(num_classes, 5)
def wide(num_classes): return net(num_classes, 5, 32)
"""


def test_blocks_that_another_file_made_are_matched_block_by_block(tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(THEIR_RESNET, encoding="utf-8")
    ours, theirs = network("resnet32b", seed=0), network(f"{file}:Net", seed=1)
    assert select_weights(theirs, ours).share == 1
    torch.testing.assert_close(outputs(theirs), outputs(ours), rtol=0, atol=0)
    student, expected = network("resnet20b", seed=2), network("resnet20b", seed=2)
    share, whole, *_ = select_weights(student, theirs)
    assert (share, select_weights(expected, ours)[:2]) == (1, (1, 1))
    assert whole < 0.1, "who knows what their blocks compute"
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(("name", "other"), [("resnet20", "resnet32b"), ("resnet20b", "resnet32")])
def test_blocks_that_lose_their_shortcut_are_not_whole(name: str, other: str) -> None:
    student, teacher = network(name, seed=0), network(other, seed=1)
    share, whole, only_in_one, _ = select_weights(student, teacher)
    assert share > 0.98
    assert (whole, only_in_one) == (0, "shortcut.0")
    assert torch.equal(student.layer3[2].conv2.weight, teacher.layer3[4].conv2.weight)


def test_blocks_of_other_widths_may_differ_in_their_shortcuts() -> None:
    """Of a stage that no longer widens; little of it is whole in any case."""
    share, _, only_in_one, _ = select_weights(network("wrn16_1", seed=0), network("wrn16_2", seed=1))
    assert (share, only_in_one) == (1, None)


THEIR_WRN = """
import torch.nn.functional as F
from torch import nn

class Block(nn.Module):
    def __init__(self, few, many, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(few)
        self.conv1 = nn.Conv2d(few, many, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(many)
        self.conv2 = nn.Conv2d(many, many, 3, 1, 1, bias=False)
        if few != many:
            self.SHORTCUT = nn.Conv2d(few, many, 1, stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        x = self.SHORTCUT(out) if hasattr(self, "SHORTCUT") else x
        return x + self.conv2(F.relu(self.bn2(self.conv1(out))))

class Stage(nn.Module):
    def __init__(self, few, many, stride):
        super().__init__()
        self.layer = nn.Sequential(Block(few, many, stride), Block(many, many, 1))

    def forward(self, x):
        return self.layer(x)

class Net(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1, self.block2, self.block3 = Stage(16, 32, 1), Stage(32, 64, 2), Stage(64, 128, 2)
        self.bn1, self.fc = nn.BatchNorm2d(128), nn.Linear(128, num_classes)

    def forward(self, x):
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return self.fc(F.relu(self.bn1(x)).mean((2, 3)))
"""


@pytest.mark.parametrize("shortcut", ["convShortcut", "shortcut"])
def test_blocks_of_another_file_may_call_their_shortcut_otherwise(tmp_path: Path, shortcut: str) -> None:
    file = tmp_path / f"their_{shortcut}.py"
    file.write_text(THEIR_WRN.replace("SHORTCUT", shortcut), encoding="utf-8")
    ours, theirs = network("wrn16_2", seed=0), network(f"{file}:Net", seed=1)
    assert select_weights(theirs, ours).share == 1
    torch.testing.assert_close(outputs(theirs), outputs(ours), rtol=0, atol=0)
    student, expected = network("wrn16_1", seed=2), network("wrn16_1", seed=2)
    assert select_weights(student, theirs).share == select_weights(expected, ours).share == 1
    torch.testing.assert_close(student.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_blocks_of_another_file_in_other_rows_are_matched_by_their_depth() -> None:
    """Its last row would be the teacher's last but one, in front of a last layer that reads what comes after."""
    student, teacher = network("resnet20", seed=0), network("resnet34", seed=1)
    assert select_weights(student, teacher)[:2] == (1, 0)
    last = teacher.layer4[2].conv2.weight[::8, ::8]
    assert torch.equal(student.layer3[2].conv2.weight, last)


@pytest.mark.parametrize("names", [("fc", "linear"), ("linear", "classifier")], ids=" ".join)
def test_parts_of_two_names_that_mean_one_elsewhere_stay_two(names: tuple[str, str]) -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(4, 4))

    small, large = TwoHeads(), TwoHeads()
    assert select_weights(small, large)[:2] == (1, 1)
    for name in names:
        assert torch.equal(getattr(small, name).weight, getattr(large, name).weight)
