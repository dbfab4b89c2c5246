"""What the inversion stage stores, when it makes the hold-out, and when it gives up. Images come from a stub."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stages.errors import ConfigError, DivergedError
from stages.inversion.config import InversionConfig
from stages.inversion.method import Inverted
from stages.inversion.stage import Inversion, insert, quantized
from stages.run import Run, StopRequested

WARMUP = 3


class Noise:
    """A method whose images are noise: of the epoch, or of the hold-out."""

    def __init__(self, config: InversionConfig) -> None:
        self.config = config
        self.num_calls = 0

    def setup(self, run: Run) -> None:
        pass

    def invert(self, run: Run) -> Inverted:
        self.num_calls += 1
        return noise(run, "epoch", self.config.batch_size)

    def invert_holdout(self, run: Run, num_images: int) -> Inverted:
        return noise(run, "holdout", num_images)

    def state_dict(self) -> dict[str, Any]:
        return {"num_calls": self.num_calls}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_calls = state["num_calls"]


def noise(run: Run, purpose: str, num: int) -> Inverted:
    images_BCHW = torch.rand(num, *run.config.task.image_shape, generator=run.rng("inversion", purpose))
    return Inverted(images_BCHW, torch.arange(num) % run.task.num_classes)


@pytest.fixture
def make_stage(make_run, install):
    """A run and its inversion stage, set up with the stub."""
    install("methods", Noise, "noise")

    def make(*, inversion: dict[str, Any] | None = None, **settings: Any) -> tuple[Run, Inversion]:
        run = make_run(inversion={"method": "noise"} | (inversion or {}), **settings)
        stage = Inversion(run.config.inversion)
        stage.setup(run)
        return run, stage

    return make


def test_images_are_stored_as_the_nearest_of_256_levels() -> None:
    images = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 100.4 / 255, 100.6 / 255, 1.0, 1.2, -0.1]).view(1, 1, 2, 4)
    stored = quantized(images)
    assert stored.dtype == torch.uint8
    assert stored.flatten().tolist() == [0, 0, 1, 100, 101, 255, 255, 0]
    assert quantized(images.contiguous(memory_format=torch.channels_last)).is_contiguous()


@pytest.mark.parametrize("delta_temperature", [1.0, 4.0])
def test_teacher_and_student_judge_what_is_stored(make_run, delta_temperature: float) -> None:
    run = make_run(epoch=2, distillation={"delta_temperature": delta_temperature})
    run.student.train()
    statistics = run.student.model.bn1.running_mean.clone()
    inverted = noise(run, "epoch", 11)
    insert(run, inverted, batch_size=4)

    buffer = run.buffer
    assert torch.equal(buffer.column("images"), (inverted.images_BCHW * 255).round().to(torch.uint8))
    assert torch.equal(buffer.column("target"), inverted.target_B)
    assert buffer.column("inserted_epoch").tolist() == [2] * 11
    assert run.num_synthesized == 11

    # Un-augmented, as stored, both networks in eval mode; w_{-1} = 1.
    stored_BCHW = buffer.column("images").float() / 255
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in ((0.4, 0.5), (0.2, 0.3)))
    with torch.no_grad():
        teacher_BK = run.teacher.model((stored_BCHW - mean) / std)
        student_BK = run.student.model.eval()((stored_BCHW - mean) / std)
    probability_BK = teacher_BK.softmax(dim=1)
    assert torch.equal(buffer.column("teacher_class"), teacher_BK.argmax(dim=1))
    torch.testing.assert_close(buffer.column("teacher_prob"), probability_BK.amax(dim=1), rtol=1e-4, atol=1e-6)
    delta_B = F.kl_div(
        (student_BK / delta_temperature).log_softmax(dim=1),
        (teacher_BK / delta_temperature).softmax(dim=1),
        reduction="none",
    ).sum(dim=1)
    torch.testing.assert_close(buffer.column("priority"), delta_B, rtol=1e-3, atol=1e-5)
    assert torch.equal(run.student.model.bn1.running_mean, statistics)


def test_stored_images_are_judged_in_the_runs_precision(make_run) -> None:
    run = make_run()
    run.precision = "bf16"
    seen = set()
    for network in (run.teacher, run.student):
        network.model.bn1.register_forward_hook(lambda _layer, _inputs, output: seen.add(output.dtype))
    insert(run, noise(run, "epoch", 3), batch_size=8)
    assert seen == {torch.bfloat16}
    assert run.buffer.column("priority").dtype == torch.float32


def test_judging_leaves_the_student_as_it_was(make_run) -> None:
    run = make_run()
    for is_training in (True, False):
        run.student.train(is_training)
        insert(run, noise(run, "epoch", 3), batch_size=8)
        assert all(module.training == is_training for module in run.student.modules())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in run.student.parameters())


def test_a_student_equal_to_the_teacher_has_nothing_to_learn(make_run) -> None:
    run = make_run()
    run.student.load_state_dict(run.teacher.state_dict())
    insert(run, noise(run, "epoch", 6), batch_size=8)
    assert run.buffer.column("priority").abs().max() < 1e-6


def test_a_broken_student_ends_the_run_at_the_next_look_and_its_priorities_can_be_drawn_by(make_stage) -> None:
    run, stage = make_stage(epoch=5)
    stage.run_epoch(run)
    stage.check(run)
    run.student.model.linear.bias.data.fill_(float("nan"))
    for run.epoch in (6, 7):
        stage.run_epoch(run)
        with pytest.raises(DivergedError, match=rf"the images of epoch {run.epoch}, or .* are not finite"):
            stage.check(run)
    priority_N = run.buffer.column("priority")
    assert priority_N.isfinite().all()
    assert (priority_N[12:] == 0).all()
    assert (priority_N[:12] > 0).all()


def test_images_that_are_not_finite_end_the_run_though_bytes_hide_it(make_stage, monkeypatch) -> None:
    run, stage = make_stage(epoch=5)

    def broken(run: Run) -> Inverted:
        inverted = noise(run, "epoch", 12)
        inverted.images_BCHW[3, 0, 0, 0] = float("nan")
        return inverted

    monkeypatch.setattr(stage._method, "invert", broken)
    stage.run_epoch(run)
    assert run.buffer.column("priority").isfinite().all()
    with pytest.raises(DivergedError, match="the images of epoch 5"):
        stage.check(run)


def test_each_epoch_stores_one_call(make_stage) -> None:
    run, stage = make_stage(epoch=0)
    for epoch in range(1, 6):
        run.epoch = epoch
        stage.run_epoch(run)
        assert run.buffer.size == min(12 * epoch, 40)
        assert run.num_synthesized == 12 * epoch
        last_BCHW = run.buffer.column("images")[run.buffer.column("inserted_epoch") == epoch]
        assert torch.equal(last_BCHW.sum(), quantized(noise(run, "epoch", 12).images_BCHW).sum())
        assert (run.holdout_NCHW is not None) == (epoch >= WARMUP)


def test_the_holdout_is_made_at_the_end_of_warmup_and_never_stored(make_stage) -> None:
    run, stage = make_stage(epoch=WARMUP)
    stage.run_epoch(run)
    holdout_NCHW = run.holdout_NCHW
    assert torch.equal(holdout_NCHW, quantized(noise(run, "holdout", 9).images_BCHW))
    run.epoch += 1
    stage.run_epoch(run)
    assert run.holdout_NCHW is holdout_NCHW
    stored = {tuple(image.flatten().tolist()) for image in run.buffer.column("images")}
    assert not stored & {tuple(image.flatten().tolist()) for image in holdout_NCHW}
    assert run.num_synthesized == 24


@pytest.mark.parametrize(("num_holdout", "sizes"), [(9, [9]), (12, [12]), (13, [6, 7]), (40, [10, 10, 10, 10])])
def test_no_call_for_the_holdout_is_larger_than_those_of_an_epoch(
    make_stage, num_holdout: int, sizes: list[int]
) -> None:
    run, stage = make_stage(epoch=WARMUP, evaluation={"num_holdout": num_holdout})
    made: list[int] = []
    invert_holdout = stage._method.invert_holdout
    stage._method.invert_holdout = lambda own, num: (made.append(num), invert_holdout(own, num))[1]
    stage.run_epoch(run)
    assert made == sizes
    assert len({tuple(image.flatten().tolist()) for image in run.holdout_NCHW}) == num_holdout
    assert run.call == 0


@pytest.mark.parametrize(
    "settings", [{"command": "invert", "epoch": 4}, {"epoch": WARMUP, "evaluation": {"num_holdout": 0}}]
)
def test_no_holdout_where_none_is_wanted(make_stage, settings: dict[str, Any]) -> None:
    run, stage = make_stage(**settings)
    assert run.epoch == run.schedule.warmup_epochs
    stage.run_epoch(run)
    assert run.holdout_NCHW is None


@pytest.mark.parametrize(("command", "last_warmup_epoch"), [("run", 3), ("invert", 4)])
def test_a_collapse_is_told_at_the_end_of_warmup(make_stage, command: str, last_warmup_epoch: int) -> None:
    run, stage = make_stage(command=command, epoch=last_warmup_epoch - 1)
    run.teacher.model.linear.bias[3] += 1e4
    stage.run_epoch(run)
    stage.check(run)
    run.epoch += 1
    stage.run_epoch(run)
    with pytest.raises(DivergedError, match=r"all 24 images in the buffer are of class 3"):
        stage.check(run)


@pytest.mark.parametrize(("num", "is_collapse"), [(1, False), (15, False), (16, True)])
def test_a_few_images_of_one_class_are_no_collapse(make_stage, num: int, is_collapse: bool) -> None:
    run, stage = make_stage(epoch=WARMUP, inversion={"batch_size": num})
    run.teacher.model.linear.bias[3] += 1e4
    stage.run_epoch(run)
    assert run.buffer.size == num
    with pytest.raises(DivergedError, match="collapsed") if is_collapse else nullcontext():
        stage.check(run)


def test_one_image_of_another_class_is_no_collapse(make_stage) -> None:
    run, stage = make_stage(epoch=WARMUP)
    run.teacher.model.linear.bias[3] += 1e4
    stage.run_epoch(run)
    run.buffer.column("teacher_class")[5] = 1
    stage.check(run)


def test_an_epoch_may_have_several_calls_each_with_images_of_its_own(make_stage) -> None:
    run, stage = make_stage(epoch=WARMUP, inversion={"calls": 2, "warmup_calls": 3})
    stage.run_epoch(run)
    assert run.num_synthesized == run.buffer.size == 36
    images = {tuple(image.flatten().tolist()) for image in run.buffer.column("images")}
    assert len(images) == 36
    first_BCHW = quantized(noise(run, "epoch", 12).images_BCHW)  # the first call draws what a single one would
    assert images >= {tuple(image.flatten().tolist()) for image in first_BCHW}
    run.epoch += 1
    stage.run_epoch(run)
    assert run.num_synthesized == 60


def test_an_epoch_goes_on_at_the_call_it_was_stopped_at(make_stage) -> None:
    inversion = {"warmup_calls": 3}
    undisturbed, stage = make_stage(epoch=1, inversion=inversion)
    stage.run_epoch(undisturbed)

    run, stage = make_stage(epoch=1, inversion=inversion)
    num_asked = 0

    def stop_at_the_second() -> None:
        nonlocal num_asked
        num_asked += 1
        if num_asked == 2:
            raise StopRequested

    run.safe_point = stop_at_the_second
    with pytest.raises(StopRequested):
        stage.run_epoch(run)
    assert run.num_synthesized == 24
    assert run.call == 0
    state = stage.state_dict()
    assert state["call"] == 2
    again = Inversion(run.config.inversion)
    again.setup(run)
    again.load_state_dict(state)
    again.run_epoch(run)
    assert torch.equal(run.buffer.column("images"), undisturbed.buffer.column("images"))


def test_the_stages_state_is_the_methods(make_stage) -> None:
    run, stage = make_stage(epoch=1)
    stage.run_epoch(run)
    assert stage.state_dict() == {"method": {"num_calls": 1}, "call": 0}
    stage.load_state_dict({"method": {"num_calls": 7}, "call": 0})
    run.epoch = 2
    stage.run_epoch(run)
    assert stage.state_dict() == {"method": {"num_calls": 8}, "call": 0}


def test_the_whole_stage_with_its_own_method(make_run) -> None:
    run = make_run(epoch=0)
    stage = Inversion(run.config.inversion)
    stage.setup(run)
    for epoch in range(1, 5):
        run.epoch = epoch
        stage.run_epoch(run)
    assert run.buffer.size == 40
    assert run.holdout_NCHW.shape == (9, 2, 8, 6)
    assert [event.loss_adversarial > 0 for event in run.events[::3]] == [False, False, True, True]
    images: Tensor = run.buffer.column("images")
    assert len({tuple(image.flatten().tolist()) for image in images}) == 40


@pytest.mark.parametrize(
    "change",
    [
        lambda images, targets: (images, targets[:-1]),
        lambda images, targets: (images, targets.float()),
        lambda images, targets: (images[:, :, :-1], targets),
        lambda images, targets: ((images * 255).to(torch.uint8), targets),
    ],
)
def test_a_method_that_gives_something_else_is_told(make_stage, change) -> None:
    run, stage = make_stage()
    stage._method.invert = lambda own: Inverted(*change(*noise(own, "epoch", own.config.inversion.batch_size)))
    with pytest.raises(ConfigError, match="gives images"):
        stage.run_epoch(run)
    assert run.buffer.size == 0


def test_a_method_that_makes_another_number_for_the_holdout_is_told(make_stage) -> None:
    run, stage = make_stage(epoch=WARMUP)
    stage._method.invert_holdout = lambda own, num: noise(own, "holdout", num - 1)
    with pytest.raises(ConfigError, match="gives 8 images, 9 were asked for"):
        stage.run_epoch(run)


def test_a_method_that_makes_fewer_images_than_asked_for_is_told(make_stage) -> None:
    run, stage = make_stage()
    stage._method.invert = lambda own: noise(own, "epoch", own.config.inversion.batch_size - 1)
    with pytest.raises(ConfigError, match="gives 11 images, 12 were asked for"):
        stage.run_epoch(run)


@pytest.mark.parametrize("given", [None, ("images", "targets")])
def test_a_method_that_gives_no_inverted_is_told(make_stage, given) -> None:
    run, stage = make_stage()
    stage._method.invert = lambda own: given
    with pytest.raises(ConfigError, match=f"`noise` gives a {type(given).__name__}, not an Inverted"):
        stage.run_epoch(run)


def test_a_method_that_is_built_otherwise_is_told(make_stage, monkeypatch) -> None:
    monkeypatch.setattr(Noise, "__init__", lambda self: None)
    with pytest.raises(ConfigError, match=r"`inversion\.method` = `noise` cannot be built: TypeError") as caught:
        make_stage()
    assert caught.value.hint == "`their_code:noise` is called with the [inversion] table"


def test_a_holdout_that_is_not_finite_is_told(make_stage) -> None:
    run, stage = make_stage(epoch=WARMUP)

    def make_nothing(own: Run, num: int) -> Inverted:
        images_BCHW, target_B = noise(own, "holdout", num)
        images_BCHW[0, 0, 0, 0] = torch.nan
        return Inverted(images_BCHW, target_B)

    stage._method.invert_holdout = make_nothing
    stage.run_epoch(run)
    with pytest.raises(DivergedError, match="not finite"):
        stage.check(run)


@pytest.mark.parametrize(("value", "is_right"), [(1.0, True), (1.01, False), (-0.01, False), (0.0, True)])
def test_images_are_from_0_to_1(make_stage, monkeypatch, value: float, is_right: bool) -> None:
    run, stage = make_stage(epoch=2)
    invert = stage._method.invert

    def invert_oddly(run: Run) -> Inverted:
        images_BCHW, target_B = invert(run)
        images_BCHW = images_BCHW.clone()
        images_BCHW[-1, 0, 0, 0] = value
        return Inverted(images_BCHW, target_B)

    monkeypatch.setattr(stage._method, "invert", invert_oddly)
    stage.run_epoch(run)
    with nullcontext() if is_right else pytest.raises(ConfigError, match=r"values outside of \[0, 1\]"):
        stage.check(run)


@pytest.mark.parametrize(("target", "is_right"), [(-1, True), (4, True), (5, False), (-2, False)])
def test_targets_are_classes(make_stage, monkeypatch, target: int, is_right: bool) -> None:
    run, stage = make_stage(epoch=2)
    invert = stage._method.invert

    def invert_oddly(run: Run) -> Inverted:
        images_BCHW, target_B = invert(run)
        target_B[0] = target
        return Inverted(images_BCHW, target_B)

    monkeypatch.setattr(stage._method, "invert", invert_oddly)
    stage.run_epoch(run)
    with nullcontext() if is_right else pytest.raises(ConfigError, match="aims at classes beyond 0 to 4"):
        stage.check(run)


def test_the_method_is_closed_with_its_stage(make_stage) -> None:
    _, stage = make_stage()
    closed = []
    stage._method.close = lambda: closed.append(True)
    stage.close()
    assert closed == [True]
