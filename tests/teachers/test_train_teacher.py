"""Training a teacher on the shipped digits, in seconds."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.config import Config, with_values
from stages.data.augment import Augmentation, augmented
from stages.data.dataset import LabelledImages, load_data
from stages.errors import ConfigError, DivergedError, FileError, MachineError, StorageError
from stages.teachers import train as train_module
from stages.teachers import unfinished
from stages.teachers.load import load_teacher
from stages.teachers.train import learning_rate_factor, train_teacher

MakeConfig = Callable[..., Config]

CPU = torch.device("cpu")


def train(config: Any, out: Path, *, epochs: int = 3, seed: int = 0, **others: Any) -> Any:
    config = with_values(config, {"evaluation.data": "digits"})
    return train_teacher(config, out=out, device=CPU, seed=seed, epochs=epochs, **others)


def test_learns_digits_and_loads_again(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("teacher.model=wrn16_1")
    progress: list[tuple[int, int, float, float]] = []
    trained = train(
        config,
        tmp_path / "new" / "teacher.safetensors",
        epochs=6,
        test_split="test",
        progress=lambda *values: progress.append(values),
    )
    assert trained.metrics["num_samples"] == 364
    assert trained.metrics["top1"] > 0.9
    assert [(epoch, epochs) for epoch, epochs, _, _ in progress] == [(epoch, 6) for epoch in range(1, 7)]
    assert progress[-1][2] < progress[0][2] / 3
    assert progress[-1][3] > 0.9

    teacher = load_teacher(make_config("teacher.model=wrn16_1", f"teacher.weights={trained.path}"), CPU)
    test = load_data("digits", root=None, split="test", task=config.task)
    with torch.no_grad():
        logits = teacher.model((test.images_NCHW.float() / 255 - 0.5) / 0.5)
    assert (logits.argmax(1) == test.labels_N).double().mean() == pytest.approx(trained.metrics["top1"])


def test_equal_seeds_give_equal_files_whatever_was_drawn_before(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    first = train(config, tmp_path / "1.safetensors", epochs=1).path.read_bytes()
    torch.rand(7)
    state = torch.get_rng_state()
    second = train(config, tmp_path / "2.safetensors", epochs=1, test_split="test").path.read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    other = train(config, tmp_path / "3.safetensors", epochs=1, seed=1).path.read_bytes()
    assert first == second
    assert first != other


def test_bf16_trains_too(make_config: MakeConfig, tmp_path: Path) -> None:
    losses: list[float] = []
    config = make_config("run.precision=bf16")
    trained = train(
        config,
        tmp_path / "t.safetensors",
        epochs=4,
        progress=lambda _, __, loss, ___: losses.append(loss),
    )
    assert losses[-1] < 0.75 * losses[0]
    teacher = load_teacher(make_config(f"teacher.weights={trained.path}"), CPU)
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {torch.float32}


def test_few_images_make_a_smaller_batch(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = LabelledImages(torch.zeros(5, 1, 8, 8, dtype=torch.uint8), torch.arange(5), None, "few", "train")
    monkeypatch.setattr(train_module, "real_images", lambda *_, **__: few)
    seen: list[float] = []
    train(
        make_config(),
        tmp_path / "t.safetensors",
        epochs=2,
        progress=lambda _, __, loss, ___: seen.append(loss),
    )
    assert len(seen) == 2


def test_the_images_learned_are_no_test(make_config: MakeConfig, tmp_path: Path) -> None:
    """A folder without splits gives the same images for either name."""
    trained = train(make_config(), tmp_path / "t.safetensors", epochs=1, split="test", test_split="test")
    assert trained.metrics is None


def test_divergence_is_told_and_nothing_written(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_module, "LEARNING_RATE", 1e30)
    with pytest.raises(DivergedError, match="diverged in epoch 1"):
        train(make_config(), tmp_path / "t.safetensors")
    assert list(tmp_path.iterdir()) == [tmp_path / "small.toml"]


def test_a_training_that_diverged_leaves_nothing_to_go_on_with(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved of it would diverge again."""
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0.0)

    def lose(*_: object) -> None:
        assert len(list(tmp_path.glob("*.unfinished"))) == 1
        monkeypatch.setattr(train_module, "LEARNING_RATE", 1e30)

    with pytest.raises(DivergedError, match="diverged in epoch 2"):
        train(make_config(), tmp_path / "t.safetensors", progress=lose)
    assert list(tmp_path.iterdir()) == [tmp_path / "small.toml"]


