"""A network together with its normalisation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from stages.models.copying import copied

if TYPE_CHECKING:
    from stages.config import TaskTable


class NormalizedModel(nn.Module):
    """A network that takes images in [0, 1]: the one place where images are normalised.

    Input [B, C, H, W] in [0, 1], of any float type (or uint8, which is divided by 255), output the network's logits.
    Raises TypeError for any other type, ValueError for another number of channels or axes. The network gets images, and
    has its weights, in `memory_format`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        memory_format: torch.memory_format = torch.channels_last,
    ) -> None:
        super().__init__()
        self.model = model
        self.memory_format = memory_format
        self.mean: Tensor
        self.std: Tensor
        dtype = next((weights.dtype for weights in model.parameters() if weights.is_floating_point()), torch.float32)
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=dtype).view(1, -1, 1, 1), persistent=False)

    @classmethod
    def on(
        cls,
        device: torch.device,
        model: nn.Module,
        task: TaskTable,
        *,
        memory_format: torch.memory_format | None = None,
    ) -> Self:
        """The network on the device behind the task's normalisation; None: channels-last if it can be, by trial."""
        memory_format = memory_format or _memory_format_of(model, task.image_shape)
        made = cls(model, mean=task.mean, std=task.std, memory_format=memory_format)
        return made.to(device).to(memory_format=memory_format)

    def __getstate__(self) -> dict[str, Any]:
        """With the layout by its name: torch's own object for it cannot be pickled."""
        return self.__dict__ | {"memory_format": str(self.memory_format).removeprefix("torch.")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As it was when `__getstate__` was called."""
        super().__setstate__(state | {"memory_format": getattr(torch, state["memory_format"])})  # type: ignore[no-untyped-call]

    @property
    def device(self) -> torch.device:
        """Where it is, and takes its images."""
        return self.mean.device

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits of the images."""
        num_channels = self.mean.shape[1]
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != num_channels:  # the normalisation would broadcast
            raise ValueError(f"images must have the shape [B, {num_channels}, H, W], not {list(images_BCHW.shape)}")
        is_in_bytes = images_BCHW.dtype == torch.uint8
        if not is_in_bytes and not images_BCHW.is_floating_point():
            raise TypeError(f"images must be floating point in [0, 1], or uint8, not {images_BCHW.dtype}")
        images_BCHW = images_BCHW.to(self.mean.dtype)
        if is_in_bytes:
            images_BCHW = images_BCHW / 255
        normalized_BCHW = (images_BCHW - self.mean) / self.std
        normalized_BCHW = normalized_BCHW.contiguous(memory_format=self.memory_format)
        if self.memory_format == torch.contiguous_format:  # one channel is in either; convolutions go by its strides
            normalized_BCHW = normalized_BCHW.clone(memory_format=torch.contiguous_format)
        logits: Tensor = self.model(normalized_BCHW)
        return logits


@torch.no_grad()
def _memory_format_of(model: nn.Module, image_shape: tuple[int, int, int]) -> torch.memory_format:
    """Channels-last, which convolutions are fastest in, unless the network needs its features the other way round.

    Many end with `features.view(len(features), -1)`, which takes apart what lies channel by channel only.
    """
    images_BCHW = torch.zeros(2, *image_shape)
    with torch.random.fork_rng(devices=[]):
        for memory_format in (torch.channels_last, torch.contiguous_format):
            tried = copied(model)
            try:
                tried.cpu().eval().to(memory_format=memory_format)
                tried(images_BCHW.contiguous(memory_format=memory_format))
            except Exception:  # foreign networks fail in their own ways; what fails in both is told where it is used
                continue
            return memory_format
    return torch.channels_last
