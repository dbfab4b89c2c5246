"""Networks from their names in a preset, checked once on an empty image before anything relies on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stages.errors import ConfigError
from stages.foreign_code import foreign_place
from stages.machine.device import is_out_of_memory
from stages.models.copying import copied
from stages.models.weight_file import WEIGHTS_OF_TORCHSCRIPT
from stages.registry import build
from stages.tasks.task import task_of

if TYPE_CHECKING:
    from stages.config import TaskTable


def build_model(name: str, *, task: TaskTable, where: str) -> nn.Module:
    """The network called `name`, freshly initialised (torch's global generator), on the CPU, in train mode.

    `where` is the preset key that holds the name. Raises ConfigError or FileError where there is no such
    network, or where it does not map the task's images [1, C, H, W] to logits [1, K], with the shape of a label behind
    where the task has more than one for an image.
    """
    channels, height, width = task.image_shape
    model = _network(
        "models", name, where=where, num_classes=task.num_classes, in_channels=channels, image_size=(height, width)
    )
    _check_kind(model, name, where=where)
    _check_output(model, name, task=task, where=where)
    return model


def _check_kind(model: nn.Module, name: str, *, where: str) -> None:
    """Refuse what cannot be looked into, or saved, by the means that every other network can."""
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ConfigError(
            f"`{where}` = `{name}` is TorchScript, whose layers cannot be watched", hint=WEIGHTS_OF_TORCHSCRIPT
        )
    odd = [key for key, value in model.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise ConfigError(
            f"`{where}` = `{name}` keeps state that is no tensor (`{odd[0]}`)",
            hint="a file of weights holds tensors alone: do without get_extra_state and set_extra_state",
        )


def check_in_training(model: nn.Module, name: str, *, task: TaskTable, where: str, batch_size: int) -> None:
    """Raise ConfigError where a network that is to learn does not give logits in training mode, too, or cannot learn.

    Of two images where there are so many in a batch: batch-norm wants more than one value of a channel. A copy is
    tried, and torch's random numbers stay what they were.
    """
    for key, value in model.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise ConfigError(
                f"`{where}` = `{name}` keeps values in `{key}` that are not finite",
                hint="a network is saved while all it keeps is finite: register what never changes, such as a mask,"
                " with persistent=False",
            )
    with torch.random.fork_rng(devices=[]):
        _check_output(model, name, task=task, where=where, num_images=min(2, batch_size), is_training=True)


def build_generator(name: str, *, latent_dim: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """The generator called `name`: latents [B, Z] -> images [B, C, H, W] in [0, 1]; on the CPU, training.

    Raises ConfigError where there is no such generator, or it makes images of another shape.
    """
    where = "inversion.generator"
    generator = _network("generators", name, where=where, latent_dim=latent_dim, image_shape=image_shape)
    shape = list(_output(generator, torch.zeros(1, latent_dim), name, where=where, what="latents").shape)
    if shape != [1, *image_shape]:
        raise ConfigError(
            f"`{where}` = `{name}` must make images of shape {[1, *image_shape]} of one latent; got {shape}",
            hint="it is called with latent_dim and image_shape",
        )
    _check_learning(generator, name, torch.zeros(2, latent_dim), where=where)
    return generator


def _check_learning(network: nn.Module, name: str, inputs: Tensor, *, where: str) -> None:
    """Raise ConfigError where a network has nothing to train, or does not use what it has. A copy is tried."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        tried = copied(network).train()
        output = tried(inputs)
        trained = {key: value for key, value in tried.named_parameters() if value.requires_grad}
        if output.requires_grad:
            output.sum().backward()
    idle = [key for key, parameter in trained.items() if parameter.grad is None]
    if idle or not trained:
        what = f"its output does not depend on the parameter `{idle[0]}`" if idle else "it has no parameters to train"
        raise ConfigError(
            f"`{where}` = `{name}` cannot be trained: {what}",
            hint="leave torch.no_grad and .detach() out of its forward, and take out or freeze (requires_grad = False)"
            " what it does not use",
        )


def draws_numbers(network: nn.Module, inputs: Tensor) -> bool:
    """Whether a network in training mode draws from torch's global stream, which stays where it was."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        copied(network).train()(inputs)
        return not torch.equal(torch.get_rng_state(), before)


def _network(group: str, name: str, *, where: str, **arguments: Any) -> nn.Module:
    """What the registered factory makes; what it refuses is told with the key, which it does not know."""
    try:
        network = build(group, name, where=where, **arguments)
    except ConfigError as error:
        if f"`{where}`" in error.message:
            raise
        raise ConfigError(f"`{where}` = `{name}`: {error.message}", hint=error.hint) from error
    if not isinstance(network, nn.Module):
        raise ConfigError(
            f"`{where}` = `{name}` gives a {type(network).__name__}, not a torch.nn.Module",
            hint="what is called returns the network",
        )
    return network


def _check_output(
    model: nn.Module, name: str, *, task: TaskTable, where: str, num_images: int = 1, is_training: bool = False
) -> None:
    label_shape = task_of(task).label_shape(task.image_shape)
    wanted = [num_images, task.num_classes, *label_shape]
    images = torch.zeros(num_images, *task.image_shape)
    output = _output(model, images, name, where=where, what="images", is_training=is_training)
    got = list(output.shape)
    if got == wanted:
        if is_training and not output.requires_grad:
            raise ConfigError(
                f"`{where}` = `{name}` cannot learn: its parameters get no gradient",
                hint="leave torch.no_grad and .detach() out of its forward, and some parameters with requires_grad",
            )
        return
    hint = "set task.num_classes to the number of classes the network has, or let what makes it take `num_classes`"
    if got == [num_images, 1]:
        hint = "a network of one logit z becomes one of two classes with `torch.cat([-z, z], 1) / 2`"
    elif got == wanted[1:]:
        hint = "`.squeeze()` takes the batch away, too: let its forward end with `.flatten(1)`"
    elif got and got[0] != num_images:
        hint = "an image became several rows: task.image_shape says how large the images are that the network takes"
    elif got[:2] == wanted[:2]:
        flat = "let the network's forward end with `.flatten(1)`, after pooling"
        hint = f"a label of task.kind has the shape {list(label_shape)}" if label_shape else flat
    asked = ("one image" if num_images == 1 else "two images") + (" in training mode" if is_training else "")
    raise ConfigError(
        f"`{where}` = `{name}` must give logits of shape {wanted} for {asked}; got shape {got}", hint=hint
    )


def _output(
    network: nn.Module, inputs: Tensor, name: str, *, where: str, what: str, is_training: bool = False
) -> Tensor:
    """Of one forward pass in eval mode, or of a copy in training mode, with gradients: no statistics change."""
    was_training = network.training
    mode = " in training mode" if is_training else ""
    try:
        tried = copied(network).train() if is_training else network.eval()
        with torch.set_grad_enabled(is_training):
            output = tried(inputs)
        network.train(was_training)
    except Exception as error:  # foreign networks fail in their own ways
        if is_out_of_memory(error):
            raise
        place = foreign_place(error)
        fits = "task.image_shape says what the task's images are like; name a network that fits"
        raise ConfigError(
            f"`{where}` = `{name}` does not take {what} of shape {list(inputs.shape[1:])}{mode}:"
            f" {type(error).__name__}: {error}" + (f" ({place})" if place is not None else ""),
            hint="it takes them in eval mode: look at what it does differently while it trains"
            if is_training
            else fits,
        ) from error
    if not isinstance(output, Tensor):
        raise ConfigError(
            f"`{where}` = `{name}` must give a tensor{mode}; got a {type(output).__name__}",
            hint="let its forward return its output alone; where the code is not yours, a network around it does that,"
            " and takes the same file of weights if it calls it `net`",
        )
    return output