class Interrupted(Exception):  # noqa: N818 - what stands for a crash is no error of its own
    """The process ends here."""


def until(last: int, told: list[int]) -> Callable[..., None]:
    """A listener that notes the epochs, and ends everything after the last."""

    def listen(epoch: int, *_: object) -> None:
        told.append(epoch)
        if epoch == last:
            raise Interrupted

    return listen


def interrupt(config: Config, out: Path, *, after: int, **others: Any) -> list[int]:
    """The epochs of a training that ended early, with its own file left behind."""
    told: list[int] = []
    with pytest.raises(Interrupted):
        train(config, out, progress=until(after, told), **others)
    assert not out.exists()
    return told


def test_an_interrupted_training_goes_on_to_the_same_bits(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0.0)
    config, out = make_config(), tmp_path / "t.safetensors"
    assert interrupt(config, out, after=2, epochs=4) == [1, 2]
    torch.rand(7)
    assert interrupt(config, out, after=3, epochs=4) == [3]
    told: list[int] = []
    train(config, out, epochs=4, progress=until(0, told))
    assert told == [4]
    whole = train(config, tmp_path / "whole.safetensors", epochs=4)
    assert out.read_bytes() == whole.path.read_bytes()
    assert sorted(tmp_path.glob("*.*")) == sorted([tmp_path / "small.toml", out, whole.path]), "nothing else is left"


def test_dropout_goes_on_to_the_same_bits(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 0.0)
    factory = tmp_path / "net.py"
    factory.write_text(
        "from torch import nn\n"
        "def build(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(), nn.Linear(16, num_classes))\n"
    )
    config = make_config(f"teacher.model={factory}:build")
    interrupt(config, tmp_path / "t.safetensors", after=1, epochs=2)
    resumed = train(config, tmp_path / "t.safetensors", epochs=2)
    assert resumed.path.read_bytes() == train(config, tmp_path / "w.safetensors", epochs=2).path.read_bytes()


@pytest.mark.parametrize("others", [{"seed": 1}, {"epochs": 3}, {"split": "test"}])
def test_another_training_does_not_go_on_with_it(
    make_config: MakeConfig, tmp_path: Path, others: dict[str, Any]
) -> None:
    out, told = tmp_path / "t.safetensors", []
    interrupt(make_config(), out, after=1, epochs=2)
    assert interrupt(make_config(), out, after=1, **{"epochs": 2} | others) == [1]
    assert interrupt(make_config("task.std=[0.4]"), out, after=1, epochs=2) == [1]
    train(make_config(), out, epochs=2, progress=until(0, told))
    assert told == [2], "and neither spoils it"


@pytest.mark.parametrize(
    ("before", "after"),
    [("nn.Sequential(nn.Flatten()", "nn.Sequential(nn.Hardtanh(), nn.Flatten()"), ("# as it was", "# and is")],
    ids=["another layer", "any change of the file"],
)
def test_a_network_whose_code_has_changed_begins_anew(
    make_config: MakeConfig, tmp_path: Path, before: str, after: str
) -> None:
    """Though its weights have the names and shapes of the old one's."""
    factory, out = tmp_path / "net.py", tmp_path / "t.safetensors"
    text = (
        "from torch import nn\n"
        "def build(num_classes):  # as it was\n"
        "    head = nn.Linear(64, num_classes)\n"
        "    network = nn.Sequential(nn.Flatten(), nn.Identity())\n"
        "    network.head = head\n"
        "    return network\n"
    )
    factory.write_text(text)
    config = make_config(f"teacher.model={factory}:build")
    assert interrupt(config, out, after=1, epochs=2) == [1]
    factory.write_text(text.replace(before, after))
    assert interrupt(config, out, after=1, epochs=2) == [1]
    factory.write_text(text)
    assert interrupt(config, out, after=2, epochs=2) == [2]


def test_short_epochs_do_not_wait_for_the_disk(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "SAVE_EVERY_S", 3600.0)
    assert interrupt(make_config(), tmp_path / "t.safetensors", after=3) == [1, 2, 3]
    assert interrupt(make_config(), tmp_path / "t.safetensors", after=2) == [2], "the first is saved at once"


