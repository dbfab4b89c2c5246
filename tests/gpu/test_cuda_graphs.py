"""Recorded steps on a CUDA device: they train as eager ones do, wait for nothing, and give way where they must."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from same_values import assert_same
from tiny_network import TinyNetwork
from torch import Tensor, nn

from stages.distillation.stage import Distillation
from stages.errors import DivergedError
from stages.inversion.bn_statistics import channel_statistics
from stages.inversion.stage import Inversion
from stages.machine import cuda_tape
from stages.machine.cuda_tape import RECOVERS_FROM, CudaTape
from stages.machine.device import prepare_device
from stages.machine.recorded_step import NUM_REHEARSALS
from stages.models.frozen_batch_norm import frozen_batch_norm
from stages.run import Run

DEVICE = torch.device("cuda", 0)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]

WARMUP, NUM_EPOCHS = 3, 7
STEPS = NUM_REHEARSALS + 2
# Small: Adam turns the sign of a gradient that is only rounding noise into a whole step.
RATES = {"lr_generator": 1e-4, "lr_latent": 1e-3, "lr_meta": 1e-4}

MakeCudaRun = Callable[..., Run]


@pytest.fixture(autouse=True)
def _prepared() -> None:
    prepare_device(DEVICE)


@pytest.fixture
def make_cuda_run(make_run) -> MakeCudaRun:
    """A run on the device, recorded or eager."""

    def make(*, is_recorded: bool, precision: str = "fp32", **settings: Any) -> Run:
        for name, table in (("inversion", RATES | {"steps": STEPS}), ("distillation", {"steps": STEPS, "lr": 0.01})):
            settings[name] = table | settings.get(name, {})
        run = make_run(device=DEVICE, tape=CudaTape(DEVICE) if is_recorded else None, **settings)
        run.precision = precision
        return run

    return make


class Training:
    """Inversion and distillation of a run, epoch by epoch."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.inversion, self.distillation = Inversion(run.config.inversion), Distillation(run.config.distillation)
        self.stages = (self.inversion, self.distillation)
        for stage in self.stages:
            stage.setup(run)

    def check(self) -> None:
        for stage in self.stages:
            stage.check(self.run)

    def epochs(self, first: int, last: int) -> None:
        for self.run.epoch in range(first, last + 1):
            for stage in self.stages:
                stage.run_epoch(self.run)
            self.check()


def told(run: Run, *kinds: str) -> list[Any]:
    return [event for event in run.events if event.kind in kinds]


STEP_KINDS = ("inversion_step", "distillation_step")


@contextmanager
def waits_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the watch is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def assert_same_course(one: Run, other: Run) -> None:
    """The same losses at every step, but for the rounding of other kernels."""
    first, second = told(one, *STEP_KINDS), told(other, *STEP_KINDS)
    assert len(first) == len(second) > 0
    for event, expected in zip(first, second, strict=True):
        assert event.kind == expected.kind
        numbers, expected_numbers = (
            {name: value for name, value in vars(each).items() if isinstance(value, float) and name != "agreement"}
            for each in (event, expected)
        )  # of agreement one image is .06
        assert numbers == pytest.approx(expected_numbers, rel=0.03, abs=0.03)
    for value, expected in zip(one.student.state_dict().values(), other.student.state_dict().values(), strict=True):
        torch.testing.assert_close(value, expected, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("num_views", "hint_share", "num_steps"), [(0, 0.0, 4), (2, 0.0, 4), (0, 0.5, 5)])
def test_recorded_training_is_eager_training(
    make_cuda_run: MakeCudaRun, precision: str, num_views: int, hint_share: float, num_steps: int
) -> None:
    distillation = {"views": num_views, "hint_share": hint_share}
    runs = []
    for is_recorded in (False, True):
        run = make_cuda_run(is_recorded=is_recorded, precision=precision, distillation=distillation, epoch=0)
        charged: list[str] = []

        @contextmanager
        def charge(account: str, charged: list[str] = charged) -> Iterator[None]:
            charged.append(account)
            yield

        run.charged_to = charge
        Training(run).epochs(1, NUM_EPOCHS)
        assert told(run, "warning") == []
        # Inversion without and with the student, the update (with hints, and without), and the teacher's look at drawn
        # or at new images. Of each the first rehearsal, and the recording.
        assert charged == (["setup"] * 2 * num_steps if is_recorded else [])
        runs.append(run)
    assert_same_course(runs[1], runs[0])


