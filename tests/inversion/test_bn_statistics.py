"""Eq. 1 and the statistics under it, against float64 and in its limits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from tiny_network import TinyNetwork
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stages.inversion.bn_statistics import BatchNormMatching, bn_loss, channel_statistics

SHAPES = [(6, 5, 4, 3), (6, 5), (6, 5, 7)]


class ChannelStatistics(NamedTuple):
    """Of one layer."""

    mean_C: Tensor
    variance_C: Tensor


def features(shape: tuple[int, ...], *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    offset_C = torch.randn(shape[1], generator=rng).view(1, -1, *([1] * (len(shape) - 2)))
    return (torch.randn(shape, generator=rng) * 1.5 + offset_C).to(dtype)


def plain_statistics(features_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """In float64, by autograd's own operations."""
    dims = [dim for dim in range(features_BCHW.dim()) if dim != 1]
    variance_C, mean_C = torch.var_mean(features_BCHW.double(), dim=dims, correction=0)
    return mean_C, variance_C


def random_statistics(num_channels: int, seed: int) -> ChannelStatistics:
    rng = torch.Generator().manual_seed(seed)
    return ChannelStatistics(torch.randn(num_channels, generator=rng), torch.rand(num_channels, generator=rng) + 0.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mean_and_variance_against_numpy(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    features_BCHW = features(shape, dtype=dtype)
    mean_C, variance_C = channel_statistics(features_BCHW)
    channels = np.moveaxis(features_BCHW.double().numpy(), 1, 0).reshape(shape[1], -1)
    assert mean_C.dtype == variance_C.dtype == torch.float32
    np.testing.assert_allclose(mean_C.numpy(), channels.mean(axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance_C.numpy(), channels.var(axis=1, ddof=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("is_channels_last", [False, True])
def test_gradient_against_autograd(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, is_channels_last: bool
) -> None:
    features_BCHW = features(shape, dtype=dtype)
    if is_channels_last and len(shape) == 4:
        features_BCHW = features_BCHW.contiguous(memory_format=torch.channels_last)
    features_BCHW.requires_grad_()
    grad_mean_C, grad_variance_C = random_statistics(shape[1], 1)

    def gradient(mean_C: Tensor, variance_C: Tensor) -> Tensor:
        loss = (mean_C * grad_mean_C.to(mean_C.dtype)).sum() + (variance_C * grad_variance_C.to(mean_C.dtype)).sum()
        (result,) = torch.autograd.grad(loss, features_BCHW)
        assert result.dtype == dtype
        return result.double()

    result = gradient(*channel_statistics(features_BCHW))
    expected = gradient(*plain_statistics(features_BCHW))
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))


def eq1(
    batch: list[ChannelStatistics],
    running: list[ChannelStatistics],
    average: list[ChannelStatistics] | None,
    momentum: float,
) -> float:
    """Eq. 1 in loops; with `average`, the reference's ||R - (1-m) x - m V|| for both statistics."""
    total = 0.0
    for layer in range(len(batch)):
        for kind in range(2):
            squares = 0.0
            for channel in range(len(batch[layer][kind])):
                value = float(batch[layer][kind][channel])
                if average is not None:
                    value = (1 - momentum) * value + momentum * float(average[layer][kind][channel])
                squares += (float(running[layer][kind][channel]) - value) ** 2
            total += squares**0.5
    return total


def three_layers(seed: int) -> list[ChannelStatistics]:
    return [random_statistics(num_channels, 10 * seed + index) for index, num_channels in enumerate((3, 5, 2))]


def rows(layers: list[ChannelStatistics]) -> Tensor:
    """[R, M]: means and variances of each layer, zeros behind."""
    return pad_sequence([value_C for layer in layers for value_C in layer], batch_first=True)


def loss_of(
    batch: list[ChannelStatistics],
    running: list[ChannelStatistics],
    average: list[ChannelStatistics] | None = None,
    *,
    momentum: float = 0.0,
) -> Tensor:
    average_RM = None if average is None else rows(average)
    return bn_loss(rows(batch), rows(running), average_RM, momentum=momentum)


def test_bn_loss_is_eq_1() -> None:
    batch, running = three_layers(0), three_layers(1)
    assert loss_of(batch, running).item() == pytest.approx(eq1(batch, running, None, 0.0), rel=1e-5)


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_bn_loss_with_momentum(momentum: float) -> None:
    batch, running, average = three_layers(0), three_layers(1), three_layers(2)
    result = loss_of(batch, running, average, momentum=momentum)
    assert result.item() == pytest.approx(eq1(batch, running, average, momentum), rel=1e-5)
    # Without an average yet, it is Eq. 1.
    assert torch.equal(loss_of(batch, running, momentum=momentum), loss_of(batch, running))


def test_no_momentum_is_the_printed_form_whatever_the_average() -> None:
    batch, running = three_layers(0), three_layers(1)
    assert torch.equal(loss_of(batch, running, three_layers(2), momentum=0.0), loss_of(batch, running))


def test_a_layer_at_its_running_statistics_adds_nothing_and_its_gradient_is_zero() -> None:
    running = three_layers(1)
    batch = [ChannelStatistics(*(value.clone().requires_grad_() for value in layer)) for layer in running]
    loss = loss_of(batch, running)
    loss.backward()
    assert loss.item() == 0
    assert all(not value_C.grad.any() for layer in batch for value_C in layer)


def test_momentum_lets_one_minus_m_of_the_gradient_through() -> None:
    """Where the average is the batch's own, the norms are Eq. 1's and the gradient is 1 - m of its."""
    running = three_layers(1)
    gradients = []
    for momentum in (0.0, 0.9):
        batch = [ChannelStatistics(*(value.requires_grad_() for value in layer)) for layer in three_layers(0)]
        average = [ChannelStatistics(*(value.detach().clone() for value in layer)) for layer in batch]
        loss = loss_of(batch, running, average, momentum=momentum)
        assert loss.item() == pytest.approx(eq1(three_layers(0), running, None, 0.0), rel=1e-5)
        gradients.append(torch.autograd.grad(loss, batch[1].variance_C)[0])
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0], rtol=1e-4, atol=1e-7)


# The watch on a network.


@pytest.fixture
def network() -> TinyNetwork:
    torch.manual_seed(0)
    return TinyNetwork(in_channels=2, num_classes=5, width=4).eval().requires_grad_(False)


IMAGE_SHAPE = (2, 8, 6)


def images(seed: int) -> Tensor:
    return torch.rand(7, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(seed))


def plain_layers(network: TinyNetwork, images_BCHW: Tensor) -> list[ChannelStatistics]:
    return [ChannelStatistics(*plain_statistics(inputs)) for inputs in network.logits_and_features(images_BCHW)[1]]


def running_layers(network: TinyNetwork) -> list[ChannelStatistics]:
    return [ChannelStatistics(norm.running_mean, norm.running_var) for norm in (network.bn1, network.bn2)]


def watched_loss(matching: BatchNormMatching, network: nn.Module, *batches: Tensor) -> Tensor:
    """One call: a loss for each batch, the last one's given back, then the average moves."""
    with matching.watching():
        for images_BCHW in batches:
            network(images_BCHW)
            loss, statistics_RM = matching.loss()
    matching.update_average(statistics_RM)
    return loss


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_networks_loss_and_its_moving_average(network: TinyNetwork, momentum: float) -> None:
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=momentum)
    average = None
    for call in range(4):
        # The average takes the last batch of a call, once a call.
        result = watched_loss(matching, network, images(100 + call), images(call))
        batch = plain_layers(network, images(call))
        assert result.item() == pytest.approx(eq1(batch, running_layers(network), average, momentum), rel=1e-4)
        if average is None:
            average = batch
        else:
            average = [
                ChannelStatistics(*(momentum * old + (1 - momentum) * new for old, new in zip(*layers, strict=True)))
                for layers in zip(average, batch, strict=True)
            ]
    state = matching.state_dict()
    for kind, name in enumerate(("mean", "variance")):
        for stored_C, layer in zip(state[name], average, strict=True):
            torch.testing.assert_close(stored_C.double(), layer[kind], rtol=1e-4, atol=1e-5)
            assert not stored_C.requires_grad


