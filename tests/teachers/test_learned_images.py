"""What a first batch-norm remembers of the images that a network learned, and whether a preset's normalisation fits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from real_data import SHARED
from torch import Tensor, nn

from stages.config import Config, load
from stages.data.digits import load_digits
from stages.models.build import build_model
from stages.models.weights import load_weights
from stages.teachers import learned_images as module
from stages.teachers.learned_images import LearnedImages, learned_images
from stages.teachers.load import load_teacher

CPU = torch.device("cpu")

NORMALISATIONS = {
    "their own": (0.3055, 0.3761),
    "half": (0.5, 0.5),
    "none": (0.0, 1.0),
    "to 255": (0.0, 1 / 255),
}
"""Mean and standard deviation by which digits may have been normalised for a network that learned them."""


def digits() -> Tensor:
    images_NCHW = load_digits(None, "train", image_shape=(1, 8, 8), resize=False, download=False).images_NCHW
    return images_NCHW.float() / 255


def has_learned(images_NCHW: Tensor, *before: nn.Module, num_batches: int = 0, width: int = 16) -> nn.Module:
    """A network whose batch-norm has the statistics of these images, behind a random convolution of theirs."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(images_NCHW.shape[1], width, 3, padding=1)
    norm = nn.BatchNorm2d(width, momentum=1.0)
    network = nn.Sequential(*before, convolution, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network.append(nn.Linear(width, 10)).train()
    network(images_NCHW)
    norm.num_batches_tracked.fill_(num_batches)
    return network.eval()


def normalized(images_NCHW: Tensor, how: str) -> Tensor:
    mean, std = NORMALISATIONS[how]
    return (images_NCHW - mean) / std


def config_of(how: str, *more: str) -> Config:
    mean, std = NORMALISATIONS[how]
    return load(["digits"], [f"task.mean=[{mean}]", f"task.std=[{std}]", *more])


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_mean_and_deviation_of_the_images_are_told_from_one_layer(how: str) -> None:
    images_NCHW = digits()
    found = learned_images(has_learned(normalized(images_NCHW, how)), config_of(how).task, CPU)
    assert found is not None
    assert found.mean == pytest.approx(float(images_NCHW.mean()), abs=0.05)
    assert found.std == pytest.approx(float(images_NCHW.std()), rel=0.25)
    assert found.normalized_std == pytest.approx(found.std / NORMALISATIONS[how][1])
    assert found.doubt() is None


TOLD = {
    "their own": "of the images themselves",
    "half": "0.5 and 0.5",
    "none": "0 and 1 (",
    "to 255": "0.003922",
}
NEITHER_IS_ODD = {("half", "their own"), ("none", "half")}
"""Of images with as much contrast as digits, which could as well be fainter ones."""


@pytest.mark.parametrize(
    ("how", "believed"),
    [
        (how, believed)
        for how in NORMALISATIONS
        for believed in NORMALISATIONS
        if how != believed and (how, believed) not in NEITHER_IS_ODD
    ],
)
def test_another_normalisation_is_doubted_and_the_right_one_named(how: str, believed: str) -> None:
    found = learned_images(has_learned(normalized(digits(), how)), config_of(believed).task, CPU)
    assert found is not None
    doubt = found.doubt()
    assert doubt is not None
    assert TOLD[how] in doubt.partition("another normalisation: ")[2]


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_a_mean_that_was_subtracted_alone_is_named_where_nothing_usual_fits(scale: float) -> None:
    images_NCHW = 0.45 + (digits() - 0.3055) * 0.7  # of a deviation like that of photos
    found = learned_images(has_learned((images_NCHW - 0.45) / scale), config_of("their own").task, CPU)
    assert found is not None
    assert "the images' own mean and " + ("1 (" if scale == 1 else "0.003922") in str(found.doubt())


@pytest.mark.parametrize(
    ("mean", "std", "is_doubted"),
    [
        *((0.45, 0.25, False), (0.45, 0.44, False), (0.45, 0.46, True), (0.45, 0.16, False), (0.45, 0.14, True)),
        *((-0.2, 0.16, True), (1.2, 0.16, True), (-0.06, 0.24, True), (0.03, 0.26, True), (0.11, 0.37, False)),
    ],
)
def test_what_images_from_0_to_1_can_be_like(mean: float, std: float, is_doubted: bool) -> None:
    found = LearnedImages(normalized_mean=mean, normalized_std=std, mean=mean, std=std)
    assert (found.doubt() is not None) == is_doubted


@pytest.mark.parametrize(("std", "is_soft"), [(0.1, True), (0.01, False), (0.6, False)])
def test_of_low_contrast_it_is_said_that_images_may_be_like_that(std: float, is_soft: bool) -> None:
    doubt = str(LearnedImages(normalized_mean=0.0, normalized_std=2 * std, mean=0.5, std=std).doubt())
    assert ("images with so little contrast are few: if yours have more" in doubt) == is_soft
    assert ("images are hardly like that" in doubt) != is_soft


def test_images_of_little_contrast_are_fine_where_their_own_normalisation_is_set() -> None:
    faint_NCHW = 0.5 + (digits() - 0.3055) * 0.2
    mean, std = float(faint_NCHW.mean()), float(faint_NCHW.std())
    model = has_learned((faint_NCHW - mean) / std)
    config = load(["digits"], [f"task.mean=[{mean}]", f"task.std=[{std}]"])
    found = learned_images(model, config.task, CPU)
    assert found is not None
    assert found.std < 0.1
    assert found.doubt() is None


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), id="no batch-norm"),
        pytest.param(lambda: has_learned(torch.zeros(4, 1, 8, 8)), id="what never varied"),
        pytest.param(lambda: has_learned(digits(), nn.Conv2d(1, 1, 3), nn.ReLU()), id="not affine"),
        pytest.param(lambda: has_learned(digits(), num_batches=49), id="has hardly begun"),
        pytest.param(lambda: has_learned(digits(), nn.AdaptiveAvgPool2d(1)), id="pooled"),
        pytest.param(lambda: has_learned(digits(), width=4), id="few channels"),
        pytest.param(lambda: with_statistics_in_another_order(has_learned(digits())), id="statistics of nothing"),
        pytest.param(lambda: has_learned(digits(), Edges()), id="sees no brightness"),
        pytest.param(lambda: with_other_means(has_learned(digits())), id="means of no grey"),
        pytest.param(lambda: build_model("wrn10_1", task=config_of("half").task, where="model").eval(), id="new"),
    ],
)
def test_nothing_is_said_where_nothing_can_be_told(make: Callable[[], nn.Module]) -> None:
    assert learned_images(make(), config_of("half").task, CPU) is None


