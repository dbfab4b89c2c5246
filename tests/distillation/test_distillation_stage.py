"""The student's updates and the priorities written back, against a plain reimplementation."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from same_values import assert_same
from torch import Tensor, nn

from stages.data.augment import augmented, draw_augmentation
from stages.distillation.losses import standardized_loss
from stages.distillation.stage import Distillation
from stages.errors import DivergedError
from stages.events import HintedStep
from stages.muon import MATRIX_RATE, newton_schulz
from stages.run import Run, StopRequested
from stages.scoring import score
from stages.tasks.classification import Classification

WARMUP, NUM_EPOCHS, STEPS = 3, 7, 3
FIRST = WARMUP + 1
"""The first epoch in which the student learns."""


def set_up(run: Run) -> Distillation:
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    return stage


# A plain reimplementation.


class Step(NamedTuple):
    """What one step must report."""

    loss: float
    lr: float
    agreement: float
    num_duplicates: int
    loss_hints: list[float]


def logits_and_features(network: nn.Module, images_BCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and what comes out of the batch-norm layers: the last modules that are called at their resolutions."""
    first = network.bn1(network.conv1(images_BCHW))
    second = network.bn2(network.conv2(torch.tanh(first)))
    return network.linear(F.adaptive_avg_pool2d(torch.tanh(second), 2).flatten(1)), [first, second]


