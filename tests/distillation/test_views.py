"""Cached views: judged once, and the same to the student as fresh views of the same shifts and flips."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from same_values import assert_same
from torch import Tensor, nn

from stages.data.augment import Augmentation, augmented
from stages.distillation.stage import Distillation
from stages.distillation.views import CachedViews, FreshViews, bytes_per_view, make_views
from stages.events import ViewsJudged
from stages.run import Run, StopRequested

FIRST = 4
"""The first epoch in which the student learns."""
NO_AUGMENTATION = {"crop_padding": 0, "horizontal_flip": False}


class Counted(nn.Module):
    """A network that counts the images it was shown, and takes no empty batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.num_images = 0

    def forward(self, images_BCHW: Tensor) -> Tensor:
        assert len(images_BCHW) > 0
        self.num_images += len(images_BCHW)
        return self.model(images_BCHW)


def views_of(run: Run) -> CachedViews:
    views = CachedViews(run, run.config.distillation)
    views.begin_epoch(run)
    return views


def raise_if(error: type[Exception] | None) -> None:
    if error is not None:
        raise error


def draw(run: Run, num: int = 64, step: int = 0):
    return run.buffer.draw(num, run.rng("distillation", "draw", step), sampling="uniform", alpha=0.6, epsilon=1e-6)


def epochs(run: Run, num: int, fill) -> None:
    stage = Distillation(run.config.distillation)
    stage.setup(run)
    for run.epoch in range(FIRST, FIRST + num):
        stage.run_epoch(run)
        fill(run, 12, seed=run.epoch)


@pytest.mark.parametrize("mix", ["none", "cutmix", "mixup"])
@pytest.mark.parametrize("eviction", ["oldest", "lowest_priority"])
def test_logits_are_those_of_the_view_that_the_student_sees(make_run, fill, mix: str, eviction: str) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 3, "mix": mix}, buffer={"capacity": 40, "eviction": eviction})
    fill(run, 30)
    views = views_of(run)
    for seed in (1, 2, 3):  # past the capacity: slots change their samples, and images lose their partners
        fill(run, 12, seed=seed)
        run.epoch += 1
        views.begin_epoch(run)
        judged = views.judge(run, draw(run), 0)
        with torch.no_grad():
            expected_BK = run.teacher(judged.images_BCHW)
        torch.testing.assert_close(judged.teacher_logits_BK, expected_BK, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_new", [12, 48])
def test_new_images_are_judged_in_batches_of_one_size(make_run, fill, monkeypatch, num_new: int) -> None:
    """What is compiled or recorded is so for one size, also where an epoch brings less than the student's batch."""
    inversion = {"calls": num_new // 12, "warmup_calls": 4}
    run = make_run(epoch=FIRST, distillation={"views": 3}, inversion=inversion, buffer={"capacity": 480})
    fill(run, 48)
    sizes = set()
    run.teacher.register_forward_hook(lambda _teacher, inputs, _logits: sizes.add(len(inputs[0])))
    views = CachedViews(run, run.config.distillation)
    monkeypatch.setattr(views, "_judge_rest", None)
    views.begin_epoch(run)
    fill(run, num_new, seed=1)
    views.begin_epoch(run)
    assert sizes == {min(16, num_new)}


def test_images_of_a_buffer_that_stays_are_judged_in_batches_of_the_students_size(make_run, fill) -> None:
    run = make_run(command="distill", distillation={"views": 3}, buffer={"capacity": 48})
    fill(run, 48)
    sizes = set()
    run.teacher.register_forward_hook(lambda _teacher, inputs, _logits: sizes.add(len(inputs[0])))
    views_of(run)
    assert sizes == {16}


@pytest.mark.parametrize(("num_new", "told"), [(32, []), (35, [4, 8, 12, 16, 20, 24, 28, 32, 35])])
def test_many_new_images_are_told_of_batch_by_batch(make_run, fill, num_new: int, told: list[int]) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 3, "batch_size": 4})
    fill(run, num_new)
    views_of(run)
    assert run.events == [ViewsJudged(done=done, total=num_new) for done in told]


def test_who_stops_among_many_new_images_draws_the_same_views_again(make_run, fill) -> None:
    def judged(is_stopped: bool) -> list[Tensor]:
        run = make_run(epoch=FIRST, distillation={"views": 3, "mix": "cutmix", "batch_size": 4})
        fill(run, 35)
        views = CachedViews(run, run.config.distillation)
        if is_stopped:
            moments = iter([None, None, StopRequested])
            run.safe_point = lambda: raise_if(next(moments))
            with pytest.raises(StopRequested):
                views.begin_epoch(run)
            run.safe_point = lambda: None
            state = views.state_dict()
            views = CachedViews(run, run.config.distillation)
            views.load_state_dict(state)
        views.begin_epoch(run)
        return [*views.judge(run, draw(run), 0)]

    for stopped, undisturbed in zip(judged(is_stopped=True), judged(is_stopped=False), strict=True):
        assert torch.equal(stopped, undisturbed)