@pytest.mark.parametrize("how", NORMALISATIONS)
def test_a_batch_norm_on_the_image_itself_tells_exactly(how: str) -> None:
    images_NCHW = digits()
    norm = nn.BatchNorm2d(1, momentum=1.0)
    norm(normalized(images_NCHW, how))
    network = nn.Sequential(norm, nn.Flatten(), nn.Linear(64, 10)).eval()
    norm.num_batches_tracked.fill_(0)
    found = learned_images(network, config_of(how).task, CPU)
    assert found is not None
    assert found.mean == pytest.approx(float(images_NCHW.mean()), abs=1e-4)
    assert found.std == pytest.approx(float(images_NCHW.std()), rel=1e-3)
    other = "none" if how == "to 255" else "to 255"
    doubtful = learned_images(network, config_of(other).task, CPU)
    assert doubtful is not None
    assert doubtful.doubt() is not None


class NormalizesInPlace(nn.Module):
    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW.sub_(0.3055).div_(0.3761)


def test_a_network_that_normalises_its_images_in_place_is_seen_from_outside() -> None:
    images_NCHW = digits()
    norm = nn.BatchNorm2d(1, momentum=1.0)
    norm(normalized(images_NCHW, "their own"))
    norm.num_batches_tracked.fill_(0)
    network = nn.Sequential(NormalizesInPlace(), norm, nn.Flatten(), nn.Linear(64, 10)).eval()
    assert learned_images(network, config_of("none").task, CPU) is None  # one channel, which is not the image itself


