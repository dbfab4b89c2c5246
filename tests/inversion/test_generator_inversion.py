"""The `ssdkd` method against a plain reimplementation, step by step, and what it must leave alone."""

from __future__ import annotations

import copy
import itertools
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from same_values import assert_same
from tiny_network import TinyGenerator
from torch import Tensor, nn

from stages.data.augment import augmented, draw_augmentation
from stages.errors import ConfigError, DivergedError
from stages.events import InversionStep
from stages.inversion.generator_inversion import GeneratorInversion
from stages.models.build import build_generator
from stages.run import Run, derived_seed

BUILT_WITH = "stages.inversion.generator_inversion.build_generator"

WARMUP = 3
"""Warm-up epochs of the small configuration; it has 7 epochs."""

RATES = {"lr_generator": 1e-3, "lr_latent": 0.01, "lr_meta": 0.02}
"""Small: Adam turns the sign of a gradient that is only rounding noise into a whole step."""


@pytest.fixture(autouse=True)
def _tiny_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUILT_WITH, lambda _name, **settings: TinyGenerator(**settings))


def set_up(run: Run) -> GeneratorInversion:
    method = GeneratorInversion(run.config.inversion)
    method.setup(run)
    return method


def generator_of(run: Run, state: dict[str, Any]) -> nn.Module:
    generator = TinyGenerator(latent_dim=run.config.inversion.latent_dim, image_shape=run.config.task.image_shape)
    generator.load_state_dict(state["meta_generator"])
    return generator


def snapshot(value: Any) -> Any:
    """A deep copy of a state, tensors included."""
    return copy.deepcopy(value)


# A plain reimplementation.


class Reference(NamedTuple):
    """What one call must give, and the images and the loss with its terms at each step."""

    images_BCHW: Tensor
    target_B: Tensor
    meta_gradient: list[Tensor]
    clone: list[Tensor]
    candidates: list[Tensor]
    losses: list[dict[str, float]]
    statistics: list[tuple[Tensor, Tensor]]


class PlainAdam:
    """Adam (0.5, 0.999) as its paper prints it."""

    def __init__(self, parameters: list[Tensor], rates: list[float]) -> None:
        self.parameters, self.rates = parameters, rates
        self.first = [torch.zeros_like(parameter) for parameter in parameters]
        self.second = [torch.zeros_like(parameter) for parameter in parameters]
        self.t = 0

    @torch.no_grad()
    def step(self, gradients: list[Tensor]) -> None:
        self.t += 1
        for index, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            self.first[index] = 0.5 * self.first[index] + 0.5 * gradient
            self.second[index] = 0.999 * self.second[index] + 0.001 * gradient**2
            mean = self.first[index] / (1 - 0.5**self.t)
            scale = (self.second[index] / (1 - 0.999**self.t)).sqrt() + 1e-8
            parameter -= self.rates[index] * mean / scale