def test_views_stay_where_the_buffer_grows(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 3}, buffer={"capacity": 100_000})
    fill(run, 30)
    views = views_of(run)
    num_slots = run.buffer.num_slots
    fill(run, num_slots, seed=1)
    assert run.buffer.num_slots > num_slots
    views.begin_epoch(run)
    judged = views.judge(run, draw(run, 4 * num_slots), 0)
    with torch.no_grad():
        expected_BK = run.teacher(judged.images_BCHW)
    torch.testing.assert_close(judged.teacher_logits_BK, expected_BK, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mix", ["none", "cutmix"])
@pytest.mark.parametrize("num_views", [0, 4])
def test_each_step_looks_at_an_image_in_another_way(make_run, fill, num_views: int, mix: str) -> None:
    run = make_run(epoch=FIRST, distillation={"views": num_views, "mix": mix})
    fill(run, 20)
    views = make_views(run, run.config.distillation)
    views.begin_epoch(run)
    batch = draw(run)
    seen = [views.judge(run, batch, step).images_BCHW.clone() for step in range(3)]
    assert not any(torch.equal(one, other) for one, other in pairwise(seen))


def test_other_pairs_are_mixed_in_each_step(make_run, fill) -> None:
    run = make_run(epoch=FIRST, task=NO_AUGMENTATION, distillation={"mix": "mixup", "mix_share": 1.0})
    fill(run, 20)
    views = FreshViews(run, run.config.distillation)
    batch = draw(run)
    first, second = (views.judge(run, batch, step).images_BCHW.clone() for step in range(2))
    assert not torch.equal(first, second)


def test_views_are_shifts_and_flips_of_the_drawn_image(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 2})
    fill(run, 20)
    batch = draw(run)
    judged = views_of(run).judge(run, batch, 0)
    for image_CHW, view_CHW in zip(batch.images_BCHW, judged.images_BCHW, strict=True):
        candidates = [
            augmented(image_CHW[None], Augmentation(torch.tensor([y]), torch.tensor([x]), torch.tensor([flip])))[0]
            for y in (-1, 0, 1)
            for x in (-1, 0, 1)
            for flip in (False, True)
        ]
        assert any(torch.equal(view_CHW, candidate) for candidate in candidates)


def test_a_sample_keeps_its_views_and_has_no_more_than_v(make_run, fill) -> None:
    run = make_run(epoch=FIRST, buffer={"capacity": 4}, distillation={"views": 3})
    fill(run, 4)
    views = views_of(run)

    def seen() -> dict[int, set[bytes]]:
        looks: dict[int, set[bytes]] = {slot: set() for slot in range(4)}
        for step in range(20):
            batch = draw(run, step=step)
            for slot, view in zip(batch.slots_B.tolist(), views.judge(run, batch, step).images_BCHW, strict=True):
                looks[slot].add(view.numpy().tobytes())
        return looks

    first = seen()
    assert all(1 <= len(looks) <= 3 for looks in first.values())
    assert sum(len(looks) for looks in first.values()) > 8  # of 18 shifts and flips most triples differ
    run.epoch += 1
    views.begin_epoch(run)
    assert seen() == first


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_the_teacher_sees_each_view_once(make_run, fill, mix: str) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 3, "mix": mix})
    fill(run, 40)
    run.teacher.model = counted = Counted(run.teacher.model)
    views = views_of(run)
    assert counted.num_images == 3 * 40
    views.begin_epoch(run)
    views.judge(run, draw(run), 0)
    assert counted.num_images == 3 * 40
    fill(run, 12)
    views.begin_epoch(run)
    views.begin_epoch(run)
    assert counted.num_images == 3 * 52


def test_of_more_new_images_than_the_buffer_holds_those_that_stay_are_judged(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 3})
    fill(run, 30)
    fill(run, 30, seed=1)
    run.teacher.model = counted = Counted(run.teacher.model)
    views_of(run)
    assert counted.num_images == 3 * 40


@pytest.mark.parametrize("sampling", ["priority", "uniform"])
def test_without_augmentation_cached_and_fresh_views_teach_the_same(make_run, fill, sampling: str) -> None:
    students = []
    for num_views in (0, 1, 4):
        run = make_run(task=NO_AUGMENTATION, distillation={"views": num_views, "sampling": sampling})
        fill(run, 30)
        epochs(run, 3, fill)
        students.append([*run.student.model.state_dict().values(), run.buffer.column("priority")])
    for student in students[1:]:
        torch.testing.assert_close(student, students[0], rtol=1e-4, atol=1e-5)


def test_views_teach_something_else_than_the_plain_image(make_run, fill) -> None:
    weights = []
    for task in ({}, NO_AUGMENTATION):
        run = make_run(task=task, distillation={"views": 2})
        fill(run, 30)
        epochs(run, 2, fill)
        weights.append(next(run.student.model.parameters()))
    assert not torch.allclose(*weights)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_mixed_images_are_what_the_teacher_sees(make_run, fill, kind: str) -> None:
    run = make_run(epoch=FIRST, task=NO_AUGMENTATION, distillation={"mix": kind, "mix_share": 1.0})
    fill(run, 30)
    batch = draw(run)
    judged = FreshViews(run, run.config.distillation).judge(run, batch, 0)
    is_whole_B = (judged.images_BCHW == batch.images_BCHW).flatten(1).all(dim=1)
    assert is_whole_B.sum() < 32, "of 64; a tiny rectangle is none, and an image may be its own partner"
    with torch.no_grad():
        torch.testing.assert_close(judged.teacher_logits_BK, run.teacher(judged.images_BCHW), rtol=1e-5, atol=1e-5)
    again = FreshViews(run, run.config.distillation).judge(run, batch, 0)
    assert torch.equal(judged.images_BCHW, again.images_BCHW)