class PlainDistillation:
    """Lines 16-23 of Algorithm 1: priorities as a list, SGD and Muon by their formulas."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.student = copy.deepcopy(run.student.model).train()
        self.priorities = run.buffer.column("priority").double().tolist()
        self.velocity = [torch.zeros_like(parameter) for parameter in self.student.parameters()]
        self.is_matrix = [
            run.config.distillation.optimizer == "muon" and "conv" in name
            for name, _ in self.student.named_parameters()
        ]
        layers = [(self.student.bn1, run.teacher.model.bn1), (self.student.bn2, run.teacher.model.bn2)]
        self.predictions = [
            torch.zeros(shape, requires_grad=True)
            for own, other in layers
            for shape in ((other.num_features, own.num_features), (other.num_features,))
        ]
        self.adam = torch.optim.Adam(self.predictions, lr=0.01)

    def epoch(self) -> list[Step]:
        return [self.step(step) for step in range(STEPS)]

    def step(self, step: int) -> Step:
        run, config = self.run, self.run.config.distillation
        num = len(self.priorities)
        if config.sampling == "uniform":
            probability_N = [1 / num] * num
            slots_B = torch.randint(num, (16,), generator=run.rng("distillation", "draw", step))
        else:
            powers = [(abs(delta) + config.epsilon) ** config.alpha for delta in self.priorities]
            probability_N = [power / sum(powers) for power in powers]
            slots_B = torch.multinomial(
                torch.tensor(probability_N), 16, replacement=True, generator=run.rng("distillation", "draw", step)
            )
        weight_B = [(num * probability_N[slot]) ** -config.beta for slot in slots_B.tolist()]

        augmentation = draw_augmentation(
            16, padding=1, flip=True, rng=run.rng("distillation", "augmentation", step), device="cpu"
        )
        views_BCHW = augmented(run.buffer.column("images")[slots_B].float() / 255, augmentation)
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in ((0.4, 0.5), (0.2, 0.3)))
        with torch.no_grad():
            teacher_BK, teacher_features = logits_and_features(run.teacher.model, (views_BCHW - mean) / std)
        student_BK, student_features = logits_and_features(self.student, (views_BCHW - mean) / std)

        def divergence(temperature: float) -> Tensor:
            return F.kl_div(
                (student_BK / temperature).log_softmax(dim=1),
                (teacher_BK / temperature).softmax(dim=1),
                reduction="none",
            ).sum(dim=1)

        new: dict[int, list[float]] = {}
        for slot, weight, kl in zip(slots_B.tolist(), weight_B, divergence(config.delta_temperature), strict=True):
            new.setdefault(slot, []).append(weight * kl.item())
        for slot, values in new.items():
            self.priorities[slot] = sum(values) / len(values)

        loss_B = config.temperature**2 * divergence(config.temperature)
        num_updates = (NUM_EPOCHS - WARMUP) * STEPS
        is_late = self.num_done(step) >= (1 - config.late_share) * num_updates
        if (config.late_loss if is_late else config.loss) == "standardized":
            loss_B = standardized_loss(teacher_BK, student_BK)
        if config.weight_loss:
            loss_B = loss_B * torch.tensor(weight_B) / max(weight_B)
        loss = minimized = loss_B.mean()
        hints = None
        if self.num_done(step) < config.hint_share * num_updates:
            hints = teacher_BK.var(dim=1, correction=0).mean() / 2 * self.untold(student_features, teacher_features)
            minimized = loss + hints
        lr = self.learning_rate(step)
        gradients = torch.autograd.grad(minimized, list(self.student.parameters()), retain_graph=True)
        if hints is not None:
            self.adam.zero_grad()
            hints.backward(inputs=self.predictions)
            self.adam.step()
        with torch.no_grad():
            for index, (parameter, gradient) in enumerate(zip(self.student.parameters(), gradients, strict=True)):
                decay = config.weight_decay * parameter
                if self.is_matrix[index]:
                    self.velocity[index] = config.momentum * self.velocity[index] + gradient
                    ahead = (gradient + config.momentum * self.velocity[index]).flatten(1)
                    step_OI = newton_schulz(ahead.unsqueeze(0), torch.float32).view(parameter.shape)
                    parameter -= lr * (MATRIX_RATE * step_OI + decay)
                else:
                    self.velocity[index] = config.momentum * self.velocity[index] + gradient + decay
                    parameter -= lr * self.velocity[index]
        agreement = (teacher_BK.argmax(dim=1) == student_BK.argmax(dim=1)).float().mean()
        return Step(loss.item(), lr, agreement.item(), 16 - len(new), [] if hints is None else [hints.item()])

    def untold(self, student_features: list[Tensor], teacher_features: list[Tensor]) -> Tensor:
        """Of the variance of the teacher's features, in units of its channels', what the student's do not foretell."""
        total = torch.zeros(())
        for level, (own_BCHW, other_BCHW) in enumerate(zip(student_features, teacher_features, strict=True)):
            weight_OI, bias_O = self.predictions[2 * level : 2 * level + 2]
            own_RI, other_RO = (
                (features - features.mean(dim=0)) / (features.var(dim=0, correction=0) + 1e-5).sqrt()
                for features in (values.movedim(1, 3).flatten(0, 2) for values in (own_BCHW, other_BCHW))
            )
            total = total + (own_RI @ weight_OI.T + bias_O - other_RO).square().mean()
        return total

    def num_done(self, step: int) -> int:
        return (self.run.epoch - FIRST) * STEPS + step

    def learning_rate(self, step: int) -> float:
        config = self.run.config.distillation
        cosine = math.cos(math.pi * self.num_done(step) / ((NUM_EPOCHS - WARMUP) * STEPS))
        return config.lr_min + 0.5 * (config.lr - config.lr_min) * (1 + cosine)


CASES = {
    "paper": {},
    "schaul": {"alpha": 1.0, "beta": 0.9, "epsilon": 0.1},
    "uniform": {"sampling": "uniform"},
    "alpha zero": {"alpha": 0.0},
    "weighted loss": {"weight_loss": True},
    "standardised logits": {"loss": "standardized"},
    "standardised in the end": {"late_loss": "standardized", "late_share": 0.8},
    "delta at 4": {"delta_temperature": 4.0, "temperature": 1.0},
    "plain SGD": {"momentum": 0.0, "weight_decay": 0.0, "lr_min": 0.0},
    "decay": {"weight_decay": 0.1},
    "muon": {"optimizer": "muon", "momentum": 0.8, "weight_decay": 0.1},
    "hints, in five updates": {"hint_share": 0.4},
    "hints all the time": {"hint_share": 1.0, "weight_loss": True},
}


