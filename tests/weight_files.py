"""Files with weights of networks that nobody trained."""

from __future__ import annotations

from pathlib import Path

import torch

from stages.config import TaskTable
from stages.models.build import build_model
from stages.models.layers import bn_layers, classifying_layer, statistics_taken_anew
from stages.models.weights import save_weights


def write_weights(path: Path, model: str, task: TaskTable, *, seed: int = 0) -> Path:
    """Write first weights of a network, called as in a preset; the path itself."""
    torch.manual_seed(seed)
    save_weights(build_model(model, task=task, where="teacher.model"), path)
    return path


def write_varied_weights(path: Path, model: str, task: TaskTable) -> Path:
    """Write first weights of a network that sees all classes; the path itself.

    As it is first, a network names the same class whatever it is shown, and inversion collapses. This one remembers
    statistics of noise, on which every class is as likely as any other.
    """
    torch.manual_seed(0)
    network = build_model(model, task=task, where="teacher.model")
    noise_BCHW = torch.randn(256, *task.image_shape).cumsum(-1).cumsum(-2) / task.image_shape[-1]
    head = classifying_layer(network, num_classes=task.num_classes)
    assert head is not None
    with torch.no_grad():
        with statistics_taken_anew(bn_layers(network)):
            network(noise_BCHW)
        logits_BK = network.eval()(noise_BCHW)
        deviation_K, mean_K = torch.std_mean(logits_BK, dim=0)
        head.weight.div_(deviation_K[:, None])
        head.bias.sub_(mean_K).div_(deviation_K)
    save_weights(network, path)
    return path
