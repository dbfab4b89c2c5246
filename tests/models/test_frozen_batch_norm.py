"""Batch-norm of frozen networks: the same function, and the gradient of its input alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from stages.models.frozen_batch_norm import frozen_batch_norm


@pytest.fixture
def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4))
    for layer in (layers[1], layers[4]):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.1, 2.0)
    return layers.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def output_and_gradient(network: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 12, 12, generator=rng).to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out = network(x)
    (out.float() ** 2).sum().backward()
    return out.detach(), x.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_batch_norm(network, dtype: torch.dtype) -> None:
    out, gradient = output_and_gradient(network, dtype)
    with frozen_batch_norm(network):
        frozen_out, frozen_gradient = output_and_gradient(network, dtype)
    assert torch.equal(frozen_out, out)
    if dtype == torch.bfloat16:
        assert torch.equal(frozen_gradient, gradient)
    torch.testing.assert_close(frozen_gradient, gradient, rtol=1e-5, atol=1e-5)


def test_torchs_own_backward_is_not_called_in_it(network) -> None:
    def kinds() -> set[str]:
        rng = torch.Generator().manual_seed(1)
        out = network(torch.randn(2, 3, 12, 12, generator=rng).requires_grad_())
        found, open_nodes = set(), [out.grad_fn]
        while open_nodes:
            node = open_nodes.pop()
            if node is not None:
                found.add(node.name())
                open_nodes += [parent for parent, _ in node.next_functions]
        return found

    assert any("BatchNorm" in name for name in kinds())
    with frozen_batch_norm(network):
        assert "_FrozenBatchNormBackward" in kinds()
        assert not any(name.startswith("NativeBatchNorm") for name in kinds())
    assert "_FrozenBatchNormBackward" not in kinds()


def test_hooks_still_see_the_inputs(network) -> None:
    seen: list[Tensor] = []
    network[1].register_forward_pre_hook(lambda _layer, args: seen.append(args[0]))
    with frozen_batch_norm(network):
        network(torch.zeros(2, 3, 12, 12))
    assert [tensor.shape for tensor in seen] == [(2, 8, 10, 10)]


def test_it_ends_with_the_context_also_after_an_error(network) -> None:
    with pytest.raises(RuntimeError, match="boom"), frozen_batch_norm(network):
        raise RuntimeError("boom")
    assert "forward" not in vars(network[1])
    copy.deepcopy(network)(torch.zeros(2, 3, 12, 12))


class OwnNorm(nn.BatchNorm2d):
    """A stranger's layer that does something else."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def test_other_layers_stay_as_they_are() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(OwnNorm(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False))
    network.eval()
    x = torch.randn(5, 3, 4, 4)
    expected = network(x)
    with frozen_batch_norm(network):
        assert torch.equal(network(x), expected)


def test_a_layer_in_training_takes_the_batchs_statistics(network) -> None:
    layer = network[1].train()
    expected = copy.deepcopy(network)(torch.ones(2, 3, 12, 12))
    with frozen_batch_norm(network):
        assert torch.equal(network(torch.ones(2, 3, 12, 12)), expected)
    assert int(layer.num_batches_tracked) == 1