@pytest.mark.parametrize("case", CASES)
def test_two_epochs_against_the_reference(make_run, fill, case: str) -> None:
    run = make_run(epoch=FIRST, distillation={"lr": 0.02} | CASES[case])
    fill(run, 20)
    reference, stage = PlainDistillation(run), set_up(run)
    for epoch in (FIRST, FIRST + 1):
        run.epoch, run.events[:] = epoch, []
        expected = reference.epoch()
        stage.run_epoch(run)
        for event, step in zip(run.events, expected, strict=True):
            assert step.num_duplicates > 0
            assert (event.loss, event.lr, event.agreement) == pytest.approx(step[:3], rel=1e-3)
            loss_hints = [event.loss_hints] if isinstance(event, HintedStep) else []
            assert loss_hints == pytest.approx(step.loss_hints, rel=1e-3)
        np.testing.assert_allclose(run.buffer.column("priority").numpy(), reference.priorities, rtol=2e-3, atol=1e-5)
        for value, wanted in zip(run.student.model.parameters(), reference.student.parameters(), strict=True):
            torch.testing.assert_close(value.detach(), wanted.detach(), rtol=1e-3, atol=1e-4)
        for value, wanted in zip(run.student.model.buffers(), reference.student.buffers(), strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-3, atol=1e-4)


def test_where_each_pixel_has_a_class_an_image_counts_by_the_mean_of_its_pixels(make_run, fill) -> None:
    class Pixels(Classification):
        def per_sample(self, values_BHW: Tensor) -> Tensor:
            return values_BHW.flatten(1).mean(dim=1)

    run = make_run(
        epoch=FIRST,
        teacher=nn.Conv2d(2, 5, 3, padding=1),
        student=nn.Conv2d(2, 5, 3, padding=1),
        task={"crop_padding": 0, "horizontal_flip": False},
        distillation={"steps": 1, "weight_loss": True},
    )
    run.task = Pixels(5)
    fill(run, 40)
    settings = run.config.distillation
    batch = run.buffer.draw(
        16, run.rng("distillation", "draw", 0), sampling="priority", alpha=settings.alpha, epsilon=settings.epsilon
    )
    weight_B = (40 * batch.probability_B) ** -settings.beta
    with torch.no_grad():
        teacher_BKHW, student_BKHW = run.teacher(batch.images_BCHW), run.student(batch.images_BCHW)

    def divergence(temperature: float) -> Tensor:
        target, found = ((logits / temperature).log_softmax(dim=1) for logits in (teacher_BKHW, student_BKHW))
        return F.kl_div(found, target, reduction="none", log_target=True).sum(dim=1).mean(dim=(1, 2))

    set_up(run).run_epoch(run)
    loss_B = weight_B / weight_B.max() * settings.temperature**2 * divergence(settings.temperature)
    assert run.events[0].loss == pytest.approx(loss_B.mean().item(), rel=1e-4)
    expected_B = weight_B * divergence(settings.delta_temperature)
    torch.testing.assert_close(run.buffer.column("priority")[batch.slots_B], expected_B, rtol=1e-4, atol=1e-6)


def test_a_sample_that_is_not_drawn_keeps_its_priority(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"steps": 1, "batch_size": 3})
    fill(run, 30)
    before_N = run.buffer.column("priority").clone()
    set_up(run).run_epoch(run)
    changed = (run.buffer.column("priority") != before_N).nonzero().flatten()
    slots_B = run.buffer.draw  # the draw of the only step, by the priorities as they were
    run.buffer.column("priority").copy_(before_N)
    drawn = slots_B(3, run.rng("distillation", "draw", 0), sampling="priority", alpha=0.6, epsilon=1e-6).slots_B
    assert set(changed.tolist()) == set(drawn.tolist())


def test_learning_rate_is_one_cosine_over_all_updates(make_run, fill) -> None:
    run = make_run(distillation={"lr": 0.2, "lr_min": 2e-4})
    fill(run, 20)
    stage = set_up(run)
    for epoch in range(1, NUM_EPOCHS + 1):
        run.epoch = epoch
        stage.run_epoch(run)
    rates = [event.lr for event in run.events]

    dummy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(dummy, T_max=(NUM_EPOCHS - WARMUP) * STEPS, eta_min=2e-4)
    expected = []
    for _update in range((NUM_EPOCHS - WARMUP) * STEPS):
        expected.append(schedule.get_last_lr()[0])
        dummy.step()
        schedule.step()
    assert rates == pytest.approx(expected, rel=1e-6)
    assert rates[0] == 0.2
    assert schedule.get_last_lr()[0] == pytest.approx(2e-4)  # where one more update would be


