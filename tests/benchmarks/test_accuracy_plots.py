"""What the plots of `benchmarks/accuracy` compute, and that they become pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmark_modules import import_beside
from buffer_files import make_contents, write_buffer
from PIL import Image
from weight_files import write_weights

from stages.config import load
from stages.data.dataset import load_data
from stages.events import EventLog, RunFinished
from stages.files.file_digest import sha256_of
from stages.run_directory import RunDirectory
from stages.teachers.resolve import teacher_file

balance, coverage, honesty, priorities, product = import_beside(
    "accuracy", "balance", "coverage", "honesty", "priorities", "product"
)


def fill(run: RunDirectory, *, images: np.ndarray, **contents: Any) -> None:
    """Give the run a buffer of these images."""
    settings = {"image_shape": images.shape[1:], "age": 0, "target": -1, "capacity": 1000}
    write_buffer(run.buffer_file, make_contents(len(images), images=images, **settings, **contents))


def make_run(path: Path, *, seed: int, sampling: str = "priority", top1: float = 0.5, status: str = "done") -> Path:
    """A run's directory with a buffer in it, of four classes, written without a trainer."""
    run = RunDirectory.create(path, "unused")
    run.config_file.write_text(
        f'[run]\nepochs = 9\nseed = {seed}\n[teacher]\nmodel = "resnet32"\ntrained_on = "cifar10"\n'
        f'[student]\nmodel = "resnet20"\n[evaluation]\ndata = "imagefolder"\n[distillation]\nsampling = "{sampling}"\n'
    )
    rng = np.random.default_rng(seed)
    fill(
        run,
        images=rng.integers(256, size=(40, 1, 2, 2), dtype=np.uint8),
        teacher_class=np.repeat([0, 1, 2, 3], [20, 10, 6, 4]),
        teacher_prob=np.repeat([0.95, 0.6], [30, 10]),
        priority=rng.random(40),
        num_classes=4,
    )
    summary = {"student": {"top1": top1}, "teacher": None, "agreement": top1 - 0.1, "ece": 0.5 - top1 / 2}
    with run.events_file.open("ab") as file:
        EventLog(file).emit(RunFinished(status=status, message=status, summary=summary), epoch=9)
    return path


def assert_is_picture(path: Path) -> None:
    with Image.open(path) as picture:
        assert picture.width > 1000
        colours = picture.convert("RGB").getcolors(maxcolors=1 << 20)
    assert colours is not None
    assert len(colours) > 20


# -- balance -------------------------------------------------------------------------------------------------


def test_runs_are_called_what_is_said_or_by_their_folders() -> None:
    assert product.labelled(["a = b=x/run-1", "out/all/seed-0", "out/all/seed-1", "single"]) == {
        "a = b": [Path("x/run-1")],
        "all": [Path("out/all/seed-0"), Path("out/all/seed-1")],
        "single": [Path("single")],
    }


def test_balance_tells_and_draws_two_kinds_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prioritised = [make_run(tmp_path / "all" / f"seed-{seed}", seed=seed) for seed in (0, 1)]
    uniform = make_run(tmp_path / "uniform", seed=2, sampling="uniform")
    picture = tmp_path / "pictures" / "balance.png"
    assert balance.main([*map(str, prioritised), f"even drawing={uniform}", "--out", str(picture)]) == 0
    assert_is_picture(picture)
    _, _, *lines = capsys.readouterr().out.splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines]
    share = np.array([20, 10, 6, 4]) / 40
    entropy = f"{-(share * np.log(share)).sum() / np.log(4):.4f}"
    assert cells[0][:7] == ["all", "2", "40", entropy, "2.00", "0.40", "75.0%"]
    assert cells[1] == ["even drawing", "1", "40", entropy, "2.00", "0.40", "75.0%", "40"]
    sizes = []
    for seed in (0, 1):  # Kish's size of the probabilities of Eq. 6
        rng = np.random.default_rng(seed)
        rng.integers(256, size=(40, 1, 2, 2), dtype=np.uint8)
        weight = (rng.random(40).astype(np.float32) + 1e-6) ** 0.6
        sizes.append(weight.sum() ** 2 / (weight**2).sum())
    assert cells[0][7] == f"{np.mean(sizes):.0f}"
    assert int(cells[0][7]) < 40


def test_balance_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert balance.main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "x.png")]) == 2
    assert "there is no run" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


# -- honesty -------------------------------------------------------------------------------------------------


def point(
    accuracy: float, agreement: float | None, ece: float | None, setting: str = "a", *, teacher: str = "0123456789"
) -> Any:
    return honesty.Point("run", setting, teacher, accuracy, {"agreement": agreement, "ece": ece})


def test_runs_of_two_teachers_of_one_name_are_told_apart() -> None:
    one, other = point(0.7, 0.5, 0.1, teacher="1" * 64), point(0.8, 0.6, 0.1, teacher="2" * 64)
    assert [each.setting for each in honesty.told_apart([one, one])] == ["a", "a"]
    alone = point(0.8, 0.6, 0.1, "b", teacher="2" * 64)
    found = [each.setting for each in honesty.told_apart([one, other, alone])]
    assert found == ["a, teacher 11111111", "a, teacher 22222222", "b"]


