"""What the images were like that a teacher learned, as its first batch-norm remembers them.

Until there a network is usually affine in its images. So what the layer remembers, a mean and a variance of each of its
channels, tells the mean and the spread of the images, which shows whether `task.mean` and `task.std` can be those that
the teacher was trained with: nothing else does without real images, and no loss of a run notices.

Legend: N images, C channels of an image, H W pixels; O channels of the layer, P positions in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.models.layers import bn_layers_that_run, in_eval_mode, watched

if TYPE_CHECKING:
    from stages.config import TaskTable

_NUM_PIXELS = 2**16
"""Pixels of all the images like photos together, whatever the size of one."""
_MIN_IMAGES = 4
_MOST_PIXELS = 256
"""Pixels of a side of the noise they are made of; larger images repeat it."""
_COLOUR_CORRELATION = 0.9
"""Correlation of two channels of a photo, about."""

_MIN_CHANNELS = 8
"""Channels of the layer; fewer say too little."""
_MIN_BATCHES = 50
"""Batches that the layer has learned from: after so many, at the usual momentum, nothing is left of the 0 and 1 that it
begins with."""
_NONLINEARITY = 1e-3
"""Share of the largest value by which the answer to a sum of images may miss the sum of the answers."""
_MAX_ERROR = 0.3
"""Standard error of the mean, in the images' deviations, above which nothing is said."""

_LEAST_CORRELATION = 0.4
"""Correlation between the variances that the layer's channels remember and those that photos would leave in them;
nothing is said of less."""

_MEANS = (-0.1, 1.1)
"""Where the mean of images in [0, 1] can be, with some room: crops padded with zeros shift it."""
_STDS = (0.15, 0.45)
"""Where the standard deviation of images in [0, 1] can be expected; 0.5 is the most there can be."""
_MOST_OF_STD = 1.25
"""Room above the largest deviation that images in [0, 1] of a mean m can have, sqrt(m (1 - m)): that of black and white
alone."""
_FAINTEST = 0.04
_STANDARDIZED = 0.7
"""Images may have as little contrast as a deviation of `_FAINTEST` where the network was given one of at least
`_STANDARDIZED`, for `task.std` is there to make it 1."""

_OWN = (0.45, 0.25)
"""Mean and standard deviation of photos in [0, 1], about."""
_USUAL = {
    f"mean and standard deviation of the images themselves (of photos about {_OWN[0]} and {_OWN[1]})": _OWN,
    "0.5 and 0.5 (images from -1 to 1)": (0.5, 0.5),
    "0 and 1 (images from 0 to 1, as they are)": (0.0, 1.0),
    f"0 and {1 / 255:.6f} (images from 0 to 255)": (0.0, 1 / 255),
}
"""Mean and standard deviation by which images are usually normalised, all channels alike, by what people call it."""
_SELDOM = {
    "the images' own mean and 1 (their mean is subtracted, no more)": (_OWN[0], 1.0),
    f"the images' own mean and {1 / 255:.6f} (the same, from 0 to 255)": (_OWN[0], 1 / 255),
}
"""Those by which images are seldom normalised: named where no usual one fits."""


@dataclass(frozen=True)
class LearnedImages:
    """Mean and standard deviation over all pixels and channels of the images that a network learned.

    `mean` and `std` are on the scale from 0 to 1, by the preset's normalisation; `normalized_mean` and `normalized_std`
    are of what the network was given. Accurate to some tenths of themselves.
    """

    normalized_mean: float
    normalized_std: float
    mean: float
    std: float

    def doubt(self) -> str | None:
        """Why the preset's normalisation can hardly be the teacher's, and which would fit; None where it can be."""
        is_as_wanted = self.std >= _FAINTEST and self.normalized_std >= _STANDARDIZED
        if _is_likely(self.mean, max(self.std, _STDS[0]) if is_as_wanted else self.std):
            return None
        fitting = self._fitting(_USUAL) or self._fitting(_SELDOM)
        is_faint = _FAINTEST <= self.std < _STDS[0] and _is_likely(self.mean, _STDS[0])
        why = (
            "images with so little contrast are few: if yours have more, it was trained with another normalisation"
            if is_faint
            else "images are hardly like that, so it will have been trained with another normalisation"
        )
        return (
            f"learned images of mean {self.mean:z.2f} and standard deviation {self.std:.2g} on the scale from 0 to 1,"
            f" by what its first batch-norm remembers and by task.mean and task.std; {why}"
            + (f": {' or '.join(fitting)} would fit" if fitting else "")
        )

    def _fitting(self, ways: Mapping[str, tuple[float, float]]) -> list[str]:
        """Of some ways to normalise, those by which the images would have had a likely mean and deviation."""
        return [
            told
            for told, (mean, std) in ways.items()
            if _is_likely(mean + std * self.normalized_mean, std * self.normalized_std)
        ]


def _is_likely(mean: float, std: float) -> bool:
    share = min(max(mean, 0.02), 0.98)
    most = min(_STDS[1], _MOST_OF_STD * math.sqrt(share * (1 - share)))
    return _MEANS[0] <= mean <= _MEANS[1] and _STDS[0] <= std <= most