def test_a_late_decay_is_the_cosine_of_the_last_updates(make_run, fill) -> None:
    num_updates = (NUM_EPOCHS - WARMUP) * STEPS
    run = make_run(distillation={"lr": 0.2, "lr_min": 0.01, "decay_share": 0.5})
    fill(run, 20)
    stage = set_up(run)
    for run.epoch in range(FIRST, NUM_EPOCHS + 1):
        stage.run_epoch(run)
    rates = [event.lr for event in run.events]
    assert len(rates) == num_updates
    num_steady = math.ceil(num_updates / 2)
    assert rates[:num_steady] == [0.2] * num_steady
    for update, rate in enumerate(rates[num_steady:], start=num_steady):
        cosine = math.cos(math.pi * (update - num_updates / 2) / (num_updates / 2))
        assert rate == pytest.approx(0.01 + 0.19 * (1 + cosine) / 2)


def test_a_decay_of_no_length_is_a_steady_rate(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"lr": 0.2, "decay_share": 1e-17})
    fill(run, 20)
    set_up(run).run_epoch(run)
    assert {event.lr for event in run.events} == {0.2}


def test_the_late_loss_is_that_of_the_last_updates(make_run, fill) -> None:
    def told(**changes: Any) -> tuple[list[float], list[str]]:
        run = make_run(distillation={"lr": 1e-9, "lr_min": 0.0} | changes)
        fill(run, 20)
        stage = set_up(run)
        for run.epoch in range(FIRST, NUM_EPOCHS + 1):
            stage.run_epoch(run)
        return [event.loss for event in run.events], [event.objective for event in run.events]

    (kl, _), (standardized, _) = told(), told(loss="standardized")
    for share in (0.1, 0.5, 1.0):
        num_early = len(kl) - math.floor(share * len(kl))
        losses, objectives = told(late_loss="standardized", late_share=share)
        assert losses == pytest.approx(kl[:num_early] + standardized[num_early:], rel=1e-4)
        assert objectives == ["kl"] * num_early + ["standardized"] * (len(kl) - num_early)


def test_distil_alone_has_no_warmup(make_run, fill) -> None:
    run = make_run(command="distill", epoch=1)
    fill(run, 20)
    stage = set_up(run)
    stage.run_epoch(run)
    assert run.events[0].lr == 0.2
    run.epoch = run.schedule.epochs
    stage.run_epoch(run)
    num = 4 * STEPS
    last = 2e-4 + (0.2 - 2e-4) * (1 + math.cos(math.pi * (num - 1) / num)) / 2
    assert run.events[-1].lr == pytest.approx(last)


def test_nothing_learns_in_warmup(make_run, fill) -> None:
    run = make_run(epoch=WARMUP)
    fill(run, 20)
    stage = set_up(run)
    before = copy.deepcopy((run.student.state_dict(), run.buffer.state_dict()))
    stage.run_epoch(run)
    assert_same((run.student.state_dict(), run.buffer.state_dict()), before)
    assert run.events == []
    assert run.num_trained == 0
    assert stage.state_dict()["optimizer"]["state"] == {}


def test_the_teacher_is_untouched(make_run, fill) -> None:
    run = make_run(epoch=FIRST)
    fill(run, 20)
    before = copy.deepcopy(run.teacher.state_dict())
    set_up(run).run_epoch(run)
    assert_same(run.teacher.state_dict(), before)
    assert not any(module.training for module in run.teacher.modules())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in run.teacher.parameters())


def test_images_in_the_buffer_are_untouched(make_run, fill) -> None:
    run = make_run(epoch=FIRST)
    fill(run, 20)
    before = run.buffer.column("images").clone()
    set_up(run).run_epoch(run)
    assert torch.equal(run.buffer.column("images"), before)


