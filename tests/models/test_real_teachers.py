"""Public checkpoints, as published, on real test images: loaded right, they score what is said of them."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
from image_task import image_task
from PIL import Image
from real_data import SHARED

from stages.models.build import build_model
from stages.models.weights import load_weights

HERE = Path(__file__).parent
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Teacher:
    file: str
    model: str
    data: str
    normalisation: tuple[tuple[float, float, float], tuple[float, float, float]]
    top1: float


TEACHERS = (
    Teacher("resnet20-12fca82f.th", "resnet20", "cifar10", IMAGENET, 0.9173),
    Teacher("resnet32-d509ac18.th", "resnet32", "cifar10", IMAGENET, 0.9263),
    Teacher(
        "WRN16_1_cifar10.pth",
        "wrn16_1",
        "cifar10",
        ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        0.9175,
    ),
    Teacher(
        "resnet20_cifar100.pth",
        f"{HERE / 'nonstandard_resnet20.py'}:resnet20",
        "cifar100",
        ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
        0.6969,
    ),
    Teacher(
        "wrn40_2_cifar100.safetensors",
        "wrn40_2",
        "cifar100",
        ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
        0.710,
    ),
)


@cache
def read_images(folder: Path, every: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every n-th test image, [N, 3, H, W] in [0, 1], and its label; the strips are sorted by class."""
    index = json.loads((folder / "index.json").read_text())
    channels, height, width = index["image_shape"]
    images = []
    for strip in sorted(folder.glob("*.webp")):
        pixels = bytearray(Image.open(strip).convert("RGB").tobytes())
        stacked = torch.frombuffer(pixels, dtype=torch.uint8).reshape(-1, height, width, channels)
        images.append(stacked[::every].permute(0, 3, 1, 2))
    assert index["strip"] % every == 0  # so that labels and images keep in step
    return torch.cat(images).float() / 255, torch.tensor(index["labels"][::every])


def top1(teacher: Teacher, every: int) -> float:
    file, folder = SHARED / "teachers" / teacher.file, SHARED / "data" / teacher.data / "test"
    if not file.exists() or not (folder / "index.json").exists():
        pytest.skip(f"no real teachers and images in {SHARED}")
    images, labels = read_images(folder, every)
    model = build_model(teacher.model, task=image_task(int(labels.max()) + 1), where="teacher.model")
    load_weights(model, file)
    model.eval()
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in teacher.normalisation)
    with torch.inference_mode():
        logits = torch.cat([model((batch - mean) / std) for batch in images.split(250)])
    return float((logits.argmax(1) == labels).float().mean())


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda teacher: teacher.file)
def test_scores_near_its_stated_accuracy(teacher):
    # 400 images: one standard error is 1.3 points at .92 and 2.3 at .70.
    assert top1(teacher, every=25) == pytest.approx(teacher.top1, abs=0.05)
