"""A teacher that is ready to teach, and each way in which one is not."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from weight_files import write_weights

from stages.config import Config, with_values
from stages.data.digits import load_digits
from stages.errors import ConfigError, FileError
from stages.models.build import build_model
from stages.models.layers import bn_layers, statistics_taken_anew
from stages.models.normalized import NormalizedModel
from stages.models.weights import save_weights
from stages.teachers.load import load_teacher
from stages.trainer import Launch, plan

MakeConfig = Callable[..., Config]

CPU = torch.device("cpu")


@pytest.fixture
def weights(make_config: MakeConfig, tmp_path: Path) -> Path:
    """A file with weights, and statistics, of the preset's teacher."""
    path = tmp_path / "teacher.safetensors"
    save_weights(fresh_model(make_config()), path)
    return path


def fresh_model(config: Config) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(config.teacher.model, task=config.task, where="teacher.model")
    images_NCHW = load_digits(None, "test", image_shape=(1, 8, 8), resize=False, download=False).images_NCHW
    with statistics_taken_anew(bn_layers(model)):
        NormalizedModel.on(CPU, model, config.task, memory_format=torch.contiguous_format)(images_NCHW)
    return model


def test_loaded_teacher_is_the_saved_one_and_frozen(make_config: MakeConfig, weights: Path) -> None:
    config = make_config(f"teacher.weights={weights}")
    teacher = load_teacher(config, CPU)
    assert not any(module.training for module in teacher.model.modules())
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    images = torch.randn(5, 1, 8, 8)
    assert torch.equal(teacher.model(images), fresh_model(config).eval()(images))
    assert teacher.path == weights
    assert teacher.sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert teacher.warnings == ()


def test_wrong_number_of_classes(make_config: MakeConfig, weights: Path) -> None:
    config = make_config(f"teacher.weights={weights}", "task.num_classes=7")
    with pytest.raises(ConfigError, match=r"10 classes.* 7"):
        load_teacher(config, CPU)


def test_weights_of_another_model(make_config: MakeConfig, weights: Path) -> None:
    config = make_config(f"teacher.weights={weights}", "teacher.model=wrn16_1")
    with pytest.raises(FileError, match="another network"):
        load_teacher(config, CPU)


