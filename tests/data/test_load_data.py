"""Data sets by name, held against the task."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from stages.config import TaskTable
from stages.data import dataset
from stages.data.dataset import LabelledImages, load_data
from stages.errors import ConfigError, FileError


def task(num_classes: int = 10, image_shape: tuple[int, int, int] = (1, 8, 8)) -> TaskTable:
    values = (0.5,) * image_shape[0]
    return TaskTable(num_classes=num_classes, image_shape=image_shape, mean=values, std=values)


def test_digits_by_name() -> None:
    data = load_data("digits", root=None, split="test", task=task())
    assert len(data) == 364
    assert data.name == "digits"


def test_unknown_name_has_a_nearest_match() -> None:
    with pytest.raises(ConfigError, match="digitz") as caught:
        load_data("digitz", root=None, split="test", task=task())
    assert caught.value.hint == "did you mean `digits`?"


def test_other_image_shape() -> None:
    with pytest.raises(FileError) as caught:
        load_data("digits", root=None, split="test", task=task(image_shape=(3, 32, 32)))
    assert "[1, 8, 8]" in caught.value.message
    assert "[3, 32, 32]" in caught.value.message


@pytest.mark.parametrize("num_classes", [9, 11])
def test_other_number_of_classes(num_classes: int) -> None:
    with pytest.raises(FileError, match=f"10 classes .*`task.num_classes` is {num_classes}"):
        load_data("digits", root=None, split="test", task=task(num_classes))


def use_data(install, labels: list[int], dtype: torch.dtype = torch.uint8, *, num_images: int | None = None) -> None:
    """Install a stranger's data set with these labels and no class names."""
    made = LabelledImages(
        torch.zeros(len(labels) if num_images is None else num_images, 1, 8, 8, dtype=dtype),
        torch.tensor(labels, dtype=torch.int64),
        None,
        "theirs",
        "test",
    )
    install("datasets", lambda *_, **__: made)


def test_data_without_class_names(install) -> None:
    use_data(install, [0, 3, 9])
    assert len(load_data("theirs", root=None, split="test", task=task())) == 3


@pytest.mark.parametrize("labels", [[0, 10], [-1, 3]])
def test_labels_that_no_class_has(install, labels: list[int]) -> None:
    use_data(install, labels)
    with pytest.raises(FileError, match=f"labels from {min(labels)} to {max(labels)}"):
        load_data("theirs", root=Path("there"), split="test", task=task())


def test_data_without_images(install) -> None:
    use_data(install, [])
    with pytest.raises(FileError, match="no images"):
        load_data("theirs", root=None, split="test", task=task())


def test_images_of_another_type_than_bytes(install) -> None:
    use_data(install, [0, 3], torch.float32)
    with pytest.raises(ConfigError, match=r"`theirs` gives images of torch\.float32"):
        load_data("theirs", root=None, split="test", task=task())


def test_an_image_without_a_label(install) -> None:
    use_data(install, [0, 3], num_images=3)
    with pytest.raises(ConfigError, match="`theirs` gives 3 images with 2 labels"):
        load_data("theirs", root=None, split="test", task=task())


@pytest.mark.parametrize("given", [None, ("images", "labels")])
def test_a_data_set_that_gives_something_else(install, given: object) -> None:
    install("datasets", lambda *_, **__: given)
    with pytest.raises(ConfigError, match=f"`theirs` gives a {type(given).__name__}, not LabelledImages"):
        load_data("theirs", root=None, split="test", task=task())


def test_a_data_set_that_takes_something_else(install) -> None:
    install("datasets", lambda root: None)
    with pytest.raises(ConfigError, match=r"`evaluation\.data` = `theirs` cannot be built: TypeError") as caught:
        load_data("theirs", root=None, split="test", task=task())
    assert caught.value.hint == "`their_code:theirs` is called with root, split, image_shape, resize, download"


def test_a_data_set_that_may_not_be_read(install) -> None:
    def load(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/secret")

    install("datasets", load)
    with pytest.raises(
        FileError, match=r"`evaluation.data` = `theirs`: no access to /secret: Permission denied"
    ) as caught:
        load_data("theirs", root=None, split="test", task=task())
    assert "you may not read it" in (caught.value.hint or "")


def test_a_data_set_that_has_reasons_of_its_own_to_refuse(install) -> None:
    def load(*_: object, **__: object) -> None:
        raise PermissionError("for licensed users only")

    install("datasets", load)
    with pytest.raises(ConfigError, match="cannot be built: PermissionError: for licensed users only"):
        load_data("theirs", root=None, split="test", task=task())


class Pixels:
    """A task with a label for each pixel."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def label_shape(self, image_shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(image_shape[1:])


def test_labels_of_pixels_may_be_missing_and_have_the_shape_of_the_task(install, monkeypatch) -> None:
    images, labels = torch.zeros(3, 1, 8, 8, dtype=torch.uint8), torch.full((3, 8, 8), -1)
    made = LabelledImages(images, labels, None, "theirs", "test")
    install("datasets", lambda *_, **__: made)
    with pytest.raises(FileError, match=r"a label of `theirs` has the shape \[8, 8\], .* has \[\]"):
        load_data("theirs", root=None, split="test", task=task())
    monkeypatch.setattr(dataset, "task_of", lambda table: Pixels(table.num_classes))
    assert len(load_data("theirs", root=None, split="test", task=task())) == 3
    labels[0, 0, 0] = -2
    with pytest.raises(FileError, match="labels from -2 to -1"):
        load_data("theirs", root=None, split="test", task=task())
