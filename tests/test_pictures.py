from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from stages.buffer.statistics import buffer_report
from stages.pictures import Tile, choose_tiles, grid_png, histograms_png, main_class, mean_probability, tiles_of

TILE = Tile(label="cat", probability=0.9, priority=0.1)


def pixels_of(png: bytes) -> npt.NDArray[np.uint8]:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def holds(picture: npt.NDArray[np.uint8], part: npt.NDArray[np.uint8]) -> bool:
    """Whether `part` appears somewhere in the picture, pixel by pixel."""
    windows = np.lib.stride_tricks.sliding_window_view(picture, part.shape)
    return bool((windows == part).all(axis=(-1, -2, -3)).any())


# -- which samples -------------------------------------------------------------------------------------------


def test_tiles_are_the_hardest_of_each_class() -> None:
    teacher_class = np.array([1, 0, 1, 0, 1, 2])
    priority = np.array([0.1, 0.2, 0.9, 0.8, 0.5, 0.3], dtype=np.float32)
    assert choose_tiles(teacher_class, priority, num_tiles=3).tolist() == [3, 2, 5]
    assert choose_tiles(teacher_class, priority, num_tiles=5).tolist() == [3, 1, 2, 4, 5]
    assert choose_tiles(teacher_class, priority, num_tiles=99).tolist() == [3, 1, 2, 4, 0, 5]


def test_equal_priorities_keep_the_order_of_the_buffer() -> None:
    teacher_class = np.zeros(5, dtype=np.int64)
    assert choose_tiles(teacher_class, np.ones(5, np.float32), num_tiles=3).tolist() == [0, 1, 2]


def test_no_sample_is_chosen_twice() -> None:
    rng = np.random.default_rng(0)
    for num_tiles in (1, 7, 64):
        chosen = choose_tiles(rng.integers(0, 9, 200), rng.random(200, np.float32), num_tiles=num_tiles)
        assert len(set(chosen.tolist())) == num_tiles


def test_choice_among_none() -> None:
    assert len(choose_tiles(np.zeros(0, np.int64), np.zeros(0, np.float32), num_tiles=8)) == 0


def test_dense_labels_are_summed_up() -> None:
    labels = np.array([[[1, 1], [2, 0]], [[3, 3], [3, 1]]])
    assert main_class(labels).tolist() == [1, 3]
    assert main_class(labels[:, 0, 0]).tolist() == [1, 3]
    probabilities = np.array([[[0.5, 0.5], [0.5, 0.5]], [[1, 1], [0, 1]]], np.float32)
    assert mean_probability(probabilities).tolist() == [0.5, 0.75]
    assert mean_probability(probabilities[:, 0, 0]).tolist() == [0.5, 1.0]


def test_labels_are_names_or_numbers() -> None:
    columns = (np.array([1]), np.array([0.5], np.float32), np.array([2.0], np.float32))
    assert tiles_of(*columns, class_names=["cat", "dog"]) == [Tile("dog", 0.5, 2.0)]
    assert tiles_of(*columns, class_names=None) == [Tile("class 1", 0.5, 2.0)]


# -- the grid ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "factor"), [(8, 12), (32, 3), (64, 1), (224, 1)])
def test_images_are_magnified_by_a_whole_factor(size: int, factor: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, size, size), dtype=np.uint8)
    picture = pixels_of(grid_png(image[None], [TILE]))
    magnified = np.kron(image.transpose(1, 2, 0), np.ones((factor, factor, 1), np.uint8))
    assert (picture[10 : 10 + size * factor, 10 : 10 + size * factor] == magnified).all()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_images_that_are_not_colour_are_shown_grey(channels: int) -> None:
    image = np.full((channels, 8, 8), 90, dtype=np.uint8)
    image[:, 2, 3] = 200
    picture = pixels_of(grid_png(image[None], [TILE]))
    assert picture[11, 11].tolist() == [90, 90, 90]
    assert picture[10 + 2 * 12, 10 + 3 * 12].tolist() == [200, 200, 200]


def test_grid_has_every_image_in_rows() -> None:
    images = np.stack([np.full((3, 8, 8), 10 * index, np.uint8) for index in range(1, 12)])
    picture = pixels_of(grid_png(images, [TILE] * 11))
    for index in range(11):
        part = np.full((90, 90, 3), 10 * (index + 1), np.uint8)
        row, column = divmod(index, 8)
        top, left = 10 + row * (96 + 44), 10 + column * 106
        assert (picture[top : top + 90, left : left + 90] == part).all(), index
    assert picture.shape == (10 + 2 * 140, 10 + 8 * 106, 3)


