"""The same recipe as plain PyTorch, in the way of the public Fast-Datafree code: what ssdkd's speed is compared with.

    python benchmarks/speed/reference.py --preset cifar10-resnet20-paper

It keeps that code's structure (zju-vipa/Fast-Datafree; none of its text): fp32 and contiguous NCHW; forward hooks that
take mean and variance of every batch-norm input with ordinary operations; a loss read back at every step; no network
frozen during synthesis, so gradients of the teacher's weights are computed as well; each image a PNG file in a pool
without limit; after every synthesis call a new DataLoader with four workers over the pool, torchvision's transforms
on PIL images in them; the teacher asked about every drawn batch; running accuracy and loss after every step; torch's
own thread setting and glibc's own heap.

Left out, in its favour: its evaluation on 10,000 test images after every epoch, and its checkpoints. Networks, batch
sizes, numbers of steps, learning rates and weights are the preset's; there is no priority, and phi = 1.

Legend: B batch, C channels, H W pixels, K classes, Z latent.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from epochs import EpochTimes, add_epoch_arguments, document_of, tell
from measuring import Clock, clock_of, machine, write_json
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from workload import generated_images, with_teacher

from stages.config import Config
from stages.machine.device import resolve_device
from stages.models.build import build_model
from stages.models.weights import load_weights
from stages.teachers.resolve import teacher_file

NUM_WORKERS = 4
BASE_CHANNELS = 64


class StatisticsHook:
    """How far a batch-norm layer's input is from the layer's statistics: L_BN's term of one layer."""

    def __init__(self, layer: nn.BatchNorm2d, momentum: float) -> None:
        self.term = torch.zeros(())
        self._momentum = momentum
        self._average: tuple[Tensor, Tensor] | None = None
        self._latest: tuple[Tensor, Tensor] | None = None
        layer.register_forward_hook(self._look)

    def _look(self, layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        features_BCHW = inputs[0]
        mean_C = features_BCHW.mean(dim=(0, 2, 3))
        variance_C = features_BCHW.transpose(0, 1).flatten(1).var(dim=1, unbiased=False)
        self._latest = mean_C.detach(), variance_C.detach()
        if self._average is not None:
            m, (mean_average_C, variance_average_C) = self._momentum, self._average
            mean_C = (1 - m) * mean_C + m * mean_average_C
            variance_C = (1 - m) * variance_C + m * variance_average_C
        self.term = torch.norm(layer.running_var - variance_C) + torch.norm(layer.running_mean - mean_C)

    def update_average(self) -> None:
        assert self._latest is not None
        if self._average is None:
            self._average = self._latest
            return
        m = self._momentum
        pairs = zip(self._average, self._latest, strict=True)
        mean_C, variance_C = (m * average + (1 - m) * latest for average, latest in pairs)
        self._average = mean_C, variance_C


class PlainGenerator(nn.Sequential):
    """The recipe's generator layer by layer: upsampling, then convolution."""

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int]) -> None:
        channels, height, width = image_shape
        first, second = 2 * BASE_CHANNELS, BASE_CHANNELS
        super().__init__(
            nn.Linear(latent_dim, first * (height // 4) * (width // 4)),
            nn.Unflatten(1, (first, height // 4, width // 4)),
            nn.BatchNorm2d(first),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(first, first, 3, padding=1, bias=False),
            nn.BatchNorm2d(first),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(first, second, 3, padding=1, bias=False),
            nn.BatchNorm2d(second),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(second, channels, 3, padding=1),
            nn.Sigmoid(),
        )


class PngPool(Dataset[Tensor]):
    """A folder of pictures, each a file; `transform` is applied to the opened picture."""

    def __init__(self, folder: Path, transform: Any) -> None:
        self._paths = [entry.path for entry in os.scandir(folder) if entry.name.endswith(".png")]
        self._transform = transform

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self._paths[index]) as picture:
            transformed: Tensor = self._transform(picture)
        return transformed


def write_pngs(folder: Path, images_BCHW: Tensor, call: int) -> None:
    """Each image of a synthesis call as a file."""
    pixels_BHWC = (images_BCHW.detach().clamp(0, 1).cpu() * 255).byte().permute(0, 2, 3, 1).numpy()
    for index, pixels_HWC in enumerate(pixels_BHWC):
        picture = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC)
        picture.save(folder / f"{call}-{index}.png")


def differences(config: Config) -> list[str]:
    """Settings by which an epoch would be other work than the plain loop's."""
    inversion, distillation = config.inversion, config.distillation
    known = {
        "inversion.calls": (inversion.calls, 1),
        "inversion.meta_update": (inversion.meta_update, "fomaml"),
        "inversion.bn_loss": (inversion.bn_loss, "absolute"),
        "inversion.generator": (inversion.generator, "dcgan"),
        "inversion.class_latents": (inversion.class_latents, 0),
        "inversion.overlap": (inversion.overlap, False),
        "distillation.optimizer": (distillation.optimizer, "sgd"),
        "distillation.mix": (distillation.mix, "none"),
        "distillation.loss": (distillation.loss, "kl"),
        "distillation.late_loss": (config.late_loss, "kl"),
        "distillation.weight_loss": (distillation.weight_loss, False),
        "distillation.ema_decay": (distillation.ema_decay, 0),
        "distillation.recalibration_batches": (distillation.recalibration_batches, 0),
    }
    others = [f"{key} is {value}" for key, (value, own) in known.items() if value != own]
    weights = ("bn_weight", "task_weight", "adversarial_weight")
    return others + [f"inversion.{name} is 0" for name in weights if getattr(inversion, name) == 0]


class Reference:
    """Synthesis and distillation, one epoch at a time."""

    def __init__(self, config: Config, pool: Path, device: torch.device, *, num_workers: int = NUM_WORKERS) -> None:
        if found := differences(config):
            raise SystemExit(f"error: {' and '.join(found)}: not of the plain loop; add --preset paper")
        self.config = config
        self.device = device
        self.student = build_model(config.student.model, task=config.task, where="student.model").to(device)
        self._teacher = build_model(config.teacher.model, task=config.task, where="teacher.model")
        load_weights(self._teacher, teacher_file(config))
        self._teacher.to(device).eval()
        self._hooks = [
            StatisticsHook(module, config.inversion.bn_momentum)
            for module in self._teacher.modules()
            if isinstance(module, nn.BatchNorm2d)
        ]
        self._generator = PlainGenerator(config.inversion.latent_dim, config.task.image_shape).to(device)
        self._meta_optimizer = torch.optim.Adam(
            self._generator.parameters(), lr=config.inversion.lr_meta, betas=(0.5, 0.999)
        )
        self._optimizer = torch.optim.SGD(
            self.student.parameters(),
            config.distillation.learning_rate(whole_share=0.0),
            momentum=config.distillation.momentum,
            weight_decay=config.distillation.weight_decay,
        )
        task = config.task
        self._mean, self._std = (
            torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (task.mean, task.std)
        )
        mirror = [transforms.RandomHorizontalFlip()] if task.horizontal_flip else []
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(task.image_shape[1:], padding=task.crop_padding),
                *mirror,
                transforms.ToTensor(),
                transforms.Normalize(task.mean, task.std),
            ]
        )
        self._pool = pool
        self.num_distilled = 0
        """Images that `distil` has gone through last: the loader's last batch of all files is a shorter one."""
        self._num_workers = num_workers
        self._num_calls = 0
        self._batches: Iterator[Tensor] = iter(())

    def epoch(self, clock: Clock, *, kd_steps: int) -> EpochTimes:
        """One synthesis call and `kd_steps` updates of the student."""
        inversion = self.config.inversion
        began_s = clock()
        self.synthesize()
        synthesized_s = clock()
        self.distil(kd_steps)
        ended_s = clock()
        return EpochTimes(
            epoch=self._num_calls,
            seconds=ended_s - began_s,
            stages={"inversion": synthesized_s - began_s, "distillation": ended_s - synthesized_s},
            num_images=inversion.steps * inversion.batch_size + self.num_distilled,
        )

    def synthesize(self) -> Tensor:
        """T_g steps of a clone and the latents, adversarial term on; the best images go into the pool."""
        inversion = self.config.inversion
        self.student.eval()
        clone = PlainGenerator(inversion.latent_dim, self.config.task.image_shape).to(self.device)
        clone.load_state_dict(self._generator.state_dict())
        latent_BZ = torch.randn(inversion.batch_size, inversion.latent_dim, device=self.device).requires_grad_()
        target_B = torch.randint(self.config.task.num_classes, (inversion.batch_size,)).to(self.device)
        optimizer = torch.optim.Adam(
            [{"params": clone.parameters()}, {"params": [latent_BZ], "lr": inversion.lr_latent}],
            lr=inversion.lr_generator,
            betas=(0.5, 0.999),
        )
        best_loss, best_BCHW = float("inf"), torch.empty(0)
        for step in range(inversion.steps):
            images_BCHW = clone(latent_BZ)
            loss = self._inversion_loss(self._augmented(images_BCHW), target_B)
            if loss.item() < best_loss or step == 0:
                best_loss, best_BCHW = loss.item(), images_BCHW.detach()
            optimizer.zero_grad()
            loss.backward()
            if step == 0:
                self._meta_optimizer.zero_grad()
            for parameter, cloned in zip(self._generator.parameters(), clone.parameters(), strict=True):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad += cloned.grad
            if step == inversion.steps - 1:
                self._meta_optimizer.step()
            optimizer.step()
        for hook in self._hooks:
            hook.update_average()
        self.student.train()
        self.add_to_pool(best_BCHW)
        return best_BCHW

    def _augmented(self, images_BCHW: Tensor) -> Tensor:
        """A random crop and flip for each image, as kornia does it in that code, and normalisation."""
        task = self.config.task
        padding, (height, width) = task.crop_padding, task.image_shape[1:]
        padded_BCHW = F.pad(images_BCHW, (padding,) * 4)
        shift_B2 = torch.randint(2 * padding + 1, (len(images_BCHW), 2)).tolist()
        crops_BCHW = torch.stack(
            [
                image_CHW[:, top : top + height, left : left + width]
                for image_CHW, (top, left) in zip(padded_BCHW, shift_B2, strict=True)
            ]
        )
        if task.horizontal_flip:
            is_flipped_B = torch.rand(len(images_BCHW), device=self.device) < 0.5
            crops_BCHW = torch.where(is_flipped_B.view(-1, 1, 1, 1), crops_BCHW.flip(3), crops_BCHW)
        return (crops_BCHW - self._mean) / self._std

    def _inversion_loss(self, views_BCHW: Tensor, target_B: Tensor) -> Tensor:
        inversion = self.config.inversion
        teacher_logits_BK = self._teacher(views_BCHW)
        bn_loss = sum((hook.term for hook in self._hooks), torch.zeros((), device=self.device))
        loss = inversion.bn_weight * bn_loss + inversion.task_weight * F.cross_entropy(teacher_logits_BK, target_B)
        student_logits_BK = self.student(views_BCHW)
        agrees_B = (student_logits_BK.argmax(1) == teacher_logits_BK.argmax(1)).float()
        divergence_B = _kl_divergence(student_logits_BK, teacher_logits_BK, 1.0, reduction="none").sum(1)
        return loss - inversion.adversarial_weight * (divergence_B * agrees_B).mean()

    def add_to_pool(self, images_BCHW: Tensor) -> None:
        """Write the images, and load batches from all files there are from now on."""
        write_pngs(self._pool, images_BCHW, self._num_calls)
        self._num_calls += 1
        loader = DataLoader(
            PngPool(self._pool, self._transform),
            batch_size=self.config.distillation.batch_size,
            shuffle=True,
            num_workers=self._num_workers,
            pin_memory=self.device.type == "cuda",
        )
        self._batches = _without_end(loader)

    def distil(self, num_steps: int) -> float:
        """Updates of the student; the mean loss."""
        temperature = self.config.distillation.temperature
        top_k = (1, min(5, self.config.task.num_classes))
        num_correct, divergence, num_seen, total = dict.fromkeys(top_k, 0.0), 0.0, 0, 0.0
        self.student.train()
        for _ in range(num_steps):
            images_BCHW = next(self._batches).to(self.device, non_blocking=True)
            with torch.no_grad():
                teacher_logits_BK = self._teacher(images_BCHW)
            student_logits_BK = self.student(images_BCHW)
            loss = _kl_divergence(student_logits_BK, teacher_logits_BK, temperature, reduction="batchmean")
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            with torch.no_grad():
                label_B1 = teacher_logits_BK.argmax(1, keepdim=True)
                for k in top_k:
                    num_correct[k] += (student_logits_BK.topk(k).indices == label_B1).float().sum().item()
                divergence += _kl_divergence(student_logits_BK, teacher_logits_BK, 1.0, reduction="sum").item()
                num_seen += len(images_BCHW)
            total += loss.item()
        self.num_distilled = num_seen
        return total / max(num_steps, 1)