def learned_images(model: nn.Module, task: TaskTable, device: torch.device) -> LearnedImages | None:
    """What a network on `device` remembers of the images it learned; `model` takes normalised ones, [N, C, H, W].

    None where it cannot be told: no batch-norm runs, the network is not affine until the first or pools all pixels
    before, or what that remembers is not what images leave behind (it is new, for example).

    The mean is the one grey whose answer is nearest to the layer's running mean. The deviation is by how much images
    like photos (amplitudes that fall as the inverse of the frequency, Field 1987, "Relations between the statistics of
    natural images and the response properties of cortical cells") must be scaled to vary in the layer as the running
    variance says, by least squares, so that channels that see edges alone count little.
    """
    layers = bn_layers_that_run(model, task.image_shape)
    if not layers or 0 < _num_batches(layers[0]) < _MIN_BATCHES:
        return None
    photos_NCHW = _like_photos(task.image_shape)
    zeros_1CHW = torch.zeros_like(photos_NCHW[:1])
    trial_NCHW = torch.cat([zeros_1CHW, zeros_1CHW + 1, photos_NCHW[:1] + photos_NCHW[1:2], photos_NCHW])
    features_NOP = _input_of(layers[0], model, trial_NCHW.clone().to(device))  # it may change its images in place
    at_zero_OP, at_one_OP, at_sum_OP, response_NOP = *features_NOP[:3], features_NOP[3:]
    missing_OP = response_NOP[0] + response_NOP[1] - at_sum_OP - at_zero_OP
    buffers = dict(layers[0].named_buffers(recurse=False))
    running_mean_O, running_var_O = (buffers[name].float().cpu() for name in ("running_mean", "running_var"))
    if not running_mean_O.any() and bool((running_var_O == 1).all()):  # it is new
        return None
    if torch.equal(features_NOP, trial_NCHW.flatten(2)):  # the layer sees the images themselves
        spread = float((running_var_O + running_mean_O.square()).mean() - running_mean_O.mean().square())
        return _on_scale_of(task, float(running_mean_O.mean()), math.sqrt(max(0.0, spread)))
    if layers[0].num_features < _MIN_CHANNELS:
        return None
    is_pooled = at_one_OP.shape[1] == 1 < math.prod(task.image_shape[1:])  # of an image's mean little is known
    if is_pooled or missing_OP.abs().max() > _NONLINEARITY * at_sum_OP.abs().max():
        return None
    deviation_O = (running_var_O + layers[0].eps).sqrt()
    slope_O = (at_one_OP - at_zero_OP).mean(dim=1) / deviation_O
    wanted_O = (running_mean_O - at_zero_OP.mean(dim=1)) / deviation_O
    variance_O = response_NOP.var(dim=(0, 2))
    mean = float(slope_O @ wanted_O / (slope_O @ slope_O))
    std = float((variance_O @ running_var_O / (variance_O @ variance_O)).sqrt())
    error = float((wanted_O - mean * slope_O).std() / torch.linalg.vector_norm(slope_O))
    correlation = float(torch.corrcoef(torch.stack([variance_O, running_var_O]))[0, 1])
    if not (error <= _MAX_ERROR * std and correlation >= _LEAST_CORRELATION):  # none of them a number where it is new
        return None
    return _on_scale_of(task, mean, std)


def _on_scale_of(task: TaskTable, mean: float, std: float) -> LearnedImages:
    unit = sum(task.std) / len(task.std)
    return LearnedImages(mean, std, mean=sum(task.mean) / len(task.mean) + unit * mean, std=unit * std)


class _SeenError(Exception):
    """Ends a forward pass that has come far enough."""


def _num_batches(layer: _BatchNorm) -> int:
    """How many batches a layer has learned from; 0 where it does not say so, as old files do not."""
    return 0 if layer.num_batches_tracked is None else int(layer.num_batches_tracked)


@torch.no_grad()
def _input_of(layer: _BatchNorm, model: nn.Module, images_NCHW: Tensor) -> Tensor:
    """What a layer is given of the images where it runs first: [N, O, P] float32, on the CPU."""
    seen: list[Tensor] = []

    def look(_: _BatchNorm, features: Tensor) -> None:
        seen.append(features)
        raise _SeenError

    with in_eval_mode(model), watched([layer], look), suppress(_SeenError):
        model(images_NCHW)
    return seen[0].float().cpu().reshape(*seen[0].shape[:2], -1)


def _like_photos(image_shape: tuple[int, int, int]) -> Tensor:
    """Images of mean 0 and variance 1 with the spectrum of photos, of the same random numbers each time."""
    channels, height, width = image_shape
    num = max(_MIN_IMAGES, _NUM_PIXELS // (height * width))
    rng = torch.Generator().manual_seed(0)
    sides = min(height, _MOST_PIXELS), min(width, _MOST_PIXELS)
    size = (2 * sides[0], 2 * sides[1])  # the noise is periodic: half of it is not
    frequency = torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.rfftfreq(size[1]))
    frequency[0, 0] = 1 / max(size)
    repeats = (1, 1, -(-height // sides[0]), -(-width // sides[1]))

    def noise(num_channels: int) -> Tensor:
        white = torch.randn(num, num_channels, *size, generator=rng)
        pink: Tensor = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=size)[..., : sides[0], : sides[1]]
        return (pink / pink.std()).repeat(repeats)[..., :height, :width]

    in_all, in_each = math.sqrt(_COLOUR_CORRELATION), math.sqrt(1 - _COLOUR_CORRELATION)
    return in_all * noise(1) + in_each * noise(channels)
