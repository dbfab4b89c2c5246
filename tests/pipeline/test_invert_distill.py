"""`invert` fills a buffer, `distill` learns from its file; together they need no run that does both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from buffer_files import write_buffer
from run_outputs import At, KilledError, assert_same_outcome, events, kill, stop_at, tensor_files, warnings
from safetensors.torch import load_file
from tiny_runs import make_teacher_file

from stages.buffer.file import read_buffer
from stages.errors import ConfigError, DivergedError, FileError
from stages.files.file_digest import sha256_of
from stages.models.normalized import NormalizedModel
from stages.planning.beginning import build_run
from stages.run import Run
from stages.run_directory import RunDirectory
from stages.scoring import Scores, score
from stages.trainer import Outcome, resume


@pytest.fixture
def distill(start, inverted: Path):
    """Run `distill` on the inverted buffer, or on another."""

    def run(*overrides: str, **options) -> Outcome:
        return start(*overrides, command="distill", **{"buffer": inverted / "buffer.safetensors"} | options)

    return run


def test_invert_makes_as_many_calls_as_fill_the_buffer(inverted: Path) -> None:
    rows = read_buffer(inverted / "buffer.safetensors")
    assert len(rows) == 40
    assert rows.age.tolist() == [2] * 8 + [1] * 16 + [0] * 16, "three calls of 16; of the first, 8 had to leave"
    assert not (inverted / "student.safetensors").exists()
    assert not (inverted / "holdout.safetensors").exists()
    (finished,) = events(inverted, "run_finished")
    summary = finished["summary"]
    assert (summary["epochs"], summary["images_synthesized"], summary["buffer_size"]) == (3, 48, 40)
    assert (summary["student"], summary["agreement"]) == (None, None)
    assert summary["teacher"]["num_samples"] == 364
    assert {event["stage"] for event in events(inverted, "stage_started")} == {"inversion", "evaluation"}


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("kind", ["inversion_step", "stage_finished"])
def test_a_stopped_or_killed_inversion_goes_on_to_the_same_bytes(start, go_on, out: Path, kind: str, calls: int):
    settings = (f"inversion.calls={calls}", "buffer.capacity=70", "run.epochs=5", "run.checkpoint_every=1")
    start(*settings, command="invert", out=out.with_name("undisturbed"))
    start(*settings, command="invert", listeners=[stop_at(out, kind, epoch=2)])
    assert RunDirectory(out).status() == "stopped"
    with pytest.raises(KilledError):
        go_on(At("stage_finished", kill, epoch=3))
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, out.with_name("undisturbed"))


def test_a_lost_buffer_of_a_finished_inversion_is_written_again(start, go_on, out: Path, inverted: Path) -> None:
    start(command="invert")
    (out / "buffer.safetensors").unlink()
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, inverted)


@pytest.mark.parametrize("temperature", [1.0, 20.0])
def test_priorities_are_of_the_student_that_is_to_learn(plan_run, undisturbed: Path, temperature: float) -> None:
    path = undisturbed / "buffer.safetensors"
    settings = ["evaluation.num_holdout=0", "run.seed=5", f"distillation.delta_temperature={temperature}"]
    run = build_run(plan_run(*settings, command="distill", buffer=path))
    rows = read_buffer(path)
    with torch.no_grad():
        log_t, log_s = (
            (network.eval()(torch.from_numpy(rows.images)) / temperature).log_softmax(dim=1)
            for network in (run.teacher, run.student)
        )
    expected = (log_t.exp() * (log_t - log_s)).sum(dim=1)
    priorities = run.buffer.column("priority")
    assert torch.allclose(priorities, expected, rtol=1e-4, atol=1e-6)
    assert not torch.isin(priorities, torch.from_numpy(rows.priority)).any(), "those are of a student that had learned"
    assert run.buffer.column("teacher_class").tolist() == rows.teacher_class.tolist()


@pytest.mark.parametrize(("capacity", "epochs", "calls"), [(1000, 4, 4), (16, 4, 1), (17, 4, 2)])
def test_invert_makes_at_most_all_epochs(start, capacity: int, epochs: int, calls: int) -> None:
    summary = start(f"buffer.capacity={capacity}", f"run.epochs={epochs}", command="invert").summary
    assert (summary["epochs"], summary["images_synthesized"]) == (calls, 16 * calls)
    assert summary["buffer_size"] == min(capacity, 16 * calls)


def test_another_seed_makes_other_images(start, inverted: Path, out: Path) -> None:
    start("run.seed=1", command="invert")
    one, other = (read_buffer(path / "buffer.safetensors") for path in (inverted, out))
    assert one.target.tolist() != other.target.tolist()
    assert not np.array_equal(one.images, other.images)


def test_invert_knows_no_adversary(start, inverted: Path, out: Path) -> None:
    assert {event["loss_adversarial"] for event in events(inverted, "inversion_step")} == {0.0}
    start("inversion.adversarial_weight=50", command="invert")
    one, other = (read_buffer(path / "buffer.safetensors") for path in (inverted, out))
    assert np.array_equal(one.images, other.images)


def test_invert_begins_as_a_run_does_until_the_adversary_comes(start, out: Path, inverted: Path) -> None:
    start("run.warmup_epochs=3", "buffer.capacity=1000", "evaluation.data=none")
    of_run = read_buffer(out / "buffer.safetensors").images
    of_invert = read_buffer(inverted / "buffer.safetensors").images
    assert np.array_equal(of_run[8:32], of_invert[:24])


def test_distill_learns_from_the_file(distill, out: Path, inverted: Path) -> None:
    summary = distill().summary
    assert (summary["status"], summary["epochs"], summary["images_synthesized"]) == ("done", 3, 0)
    assert summary["buffer_size"] == 32
    assert summary["seconds"]["inversion"] == 0
    assert summary["student"]["num_samples"] == 364
    assert 0 <= summary["agreement"] <= 1
    assert {event["stage"] for event in events(out, "stage_started")} == {"distillation", "evaluation"}
    steps = events(out, "distillation_step")
    assert len(steps) == 9
    assert (steps[0]["epoch"], steps[0]["lr"]) == (1, 0.2), "the cosine spans its epochs"
    assert warnings(out) == []
    assert (inverted / "buffer.safetensors").read_bytes() != (out / "buffer.safetensors").read_bytes()


def test_the_hold_out_is_set_aside(distill, out: Path, inverted: Path) -> None:
    distill()
    rows, kept = (read_buffer(path / "buffer.safetensors") for path in (inverted, out))
    held_out = load_file(out / "holdout.safetensors")["images"].numpy()
    assert (len(held_out), len(kept)) == (8, 32)

    def images_of(array: np.ndarray) -> list[bytes]:
        return sorted(image.tobytes() for image in array)

    assert images_of(np.concatenate([held_out, kept.images])) == images_of(rows.images)
    assert not set(images_of(held_out)) & set(images_of(kept.images))
    assert len(set(images_of(rows.images))) > 30


def test_equal_distillations_give_equal_bytes_and_can_be_stopped(distill, go_on, out: Path) -> None:
    distill(out=out.with_name("undisturbed"))
    stop = stop_at(out, "distillation_step", epoch=2, step=1)
    assert distill(listeners=[stop]).summary["status"] == "stopped"
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, out.with_name("undisturbed"))


def test_a_checkpoint_needs_the_first_buffer_no_more(distill, go_on, out: Path, inverted: Path) -> None:
    buffer = out.with_name("copy.safetensors")
    buffer.write_bytes((inverted / "buffer.safetensors").read_bytes())
    distill("evaluation.data=none", out=out.with_name("undisturbed"), buffer=buffer)
    stop = stop_at(out, "distillation_step", epoch=2)
    distill("evaluation.data=none", buffer=buffer, listeners=[stop])
    buffer.unlink()
    assert go_on().summary["status"] == "done"
    assert_same_outcome(out, out.with_name("undisturbed"))
    assert read_buffer(out / "buffer.safetensors").meta.class_names is not None, "known from the first buffer only"


def test_without_a_checkpoint_the_first_buffer_must_be_the_same(distill, go_on, out: Path, inverted: Path) -> None:
    buffer = out.with_name("copy.safetensors")
    rows = read_buffer(inverted / "buffer.safetensors")
    write_buffer(buffer, rows)
    with pytest.raises(KilledError):
        distill(buffer=buffer, listeners=[At("distillation_step", kill)])
    write_buffer(buffer, replace(rows, images=rows.images[::-1]))
    with pytest.raises(FileError, match=r"copy\.safetensors is not the file that this run began with"):
        go_on()
    buffer.unlink()
    with pytest.raises(FileError, match=r"there is no buffer file .*copy\.safetensors"):
        go_on()
    write_buffer(buffer, rows)
    assert go_on().summary["status"] == "done"


def test_a_buffer_of_another_teacher_is_judged_anew(plan_run, distill, out: Path, tmp_path: Path, inverted) -> None:
    other = make_teacher_file(tmp_path / "other.safetensors", seed=5)
    # One that hardly learns: priorities of drawn images hardly change either.
    outcome = distill(f"teacher.weights={other}", "evaluation.num_holdout=0", "distillation.sampling=uniform")
    assert outcome.summary["status"] == "done"
    (warning,) = warnings(out)
    assert "another teacher" in warning["message"]
    was, now = (read_buffer(path / "buffer.safetensors") for path in (inverted, out))
    assert now.meta.teacher_sha256 == sha256_of(other) != was.meta.teacher_sha256
    assert np.array_equal(now.images, was.images)

    planned = plan_run(f"teacher.weights={other}")
    teacher = NormalizedModel.on(torch.device("cpu"), planned.teacher.model, planned.config.task).eval()
    with torch.no_grad():
        probability_N, class_N = teacher(torch.from_numpy(now.images)).softmax(dim=1).max(dim=1)
    assert class_N.tolist() == now.teacher_class.tolist()
    assert np.allclose(probability_N.numpy(), now.teacher_prob, rtol=1e-5)
    assert now.teacher_class.tolist() != was.teacher_class.tolist()
    assert not np.isin(now.priority, was.priority).any()


@pytest.mark.parametrize("eviction", ["oldest", "lowest_priority"])
@pytest.mark.parametrize("capacity", [40, 29])
def test_rows_of_a_file_come_in_order_with_what_this_runs_networks_say(
    plan_run, inverted: Path, eviction: str, capacity: int
) -> None:
    file = inverted / "buffer.safetensors"
    settings = (f"buffer.capacity={capacity}", f"buffer.eviction={eviction}", "distillation.batch_size=12")
    run = build_run(plan_run(*settings, "evaluation.num_holdout=8", command="distill", buffer=file))
    assert run.holdout_NCHW is not None
    rows = read_buffer(file)
    held_out = {image.numpy().tobytes() for image in run.holdout_NCHW}
    left = [index for index, image in enumerate(rows.images) if image.tobytes() not in held_out]
    assert len(left) == 32
    left = left[-capacity:]
    stored = {name: run.buffer.column(name).numpy() for name in ("images", "target", "inserted_epoch", "serial")}
    assert np.array_equal(stored["images"], rows.images[left])
    assert np.array_equal(stored["target"], rows.target[left])
    assert np.array_equal(stored["inserted_epoch"], -rows.age[left]), "they grow older"
    assert stored["serial"].tolist() == list(range(len(left)))
    scores = score(run, run.buffer.column("images"), batch_size=12)
    assert torch.equal(run.buffer.column("teacher_class"), scores.teacher_class_N)
    assert torch.equal(run.buffer.column("teacher_prob"), scores.teacher_prob_N)
    assert torch.equal(run.buffer.column("priority"), scores.divergence_N)


def test_more_images_than_the_buffer_may_hold(distill, out: Path, inverted: Path) -> None:
    summary = distill("buffer.capacity=10", "evaluation.num_holdout=0").summary
    assert summary["buffer_size"] == 10
    assert [event for event in warnings(out) if "the newest 10 are used" in event["message"]]
    newest = read_buffer(inverted / "buffer.safetensors").images[-10:]
    assert np.array_equal(read_buffer(out / "buffer.safetensors").images, newest)


@pytest.mark.parametrize(("capacity", "num_told"), [(31, 1), (32, 0)])
def test_images_that_are_set_aside_need_no_room_in_the_buffer(
    plan_run, inverted: Path, capacity: int, num_told: int
) -> None:
    """Of 40 images, 8 are."""
    settings = (f"buffer.capacity={capacity}", "evaluation.num_holdout=8")
    planned = plan_run(*settings, command="distill", buffer=inverted / "buffer.safetensors")
    told = [warning for warning in planned.warnings if "are used (buffer.capacity)" in warning]
    assert len(told) == num_told
    assert all(warning.startswith("of 32 images in ") for warning in told)


def test_distill_can_go_on_from_a_run(start, distill, out: Path, undisturbed: Path) -> None:
    assert distill(buffer=undisturbed / "buffer.safetensors").summary["status"] == "done"
    assert set(tensor_files(out)) == set(tensor_files(undisturbed))


def test_what_begins_anew_after_a_refused_resume_starts_from_the_same_buffer(
    distill, out: Path, inverted: Path
) -> None:
    distill(listeners=[stop_at(out, epoch=2)])
    config = out / "config.toml"
    config.write_text(config.read_text().replace("alpha = 0.6", "alpha = 0.5"))
    with pytest.raises(FileError, match="was changed since the run began") as refusal:
        resume(out)
    anew = f"`ssdkd distill --preset {config} --buffer {inverted / 'buffer.safetensors'}` starts a new run"
    assert anew in (refusal.value.hint or "")


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["task.image_shape=[1, 8, 9]"], FileError, r"images \[1, 8, 8\] of 10 classes"),
        (["evaluation.num_holdout=40"], ConfigError, "has 40 images, evaluation.num_holdout would set 40"),
        (["run.stages=['inversion', 'evaluation']"], ConfigError, "nothing to do for `ssdkd distill`"),
    ],
)
def test_what_does_not_fit_is_refused(distill, out: Path, overrides: list[str], error, message: str) -> None:
    overrides = [*overrides, "evaluation.data=none", "student.model=wrn10_1"]
    with pytest.raises(error, match=message):
        distill(*overrides)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 12, "class_names": None}, "of 12 classes"),
        ({"task": "segmentation"}, "is for segmentation"),
    ],
)
def test_a_buffer_for_something_else_is_refused(distill, out: Path, inverted: Path, change, message: str) -> None:
    rows = read_buffer(inverted / "buffer.safetensors")
    other = out.with_name("other.safetensors")
    write_buffer(other, replace(rows, meta=replace(rows.meta, **change)))
    with pytest.raises(FileError, match=message):
        distill(buffer=other)


def test_another_teacher_that_gives_no_numbers_is_refused(distill, out: Path, inverted: Path, monkeypatch) -> None:
    def score_badly(run: Run, images_NCHW: torch.Tensor, *, batch_size: int) -> Scores:
        scores = score(run, images_NCHW, batch_size=batch_size)
        scores.divergence_N[3] = torch.nan
        return scores

    monkeypatch.setattr("stages.scoring.score", score_badly)
    rows = read_buffer(inverted / "buffer.safetensors")
    other = out.with_name("other.safetensors")
    write_buffer(other, replace(rows, meta=replace(rows.meta, teacher_sha256="0" * 64)))
    with pytest.raises(DivergedError, match="not finite on images of the buffer"):
        distill(buffer=other)
    assert not out.exists()


def test_a_changed_bit_is_found_before_anything_is_learned_from_it(distill, out: Path, inverted: Path) -> None:
    path = out.with_name("changed.safetensors")
    content = bytearray((inverted / "buffer.safetensors").read_bytes())
    images = read_buffer(inverted / "buffer.safetensors").images[20].tobytes()
    content[content.index(images)] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="not those that were written"):
        distill(buffer=path)
    assert not out.exists()


def test_an_empty_buffer_is_refused(distill, out: Path, inverted: Path) -> None:
    rows = read_buffer(inverted / "buffer.safetensors")
    empty = out.with_name("empty.safetensors")
    write_buffer(empty, replace(rows, **{name: values[:0] for name, values in rows.arrays().items()}))
    with pytest.raises(FileError, match="holds no images"):
        distill("evaluation.num_holdout=0", buffer=empty)