def test_steps_of_an_epoch(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"steps": 5}, run={"log_every": 2})
    fill(run, 20)
    safe_points = []
    run.safe_point = lambda: safe_points.append(run.num_trained)
    set_up(run).run_epoch(run)
    assert safe_points == [16, 32, 48, 64, 80]  # after every step
    assert [event.step for event in run.events] == [1, 3, 4]  # every second one, and the last


@pytest.mark.parametrize("views", [0, 2])
def test_stopped_after_any_step_it_goes_on_to_the_same_student(make_run, fill, views: int) -> None:
    def make() -> tuple[Run, Distillation]:
        run = make_run(epoch=FIRST, distillation={"views": views})
        fill(run, 20)
        return run, set_up(run)

    undisturbed, stage = make()
    for epoch in (FIRST, FIRST + 1):
        undisturbed.epoch = epoch
        stage.run_epoch(undisturbed)
    expected = (undisturbed.student.state_dict(), undisturbed.buffer.state_dict(), stage.state_dict())

    for num_steps in (1, 2, 3, 4, 5):
        run, stage = make()
        remaining = num_steps

        def stop() -> None:
            nonlocal remaining
            remaining -= 1
            if remaining == 0:
                raise StopRequested

        run.safe_point = stop
        with pytest.raises(StopRequested):
            run_two_epochs(run, stage)
        saved = copy.deepcopy((run.student.state_dict(), run.buffer.state_dict(), stage.state_dict(), run.epoch))

        resumed, stage = make()
        resumed.student.load_state_dict(saved[0])
        resumed.buffer.load_state_dict(saved[1])
        stage.load_state_dict(saved[2])
        resumed.epoch = saved[3]
        torch.manual_seed(999)  # nothing may depend on the global stream
        run_two_epochs(resumed, stage)
        assert_same((resumed.student.state_dict(), resumed.buffer.state_dict(), stage.state_dict()), expected)


def run_two_epochs(run: Run, stage: Distillation) -> None:
    stage.run_epoch(run)
    while run.epoch < FIRST + 1:
        run.epoch += 1
        stage.run_epoch(run)


def test_layers_that_draw_do_so_by_the_step(make_run, fill) -> None:
    """Dropout in the student draws from torch's global stream: seeded at each step."""

    def loss_after(seed: int) -> list[float]:
        run = make_run(epoch=FIRST)
        run.student.model.linear = nn.Sequential(nn.Dropout(0.5), run.student.model.linear)
        fill(run, 20)
        torch.manual_seed(seed)
        set_up(run).run_epoch(run)
        return [event.loss for event in run.events]

    assert loss_after(1) == loss_after(2)


@pytest.mark.parametrize("views", [0, 2])
def test_a_teacher_that_draws_does_so_by_the_step(make_run, fill, views: int) -> None:
    """Whatever has drawn from torch's global stream before: an evaluation, or nothing in a resumed run."""

    def drawn_after(seed: int) -> list[float]:
        run, drawn = make_run(epoch=FIRST, distillation={"views": views}), []
        fill(run, 20)
        stage = set_up(run)
        run.teacher.register_forward_hook(lambda *_: drawn.append(torch.rand(()).item()))
        torch.manual_seed(seed)
        stage.run_epoch(run)
        score(run, run.buffer.column("images"), batch_size=8)
        return drawn

    assert drawn_after(1) == drawn_after(2)
    assert len(set(drawn_after(1))) == len(drawn_after(1)), "and never the same again"


def test_layers_that_draw_do_so_anew_in_each_step(make_run, fill) -> None:
    class Noting(nn.Module):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            drawn.append(torch.rand(()).item())
            return features

    drawn: list[float] = []
    run = make_run(epoch=FIRST)
    run.student.model.linear = nn.Sequential(Noting(), run.student.model.linear)
    fill(run, 20)
    set_up(run).run_epoch(run)
    assert len(set(drawn)) == STEPS