def test_loss_reaches_the_images(network: TinyNetwork) -> None:
    images_BCHW = images(0).requires_grad_()
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9)
    with matching.watching():
        network(images_BCHW)
        (gradient,) = torch.autograd.grad(matching.loss()[0], images_BCHW)
    running = running_layers(network)
    expected_loss = sum(
        (value - target).norm()
        for layer, targets in zip(plain_layers(network, images_BCHW), running, strict=True)
        for value, target in zip(layer, targets, strict=True)
    )
    (expected,) = torch.autograd.grad(expected_loss, images_BCHW)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("is_standardized", [False, True])
def test_a_batch_with_the_running_statistics_costs_nothing(network: TinyNetwork, is_standardized: bool) -> None:
    for index, norm in enumerate((network.bn1, network.bn2)):
        mean_C, variance_C = plain_layers(network, images(0))[index]
        norm.running_mean.copy_(mean_C)
        norm.running_var.copy_(variance_C)
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9, is_standardized=is_standardized)
    assert watched_loss(matching, network, images(0)).item() < 1e-5


# In the layers' own units.


def in_own_units(layers: list[ChannelStatistics], network: TinyNetwork) -> list[ChannelStatistics]:
    """In float64: deviations from the running mean, and variances, channel by channel, as the layers divide them."""
    result = []
    for (mean_C, variance_C), norm in zip(layers, (network.bn1, network.bn2), strict=True):
        means, variances = [], []
        for channel in range(len(mean_C)):
            running = float(norm.running_var[channel]) + norm.eps
            means.append((float(mean_C[channel]) - float(norm.running_mean[channel])) / running**0.5)
            variances.append(float(variance_C[channel]) / running)
        result.append(ChannelStatistics(torch.tensor(means).double(), torch.tensor(variances).double()))
    return result