def reference_call(
    run: Run, generator: nn.Module, average: list[tuple[Tensor, Tensor]] | None, *, stream: str = "epoch", num: int = 12
) -> Reference:
    """Lines 4-10 of Algorithm 1 with Fast-Datafree's generator, written out."""
    config, task = run.config.inversion, run.config.task
    teacher, student = copy.deepcopy(run.teacher.model).eval(), copy.deepcopy(run.student.model).eval()
    generator = copy.deepcopy(generator)
    latent_BZ = torch.randn(num, config.latent_dim, generator=run.rng("inversion", f"{stream} latent"))
    target_B = run.task.draw_targets(
        config.targets,
        num,
        class_counts_K=torch.bincount(run.buffer.column("teacher_class"), minlength=5),
        image_shape=task.image_shape,
        rng=run.rng("inversion", f"{stream} targets"),
    )
    if config.class_latents > 0:
        rng = torch.Generator().manual_seed(derived_seed(run.config.run.seed, "class anchors"))
        rows_KF = teacher.linear.weight - teacher.linear.weight.mean(dim=0, keepdim=True)
        points_KZ = rows_KF @ torch.randn(rows_KF.shape[1], config.latent_dim, generator=rng)
        points_KZ = points_KZ / (points_KZ**2).mean() ** 0.5
        latent_BZ = torch.stack(
            [z + config.class_latents * points_KZ[y] for z, y in zip(latent_BZ, target_B, strict=True)]
        )
    latent_BZ = latent_BZ.detach().requires_grad_()
    stored = run.buffer.column("teacher_class").tolist()
    parameters = [*generator.parameters(), latent_BZ]
    adam = PlainAdam(parameters, [config.lr_generator] * (len(parameters) - 1) + [config.lr_latent])
    meta_gradient = [torch.zeros_like(parameter) for parameter in generator.parameters()]
    mean_C, std_C = (torch.tensor(values).view(-1, 1, 1) for values in (task.mean, task.std))
    m = config.bn_momentum
    candidates, losses = [], []

    for step in range(config.steps):
        images_BCHW = generator(latent_BZ)
        augmentation = draw_augmentation(
            num,
            padding=task.crop_padding,
            flip=task.horizontal_flip,
            rng=run.rng("inversion", f"{stream} augmentation", step),
            device="cpu",
        )
        views_BCHW = (augmented(images_BCHW, augmentation) - mean_C) / std_C
        teacher_BK, features = teacher.logits_and_features(views_BCHW)

        bn = torch.zeros(())
        statistics = []
        for layer, (norm, inputs) in enumerate(zip((teacher.bn1, teacher.bn2), features, strict=True)):
            batch = (inputs.mean(dim=(0, 2, 3)), inputs.var(dim=(0, 2, 3), correction=0))
            running = (norm.running_mean, norm.running_var)
            if config.bn_loss == "standardized":
                unit_C = running[1] + norm.eps
                batch = ((batch[0] - running[0]) / unit_C.sqrt(), batch[1] / unit_C)
                running = (torch.zeros_like(unit_C), running[1] / unit_C)
            statistics.append(tuple(value.detach() for value in batch))
            for kind, running_C in enumerate(running):
                value_C = batch[kind]
                if average is not None and m > 0:
                    value_C = (1 - m) * value_C + m * average[layer][kind]
                bn = bn + ((running_C - value_C) ** 2).sum().sqrt()

        probability_BK = teacher_BK.softmax(dim=1)
        class_B = teacher_BK.argmax(dim=1)
        phi = []
        for sample, class_index in enumerate(class_B.tolist()):
            weight = 1.0
            if config.diversity and stored:
                weight *= 1 - stored.count(class_index) / len(stored)
            if config.difficulty:
                gamma = config.gamma
                if config.gamma_start is not None:  # a straight line over the 7 epochs
                    gamma = config.gamma_start + (config.gamma - config.gamma_start) * (run.epoch - 1) / 6
                weight *= (1 - probability_BK[sample, class_index].item()) ** gamma
            phi.append(weight)
        aim_B = class_B if target_B is None else target_B
        task_term = (torch.tensor(phi) * F.cross_entropy(teacher_BK, aim_B, reduction="none")).mean()

        gap = torch.zeros(())
        if run.epoch >= WARMUP:
            student_BK = student(views_BCHW)
            kl_B = F.kl_div(
                student_BK.log_softmax(1), teacher_BK.log_softmax(1), reduction="none", log_target=True
            ).sum(dim=1)
            gap = (kl_B * (student_BK.argmax(dim=1) == class_B)).mean()

        loss = config.bn_weight * bn + config.task_weight * task_term - config.adversarial_weight * gap
        losses.append({"loss": loss.item(), "bn": bn.item(), "task": task_term.item(), "adversarial": gap.item()})
        candidates.append((loss.item(), step, images_BCHW.detach().clone(), aim_B))
        gradients = list(torch.autograd.grad(loss, parameters))
        meta_gradient = [total + gradient for total, gradient in zip(meta_gradient, gradients, strict=False)]
        adam.step(gradients)

    _, _, best_BCHW, best_aim_B = min(candidates, key=lambda candidate: candidate[:2])
    clone = [parameter.detach() for parameter in generator.parameters()]
    return Reference(
        best_BCHW, best_aim_B, meta_gradient, clone, [entry[2] for entry in candidates], losses, statistics
    )