def test_ranks_share_the_mean_of_equal_values() -> None:
    assert honesty.ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]


def test_correlations_against_numpy_and_by_hand() -> None:
    rng = np.random.default_rng(0)
    values, accuracies = rng.random(20), rng.random(20)
    points = [point(*pair, None) for pair in zip(accuracies, values, strict=True)]
    (found,) = honesty.predictions(points, "agreement").values()
    assert found.pearson == pytest.approx(np.corrcoef(values, accuracies)[0, 1])
    # Without ties: 1 - 6 sum d^2 / (n (n^2 - 1)).
    distance = values.argsort().argsort() - accuracies.argsort().argsort()
    assert found.spearman == pytest.approx(1 - 6 * (distance**2).sum() / (20 * 399))
    assert honesty.predictions(points, "ece") == {}


def test_what_choosing_by_an_estimate_loses() -> None:
    points = [point(0.7, 0.5, 0.1), point(0.9, 0.6, 0.2), point(0.8, 0.9, 0.3)]
    assert honesty.predictions(points, "agreement")["a"].lost_by_choosing == pytest.approx(0.1)  # takes the third
    assert honesty.predictions(points, "ece")["a"].lost_by_choosing == pytest.approx(0.2)  # takes the first


def test_settings_are_kept_apart_and_need_three_runs() -> None:
    better = [point(0.9, 0.9, 0.1, "b"), point(0.91, 0.8, 0.1, "b"), point(0.92, 0.7, 0.1, "b")]
    worse = [point(0.1, 0.1, 0.1, "c"), point(0.2, 0.2, 0.1, "c")]
    found = honesty.predictions([*better, *worse], "agreement")
    assert list(found) == ["b"]
    assert found["b"].pearson == pytest.approx(-1.0)
    assert np.isnan(honesty.predictions(better, "ece")["b"].pearson)  # it does not vary


def test_honesty_finds_runs_below_folders_and_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, top1 in enumerate((0.5, 0.6, 0.7)):
        make_run(tmp_path / "out" / "all" / f"seed-{seed}", seed=seed, top1=top1)
    make_run(tmp_path / "out" / "stopped", seed=7, status="stopped")
    picture = tmp_path / "honesty.png"
    places = [str(tmp_path / "out"), str(tmp_path / "out/all/seed-0")]  # the second is in the first
    assert honesty.main([*places, "--out", str(picture)]) == 0
    assert_is_picture(picture)
    captured = capsys.readouterr()
    setting = "cifar10, resnet32 -> resnet20, 9 epochs"
    assert f"| {setting} | agreement | 3 | +1.00 | +1.00 | 0.0000 |" in captured.out
    assert f"| {setting} | ece | 3 | -1.00 | -1.00 | 0.0000 |" in captured.out
    assert f"| out/all/seed-2 | {setting} | 0.7000 | 0.6000 | 0.1500 |" in captured.out
    assert "left out: 1 runs" in captured.err


def test_too_few_runs_are_no_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "one", seed=0)
    assert honesty.main([str(tmp_path), "--out", str(tmp_path / "x.png")]) == 2
    assert "1 of 1 runs are done and measured on real data, 3 are needed" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.png"))


# -- coverage ------------------------------------------------------------------------------------------------


def seen(features_NF: torch.Tensor) -> Any:
    return coverage.Seen(features_NF, features_NF[:, :3])


def cloud(num: int, *, seed: int, centre: float = 0.0, scale: float = 1.0) -> torch.Tensor:
    return centre + scale * torch.randn(num, 4, generator=torch.Generator().manual_seed(seed))


def test_other_images_of_the_same_kind_cover_nearly_everything() -> None:
    found = coverage.measure(seen(cloud(500, seed=0)), seen(cloud(500, seed=1)))
    assert found.frechet < 0.05
    assert found.coverage > 0.9
    assert found.density == pytest.approx(1, abs=0.1)
    assert found.recall > 0.9
    assert found.same_class > 0.7


def test_images_of_one_corner_cover_little_and_densely() -> None:
    found = coverage.measure(seen(cloud(500, seed=0)), seen(cloud(500, seed=1, scale=0.3)))
    assert found.coverage < 0.6
    assert found.density > 1.1, "above that of the real images themselves"
    assert found.recall < 0.4


def test_images_of_elsewhere_cover_nothing() -> None:
    found = coverage.measure(seen(cloud(200, seed=0)), seen(cloud(200, seed=1, centre=50)))
    assert (found.coverage, found.density, found.recall) == (0, 0, 0)
    assert found.frechet > 100


def test_the_frechet_distance_of_two_gaussians() -> None:
    """In one dimension and for independent ones it is the sum of squared differences of means and deviations."""
    one = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    other = one * torch.tensor([3.0, 0.5]) + torch.tensor([5.0, 0.0])
    first, second = one.std(dim=0)
    expected = 5**2 + (2 * first) ** 2 + (0.5 * second) ** 2
    assert coverage.frechet_distance(one, other) == pytest.approx(expected.item(), rel=1e-5)


