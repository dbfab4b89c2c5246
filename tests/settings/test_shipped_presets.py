"""Every shipped preset loads, says where it comes from, and is the pair that its name says."""

import re

import pytest

import presets
from stages.config import load
from stages.planning.preset_check import check

PAIRS = {  # teacher, student, adversarial weight, task weight
    "wrn": ("wrn40_2", "wrn16_1", 1.1, 0.4),
    "wrn-40-1": ("wrn40_2", "wrn40_1", 1.1, 0.4),
    "wrn-16-2": ("wrn40_2", "wrn16_2", 1.1, 0.4),
    "resnet": ("resnet34", "resnet18", 1.33, 0.5),
    "vgg": ("vgg11", "resnet18", 1.0, 0.5),
}
RATES = {"fast2": (2, 5e-3, 0.015, 0.010), "fast5": (5, 3e-3, 0.01, 0.015), "fast10": (10, 2e-3, 0.01, 0.020)}
WHOLE = [name for name in presets.names() if not presets.is_overlay(name)]


def test_their_names():
    scales = ("", "-relaxed", "-plus")
    paper = {f"cifar{data}-{pair}{scale}" for data in (10, 100) for pair in PAIRS for scale in scales}
    overlays = {"cifar10", "cifar100", "plus", "paper", *RATES}
    assert set(presets.names()) == paper | overlays | {"digits", "cifar10-resnet20", "cifar10-resnet20-paper"}
    assert {name for name in presets.names() if presets.is_overlay(name)} == overlays


def test_an_unknown_name_is_ours_to_check():
    with pytest.raises(KeyError):
        presets.read_text("cifar100-wm")
    with pytest.raises(KeyError):
        presets.read_text("../pyproject")


@pytest.mark.parametrize("name", presets.names())
def test_it_loads_without_a_warning(name):
    assert check(name)[1] == ()


@pytest.mark.parametrize("name", presets.names())
def test_its_header(name):
    text = presets.read_text(name)
    assert presets.summary(name)
    assert len(presets.summary(name)) <= 90
    if name not in ("cifar10", "cifar100"):
        for part in ("Paper row:", "Accuracy:", "Time:", "Hardware:"):
            assert re.search(rf"^# {part} +\S", text, re.MULTILINE), part
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize("data", [10, 100])
@pytest.mark.parametrize("pair", PAIRS)
def test_a_pair_of_the_paper(data, pair):
    teacher, student, adversarial_weight, task_weight = PAIRS[pair]
    config = load([f"cifar{data}-{pair}"])
    assert (config.teacher.model, config.student.model) == (teacher, student)
    assert (config.teacher.weights, config.teacher.trained_on) == ("auto", f"cifar{data}")
    assert config.inversion.adversarial_weight == adversarial_weight
    assert config.inversion.task_weight == task_weight
    assert (config.task.num_classes, config.task.image_shape) == (data, (3, 32, 32))
    assert (config.task.crop_padding, config.task.horizontal_flip) == (4, True)
    assert config.evaluation.data == f"cifar{data}"
    assert (config.run.epochs, config.run.warmup_epochs) == (220, 20)
    assert (config.buffer.capacity, config.num_distillation_steps) == (5_000, 40)


@pytest.mark.parametrize("data", [10, 100])
@pytest.mark.parametrize("pair", PAIRS)
def test_relaxed_differs_in_the_data_scale_alone(data, pair):
    relaxed = load([f"cifar{data}-{pair}-relaxed"])
    calls = 1 if data == 10 else 4  # as many images as fill the buffer
    assert relaxed == load([f"cifar{data}-{pair}"], ["buffer.capacity=50000", f"inversion.calls={calls}"])
    assert relaxed.num_distillation_steps == 400
    assert relaxed.run.epochs * calls * relaxed.inversion.batch_size > 50_000


PLUS = {name: name.removesuffix("-plus") for name in presets.names() if name.endswith("-plus")}


PLUS_PAIRS = [*PLUS.items(), ("cifar10-resnet20", "cifar10-resnet20-paper")]
WHAT_HELPED = (
    "student.start=auto",
    *("inversion.bn_loss=standardized", "inversion.meta_update=reptile", "inversion.lr_generator=1.4e-3"),
    *("inversion.steps=10", "inversion.batch_size=64", "inversion.calls=2"),
    *("distillation.batch_size=64", "distillation.lr=auto", "distillation.optimizer=muon"),
    *("distillation.mix=cutmix", "distillation.late_loss=auto", "distillation.late_share=0.3"),
    "distillation.hint_share=0.05",
)
MORE = {"cifar10-resnet20": ["run.epochs=100", "run.warmup_epochs=20"]} | {
    name: ["distillation.views=32"] for name in PLUS if name.startswith("cifar100-")
}