@pytest.fixture
def uneven_network(network: TinyNetwork) -> TinyNetwork:
    """Its second layer remembers far smaller features than its first."""
    rng = torch.Generator().manual_seed(5)
    for norm, scale in ((network.bn1, 3.0), (network.bn2, 0.02)):
        norm.running_mean.copy_(scale * torch.randn(norm.running_mean.shape, generator=rng))
        norm.running_var.copy_(scale**2 * (torch.rand(norm.running_var.shape, generator=rng) + 0.5))
    return network


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_standardized_loss_is_eq_1_in_the_layers_units(uneven_network: TinyNetwork, momentum: float) -> None:
    network = uneven_network
    running = in_own_units(running_layers(network), network)
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=momentum, is_standardized=True)
    first, second = (in_own_units(plain_layers(network, images(seed)), network) for seed in (0, 1))
    result = watched_loss(matching, network, images(0))
    assert result.item() == pytest.approx(eq1(first, running, None, momentum), rel=1e-4)
    result = watched_loss(matching, network, images(1))
    assert result.item() == pytest.approx(eq1(second, running, first, momentum), rel=1e-4)


def test_standardized_loss_does_not_see_how_large_a_layers_features_are(uneven_network: TinyNetwork) -> None:
    """A convolution with larger weights and a batch-norm that remembers larger features are the same network."""
    network = uneven_network

    def losses() -> tuple[float, float]:
        standardized, absolute = (
            watched_loss(
                BatchNormMatching(network, IMAGE_SHAPE, momentum=0.0, is_standardized=flag), network, images(0)
            ).item()
            for flag in (True, False)
        )
        return standardized, absolute

    standardized, absolute = losses()
    network.conv2.weight.mul_(10)
    network.bn2.running_mean.mul_(10)
    network.bn2.running_var.mul_(100)
    network.bn2.eps *= 100
    again, other = losses()
    assert again == pytest.approx(standardized, rel=1e-4)
    assert other > 1.1 * absolute


@pytest.mark.parametrize("variance", [0.0, 1e-30])
def test_a_channel_that_never_varied_has_a_finite_loss(network: TinyNetwork, variance: float) -> None:
    network.bn1.running_var[0] = variance
    images_BCHW = images(0).requires_grad_()
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9, is_standardized=True)
    with matching.watching():
        network(images_BCHW)
        loss, _ = matching.loss()
    loss.backward()
    assert loss.isfinite()
    assert images_BCHW.grad.isfinite().all()


@pytest.mark.parametrize("is_standardized", [False, True])
def test_layers_of_several_widths_and_without_eps(is_standardized: bool) -> None:
    """The zeros behind a narrow layer's statistics change nothing, before a checkpoint and after it."""
    torch.manual_seed(0)
    none = 1e-60  # in fp32; some versions of torch refuse the number 0
    wide = nn.Sequential(nn.BatchNorm2d(2, eps=none), nn.Conv2d(2, 7, 3), nn.BatchNorm2d(7, eps=none))
    network = wide.eval().requires_grad_(False)
    network[2].running_var.fill_(0.3)
    # One layer at a time.
    alone = [
        BatchNormMatching(part.eval(), image_shape, momentum=0.9, is_standardized=is_standardized)
        for part, image_shape in ((network[0], IMAGE_SHAPE), (network[2], (7, 6, 4)))
    ]
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9, is_standardized=is_standardized)
    for seed in range(3):
        inputs = (images(seed), network[1](network[0](images(seed))))
        expected = sum(
            watched_loss(one, layer, features).item()
            for one, layer, features in zip(alone, (network[0], network[2]), inputs, strict=True)
        )
        resumed = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9, is_standardized=is_standardized)
        resumed.load_state_dict(matching.state_dict())
        assert watched_loss(resumed, network, images(seed)).item() == pytest.approx(expected, rel=1e-5)
        assert watched_loss(matching, network, images(seed)).item() == pytest.approx(expected, rel=1e-5)