def test_random_layers_draw_the_same_when_they_are_replayed(make_cuda_run: MakeCudaRun, fill) -> None:
    """A student whose first layer is dropout: the share of zeros, and where they are, at every step."""
    masks: list[list[Tensor]] = []
    for is_recorded in (False, True):
        run = make_cuda_run(is_recorded=is_recorded, epoch=WARMUP + 1)
        fill(run, 40)
        mask_BK = torch.empty(16, 5, device=DEVICE)
        run.student.model = Dropped(run.student.model, mask_BK).to(DEVICE)
        stage = Distillation(run.config.distillation)
        stage.setup(run)
        seen: list[Tensor] = []
        run.safe_point = lambda seen=seen, mask_BK=mask_BK: seen.append(mask_BK.clone())
        for run.epoch in (WARMUP + 1, WARMUP + 2):
            stage.run_epoch(run)
        assert told(run, "warning") == []
        masks.append(seen)
    assert len(masks[0]) == 2 * STEPS
    for mask, expected in zip(masks[1], masks[0], strict=True):
        assert torch.equal(mask, expected)
    assert len({tuple(mask.flatten().tolist()) for mask in masks[1]}) == 2 * STEPS


class Dropped(nn.Module):
    """A network with dropout at its end, which shows what was dropped."""

    def __init__(self, model: nn.Module, mask_BK: Tensor) -> None:
        super().__init__()
        self.model, self.dropout, self.mask_BK = model, nn.Dropout(0.5), mask_BK

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK = self.dropout(self.model(images_BCHW))
        if self.training:
            self.mask_BK.copy_(logits_BK.detach() == 0)
        return logits_BK


@pytest.mark.parametrize("is_recorded", [False, True])
@pytest.mark.parametrize("targets", ["uniform", "balanced", "teacher", "inverse_frequency"])
@pytest.mark.parametrize(("num_views", "hint_share"), [(0, 0.0), (2, 0.0), (0, 1.0)])
def test_an_epoch_without_logging_waits_for_nothing(
    make_cuda_run: MakeCudaRun,
    monkeypatch: pytest.MonkeyPatch,
    is_recorded: bool,
    targets: str,
    num_views: int,
    hint_share: float,
) -> None:
    distillation = {"views": num_views, "hint_share": hint_share}
    run = make_cuda_run(is_recorded=is_recorded, inversion={"targets": targets}, distillation=distillation, epoch=0)
    training = Training(run)
    training.epochs(1, NUM_EPOCHS - 1)  # libraries are loaded, steps recorded, and the buffer is full
    monkeypatch.setattr(Run, "should_log", lambda *_: False)
    run.epoch = NUM_EPOCHS
    with waits_are_errors():
        for stage in training.stages:
            stage.run_epoch(run)
    training.check()


def test_a_wait_within_an_epoch_would_be_seen() -> None:
    value = torch.ones((), device=DEVICE)
    with pytest.raises(RuntimeError, match="synchronizing"), waits_are_errors():
        value.item()


