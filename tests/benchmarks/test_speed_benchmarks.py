"""The benchmarks of speed: what they count, and that they run."""

from __future__ import annotations

import itertools
import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from benchmark_modules import import_beside
from torch import nn

from stages.config import load
from stages.inversion.bn_statistics import BatchNormMatching

compare, ceilings, epochs, observing, profile_stages, reference, units, workload = import_beside(
    "speed", "compare", "ceilings", "epochs", "observing", "profile_stages", "reference", "units", "workload"
)

B, IN, MIDDLE, H, W, K = 3, 2, 5, 6, 4, 7
CONVOLUTION = 2 * B * H * W * MIDDLE * IN * 9
LINEAR = 2 * B * K * MIDDLE * H * W
SMALL = ["inversion.batch_size=8", "inversion.steps=2", "distillation.batch_size=8", "distillation.steps=3"]


@pytest.fixture
def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(IN, MIDDLE, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(MIDDLE * H * W, K, bias=False),
    )


def test_flop_of_a_pass_is_the_hand_count(network: nn.Module) -> None:
    images = torch.rand(B, IN, H, W)
    with torch.no_grad():
        cost = observing.cost_of(lambda: network(images))
    assert cost.flop == CONVOLUTION + LINEAR
    assert cost.num_passes == 1


def test_flop_of_a_step_counts_only_the_gradients_that_are_taken(network: nn.Module) -> None:
    images = torch.rand(B, IN, H, W)
    # The convolution's weights, the linear layer's weights and input; the images need no gradient.
    assert observing.cost_of(lambda: network(images).sum().backward()).flop == 2 * CONVOLUTION + 3 * LINEAR
    network.requires_grad_(False)
    images.requires_grad_()
    assert observing.cost_of(lambda: network(images).sum().backward()).flop == 2 * CONVOLUTION + 2 * LINEAR


def _multiply() -> None:
    torch.ones(8, 8) @ torch.ones(8, 8)


def test_what_an_optimiser_multiplies_is_not_counted() -> None:
    network = nn.Linear(4, 6)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    optimizer.register_step_pre_hook(lambda *_: _multiply())

    def update() -> None:
        network(torch.ones(2, 4)).sum().backward()
        optimizer.step()

    assert observing.cost_of(update).flop == 2 * 2 * (2 * 4 * 6)


def test_bytes_are_weights_inputs_outputs_and_saved_activations_once_per_pass(network: nn.Module) -> None:
    images = torch.rand(B, IN, H, W)
    weights = 4 * (MIDDLE * IN * 9 + K * MIDDLE * H * W)
    edges = 4 * (images.numel() + B * K)
    with torch.no_grad():
        assert observing.cost_of(lambda: network(images)).num_bytes == weights + edges
    # For the gradients: the images, and the activated map, which ReLU and the linear layer share.
    saved = 4 * (images.numel() + B * MIDDLE * H * W)
    cost = observing.cost_of(lambda: network(images).sum().backward())
    assert cost.num_bytes == 2 * (weights + edges + saved)


def test_networks_are_timed_from_outside_and_nothing_else_is(network: nn.Module) -> None:
    images = torch.rand(B, IN, H, W)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    ticks = itertools.count()
    with observing.timing_networks(lambda: next(ticks)) as watch:
        loss = network(images).sum()
        torch.rand(3) @ torch.rand(3)
        loss.backward()
        optimizer.step()
    # Three stretches, a tick each: a nested module, or a step of the optimiser on its own, would be a fourth.
    assert watch.seconds == 3
    assert watch.num_passes == 1
    network(images).sum().backward()
    optimizer.step()
    assert next(ticks) == 6  # nobody watches any longer


def test_the_floor_is_the_slower_of_arithmetic_and_memory() -> None:
    found = ceilings.Ceilings({"fp32": 100.0, "bf16": 200.0}, bytes_per_s=10.0)
    assert found.floor_s(flop=1000, num_bytes=20, precision="fp32") == 10
    assert found.floor_s(flop=1000, num_bytes=20, precision="bf16") == 5
    assert found.floor_s(flop=1000, num_bytes=80, precision="bf16") == 8
    better = found.best_with(ceilings.Ceilings({"fp32": 90.0, "bf16": 300.0}, bytes_per_s=20.0))
    assert better == ceilings.Ceilings({"fp32": 100.0, "bf16": 300.0}, bytes_per_s=20.0)