@pytest.mark.parametrize("kind", ["cutmix", "mixup"])
def test_of_cached_views_as_many_are_mixed_as_of_fresh_ones_and_one_is_whole(make_run, fill, kind: str) -> None:
    changes = {"task": NO_AUGMENTATION, "buffer": {"capacity": 800}, "inversion": {"batch_size": 16}}
    run = make_run(epoch=FIRST, distillation={"views": 4, "mix": kind, "mix_share": 0.5}, **changes)
    fill(run, 800)
    views = views_of(run)
    looks: dict[int, set[bytes]] = {slot: set() for slot in range(800)}
    num_whole = 0
    for step in range(40):
        batch = draw(run, 400, step=step)
        judged = views.judge(run, batch, step)
        num_whole += int((judged.images_BCHW == batch.images_BCHW).flatten(1).all(dim=1).sum())
        for slot, view in zip(batch.slots_B.tolist(), judged.images_BCHW, strict=True):
            looks[slot].add(view.numpy().tobytes())
    # Rectangles of no pixel, small here, and images that are their own partner are whole, too.
    most = 0.58 if kind == "cutmix" else 0.53
    assert 0.48 < num_whole / (40 * 400) < most
    fresh = FreshViews(run, run.config.distillation)
    batches = [draw(run, 400, step=step) for step in range(40)]
    judged = [fresh.judge(run, batch, step).images_BCHW for step, batch in enumerate(batches)]
    is_whole = [(view == batch.images_BCHW).flatten(1).all(dim=1) for view, batch in zip(judged, batches, strict=True)]
    assert 0.48 < torch.cat(is_whole).float().mean() < most
    images = run.buffer.column("images")
    num_with_whole = sum(image.numpy().tobytes() in looks[slot] for slot, image in enumerate(images))
    assert num_with_whole > 780, "drawn 20 times, one of four views"


def test_a_view_whose_partner_has_left_gives_way_to_the_whole_one(make_run, fill) -> None:
    settings = {"views": 2, "mix": "mixup", "mix_share": 0.5, "batch_size": 64}
    run = make_run(epoch=FIRST, task=NO_AUGMENTATION, buffer={"capacity": 40}, distillation=settings)
    fill(run, 40)
    views = views_of(run)

    def num_mixed() -> int:
        batch = draw(run, 400)
        assert (batch.slots_B >= 20).any()
        judged = views.judge(run, batch, 0)
        with torch.no_grad():
            torch.testing.assert_close(judged.teacher_logits_BK, run.teacher(judged.images_BCHW), rtol=1e-5, atol=1e-5)
        is_mixed_B = (judged.images_BCHW != batch.images_BCHW).flatten(1).any(dim=1)
        return int((is_mixed_B & (batch.slots_B >= 20)).sum())

    before = num_mixed()
    fill(run, 20, seed=1)  # the first half leaves, and with it half of the partners of the other
    views.begin_epoch(run)
    assert 0 < num_mixed() < 0.8 * before


@pytest.mark.parametrize("mix", ["none", "cutmix"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_view_takes_as_many_bytes_as_is_said(make_run, fill, precision: str, mix: str) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 3, "mix": mix})
    run.precision = precision
    fill(run, 30)
    num_bytes = sum(column.nbytes for column in views_of(run).state_dict()["columns"].values())
    assert num_bytes == 3 * run.buffer.num_slots * bytes_per_view(mix, num_logits=5, precision=precision)


@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_the_state_is_the_whole_state(make_run, fill, mix: str) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 2, "mix": mix})
    fill(run, 30)
    views = views_of(run)
    again = CachedViews(run, run.config.distillation)
    again.load_state_dict(views.state_dict())
    run.teacher.model = counted = Counted(run.teacher.model)
    again.begin_epoch(run)
    assert counted.num_images == 0
    batch = draw(run)
    for value, expected in zip(again.judge(run, batch, 1), views.judge(run, batch, 1), strict=True):
        torch.testing.assert_close(value, expected, rtol=0, atol=0)


def test_a_state_that_was_loaded_is_left_as_it_is(make_run, fill) -> None:
    run = make_run(epoch=FIRST, distillation={"views": 2}, buffer={"capacity": 40})
    fill(run, 40)
    state = views_of(run).state_dict()
    before = {name: column.clone() for name, column in state["columns"].items()}
    again = CachedViews(run, run.config.distillation)
    again.load_state_dict(state)
    fill(run, 12, seed=1)
    again.begin_epoch(run)
    assert_same(state["columns"], before)
