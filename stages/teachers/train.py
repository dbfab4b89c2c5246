"""Train a teacher on real, labelled images: what `ssdkd teacher train` does, never part of a distillation.

SGD with Nesterov momentum on plain cross-entropy, crop and flip, a learning rate that rises over the first
epochs and falls along a cosine. No mixing augmentation and no label smoothing: teachers trained so distil
badly.

Legend: N images, B batch, C channels, H W pixels, K classes.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages import optimizers
from stages.config import Config
from stages.data.augment import augmented, draw_augmentation
from stages.data.dataset import LabelledImages, real_images
from stages.errors import ConfigError, DivergedError, MachineError
from stages.evaluation.measure import measure
from stages.files.tensor_digest import digest
from stages.machine.device import out_of_memory_is_told, prepare_device, resolve_precision, resolve_threads
from stages.machine.heap import keep_heap_warm
from stages.models.build import build_model, check_in_training
from stages.models.normalized import NormalizedModel
from stages.models.weights import save_weights
from stages.own_code import code_of
from stages.run import derived_seed
from stages.tasks.task import task_of
from stages.teachers.unfinished import UnfinishedTraining

LEARNING_RATE = 0.1
MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
BATCH_SIZE = 128
EPOCHS = 200
"""The settings most public CIFAR teachers were trained with."""

WARMUP_SHARE = 0.05
"""Share of the steps in which the learning rate rises, at most five epochs."""
MAX_WARMUP_EPOCHS = 5

Progress = Callable[[int, int, float, float], None]
"""Called after each epoch: (epoch from 1, epochs, mean training loss [nats], training accuracy in [0, 1])."""


@dataclass(frozen=True)
class TrainedTeacher:
    """Where a trained teacher is, and how good it is."""

    path: Path
    metrics: dict[str, Any] | None
    """The task's metrics on the held-out split (top1, top5, loss, num_samples); None without one."""
    seconds: float


def untrained_teacher(config: Config) -> nn.Module:
    """`teacher.model` with random weights. Raises ConfigError where it cannot be built or cannot learn."""
    name = config.teacher.model
    network = build_model(name, task=config.task, where="teacher.model")
    check_in_training(network, name, task=config.task, where="teacher.model", batch_size=BATCH_SIZE)
    return network


@out_of_memory_is_told("choose a smaller `teacher.model`, or another `--device`")
def train_teacher(
    config: Config,
    *,
    out: Path,
    device: torch.device,
    seed: int,
    split: str = "train",
    test_split: str | None = None,
    epochs: int = EPOCHS,
    progress: Progress = lambda *_: None,
) -> TrainedTeacher:
    """Train `teacher.model` from scratch on a split of `evaluation.data` and write its weights to `out` (safetensors).

    The last epoch is what is written, beside `out` where another process has written that by now; `test_split`, where
    given and not the same images, is looked at once, after training. Equal seeds give equal files on a CPU. A training
    that is interrupted goes on after the last epoch it has saved, if it is asked for again with the same settings and
    images (`stages.teachers.unfinished`).

    Raises ConfigError for tasks with more than one label an image, FileError for data that is missing or does not fit
    the task and for a damaged unfinished training, DivergedError where the loss is no longer finite, MachineError where
    there is no place for it; nothing is written then. What goes wrong while the trained teacher is measured leaves its
    file there.
    """
    start_s = time.perf_counter()
    keep_heap_warm()
    torch.set_num_threads(resolve_threads(config.run.threads))

    if task_of(config.task).label_shape(config.task.image_shape):
        raise ConfigError(
            f"teachers of task.kind = {config.task.kind} cannot be trained: crops and flips move the images alone",
            hint="bring a teacher with --set teacher.weights=FILE",
        )
    train_data, test_data = _data(config, split, test_split)  # before training, so that a mistake shows at once
    _refuse_unwritable(out.parent)
    prepare_device(device)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(derived_seed(seed, "teacher", "layers"))
        network = untrained_teacher(config)
        model = NormalizedModel.on(device, network, config.task)
        precision = resolve_precision(config.run.precision, device)
        settings = _what_decides(
            config, network, train_data, epochs=epochs, seed=seed, precision=precision, device=device
        )
        unfinished = UnfinishedTraining(out, settings)
        fitting = _Fitting(model, train_data, config=config, device=device, precision=precision, seed=seed)
        try:
            fitting.fit(epochs, progress, unfinished)
        except DivergedError:
            unfinished.remove()
            raise
    path = _save_new(network, out)  # first: hours of training are not lost to a measurement that fails
    unfinished.remove()
    metrics = None
    if test_data is not None:
        batch_size = config.evaluation.batch_size
        metrics = measure(model, test_data, task_of(config.task), batch_size=batch_size)
    return TrainedTeacher(path, metrics, time.perf_counter() - start_s)


def _data(config: Config, split: str, test_split: str | None) -> tuple[LabelledImages, LabelledImages | None]:
    """What the teacher learns, and what it is measured on: nothing where these would be the same images."""
    train_data = real_images(config, split=split)
    test_data = None if test_split is None else real_images(config, split=test_split)
    has_no_splits = test_data is not None and test_data.split == train_data.split  # the folder has none
    return train_data, None if has_no_splits else test_data