def test_an_unfinished_training_that_is_damaged_is_told(make_config: MakeConfig, tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    interrupt(make_config(), out, after=1, epochs=2)
    (saved,) = tmp_path.glob("*.unfinished")
    content = saved.read_bytes()
    saved.write_bytes(content[:-5])
    with pytest.raises(FileError, match="damaged") as caught:
        train(make_config(), out, epochs=2)
    assert caught.value.hint == "delete it: the training then begins anew"

    saved.unlink()
    interrupt(make_config("teacher.model=resnet8"), out, after=1, epochs=2)
    (others,) = tmp_path.glob("*.unfinished")
    content = others.rename(saved).read_bytes()
    with pytest.raises(FileError, match="does not fit the network"):
        train(make_config(), out, epochs=2)
    assert saved.read_bytes() == content


def test_a_full_disk_on_the_way_does_not_end_the_training(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageError("no space left", hint="free some")

    monkeypatch.setattr(unfinished, "save_checkpoint", fail)
    trained = train(make_config(), tmp_path / "t.safetensors", epochs=1)
    load_teacher(make_config(f"teacher.weights={trained.path}"), CPU)


def test_a_file_that_another_process_has_written_meanwhile_stays(make_config: MakeConfig, tmp_path: Path) -> None:
    out = tmp_path / "t.safetensors"
    trained = train(make_config(), out, epochs=1, progress=lambda *_: out.write_bytes(b"the other's"))
    assert out.read_bytes() == b"the other's"
    assert trained.path.parent == tmp_path
    load_teacher(make_config(f"teacher.weights={trained.path}"), CPU)


def test_a_measurement_that_fails_leaves_the_trained_teacher(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("2 GiB")

    monkeypatch.setattr(train_module, "measure", fail)
    with pytest.raises(MachineError, match="2 GiB"):
        train(make_config(), tmp_path / "t.safetensors", epochs=1, test_split="test")
    load_teacher(make_config(f"teacher.weights={tmp_path / 't.safetensors'}"), CPU)


@pytest.mark.parametrize("flip", [False, True])
def test_it_learns_from_crops_and_flips_by_the_usual_settings(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    draws: list[Augmentation] = []
    settings: list[dict[str, Any]] = []

    def augmented_and_noted(images_BCHW: torch.Tensor, draw: Augmentation) -> torch.Tensor:
        draws.append(draw)
        return augmented(images_BCHW, draw)

    class NotingSGD(torch.optim.SGD):
        def __init__(self, parameters: Any, **options: Any) -> None:
            settings.append(options)
            super().__init__(parameters, **options)

    monkeypatch.setattr(train_module, "augmented", augmented_and_noted)
    monkeypatch.setattr(torch.optim, "SGD", NotingSGD)
    train(make_config(f"task.horizontal_flip={json.dumps(flip)}"), tmp_path / "t.safetensors", epochs=2)
    assert len(draws) == 2 * (1433 // 128)
    shifts = torch.cat([draw.shift_y_B for draw in draws])
    assert shifts.unique().tolist() == [-1, 0, 1], "crop_padding is 1"
    assert torch.cat([draw.shift_x_B for draw in draws]).unique().tolist() == [-1, 0, 1]
    flips = torch.cat([draw.flip_B for draw in draws]).float().mean().item()
    assert 0.4 < flips < 0.6 if flip else flips == 0
    assert settings == [{"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}]


def test_teachers_of_pixels_are_not_trained(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.tasks.classification.Classification.label_shape", lambda _, shape: tuple(shape[1:]))
    with pytest.raises(ConfigError, match="cannot be trained"):
        train(make_config(), tmp_path / "t.safetensors")


@pytest.mark.parametrize("output", ["(logits, logits) if self.training else logits", "logits.detach()"])
def test_a_network_that_cannot_learn_is_refused(make_config: MakeConfig, tmp_path: Path, output: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(64, 10)\n\n    def forward(self, images):\n"
        f"        logits = self.fc(images.flatten(1))\n        return {output}\n"
    )
    with pytest.raises(ConfigError, match=r"`teacher\.model` = "):
        train(make_config(f"teacher.model={file}:Net"), tmp_path / "t.safetensors")
    assert not (tmp_path / "t.safetensors").exists()


def test_data_that_does_not_fit(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="classes"):
        train(make_config("task.num_classes=12"), tmp_path / "t.safetensors")


def test_learning_rate_rises_then_follows_the_cosine() -> None:
    """Against torch's own cosine, after a warm-up of 5 % of 200 steps."""
    factors = [learning_rate_factor(step, 200, 10) for step in range(200)]
    assert factors[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=190)
    for factor in factors[10:]:
        assert factor == pytest.approx(cosine.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        cosine.step()


def test_warm_up_is_five_epochs_at_most() -> None:
    factors = [learning_rate_factor(step, 10_000, 10) for step in range(10_000)]
    assert factors.index(max(factors)) == 50