def test_what_the_teacher_draws_does_not_change_what_the_student_draws(make_run, fill) -> None:
    def draw(num: int) -> None:
        torch.rand(num)

    def drawn_by_student(num_by_teacher: int) -> list[float]:
        run, drawn = make_run(epoch=FIRST), []
        fill(run, 20)
        run.teacher.register_forward_hook(lambda *_: draw(num_by_teacher))
        run.student.register_forward_hook(lambda *_: drawn.append(torch.rand(()).item()))
        set_up(run).run_epoch(run)
        return drawn

    assert drawn_by_student(0) == drawn_by_student(3)


def test_a_student_that_comes_in_eval_mode_learns_in_training_mode(make_run, fill) -> None:
    run = make_run(epoch=FIRST)
    fill(run, 20)
    run.student.eval()
    before_C = run.student.model.bn1.running_mean.clone()
    set_up(run).run_epoch(run)
    assert run.student.training
    assert not torch.equal(run.student.model.bn1.running_mean, before_C)


@pytest.mark.parametrize("views", [0, 2])
def test_bf16_is_for_the_networks_only(make_run, fill, views: int) -> None:
    run = make_run(epoch=FIRST, distillation={"views": views})
    run.precision = "bf16"
    fill(run, 20)
    seen = set()
    for name in ("teacher", "student"):
        getattr(run, name).model.bn1.register_forward_hook(
            lambda _layer, _inputs, output, name=name: seen.add((name, output.dtype))
        )
    set_up(run).run_epoch(run)
    assert seen == {("teacher", torch.bfloat16), ("student", torch.bfloat16)}
    assert all(parameter.dtype == torch.float32 for parameter in run.student.parameters())
    priority_N = run.buffer.column("priority")
    assert priority_N.dtype == torch.float32
    assert not torch.equal(priority_N, priority_N.bfloat16().float())


def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_priorities(make_run, fill) -> None:
    run = make_run(epoch=FIRST)
    fill(run, 20)
    before_N = run.buffer.column("priority").clone()
    run.student.model.linear.bias.data.fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"distillation loss is nan in epoch 4, step 0") as caught:
        set_up(run).run_epoch(run)
    assert "distillation.lr" in caught.value.hint
    assert torch.equal(run.buffer.column("priority"), before_N)


def test_a_loss_that_nobody_was_told_is_not_forgotten(make_run, fill) -> None:
    run = make_run(epoch=FIRST, run={"log_every": 100})
    fill(run, 20)
    bias_K = run.teacher.model.linear.bias
    usual_K = bias_K.clone()
    teachers = iter([torch.full_like(usual_K, torch.nan), usual_K, usual_K])
    students: list[Tensor] = []

    def lose_the_second_of_three() -> None:
        bias_K.copy_(next(teachers))
        students.append(run.student.model.linear.weight.detach().clone())

    run.safe_point = lose_the_second_of_three
    with pytest.raises(DivergedError, match="not finite in epoch 4"):
        set_up(run).run_epoch(run)
    assert torch.equal(*students), "its update was left out"


def test_a_loss_that_is_lost_before_a_stop_is_not_forgotten(make_run, fill) -> None:
    run = make_run(epoch=FIRST, run={"log_every": 100})
    fill(run, 20)
    run.teacher.model.linear.bias.fill_(float("nan"))

    def stop() -> None:
        raise StopRequested

    run.safe_point = stop
    stage = set_up(run)
    stage.check(run)
    with pytest.raises(StopRequested):
        stage.run_epoch(run)
    with pytest.raises(DivergedError, match="not finite in epoch 4, before step 1"):
        stage.check(run)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_muon_computes_in_the_precision_of_the_run(
    make_run, fill, monkeypatch: pytest.MonkeyPatch, precision: str, dtype: torch.dtype
) -> None:
    types = []
    monkeypatch.setattr("stages.muon._LEAST_ROWS", 1)
    monkeypatch.setattr(
        "stages.muon.newton_schulz", lambda matrices, dtype: types.append(dtype) or newton_schulz(matrices, dtype)
    )
    run = make_run(epoch=FIRST, distillation={"optimizer": "muon"})
    run.precision = precision
    fill(run, 20)
    set_up(run).run_epoch(run)
    assert set(types) == {dtype}