class Branching(TinyNetwork):
    """Looks at a value: the rehearsals notice."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK = super().forward(images_BCHW)
        return logits_BK if logits_BK.detach().sum() < 1e9 else 0 * logits_BK


OUTLIVING: list[object] = []
"""What is left of recordings that failed, for as long as this process uses the device."""


class Synchronizing(TinyNetwork):
    """Waits in a way that nobody notices before it breaks the recording."""

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK = super().forward(images_BCHW)
        torch.cuda.synchronize()
        return logits_BK


@pytest.mark.parametrize("kind", [Branching, Synchronizing])
def test_a_student_that_cannot_be_recorded_learns_all_the_same(
    make_cuda_run: MakeCudaRun, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    monkeypatch.setattr(cuda_tape, "_failed", {})
    runs = []
    for is_recorded in (False, True):
        torch.manual_seed(1)
        student = kind(in_channels=2, num_classes=5, width=4)
        run = make_cuda_run(is_recorded=is_recorded, epoch=0, student=student)
        Training(run).epochs(1, NUM_EPOCHS)
        runs.append(run)
    assert_same_course(runs[1], runs[0])
    names = [event.message.partition(" is not recorded")[0] for event in told(runs[1], "warning")]
    expected = ["the inversion step", "the student's update"]  # the adversarial one; the plain one was recorded
    is_spent = kind is Synchronizing and torch.__version__ < RECOVERS_FROM
    assert names == (expected[:1] if is_spent else expected)
    assert all(event.message.endswith("from now on") == is_spent for event in told(runs[1], "warning"))
    # The device is as it was: random layers draw, and with a late torch the next run is recorded.
    torch.rand(3, device=DEVICE)
    OUTLIVING.append(cuda_tape._failed)
    if is_spent:
        return
    run = make_cuda_run(is_recorded=True, epoch=0)
    Training(run).epochs(1, NUM_EPOCHS)
    assert told(run, "warning") == []


@pytest.mark.parametrize("is_recorded", [False, True])
def test_a_loss_that_is_not_finite_leaves_the_student_as_it_was(
    make_cuda_run: MakeCudaRun, fill, monkeypatch: pytest.MonkeyPatch, is_recorded: bool
) -> None:
    run = make_cuda_run(is_recorded=is_recorded, epoch=WARMUP + 1)
    fill(run, 40)
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    stage.run_epoch(run)
    run.epoch += 1
    monkeypatch.setattr(Run, "should_log", lambda *_: False)
    run.teacher.model.linear.bias.fill_(float("nan"))
    before = [parameter.detach().clone() for parameter in run.student.parameters()]
    stage.run_epoch(run)
    assert all(torch.equal(one, other) for one, other in zip(before, run.student.parameters(), strict=True))
    assert run.buffer.column("priority").isfinite().all()
    with pytest.raises(DivergedError, match="distillation loss is not finite in epoch 5"):
        stage.check(run)


def test_a_checkpoint_goes_from_device_to_device(make_cuda_run: MakeCudaRun, make_run, fill) -> None:
    """What a GPU saved a CPU goes on with, and the other way round."""
    runs = [make_cuda_run(is_recorded=True, epoch=0), make_run(epoch=0, distillation={"steps": STEPS, "lr": 0.01})]
    trainings = [Training(run) for run in runs]
    for training in trainings:
        training.epochs(1, WARMUP + 1)
    for source, target in (trainings, trainings[::-1]):
        target.run.student.load_state_dict(source.run.student.state_dict())
        fresh = Training(target.run)
        for stage, other in zip(source.stages, fresh.stages, strict=True):
            saved = to_cpu(stage.state_dict())
            other.load_state_dict(saved)
            assert_same(what_is_computed(to_cpu(other.state_dict())), what_is_computed(saved))
        weight_KC = target.run.student.model.linear.weight
        before_KC = weight_KC.detach().clone()
        fresh.epochs(WARMUP + 2, WARMUP + 3)  # fails where a tensor is on the wrong device, or a loss is not finite
        assert not torch.equal(weight_KC, before_KC)


def what_is_computed(state: Any) -> Any:
    """A state without how optimisers do it, and with rates, tensors in fp32 on a GPU, as numbers of so many digits."""
    if isinstance(state, list | tuple):
        return [what_is_computed(value) for value in state]
    if not isinstance(state, dict):
        return state
    kept = {key: value for key, value in state.items() if key not in ("fused", "foreach", "capturable")}
    return {key: f"{float(value):.5g}" if key == "lr" else what_is_computed(value) for key, value in kept.items()}


def to_cpu(state: Any) -> Any:
    """A state as a checkpoint gives it back."""
    if isinstance(state, Tensor):
        return state.cpu().clone()
    if isinstance(state, dict):
        return {key: to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [to_cpu(value) for value in state]
    return state


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_channel_statistics_and_their_gradient(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    rng = torch.Generator().manual_seed(0)
    features_BCHW = (torch.randn(32, 24, 8, 8, generator=rng) * 1.5 + 0.5).to(DEVICE, dtype)
    features_BCHW = features_BCHW.contiguous(memory_format=memory_format).requires_grad_()
    weights = torch.randn(2, 24, generator=rng).to(DEVICE)
    statistics = channel_statistics(features_BCHW)
    variance_C, mean_C = torch.var_mean(features_BCHW.double(), dim=(0, 2, 3), correction=0)
    for value_C, expected_C in zip(statistics, (mean_C, variance_C), strict=True):
        assert value_C.dtype == torch.float32
        torch.testing.assert_close(value_C, expected_C.float(), rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad((weights * torch.stack(pair).float()).sum(), features_BCHW)[0].double()
        for pair in (statistics, (mean_C, variance_C))
    ]
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(*gradients, rtol=tolerance, atol=tolerance * float(gradients[1].abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_frozen_batch_norm_keep_their_layout(dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    layer = nn.BatchNorm2d(24).eval().requires_grad_(False).to(DEVICE)
    layer.running_var.uniform_(0.5, 2.0)
    draws = [torch.randn(32, 24, 8, 8, generator=rng).to(DEVICE, dtype) for _ in range(2)]
    features_BCHW, gradient_BCHW = (draw.contiguous(memory_format=torch.channels_last) for draw in draws)
    features_BCHW.requires_grad_()
    (expected_BCHW,) = torch.autograd.grad(layer(features_BCHW), features_BCHW, gradient_BCHW)
    with frozen_batch_norm(layer):
        (found_BCHW,) = torch.autograd.grad(layer(features_BCHW), features_BCHW, gradient_BCHW)
    assert found_BCHW.is_contiguous(memory_format=torch.channels_last)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(found_BCHW, expected_BCHW, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_steps_are_recorded_too(make_cuda_run: MakeCudaRun) -> None:
    runs = []
    for acceleration in ("eager", "compile"):
        run = make_cuda_run(is_recorded=acceleration == "compile", run={"acceleration": acceleration}, epoch=0)
        Training(run).epochs(1, NUM_EPOCHS)
        assert told(run, "warning") == []
        runs.append(run)
    assert_same_course(runs[1], runs[0])