CASES = {
    "paper": {},
    "printed L_BN": {"bn_momentum": 0.0, "bn_weight": 1.0},
    "standardized L_BN": {"bn_loss": "standardized"},
    "phi is one": {"diversity": False, "difficulty": False, "task_weight": 3.0},
    "diversity": {"difficulty": False, "targets": "inverse_frequency"},
    "difficulty": {"diversity": False, "gamma": 0.5, "task_weight": 20.0},
    "annealed gamma": {"diversity": False, "gamma_start": 0.0, "gamma": 3.0, "task_weight": 20.0},
    "latents of a class": {"class_latents": 1.5, "targets": "balanced", "task_weight": 5.0},
    "teacher's targets": {"targets": "teacher", "gamma": 1.0, "task_weight": 5.0},
    "adversary": {"adversarial_weight": 50.0},
    "latents only": {"lr_generator": 1e-9, "lr_latent": 0.05},
}


@pytest.mark.parametrize("epoch", [1, WARMUP])
@pytest.mark.parametrize("case", CASES)
def test_two_calls_against_the_reference(make_run, fill, case: str, epoch: int) -> None:
    run = make_run(epoch=epoch, inversion=RATES | CASES[case] | {"steps": 4})
    fill(run, 17)
    method = set_up(run)
    average, first_moments = None, None

    for call in range(2):
        run.epoch, run.events[:] = epoch + call, []
        reference = reference_call(run, generator_of(run, method.state_dict()), average)
        inverted = method.invert(run)

        torch.testing.assert_close(inverted.images_BCHW, reference.images_BCHW, rtol=1e-3, atol=1e-3)
        steps = range(4)
        nearest = min(steps, key=lambda step: (inverted.images_BCHW - reference.candidates[step]).norm())
        assert nearest == min(steps, key=lambda step: reference.losses[step]["loss"])
        assert torch.equal(inverted.target_B, reference.target_B)
        for event, losses in zip(run.events, reference.losses, strict=True):
            reported = (event.loss, event.loss_bn, event.loss_task, event.loss_adversarial)
            assert reported == pytest.approx(tuple(losses.values()), rel=2e-3, abs=1e-5)

        # The moving averages of L_BN take the last step's statistics, once a call.
        if average is None:
            average = reference.statistics
        else:
            m = run.config.inversion.bn_momentum
            average = [
                tuple(m * old + (1 - m) * new for old, new in zip(*layers, strict=True))
                for layers in zip(average, reference.statistics, strict=True)
            ]
        state = method.state_dict()
        for layer, (mean_C, variance_C) in enumerate(average):
            torch.testing.assert_close(state["bn"]["mean"][layer], mean_C, rtol=1e-3, atol=1e-3)
            torch.testing.assert_close(state["bn"]["variance"][layer], variance_C, rtol=1e-3, atol=1e-3)

        # One gradient a call, the sum over the steps, reaches the meta-generator's persistent Adam.
        if first_moments is None:
            first_moments = [torch.zeros_like(gradient) for gradient in reference.meta_gradient]
        first_moments = [
            0.5 * moment + 0.5 * gradient
            for moment, gradient in zip(first_moments, reference.meta_gradient, strict=True)
        ]
        for index, moment in enumerate(first_moments):
            stored = state["meta_optimizer"]["state"][index]
            assert stored["step"] == call + 1
            assert (stored["exp_avg"] - moment).norm() < 0.03 * moment.norm()


def test_gamma_of_a_single_epoch_is_the_first(make_run) -> None:
    settings = {"diversity": False, "gamma": 3.0, "task_weight": 20.0}
    told = []
    for changes in ({"gamma_start": 0.5}, {"gamma": 0.5}):
        run = make_run(command="invert", buffer={"capacity": 12}, inversion=RATES | settings | changes)
        assert run.schedule.epochs == 1
        set_up(run).invert(run)
        told.append([event.loss_task for event in run.events])
    assert told[0] == pytest.approx(told[1])


def test_latents_of_a_class_need_a_linear_layer(make_run) -> None:
    run = make_run(inversion={"class_latents": 1.0, "targets": "balanced"})
    run.teacher.model.linear = nn.Sequential(
        nn.Unflatten(1, (-1, 1)), nn.Conv1d(run.teacher.model.linear.in_features, 5, 1)
    )
    with pytest.raises(ConfigError, match=r"class_latents` needs a last linear layer with 5 outputs"):
        set_up(run)


def test_latents_of_a_class_need_a_class_an_image(make_run, monkeypatch) -> None:
    run = make_run(inversion={"class_latents": 1.0, "targets": "balanced"})
    monkeypatch.setattr(run.task, "label_shape", lambda image_shape: tuple(image_shape[1:]))
    with pytest.raises(ConfigError, match="this task's images have one a pixel"):
        set_up(run)