class Edges(nn.Module):
    """Differences between neighbours: all that is left of how bright an image is."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return images_BCHW - images_BCHW.roll(1, dims=3)


def with_statistics_in_another_order(network: nn.Module) -> nn.Module:
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    order = norm.running_var.argsort(descending=True)
    norm.running_var[order] = norm.running_var.sort().values
    return network


def with_other_means(network: nn.Module) -> nn.Module:
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    norm.running_mean += 5 * norm.running_var.sqrt() * torch.randn(len(norm.running_mean))
    return network


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 600, 300), (3, 1, 1), (2, 5, 700)])
def test_the_noise_is_as_large_as_the_images_and_each_time_the_same(shape: tuple[int, int, int]) -> None:
    photos_NCHW = module._like_photos(shape)
    assert photos_NCHW.shape[1:] == shape
    assert len(photos_NCHW) >= 4
    assert torch.equal(photos_NCHW, module._like_photos(shape))
    assert float(photos_NCHW.mean()) == pytest.approx(0.0, abs=0.6)
    assert float(photos_NCHW.std()) == pytest.approx(1.0, abs=0.2)


class CatchesAll(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images_BCHW: Tensor) -> Tensor:
        try:
            logits: Tensor = self.network(images_BCHW)
        except Exception:
            return torch.zeros(len(images_BCHW), 10)
        return logits


def test_a_network_that_catches_every_exception_is_looked_at_like_any_other() -> None:
    task = config_of("none").task
    model = has_learned(digits())
    assert learned_images(CatchesAll(model), task, CPU) == learned_images(model, task, CPU)


def test_mode_and_statistics_stay_as_they_were() -> None:
    model = has_learned(digits()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    assert learned_images(model, config_of("none").task, CPU) is not None
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_teacher_of_another_normalisation_is_loaded_with_a_warning() -> None:
    assert load_teacher(config_of("their own"), CPU).warnings == ()
    (warning,) = load_teacher(config_of("none"), CPU).warnings
    assert warning.startswith("the teacher `wrn16_2` learned images of mean 0.01 and standard deviation 1 on the")


PUBLIC = {
    "resnet32-d509ac18.th": ("cifar10-wrn", "resnet32", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "resnet20-12fca82f.th": ("cifar10-wrn", "resnet20", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "WRN16_1_cifar10.pth": ("cifar10-wrn", "wrn16_1", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)),
    "wrn40_2_cifar100.safetensors": ("cifar100-wrn", "wrn40_2", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
}
"""Networks trained on photos, whose deviation over all pixels is 0.25 (CIFAR-10) and 0.27 (CIFAR-100)."""


@pytest.mark.parametrize("name", PUBLIC)
def test_public_networks_remember_photos(name: str) -> None:
    file = SHARED / "teachers" / name
    if not file.is_file():
        pytest.skip(f"no {file}")
    preset, network, *own = PUBLIC[name]

    def learned(mean: tuple[float, ...], std: tuple[float, ...]) -> LearnedImages:
        values = {"task.mean": list(mean), "task.std": list(std), "teacher.model": network}
        config = load([preset], [f"{key}={value}" for key, value in values.items()])
        model = build_model(network, task=config.task, where="teacher.model")
        load_weights(model, file)
        found = learned_images(model.eval(), config.task, CPU)
        assert found is not None
        return found

    found = learned(*own)
    assert found.doubt() is None
    assert 0.35 < found.mean < 0.48  # of crops padded with zeros
    assert 0.23 < found.std < 0.3
    for mean, std in ((0.0, 1.0), (0.5, 0.5), (0.0, 1 / 255)):
        doubt = learned((mean,) * 3, (std,) * 3).doubt()
        assert doubt is not None
        assert "of the images themselves" in doubt