def test_truncated_weights(make_config: MakeConfig, weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(FileError, match=r"teacher\.safetensors"):
        load_teacher(make_config(f"teacher.weights={weights}"), CPU)


def test_teacher_that_answers_nan(make_config: MakeConfig, tmp_path: Path) -> None:
    model = fresh_model(make_config())
    model.get_buffer("bn1.running_var").fill_(-1.0)
    save_weights(model, tmp_path / "bad.safetensors")
    with pytest.raises(FileError, match=r"bad\.safetensors answers NaN"):
        load_teacher(make_config(f"teacher.weights={tmp_path / 'bad.safetensors'}"), CPU)


FACTORY = """
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

def plain(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

def stateless(num_classes):
    return nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, num_classes))

def frozen(num_classes):
    return nn.Sequential(FrozenBatchNorm2d(1), nn.Flatten(), nn.Linear(64, num_classes))

def normed(num_classes):
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, num_classes))
"""


CARELESS = """
import torch
from torch import nn

class Wrapped(nn.Module):
    def __init__(self, num_classes, answer):
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, num_classes))
        self.answer = answer

    def forward(self, images):
        return self.answer(self.net, images)

def without_gradient(net, images):
    with torch.no_grad():
        return net(images)

def probabilities(num_classes):
    return Wrapped(num_classes, lambda net, images: net(images).softmax(1))

def log_probabilities(num_classes):
    return Wrapped(num_classes, lambda net, images: net(images).log_softmax(1))

def by_sigmoids(num_classes):
    return Wrapped(num_classes, lambda net, images: net(images).sigmoid())

def rectified(num_classes):
    return Wrapped(num_classes, lambda net, images: 9 * net(images).relu())

def with_dropout(num_classes):
    return Wrapped(num_classes, lambda net, images: nn.functional.dropout(net(images)))

def with_dropout_in_training(num_classes):
    return Wrapped(num_classes, lambda net, images: nn.functional.dropout(net(images), training=net.training))

def of_one_mind(num_classes):
    return Wrapped(num_classes, lambda net, images: net(images) * 0)

def by_the_batch(num_classes):
    return Wrapped(num_classes, lambda net, images: net(images - images.mean(0)))

def no_grad(num_classes):
    return Wrapped(num_classes, without_gradient)

def changing_its_images(num_classes):
    return Wrapped(num_classes, lambda net, images: net(images.sub_(0.1)))

def by_numpy(num_classes):
    return Wrapped(num_classes, lambda net, images: net(torch.from_numpy(images.numpy())))
"""


@pytest.fixture
def careless(make_config: MakeConfig, tmp_path: Path) -> Callable[[str], Config]:
    """A preset whose teacher is one that people write who only ever ask it for classes."""
    (tmp_path / "nets.py").write_text(CARELESS)

    def make(factory: str) -> Config:
        weights = tmp_path / "w.safetensors"
        config = make_config(f"teacher.model={tmp_path / 'nets.py'}:{factory}", f"teacher.weights={weights}")
        write_weights(weights, config.teacher.model, config.task)
        return config

    return make


@pytest.mark.parametrize(
    ("factory", "warns"),
    [("probabilities", True), ("by_sigmoids", True), ("log_probabilities", False), ("rectified", False)],
)
def test_warns_of_probabilities(careless: Callable[[str], Config], factory: str, warns: bool) -> None:
    warnings = load_teacher(careless(factory), CPU, is_inverted=False).warnings
    assert [("before its softmax" in warning) for warning in warnings] == [True] * warns


def test_warns_of_one_answer_to_every_image(careless: Callable[[str], Config]) -> None:
    (warning,) = load_teacher(careless("of_one_mind"), CPU, is_inverted=False).warnings
    assert warning.endswith("answers the same to every image: are these trained weights?")


@pytest.mark.parametrize(
    ("factory", "doubt"),
    [
        ("with_dropout", ["answers the same images differently each time"]),
        ("by_the_batch", ["answers an image differently in another batch"]),
        ("with_dropout_in_training", []),
    ],
)
def test_warns_of_answers_that_do_not_go_by_the_image_alone(
    careless: Callable[[str], Config], factory: str, doubt: list[str]
) -> None:
    warnings = load_teacher(careless(factory), CPU, is_inverted=False).warnings
    assert [words for warning, words in zip(warnings, doubt, strict=True) if words in warning] == doubt


@pytest.mark.parametrize("factory", ["no_grad", "by_numpy"])
def test_a_teacher_without_gradient_can_be_asked_but_not_inverted(
    careless: Callable[[str], Config], factory: str
) -> None:
    config = careless(factory)
    with pytest.raises(ConfigError, match="gives its images no gradient"):
        load_teacher(config, CPU)
    assert load_teacher(config, CPU, is_inverted=False).warnings == ()


def test_warns_where_variants_for_small_images_fit(make_config: MakeConfig, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    config = make_config("teacher.model=torchvision:shufflenet_v2_x0_5", f"teacher.weights={weights}")
    write_weights(weights, config.teacher.model, config.task)
    assert any("variants for CIFAR" in warning for warning in load_teacher(config, CPU, is_inverted=False).warnings)


def test_a_teacher_may_change_its_images_in_place(careless: Callable[[str], Config]) -> None:
    assert load_teacher(careless("changing_its_images"), CPU).warnings == ()


def test_warns_of_weights_beside_those_that_it_takes(make_config: MakeConfig, tmp_path: Path) -> None:
    own = fresh_model(make_config()).state_dict()
    average = {name: value + 1 for name, value in own.items()}
    torch.save({"state_dict": own, "state_dict_ema": average}, tmp_path / "teacher.pt")
    (warning,) = load_teacher(make_config(f"teacher.weights={tmp_path / 'teacher.pt'}"), CPU).warnings
    assert 'torch.load(FILE, map_location="cpu", weights_only=False)["state_dict_ema"]' in warning


@pytest.mark.parametrize(("values", "warns"), [((0.485, 0.229), True), ((0.5, 0.5), False)])
def test_warns_where_torchvision_changes_the_images_of_its_own_weights(
    make_config: MakeConfig, tmp_path: Path, values: tuple[float, float], warns: bool
) -> None:
    mean, std = values
    path = tmp_path / "google.safetensors"
    config = make_config(
        "teacher.model=torchvision:googlenet",
        f"teacher.weights={path}",
        "task.image_shape=[3,32,32]",
        f"task.mean=[{mean},{mean},{mean}]",
        f"task.std=[{std},{std},{std}]",
    )
    write_weights(path, config.teacher.model, config.task)
    warnings = load_teacher(config, CPU, is_inverted=False).warnings
    untrained = "answers the same to every image"
    assert ["transform_input" in warning for warning in warnings if untrained not in warning] == [True] * warns


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("2 GiB"), RuntimeError("DefaultCPUAllocator: 2 GiB")])
def test_want_of_memory_is_not_taken_for_a_teacher_without_gradient(
    careless: Callable[[str], Config], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    config = careless("log_probabilities")
    forward = nn.Linear.forward

    def short_of_memory(layer: nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():
            raise error
        return forward(layer, inputs)

    monkeypatch.setattr(nn.Linear, "forward", short_of_memory)
    with pytest.raises(type(error), match="2 GiB"):
        load_teacher(config, CPU)


def test_a_file_that_turns_gradients_off_does_so_for_itself_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "nets.py"
    path.write_text("import torch\ntorch.set_grad_enabled(False)\n" + FACTORY)
    config = make_config(f"teacher.model={path}:normed", f"teacher.weights={tmp_path / 'w.safetensors'}")
    write_weights(tmp_path / "w.safetensors", config.teacher.model, config.task)
    assert torch.is_grad_enabled()
    assert load_teacher(config, CPU).warnings == ()


@pytest.mark.parametrize(
    ("factory", "warns"), [("plain", True), ("stateless", True), ("frozen", True), ("normed", False)]
)
def test_warns_where_there_are_no_statistics(
    make_config: MakeConfig, tmp_path: Path, factory: str, warns: bool
) -> None:
    path = tmp_path / "nets.py"
    path.write_text(FACTORY)
    config = make_config(f"teacher.model={path}:{factory}", f"teacher.weights={tmp_path / 'w.safetensors'}")
    write_weights(tmp_path / "w.safetensors", config.teacher.model, config.task)
    warnings = load_teacher(config, CPU).warnings
    assert bool(warnings) == warns
    if warns:
        told = warnings[-1]
        assert "no batch-norm" in told
        assert ("in `FrozenBatchNorm2d`" in told) == (factory == "frozen")
        assert "inversion.bn_weight" in told
        assert "set inversion.targets=balanced" in told
        assert "the overlay `plus`, balanced targets and inversion.task_weight=0.1" in told
        balanced = with_values(config, {"inversion.targets": "balanced"})
        assert "inversion.targets" not in load_teacher(balanced, CPU).warnings[-1]
        without_task = with_values(config, {"inversion.task_weight": 0.0, "evaluation.data": "none"})
        to_be_measured = load_teacher(without_task, CPU).warnings[-1]
        assert told.startswith(to_be_measured.partition(". In long runs")[0]), "it needs no loss"
        assert "the overlay `plus` and balanced targets helped most" in to_be_measured
        followed = {"inversion.targets": "balanced", "inversion.task_weight": 0.1, "distillation.mix": "cutmix"}
        assert "helped most" not in load_teacher(with_values(config, followed), CPU).warnings[-1]
        with pytest.raises(ConfigError, match="nothing is left to minimise"):
            plan(without_task, Launch(command="run", preset_name="small"))