def test_the_best_step_differs_among_the_cases(make_run, fill) -> None:
    """Otherwise the choice of the best of T_g steps would not be tested above."""
    best_steps = set()
    for case in CASES.values():
        run = make_run(epoch=WARMUP, inversion=RATES | case | {"steps": 4})
        fill(run, 17)
        losses = reference_call(run, generator_of(run, set_up(run).state_dict()), None).losses
        best_steps.add(min(range(4), key=lambda step: losses[step]["loss"]))
    assert best_steps - {0}
    assert best_steps - {3}


def test_the_meta_generator_makes_one_adam_step_a_call(make_run) -> None:
    run = make_run(inversion=RATES)
    method = set_up(run)
    parameters = list(generator_of(run, method.state_dict()).parameters())
    adam = PlainAdam([parameter.detach().clone() for parameter in parameters], [0.02] * len(parameters))
    previous = None
    for epoch in (1, 2):
        run.epoch = epoch
        method.invert(run)
        state = method.state_dict()
        moments = [state["meta_optimizer"]["state"][index]["exp_avg"].clone() for index in range(len(parameters))]
        carried = [0.5 * moment for moment in previous] if previous else [torch.zeros_like(m) for m in moments]
        adam.step([2 * (moment - old) for moment, old in zip(moments, carried, strict=True)])
        previous = moments
        updated = generator_of(run, state)
        for parameter, expected in zip(updated.parameters(), adam.parameters, strict=True):
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=2e-4)
    # What is not a parameter never moves: the clone's running statistics are the clone's.
    assert all(int(value) == 0 for name, value in updated.named_buffers() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_by_reptile_the_meta_generator_moves_towards_the_clone(make_run, rate: float) -> None:
    run = make_run(inversion=RATES | {"meta_update": "reptile", "lr_meta": rate, "steps": 4})
    method = set_up(run)
    average = None
    for run.epoch in (1, 2):
        before = generator_of(run, method.state_dict())
        reference = reference_call(run, before, average)
        method.invert(run)
        average = reference.statistics if average is None else average
        after = generator_of(run, method.state_dict())
        for old, clone, new in zip(before.parameters(), reference.clone, after.parameters(), strict=True):
            moved = clone - old.detach()
            assert moved.norm() > 0
            # Adam turns the sign of rounding noise into a step, so that single weights may differ.
            assert (new.detach() - old.detach() - rate * moved).norm() < 0.1 * rate * moved.norm()


def test_default_meta_rate_is_the_sum_of_the_steps(make_run) -> None:
    run = make_run(inversion={"lr_generator": 0.004, "steps": 5})
    assert set_up(run).state_dict()["meta_optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.02)


# What a call gives back.


def test_images_are_a_copy_in_range(make_run) -> None:
    run = make_run(inversion=RATES)
    method = set_up(run)
    images_BCHW, target_B = method.invert(run)
    assert images_BCHW.shape == (12, 2, 8, 6)
    assert images_BCHW.dtype == torch.float32
    assert not images_BCHW.requires_grad
    assert 0 <= images_BCHW.min() < images_BCHW.max() <= 1
    assert target_B.shape == (12,)
    before_BCHW = images_BCHW.clone()
    run.epoch = 2
    later_BCHW = method.invert(run).images_BCHW
    assert torch.equal(images_BCHW, before_BCHW)
    assert not torch.equal(later_BCHW, before_BCHW)


def test_targets_are_a_copy(make_run) -> None:
    run = make_run(inversion=RATES | {"targets": "teacher"})
    method = set_up(run)
    target_B = method.invert(run).target_B
    before_B = target_B.clone()
    run.epoch = 2
    later_B = method.invert(run).target_B
    assert torch.equal(target_B, before_B)
    assert not torch.equal(later_B, before_B)


def test_teachers_targets_are_its_classes_of_the_returned_images(make_run) -> None:
    run = make_run(inversion=RATES | {"targets": "teacher"}, task={"crop_padding": 0, "horizontal_flip": False})
    images_BCHW, target_B = set_up(run).invert(run)
    assert torch.equal(target_B, run.teacher(images_BCHW).argmax(dim=1))
    assert target_B.unique().numel() > 1


def test_equal_runs_invert_equal_images(make_run) -> None:
    def inverted(seed: int, epoch: int) -> Tensor:
        run = make_run(run={"seed": seed}, epoch=epoch, inversion=RATES)
        return set_up(run).invert(run).images_BCHW

    assert torch.equal(inverted(1, 2), inverted(1, 2))
    assert not torch.equal(inverted(1, 2), inverted(2, 2))
    assert not torch.equal(inverted(1, 2), inverted(1, 3))


def test_the_generator_begins_with_weights_of_the_runs_seed(make_run) -> None:
    def first_weights(seed: int, stream: int) -> dict[str, Tensor]:
        run = make_run(run={"seed": seed})
        torch.manual_seed(stream)
        return set_up(run).state_dict()["meta_generator"]

    assert_same(first_weights(1, stream=8), first_weights(1, stream=9))
    assert not torch.equal(first_weights(1, stream=8)["0.weight"], first_weights(2, stream=8)["0.weight"])


def test_steps_are_counted_over_the_calls_of_an_epoch(make_run) -> None:
    run = make_run(epoch=WARMUP, inversion=RATES | {"calls": 4, "warmup_calls": 2})
    method = set_up(run)
    for run.call in range(2):
        method.invert(run)
    told = [(event.step, event.num_steps) for event in run.events if isinstance(event, InversionStep)]
    assert told == [(step, 6) for step in range(6)]
    assert run.num_trained == 6 * 12


def test_bf16_is_for_the_networks_only(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def watched(name: str, layer: nn.Module) -> None:
        layer.register_forward_hook(lambda _layer, _inputs, output: seen.add((name, output.dtype)))

    def build(_name: str, **settings: Any) -> nn.Module:
        generator = TinyGenerator(**settings)
        watched("generator", generator[4])
        return generator

    monkeypatch.setattr(BUILT_WITH, build)
    run = make_run(epoch=WARMUP, inversion=RATES)
    run.precision = "bf16"
    method = set_up(run)
    watched("teacher", run.teacher.model.bn1)
    watched("student", run.student.model.bn1)
    images_BCHW, _ = method.invert(run)
    assert seen == {(name, torch.bfloat16) for name in ("generator", "teacher", "student")}
    assert images_BCHW.dtype == torch.float32
    state = method.state_dict()
    assert all(value.dtype == torch.float32 for value in state["bn"]["mean"] + state["bn"]["variance"])
    assert all(value.dtype == torch.float32 for value in state["meta_generator"].values() if value.is_floating_point())


def test_images_are_fp32_whatever_the_generator_gives(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_low_precision(_name: str, **settings: Any) -> nn.Module:
        generator = TinyGenerator(**settings)
        generator.register_forward_hook(lambda _module, _inputs, images_BCHW: images_BCHW.bfloat16())
        return generator

    monkeypatch.setattr(BUILT_WITH, build_low_precision)
    run = make_run(inversion=RATES)
    seen = []
    run.teacher.register_forward_hook(lambda _network, inputs, _output: seen.append(inputs[0].dtype))
    assert set_up(run).invert(run).images_BCHW.dtype == torch.float32
    assert set(seen) == {torch.float32}


# When the student takes part.


@pytest.mark.parametrize(
    ("command", "epoch", "weight", "takes_part"),
    [
        ("run", WARMUP - 1, 1.1, False),
        ("run", WARMUP, 1.1, True),
        ("run", WARMUP + 1, 1.1, True),
        ("run", WARMUP + 1, 0.0, False),
        ("invert", WARMUP + 1, 1.1, False),
    ],
)
def test_the_student_takes_part_from_the_last_warmup_epoch(
    make_run, command: str, epoch: int, weight: float, takes_part: bool
) -> None:
    run = make_run(command=command, epoch=epoch, inversion=RATES | {"adversarial_weight": weight})
    calls = []
    run.student.register_forward_hook(lambda *_: calls.append(run.student.training))
    method = set_up(run)
    method.invert(run)
    assert calls == ([False] * 3 if takes_part else [])  # in eval mode, once a step
    assert any(event.loss_adversarial > 0 for event in run.events) == takes_part


# What a call leaves alone.


def all_hooks(network: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in network.modules())


def test_teacher_student_and_buffer_are_untouched(make_run, fill) -> None:
    run = make_run(epoch=WARMUP, inversion=RATES)
    fill(run, 10)
    run.student.train()
    before = snapshot((run.teacher.state_dict(), run.student.state_dict(), run.buffer.state_dict()))
    set_up(run).invert(run)
    assert_same((run.teacher.state_dict(), run.student.state_dict(), run.buffer.state_dict()), before)
    for network, is_student in ((run.teacher, False), (run.student, True)):
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(parameter.requires_grad == is_student for parameter in network.parameters())
        assert all(module.training == is_student for module in network.modules())
        assert all_hooks(network) == 0


def test_the_holdout_call_changes_nothing(make_run, fill) -> None:
    runs, methods = [], []
    for _run in range(2):
        run = make_run(epoch=WARMUP, inversion=RATES)
        fill(run, 10)
        method = set_up(run)
        method.invert(run)
        runs.append(run)
        methods.append(method)
    before = snapshot((methods[0].state_dict(), runs[0].student.state_dict(), runs[0].buffer.state_dict()))
    num_events = len(runs[0].events)
    holdout = methods[0].invert_holdout(runs[0], 9)
    assert holdout.images_BCHW.shape == (9, 2, 8, 6)
    assert_same((methods[0].state_dict(), runs[0].student.state_dict(), runs[0].buffer.state_dict()), before)
    assert len(runs[0].events) == num_events

    for run in runs:
        run.epoch += 1
    with_holdout, without = (method.invert(run).images_BCHW for method, run in zip(methods, runs, strict=True))
    assert torch.equal(with_holdout, without)


def test_the_holdout_is_made_like_the_others_from_a_stream_of_its_own(make_run, fill) -> None:
    run = make_run(epoch=WARMUP, inversion=RATES)
    fill(run, 10)
    method = set_up(run)
    generator = generator_of(run, method.state_dict())
    expected = reference_call(run, generator, None, stream="holdout", num=12).images_BCHW
    holdout_BCHW = method.invert_holdout(run, 12).images_BCHW
    torch.testing.assert_close(holdout_BCHW, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(holdout_BCHW, method.invert(run).images_BCHW, atol=1e-2)


@pytest.mark.parametrize("update", [{}, {"meta_update": "reptile", "lr_meta": 0.5}], ids=["fomaml", "reptile"])
def test_a_restored_method_goes_on_as_the_first(make_run, update: dict[str, Any]) -> None:
    run = make_run(epoch=WARMUP, inversion=RATES | update)
    method = set_up(run)
    method.invert(run)
    restored = set_up(run)
    restored.load_state_dict(snapshot(method.state_dict()))
    run.epoch += 1
    expected = method.invert(run)
    assert_same(tuple(restored.invert(run)), tuple(expected))
    assert_same(restored.state_dict(), method.state_dict())


def test_each_call_begins_with_all_that_the_meta_generator_is(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it keeps beside its weights, too."""

    class Counting(TinyGenerator):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.register_buffer("num_passes", torch.zeros((), dtype=torch.int64))

        def forward(self, latent_BZ: Tensor) -> Tensor:
            seen.append(int(self.num_passes))
            self.num_passes += 1
            return super().forward(latent_BZ)

    seen: list[int] = []
    monkeypatch.setattr(BUILT_WITH, lambda _name, **settings: Counting(**settings))
    run = make_run(inversion=RATES)
    method = set_up(run)
    seen.clear()
    for run.epoch in (1, 2):
        method.invert(run)
    assert seen == [0, 1, 2, 0, 1, 2]


# The reset of the first layer.


@pytest.mark.parametrize("update", [{}, {"meta_update": "reptile"}], ids=["fomaml", "reptile"])
def test_what_of_a_generator_is_frozen_stays(make_run, monkeypatch: pytest.MonkeyPatch, update: dict[str, Any]) -> None:
    made: list[nn.Module] = []

    def build(_name: str, **settings: Any) -> nn.Module:
        made.append(TinyGenerator(**settings))
        made[0][4].requires_grad_(False)
        return made[0]

    monkeypatch.setattr(BUILT_WITH, build)
    run = make_run(inversion=RATES | update)
    method = set_up(run)
    before = snapshot(made[0].state_dict())
    method.invert(run)
    after = method.state_dict()["meta_generator"]
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {"0.weight", "2.weight"} <= changed
    assert not changed & {"4.weight", "4.bias"}


def test_a_generator_that_cannot_be_reset_is_refused_at_the_start(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUILT_WITH, lambda *_, **__: nn.Sequential(nn.Linear(6, 4)))
    with pytest.raises(ConfigError, match=r"inversion\.reset_epoch"):
        set_up(make_run(inversion=RATES | {"reset_epoch": 2}))


def test_reset_redraws_the_first_layer_at_its_epoch_only(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUILT_WITH, build_generator)
    # A meta-rate this small leaves the weights as the reset left them.
    run = make_run(inversion=RATES | {"lr_meta": 1e-12, "reset_epoch": 2, "calls": 2})
    method = set_up(run)
    initial = snapshot(method.state_dict()["meta_generator"])

    def assert_weights(*, is_reset: bool) -> None:
        rng = run.rng("inversion", "reset")
        for name in ("project.weight", "project.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight"):
            value, expected = method.state_dict()["meta_generator"][name], initial[name]
            if is_reset and name in ("project.weight", "blocks.0.weight"):
                expected = 0.02 * torch.randn(expected.shape, generator=rng)
            elif is_reset and name in ("project.bias", "blocks.0.bias"):
                expected = torch.zeros_like(expected)
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-9)

    method.invert(run)
    assert_weights(is_reset=False)
    run.epoch = 2
    for run.call in (0, 1):
        method.invert(run)
    run.call = 0  # once an epoch, by the first call's draws
    assert_weights(is_reset=True)
    initial = snapshot(method.state_dict()["meta_generator"])
    run.epoch = 3
    method.invert(run)
    assert_weights(is_reset=False)


# When it goes wrong.


def test_a_loss_that_is_not_finite_ends_the_run(make_run) -> None:
    run = make_run(inversion=RATES)
    run.teacher.model.linear.bias.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"inversion loss is nan in epoch 1") as caught:
        set_up(run).invert(run)
    assert "lr_generator" in caught.value.hint
    assert all_hooks(run.teacher) == 0
    assert run.student.training


def test_where_no_loss_is_finite_the_images_are_those_of_the_first_step(make_run) -> None:
    run = make_run(epoch=WARMUP, inversion=RATES)
    run.teacher.model.linear.bias.fill_(float("nan"))
    method = set_up(run)
    generator = generator_of(run, method.state_dict())
    latent_BZ = torch.randn(9, 6, generator=run.rng("inversion", "holdout latent"))
    torch.testing.assert_close(method.invert_holdout(run, 9).images_BCHW, generator(latent_BZ).detach())


def test_a_loss_that_is_lost_between_reports_is_not_forgotten(make_run) -> None:
    run = make_run(inversion=RATES, run={"log_every": 100})
    method = set_up(run)
    bias_K = run.teacher.model.linear.bias
    looks = itertools.count()

    def lose_the_second_of_three(_module: nn.Module, _inputs: object) -> None:
        bias_K.fill_(torch.nan if next(looks) == 1 else 0.0)

    run.teacher.register_forward_pre_hook(lose_the_second_of_three)
    with pytest.raises(DivergedError, match="inversion loss is not finite in epoch 1"):
        method.invert(run)


def test_teacher_and_student_of_these_tests_agree_in_part(make_run) -> None:
    """Otherwise the mask of the adversarial term would not be tested above."""
    run = make_run(inversion=RATES)
    images_BCHW = set_up(run).invert(run).images_BCHW
    same_B = run.teacher(images_BCHW).argmax(dim=1) == run.student.eval()(images_BCHW).argmax(dim=1)
    assert 0 < same_B.sum() < 12


def test_a_generator_that_draws_is_refused_where_the_student_learns_beside_it(
    make_run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BUILT_WITH, lambda _name, **settings: nn.Sequential(TinyGenerator(**settings), nn.Dropout(0.2)))
    run = make_run(inversion={"overlap": True})
    with pytest.raises(ConfigError, match="draws random numbers") as refusal:
        GeneratorInversion(run.config.inversion).setup(run)
    assert "inversion.overlap = false" in str(refusal.value.hint)


def test_layers_that_draw_repeat_their_draws_whoever_drew_before(make_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BUILT_WITH, lambda _name, **settings: nn.Sequential(TinyGenerator(**settings), nn.Dropout(0.2)))
    made = []
    for num_drawn in (0, 100):
        run = make_run(epoch=2)
        method = GeneratorInversion(run.config.inversion)
        method.setup(run)
        torch.rand(num_drawn)
        made.append(method.invert(run).images_BCHW)
    assert torch.equal(*made)