def test_coverage_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a run and real images to a table, with the shipped teacher of digits."""
    task = load(["digits"]).task
    digits = load_data("digits", root=None, split="test", task=task)
    run = RunDirectory.create(tmp_path / "a", "unused")
    run.config_file.write_text(load(["digits"]).to_toml())
    num = 200
    contents = {
        "images": digits.images_NCHW[:num].numpy(),
        "teacher_class": digits.labels_N[:num].numpy(),
        "teacher_prob": 0.9,
        "priority": 1.0,
    }
    arguments = [f"mine={run.path}", "--data", "digits", "--root", str(tmp_path)]
    fill(run, **contents)
    assert coverage.main(arguments) == 2
    assert "not all of these buffers are of the teacher" in capsys.readouterr().err
    run.buffer_file.unlink()
    fill(run, **contents, teacher_sha256=sha256_of(teacher_file(load(["digits"]))))
    assert coverage.main(arguments) == 0
    head, _rule, real, mine = capsys.readouterr().out.splitlines()
    assert head.startswith("| images | number |")
    assert real.startswith("| real ones |")
    assert mine.startswith(f"| mine | {num} |")
    assert float(mine.split("|")[4]) > 0.9, "they are the real ones"

    judge = RunDirectory.create(tmp_path / "judge", "unused")
    weights = write_weights(tmp_path / "other.safetensors", "wrn10_1", task)
    of_other = ["teacher.model=wrn10_1", f"teacher.weights={weights}"]
    judge.config_file.write_text(load(["digits"], of_other).to_toml())
    assert coverage.main([*arguments, "--judge", str(judge.path)]) == 0
    again, told = capsys.readouterr().out.split("\nAs wrn10_1 ")
    assert again.splitlines() == [head, _rule, real, mine]
    *_, head, _rule, real, mine = told.splitlines()
    assert head.endswith("| both |")
    assert 0 <= float(mine.split("|")[-2]) < 0.9, "it has learned nothing"

    judge.config_file.write_text(load(["digits"], [*of_other, "task.image_shape=[1,16,16]"]).to_toml())
    assert coverage.main([*arguments, "--judge", str(judge.path)]) == 2
    assert "was made for other classes or images" in capsys.readouterr().err


# -- priorities ----------------------------------------------------------------------------------------------


def divergences(*, between: float, within: float, num: int = 2000, views: int = 8) -> torch.Tensor:
    """Log KL of images and of their views, normal with these deviations [N, V]."""
    rng = torch.Generator().manual_seed(0)
    log_NV = between * torch.randn(num, 1, generator=rng) + within * torch.randn(num, views, generator=rng)
    return log_NV.exp()


def test_priorities_that_know_their_images() -> None:
    divergence_NV = divergences(between=1.5, within=0.5)
    found = priorities.measure(divergence_NV, divergence_NV.mean(dim=1), alpha=0.6, epsilon=1e-6)
    assert found.of_the_image == pytest.approx(1.5**2 / (1.5**2 + 0.5**2), abs=0.02)
    assert found.known == pytest.approx(1)
    assert 0.9 < found.knowable < 1
    assert found.stored_share == pytest.approx(found.kl_share)
    assert (found.kl_mean, found.kl_median) == (divergence_NV.mean().item(), divergence_NV.median().item())


def test_priorities_of_views_that_say_nothing_of_their_image() -> None:
    divergence_NV = divergences(between=0.0, within=2.0)
    found = priorities.measure(divergence_NV, divergences(between=1.0, within=0.0)[:, 0], alpha=0.6, epsilon=1e-6)
    assert found.of_the_image < 0.01
    assert abs(found.knowable) < 0.1
    assert abs(found.known) < 0.1


def test_priorities_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A student with the teacher's own weights is never far from it; one with others is."""
    config = load(["digits"], ["student.model=wrn16_2"])
    task, teacher = config.task, teacher_file(config)
    contents = {
        "images": load_data("digits", root=None, split="test", task=task).images_NCHW[:60].numpy(),
        "teacher_class": 0,
        "teacher_prob": 0.9,
        "priority": 1.0,
    }
    runs = [RunDirectory.create(tmp_path / name, "unused") for name in ("same", "other")]
    for run in runs:
        run.config_file.write_text(config.to_toml())
        fill(run, **contents, teacher_sha256=sha256_of(teacher))
    runs[0].student_file.write_bytes(teacher.read_bytes())
    write_weights(runs[1].student_file, "wrn16_2", task)

    assert priorities.main([*(str(run.path) for run in runs), "--views", "3", "--images", "50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    head, _rule, same, other = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    assert tuple(head) == priorities.HEADS
    assert same[:3] == ["same", "50", "0.000"]
    assert other[:2] == ["other", "50"]
    assert float(other[2]) > 0.5
    assert other[-2] == "1.000", "equal priorities draw all images alike"

    runs[0].buffer_file.unlink()
    fill(runs[0], **contents)
    assert priorities.main([str(runs[0].path)]) == 2
    assert "is not of the teacher" in capsys.readouterr().err