def test_captions_differ_with_what_they_say() -> None:
    images = np.zeros((1, 3, 32, 32), np.uint8)
    pictures = {
        grid_png(images, [tile])
        for tile in (
            TILE,
            Tile("dog", 0.9, 0.1),
            Tile("cat", 0.8, 0.1),
            Tile("cat", 0.9, 0.2),
            Tile("größte Möwe der Welt, lang", 0.9, 0.1),
            Tile("two\nlines", 0.9, 0.1),
        )
    }
    assert len(pictures) == 6


@pytest.mark.parametrize("priority", [0.0, 1e-12, 9.79e-4, 0.00392, 0.0832, 0.5, 99.6, 999.7, 1e12])
def test_numbers_of_a_priority_are_never_cut(priority: float, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("PIL.ImageDraw.ImageDraw.text", lambda _self, _place, text, **_how: drawn.append(text))
    grid_png(np.zeros((1, 1, 32, 32), np.uint8), [Tile(label="cat", probability=1.0, priority=priority)])
    _, numbers = drawn
    assert numbers.startswith("p 1.00 δ ")
    assert float(numbers.rpartition(" ")[2]) == pytest.approx(priority, rel=0.06)


def test_long_caption_stays_below_its_image() -> None:
    images = np.full((2, 3, 32, 32), 7, np.uint8)
    long = pixels_of(grid_png(images, [Tile("W" * 200, 1.0, 123456.0), Tile("", 1.0, 0.0)]))
    short = pixels_of(grid_png(images, [Tile("", 1.0, 0.0), Tile("", 1.0, 0.0)]))
    assert (long[:, 114:] == short[:, 114:]).all()
    assert (long != short).any()


def test_equal_input_gives_equal_bytes() -> None:
    images = np.zeros((3, 1, 8, 8), np.uint8)
    assert grid_png(images, [TILE] * 3) == grid_png(images, [TILE] * 3)


# -- the histograms ------------------------------------------------------------------------------------------


def report_of(num: int, num_classes: int) -> dict[str, object]:
    rng = np.random.default_rng(0)
    return buffer_report(
        teacher_class=rng.integers(0, num_classes, num),
        teacher_prob=rng.random(num, np.float32),
        priority=rng.lognormal(size=num).astype(np.float32),
        age=np.zeros(num, np.int32),
        num_classes=num_classes,
        alpha=0.6,
        epsilon=1e-6,
    )


@pytest.mark.parametrize(
    ("num", "num_classes", "class_names"),
    [
        (50, 4, ["größte Möwe der Welt", "dog", "猫\n", "$\\frac$ _^"]),
        (500, 100, None),
        (0, 10, None),
        (1, 2, ["a", "b"]),
    ],
)
def test_histograms_are_drawn(num: int, num_classes: int, class_names: list[str] | None) -> None:
    picture = pixels_of(histograms_png(report_of(num, num_classes), class_names=class_names, title="a_run $1"))
    assert picture.shape == (462, 1430, 3)
    assert picture.std() > 5


def test_histograms_show_the_report() -> None:
    """The tallest bar of each panel is in the bin with the highest count: found by its colour."""
    report = report_of(40, 4) | {"class_counts": [1, 9, 1, 1]}
    picture = pixels_of(histograms_png(report, class_names=None, title="t")).astype(int)
    is_blue = (abs(picture - [0x3B, 0x6F, 0xB5]).sum(axis=-1) < 12)[:, : picture.shape[1] // 3]
    heights = is_blue.sum(axis=0)
    (columns,) = np.nonzero(is_blue.any(axis=0))
    tallest = int(np.argmax(heights))
    share = (tallest - columns[0]) / (columns[-1] - columns[0])
    assert 0.25 < share < 0.5, "the second of four classes is the tallest"


def test_histograms_of_equal_reports_are_equal_bytes() -> None:
    report = report_of(20, 3)
    first, second = (histograms_png(report, class_names=None, title="t") for _ in range(2))
    assert first == second
    assert b"matplotlib" not in first.lower()