@pytest.mark.parametrize(("name", "pair"), PLUS_PAIRS)
def test_plus_is_the_pair_with_what_helped(name, pair):
    assert load([pair, "plus"]) == load([pair], WHAT_HELPED)
    assert load([name]) == load([pair, "plus"], MORE.get(name, []))
    assert load([name]).num_distillation_steps == 160


def test_normalisation():
    assert load(["cifar10-wrn"]).task.mean == (0.4914, 0.4822, 0.4465)
    assert load(["cifar10-wrn"]).task.std == (0.2023, 0.1994, 0.2010)
    assert load(["cifar100-wrn"]).task.mean == (0.5071, 0.4867, 0.4408)
    assert load(["cifar100-wrn"]).task.std == (0.2675, 0.2565, 0.2761)
    assert load(["cifar10-resnet20"]).task.mean == (0.485, 0.456, 0.406)
    assert load(["cifar10-resnet20"]).task.std == (0.229, 0.224, 0.225)


def test_resnet20_is_the_public_pair():
    config = load(["cifar10-resnet20"])
    assert (config.teacher.model, config.student.model) == ("resnet32", "resnet20")
    assert config.buffer.capacity == 5_000


def test_digits_are_not_mirrored_and_need_no_files():
    config = load(["digits"])
    assert (config.task.image_shape, config.task.horizontal_flip) == ((1, 8, 8), False)
    assert (config.evaluation.data, config.evaluation.root) == ("digits", None)
    assert (config.teacher.weights, config.teacher.trained_on) == ("auto", "digits")
    assert (config.num_distillation_steps, config.distillation.batch_size) == (16, 128)
    assert config.run.precision == "fp32"


@pytest.mark.parametrize("pair", ["cifar10-resnet20-paper", *(f"cifar10-{pair}" for pair in PAIRS)])
def test_presets_of_ten_classes_have_the_papers_recipe(pair):
    assert load([pair, "paper"]) == load([pair])


def test_those_of_a_hundred_classes_are_taken_back_to_it():
    recipe = ["inversion.meta_update=fomaml", "inversion.calls=1", "inversion.steps=5", "inversion.batch_size=256"]
    recipe += ["inversion.lr_generator=3e-3", "distillation.views=0"]
    assert load(["cifar100-wrn", "paper"]) == load(["cifar100-wrn"], recipe)


@pytest.mark.parametrize(("name", "pair"), PLUS_PAIRS)
def test_the_papers_recipe_takes_back_what_goes_beyond_it(name, pair):
    length = [value for value in MORE.get(name, []) if value.startswith("run.")]
    assert load([name, "paper"]) == load([pair, "paper"], length)


@pytest.mark.parametrize("overlay", RATES)
@pytest.mark.parametrize("name", WHOLE)
def test_fast_datafree_goes_on_any_pair_and_leaves_the_pair_alone(name, overlay):
    config, pair = load([name, overlay]), load([name])
    inversion, distillation = config.inversion, config.distillation
    assert (inversion.diversity, inversion.difficulty, inversion.targets) == (False, False, "uniform")
    assert (inversion.bn_loss, inversion.meta_update, inversion.calls) == ("absolute", "fomaml", 1)
    assert distillation.sampling == "uniform"
    assert config.num_distillation_steps == 400
    assert config.buffer.capacity >= pair.run.epochs * inversion.batch_size
    assert (inversion.steps, inversion.lr_generator, inversion.lr_latent, inversion.lr_meta) == RATES[overlay]
    assert inversion.reset_epoch == 140
    assert (config.run, config.task, config.teacher) == (pair.run, pair.task, pair.teacher)
    assert config.student.model == pair.student.model
    assert (inversion.adversarial_weight, inversion.task_weight) == (
        pair.inversion.adversarial_weight,
        pair.inversion.task_weight,
    )


@pytest.mark.parametrize(("name", "pair"), PLUS_PAIRS)
def test_fast_datafree_takes_back_what_goes_beyond_the_paper(name, pair):
    length = [value for value in MORE.get(name, []) if value.startswith("run.")]
    assert load([name, "fast5"]) == load([pair, "fast5"], length)


def test_shipped_teachers_are_where_auto_looks():
    assert presets.teachers_folder().is_dir()
    assert (presets.teachers_folder() / "README.md").is_file()