class OtherOrder(nn.Module):
    """Layers of one width that run in another order than they are named, and one that does not run."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.BatchNorm2d(2)
        self.unused = nn.BatchNorm2d(2)
        self.first = nn.BatchNorm2d(2)
        self.first.running_mean.fill_(3.0)
        self.last.running_var.fill_(0.3)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return self.last(self.first(images_BCHW) ** 2)


def test_each_layer_is_compared_with_its_own_running_statistics() -> None:
    network = OtherOrder().eval().requires_grad_(False)
    first, second = images(0), network.first(images(0)) ** 2
    batch = [ChannelStatistics(*plain_statistics(inputs)) for inputs in (first, second)]
    running = [ChannelStatistics(norm.running_mean, norm.running_var) for norm in (network.first, network.last)]
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9)
    assert watched_loss(matching, network, images(0)).item() == pytest.approx(eq1(batch, running, None, 0.0), rel=1e-5)
    assert watched_loss(matching, network, images(0)).item() == pytest.approx(eq1(batch, running, None, 0.0), rel=1e-5)


def test_a_network_without_batch_norm_has_no_loss() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False))
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9)
    assert watched_loss(matching, network, images(0)).item() == 0
    resumed = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9)
    resumed.load_state_dict(matching.state_dict())
    assert watched_loss(resumed, network, images(1)).item() == 0


def num_hooks(network: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in network.modules())


def test_nothing_watches_outside_of_the_context(network: TinyNetwork) -> None:
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.0)
    with matching.watching():
        assert num_hooks(network) == 2
        network(images(1))  # no loss is asked for: the next context must not see it
    assert num_hooks(network) == 0
    with pytest.raises(RuntimeError, match="channels"), matching.watching():
        network(images(2)[:, :1])
    assert num_hooks(network) == 0
    expected = eq1(plain_layers(network, images(0)), running_layers(network), None, 0.0)
    assert watched_loss(matching, network, images(0)).item() == pytest.approx(expected, rel=1e-4)


def test_a_forward_pass_that_failed_leaves_nothing_once_it_is_forgotten(network: TinyNetwork) -> None:
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9)
    linear, network.linear = network.linear, None
    with matching.watching():
        with pytest.raises(TypeError):
            network(images(2))
        network.linear = linear
        matching.forget()
        network(images(0))
        loss, _ = matching.loss()
    assert loss.item() == pytest.approx(eq1(plain_layers(network, images(0)), running_layers(network), None, 0.0))


def test_a_loss_of_anything_but_one_forward_pass_is_refused(network: TinyNetwork) -> None:
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9)
    is_used = r"BatchNormMatching.loss is called within its watching\(\), once after each forward pass"
    with matching.watching():
        network(images(0))
    with pytest.raises(RuntimeError, match=f"^of the network's 2 batch-norm layers 0 were recorded: {is_used}"):
        matching.loss()
    with matching.watching():
        with pytest.raises(RuntimeError, match="2 batch-norm layers 0 were recorded"):
            matching.loss()
        network(images(0))
        expected, _ = matching.loss()
        with pytest.raises(RuntimeError, match="2 batch-norm layers 0 were recorded"):
            matching.loss()
        network(images(0))
        network(images(1))
        with pytest.raises(RuntimeError, match="2 batch-norm layers 4 were recorded"):
            matching.loss()
        network(images(0))
        assert torch.equal(matching.loss()[0], expected), "nothing is left of what was refused"


def test_a_layer_that_runs_twice_counts_twice() -> None:
    layer = nn.BatchNorm2d(2).eval().requires_grad_(False)
    once = watched_loss(BatchNormMatching(layer, IMAGE_SHAPE, momentum=0.0), layer, images(0))
    twice = nn.Sequential(layer, nn.Identity(), layer)  # in training mode, unlike its layer
    loss = watched_loss(BatchNormMatching(twice, IMAGE_SHAPE, momentum=0.0), twice, images(0))
    second = watched_loss(BatchNormMatching(layer, IMAGE_SHAPE, momentum=0.0), layer, layer(images(0)))
    assert loss.item() == pytest.approx((once + second).item())
    assert (twice.training, layer.training) == (True, False), "the constructor changes no modes"


def test_averages_of_another_network_are_refused(network: TinyNetwork) -> None:
    matching = BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9)
    watched_loss(matching, network, images(0))
    layer = nn.BatchNorm2d(2).eval()
    with pytest.raises(ValueError, match="with other batch-norm layers"):
        BatchNormMatching(layer, IMAGE_SHAPE, momentum=0.9).load_state_dict(matching.state_dict())


def test_the_average_survives_a_restart(network: TinyNetwork) -> None:
    matching, restored, fresh = (BatchNormMatching(network, IMAGE_SHAPE, momentum=0.9) for _ in range(3))
    fresh.load_state_dict(matching.state_dict())  # before the first call there is nothing to carry
    watched_loss(matching, network, images(0))
    state = matching.state_dict()
    expected = watched_loss(matching, network, images(1))
    restored.load_state_dict(state)  # which is of the moment it was asked for
    assert torch.equal(watched_loss(restored, network, images(1)), expected)
    assert not torch.equal(watched_loss(fresh, network, images(1)), expected)