def _refuse_unwritable(folder: Path) -> None:
    """Raise MachineError where no file can be made in `folder`: not found out after hours of training."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MachineError(
            f"cannot write into the folder {folder}: {error.strerror or error}",
            hint="name a file in a folder that can be written",
        ) from error


def _what_decides(
    config: Config,
    network: nn.Module,
    data: LabelledImages,
    *,
    epochs: int,
    seed: int,
    precision: str,
    device: torch.device,
) -> dict[str, Any]:
    """What decides how a training ends; `network` has its first weights."""
    return {
        "recipe": [LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, BATCH_SIZE, WARMUP_SHARE, MAX_WARMUP_EPOCHS],
        "model": config.teacher.model,
        "code": [repr(network), *filter(None, [code_of(config).get("teacher.model")])],
        "first_weights": digest(network.state_dict()),
        "task": config.task.model_dump(mode="json"),
        "images": digest({"images": data.images_NCHW, "labels": data.labels_N}),
        "epochs": epochs,
        "seed": seed,
        "precision": precision,
        "device": device.type,  # its random numbers are its own
    }


def _save_new(network: nn.Module, out: Path) -> Path:
    """Write the network's weights; returns where: `out`, or a name of its own beside it where `out` is taken by now.

    Another process may have trained the same teacher meanwhile, and a run may have begun with its file.
    """
    own = out.with_name(f"{out.stem}.{os.getpid()}{out.suffix}")
    save_weights(network, own)
    try:
        os.link(own, out)
    except OSError:  # the name is taken, if by a link to nothing, or this file system has no second names
        return own if out.is_file() else own.replace(out)
    own.unlink()
    return out


class _Fitting:
    """The training loop: images stay on the device as uint8, and are drawn and augmented there."""

    def __init__(
        self,
        model: NormalizedModel,
        data: LabelledImages,
        *,
        config: Config,
        device: torch.device,
        precision: str,
        seed: int,
    ) -> None:
        self._model = model
        self._device = device
        self._precision = precision
        self._images_NCHW = data.images_NCHW.to(device).contiguous(memory_format=torch.channels_last)
        self._labels_N = data.labels_N.to(device)
        self._batch_size = min(BATCH_SIZE, len(data))
        self._padding = config.task.crop_padding
        self._flip = config.task.horizontal_flip
        self._rng = torch.Generator(device).manual_seed(derived_seed(seed, "teacher", "batches"))
        self._optimizer = optimizers.sgd(
            model.parameters(),
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            nesterov=True,
            device=device,
        )
        self._epoch = 0
        """Epochs that are over."""

    def fit(self, epochs: int, progress: Progress, unfinished: UnfinishedTraining) -> None:
        """Train for `epochs`; images that fill no batch at the end of an epoch are left out of it."""
        unfinished.load(self.load_state_dict)
        steps_per_epoch = len(self._labels_N) // self._batch_size
        self._model.train()
        while self._epoch < epochs:
            order_N = torch.randperm(len(self._labels_N), generator=self._rng, device=self._device)
            totals = torch.zeros(2, device=self._device)
            for step in range(steps_per_epoch):
                num_done = self._epoch * steps_per_epoch + step
                factor = learning_rate_factor(num_done, epochs * steps_per_epoch, steps_per_epoch)
                optimizers.set_learning_rate(self._optimizer, LEARNING_RATE * factor)
                totals += self._step(order_N[step * self._batch_size : (step + 1) * self._batch_size])
            self._epoch += 1
            loss, accuracy = (totals / steps_per_epoch).tolist()
            if not math.isfinite(loss):
                raise DivergedError(
                    f"training the teacher diverged in epoch {self._epoch}: the loss is {loss}",
                    hint="check `task.mean` and `task.std`, or try another seed",
                )
            unfinished.save(self.state_dict)
            progress(self._epoch, epochs, loss, accuracy)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the epochs to come depend on."""
        return {
            "epoch": self._epoch,
            "network": self._model.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "batches": self._rng.get_state(),
            "layers": torch.get_rng_state(),
            "layers_on_device": torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`, on a CPU to the same bits."""
        self._epoch = state["epoch"]
        self._model.model.load_state_dict(state["network"])
        optimizers.load(self._optimizer, state["optimizer"])
        self._rng.set_state(state["batches"])
        torch.set_rng_state(state["layers"])
        if state["layers_on_device"] is not None:
            torch.cuda.set_rng_state(state["layers_on_device"], self._device)

    def _step(self, index_B: Tensor) -> Tensor:
        """One update on one batch; its loss and accuracy [2], still on the device."""
        labels_B = self._labels_N[index_B]
        draw = draw_augmentation(
            len(index_B), padding=self._padding, flip=self._flip, rng=self._rng, device=self._device
        )
        with self._autocast():
            logits_BK = self._model(augmented(self._images_NCHW[index_B], draw))
        loss = F.cross_entropy(logits_BK.float(), labels_B)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        accuracy = (logits_BK.argmax(dim=1) == labels_B).float().mean()
        return torch.stack([loss.detach(), accuracy])

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._precision == "bf16")


def learning_rate_factor(step: int, steps: int, steps_per_epoch: int) -> float:
    """What multiplies the learning rate in `step` (from 0): linear up to 1, then half a cosine down to 0."""
    warmup = min(WARMUP_SHARE * steps, MAX_WARMUP_EPOCHS * steps_per_epoch)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))