def test_profile_of_the_digits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ceilings.GEMM_SIZES, "cpu", (64,))
    monkeypatch.setitem(ceilings.COPIED_BYTES, "cpu", 2**20)
    file = tmp_path / "profile.json"
    options = [f"--set={text}" for text in SMALL] + ["--fill=20", "--repeats=2", "--kd-steps=2", "--epochs=1"]
    monkeypatch.setattr(sys, "argv", ["profile", *options, "--parts", "units", "epoch", "--json", str(file)])
    profile_stages.main()
    document = json.loads(file.read_text(encoding="utf-8"))
    flop = {unit["name"]: unit["flop"] for unit in document["units"]}
    assert list(flop) == [
        "inversion step, warm-up",
        "inversion step, adversarial",
        "insertion of 8",
        "distillation step",
        "evaluation of 1,000",
    ]
    # The adversarial term adds the student's forward pass and the gradient to its input.
    student_forward = flop["evaluation of 1,000"] / 1000 * 8
    added = flop["inversion step, adversarial"] - flop["inversion step, warm-up"]
    assert added == pytest.approx(2 * student_forward, rel=0.01)
    # An epoch is its units.
    units = 2 * flop["inversion step, adversarial"] + flop["insertion of 8"] + 3 * flop["distillation step"]
    assert document["epoch"]["flop"] == units
    assert 0 < document["epoch"]["overhead_share"] < 1
    assert document["epoch"]["plain"][0]["num_images"] == 2 * 8 + 3 * 8
    for unit in document["units"]:
        assert unit["times_floor"] == pytest.approx(unit["seconds"]["median"] / unit["floor_s"])
    assert document["set"][0] == "run.acceleration=eager", "what is compiled cannot be counted"
    told = capsys.readouterr().out
    assert "wrn16_2-digits.safetensors" in told
    assert all(name in told for name in [*flop, "between stages", "images a second", "overhead"])


def test_a_step_from_cached_views_costs_no_teacher(tmp_path: Path) -> None:
    """That each view was judged once, for all the steps to come, is not the step's."""

    def flop(num_views: int) -> float:
        settings = [*SMALL, "run.acceleration=eager", f"distillation.views={num_views}"]
        built = workload.build_workload([], settings, device="cpu", folder=tmp_path)
        workload.fill_buffer(built.run, 20)
        (unit,) = (unit for unit in units.units_of(built, kd_steps=2) if unit.name == "distillation step")
        return units.measured(unit, built, repeats=1).document()["flop"]

    model = reference.build_model("wrn16_2", task=load([]).task, where="teacher.model").eval()
    with torch.no_grad():
        teachers_forward = observing.cost_of(lambda: model(torch.zeros(8, 1, 8, 8))).flop
    assert flop(0) - flop(3) == pytest.approx(teachers_forward, rel=0.01)


def test_views_of_new_images_are_what_else_an_epoch_costs(tmp_path: Path) -> None:
    settings = [*SMALL, "run.acceleration=eager", "distillation.views=3"]
    built = workload.build_workload([], settings, device="cpu", folder=tmp_path)
    built.run.epoch = 1
    workload.fill_buffer(built.run, 20)
    flop = {
        unit.name: unit.num * units.measured(unit, built, repeats=1).document()["flop"]
        for unit in units.units_of(built, kd_steps=3)
    }
    epochs.run_epochs(built, tmp_path, 1)  # the images that are there already are judged
    epoch = observing.cost_of(lambda: epochs.run_epochs(built, tmp_path, 1)).flop
    parts = ("inversion step, adversarial", "insertion of 8", "a view of 8 new images", "distillation step")
    assert epoch == sum(flop[name] for name in parts)


def test_a_teacher_that_is_not_there_is_replaced_by_a_sane_one(tmp_path: Path) -> None:
    config, told = workload.with_teacher([], ["teacher.trained_on=nothing", "teacher.model=wrn10_1"], tmp_path)
    assert "random weights" in told
    assert Path(config.teacher.weights).is_file()
    model = reference.build_model("wrn10_1", task=config.task, where="teacher.model")
    reference.load_weights(model, Path(config.teacher.weights))
    noise = torch.randn(256, *config.task.image_shape)
    with torch.no_grad():
        by_its_statistics, by_the_batch_s = model.eval()(noise), model.train()(noise)
    torch.testing.assert_close(by_its_statistics, by_the_batch_s, rtol=0.1, atol=0.1)


@pytest.fixture
def plain_loop(tmp_path: Path) -> reference.Reference:
    torch.manual_seed(0)
    config, _ = workload.with_teacher([], [*SMALL, "inversion.bn_momentum=0.9"], tmp_path)
    pool = tmp_path / "pool"
    pool.mkdir()
    return reference.Reference(config, pool, torch.device("cpu"), num_workers=0)


def test_reference_epoch_counts_its_images_and_keeps_them_as_files(plain_loop: reference.Reference) -> None:
    ticks = itertools.count()
    before = [parameter.clone() for parameter in plain_loop.student.parameters()]
    times = plain_loop.epoch(lambda: next(ticks), kd_steps=3)
    assert times.num_images == 2 * 8 + 3 * 8
    assert times.stages == {"inversion": 1, "distillation": 1}
    plain_loop.synthesize()
    pool = reference.PngPool(plain_loop._pool, transform=lambda picture: (picture.size, picture.mode))
    assert len(pool) == 16
    assert pool[0] == ((8, 8), "L")
    assert not torch.equal(before[0], next(plain_loop.student.parameters()))