def _kl_divergence(student_BK: Tensor, teacher_BK: Tensor, temperature: float, *, reduction: str) -> Tensor:
    student_log_BK = F.log_softmax(student_BK / temperature, dim=1)
    teacher_BK = F.softmax(teacher_BK / temperature, dim=1)
    return F.kl_div(student_log_BK, teacher_BK, reduction=reduction) * temperature**2


def _without_end(loader: DataLoader[Tensor]) -> Iterator[Tensor]:
    """The loader's batches again and again. Its workers begin at once, as they do there."""
    first = iter(loader)

    def batches() -> Iterator[Tensor]:
        yield from first
        while True:
            yield from loader

    return batches()


def measure(config: Config, pool: Path, device: torch.device, arguments: argparse.Namespace) -> list[EpochTimes]:
    """Fill the pool, warm up with a call and two updates, then time epochs."""
    torch.manual_seed(config.run.seed)
    reference = Reference(config, pool, device, num_workers=arguments.workers)
    if arguments.fill:
        reference.add_to_pool(generated_images(config, arguments.fill))
    clock = clock_of(device)
    reference.epoch(clock, kd_steps=2)
    return [reference.epoch(clock, kd_steps=config.num_distillation_steps) for _ in range(arguments.epochs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_epoch_arguments(parser)
    parser.add_argument("--workers", type=int, default=NUM_WORKERS, help="of the DataLoader")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores: as it is there
    device = resolve_device(arguments.device)
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        config, teacher = with_teacher(arguments.preset, arguments.set, folder)
        pool = folder / "pool"
        pool.mkdir()
        times = measure(config, pool, device, arguments)
    facts = machine(device)
    precision = "fp32" if device.type == "cpu" else "fp32, TF32 in convolutions"  # what torch does unless told
    document = document_of("reference", times, arguments, facts, teacher, precision=precision, acceleration="eager")
    tell(document)
    write_json(arguments.json, document)


if __name__ == "__main__":
    main()
