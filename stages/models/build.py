"""Networks from their names in a preset, checked once on an empty image before anything relies on them."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.errors import ConfigError, SsdkdError
from stages.registry import find


class ImagesAndLabels(Protocol):
    """What a network must fit: the images of a task and what it says of them."""

    @property
    def kind(self) -> str:
        """Name of a registered task."""

    @property
    def num_classes(self) -> int:
        """K."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""


def build_model(name: str, *, task: ImagesAndLabels, where: str) -> nn.Module:
    """The network called `name`, freshly initialised (torch's global generator), on the CPU, in train mode.

    `where` is the preset key that holds the name. Raises ConfigError or FileError where there is no such
    network, or where it does not map the task's images [1, C, H, W] to logits [1, K], with the shape of a label behind
    where the task has more than one for an image.
    """
    found = find("models", name, where=where)
    channels, height, width = task.image_shape
    factory = found.spec.load()
    try:
        model = factory(
            **found.arguments, num_classes=task.num_classes, in_channels=channels, image_size=(height, width)
        )
    except ConfigError as error:
        raise ConfigError(f"`{where}` = `{name}`: {error.message}", hint=error.hint) from error
    except SsdkdError:
        raise
    except Exception as error:
        if found.spec.target.startswith("stages."):
            raise
        raise ConfigError(  # a stranger's factory can raise anything
            f"`{where}` = `{name}` cannot be built: {type(error).__name__}: {error}",
            hint=f"`{found.spec.target}` is called with num_classes, in_channels and image_size",
        ) from error
    _check_output(model, name, task=task, where=where)
    assert isinstance(model, nn.Module)
    return model


def build_generator(name: str, *, latent_dim: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The generator called `name`: latents [B, Z] -> images [B, C, H, W] in [0, 1]; on the CPU, training."""
    found = find("generators", name, where="inversion.generator")
    generator: nn.Module = found.spec.load()(**found.arguments, latent_dim=latent_dim, image_shape=image_shape)
    return generator


def bn_layers(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers with running statistics, in the model's order; L_BN (Eq. 1) sums over them."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]


def classifying_layer(model: nn.Module, *, num_classes: int) -> nn.Linear | None:
    """The last linear layer with an output for each class; None where the model has none."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return next((layer for layer in reversed(layers) if layer.out_features == num_classes), None)


def _check_output(model: object, name: str, *, task: ImagesAndLabels, where: str) -> None:
    """One forward pass of an empty image, without touching statistics, gradients or random numbers."""
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"`{where}` = `{name}` gives a {type(model).__name__}, not a torch.nn.Module",
            hint="a model's target returns the network",
        )
    was_training = model.training
    shape = tuple(task.image_shape)
    try:
        with torch.no_grad():
            output = model.eval()(torch.zeros(1, *shape))
    except Exception as error:  # foreign networks fail in their own ways
        raise ConfigError(
            f"`{where}` = `{name}` does not take images of shape {list(shape)}: {type(error).__name__}: {error}",
            hint="set task.image_shape to what the network takes, or name another network",
        ) from error
    finally:
        model.train(was_training)
    label_shape = find("tasks", task.kind, where="task.kind").spec.load()(task.num_classes).label_shape(shape)
    wanted = [1, task.num_classes, *label_shape]
    if not isinstance(output, torch.Tensor):
        got, hint = f"a {type(output).__name__}", "let the network's forward return its logits alone"
    elif list(output.shape) == wanted:
        return
    elif list(output.shape[:2]) == wanted[:2] and not label_shape:
        got, hint = f"shape {list(output.shape)}", "let the network's forward end with `.flatten(1)`, after pooling"
    else:
        got = f"shape {list(output.shape)}"
        hint = "set task.num_classes to the number of classes the network has"
    raise ConfigError(f"`{where}` = `{name}` must give logits of shape {wanted} for one image; got {got}", hint=hint)