def test_reference_matches_the_same_statistics(plain_loop: reference.Reference) -> None:
    teacher = plain_loop._teacher
    matching = BatchNormMatching(teacher, plain_loop.config.task.image_shape, momentum=0.9)
    views = torch.randn(8, *plain_loop.config.task.image_shape)
    with matching.watching(), torch.no_grad():
        teacher(views)
        loss, _ = matching.loss()
    assert sum(hook.term for hook in plain_loop._hooks).item() == pytest.approx(loss.item(), rel=1e-4)


def test_reference_learns(plain_loop: reference.Reference) -> None:
    plain_loop.add_to_pool(workload.generated_images(plain_loop.config, 32))
    first = plain_loop.distil(4)
    for _ in range(5):
        last = plain_loop.distil(4)
    assert last < first / 2


@pytest.mark.parametrize("is_shipped", [False, True])
@pytest.mark.parametrize("pair", compare.PAIRS)
def test_both_sides_of_a_pair_do_the_same_work(pair: str, is_shipped: bool) -> None:
    presets = compare.presets_of(Namespace(preset=None, pair=pair, shipped=is_shipped))
    configs = {side: load(names) for side, names in presets.items()}
    plain, ours = configs["reference"], configs["ssdkd"]
    assert not reference.differences(plain)
    assert (plain.inversion.steps, plain.inversion.batch_size, plain.distillation.views) == (5, 256, 0)
    if not is_shipped:
        assert ours == plain
    num_inverted = [c.inversion.calls * c.inversion.steps * c.inversion.batch_size for c in (plain, ours)]
    num_distilled = [c.num_distillation_steps * c.distillation.batch_size for c in (plain, ours)]
    assert num_inverted[0] == num_inverted[1]
    assert num_distilled[0] == num_distilled[1]


@pytest.mark.parametrize("preset", ["cifar10-resnet20", "cifar100-wrn-plus"])
def test_other_work_than_the_plain_loops_is_refused(preset: str) -> None:
    assert not reference.differences(load([preset, "paper"]))
    told = " ".join(reference.differences(load([preset])))
    assert "distillation.optimizer is muon" in told
    assert "distillation.mix is cutmix" in told
    assert reference.differences(load(["cifar10-wrn"], ["inversion.adversarial_weight=0"])) == [
        "inversion.adversarial_weight is 0"
    ]


def test_what_is_shipped_is_the_preset_itself() -> None:
    assert compare.presets_of(Namespace(preset=["digits"], pair=None, shipped=True))["ssdkd"] == ["digits"]


def test_what_the_plain_loop_cannot_do_is_refused(tmp_path: Path) -> None:
    config, _ = workload.with_teacher([], [*SMALL, "inversion.meta_update=reptile"], tmp_path)
    with pytest.raises(SystemExit, match=r"inversion\.meta_update is reptile.*--preset paper"):
        reference.Reference(config, tmp_path, torch.device("cpu"))


def test_sides_alternate_and_each_round_has_a_ratio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = {"reference": iter([10.0, 12.0, 90.0]), "ssdkd": iter([55.0, 60.0, 70.0])}
    asked: list[tuple[str, tuple[str, ...]]] = []

    def run_side(side: str, _presets: list[str], overrides: list[str], *_: object) -> dict[str, object]:
        asked.append((side, tuple(overrides)))
        rate = next(rates[side])
        epoch = {
            "num_images": 40,
            "images_per_s": rate,
            "seconds": 1.0,
            "stages": {"inversion": 0.5, "distillation": 0.5},
        }
        facts = {"processor": "P", "cpus": 2, "threads": 2, "cpu_capability": "C", "device": "cpu"}
        facts |= {"python": "3", "torch": "2", "load": [0.0]}
        how = {"precision": "fp32", "acceleration": "eager"}
        return {"epochs": [epoch], "machine": facts, "fill": 1, "teacher": "T"} | how

    monkeypatch.setattr(compare, "_run_side", run_side)
    monkeypatch.setattr(sys, "argv", ["compare", "--preset", "digits", "--rounds", "3", "--set", "run.seed=4"])
    compare.main()
    assert [side for side, _ in asked] == ["reference", "ssdkd", "ssdkd", "reference", "reference", "ssdkd"]
    assert len({overrides for _, overrides in asked}) == 1
    assert asked[0][1][0] == "run.seed=4"
    assert asked[0][1][1].startswith("teacher.weights=")
    assert "ssdkd / reference, images a second, round by round: 5.00 (0.78 to 5.50)" in capsys.readouterr().out
