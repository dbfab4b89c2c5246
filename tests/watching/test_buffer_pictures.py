"""Single images out of a run's buffer, read without the rest of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from buffer_files import make_contents, write_buffer

from ssdkd_cli.watching.pictures import buffer_stamp, hardest_pictures
from stages.buffer.file import BufferContents
from stages.errors import FileError
from stages.run_directory import RunDirectory


def contents(num: int = 20, *, channels: int = 3, label_shape: tuple[int, ...] = ()) -> BufferContents:
    columns = {"priority": np.random.default_rng(num).permutation(num), "age": np.arange(num)[::-1]}
    return make_contents(num, image_shape=(channels, 4, 6), num_classes=3, label_shape=label_shape, **columns)


def run_with(path: Path, buffer: BufferContents) -> RunDirectory:
    path.mkdir(exist_ok=True)
    write_buffer(path / "buffer.safetensors", buffer)
    return RunDirectory(path)


def test_the_hardest_come_first_with_what_is_known_of_them(tmp_path):
    buffer = contents()
    pictures = hardest_pictures(run_with(tmp_path / "run", buffer), limit=5)
    assert [picture.priority for picture in pictures] == [19.0, 18.0, 17.0, 16.0, 15.0]
    for picture in pictures:
        row = int(np.flatnonzero(buffer.priority == picture.priority)[0])
        assert np.array_equal(picture.pixels_HW3, buffer.images[row].transpose(1, 2, 0))
        assert picture.class_index == buffer.teacher_class[row]
        assert picture.probability == pytest.approx(float(buffer.teacher_prob[row]))
        assert picture.age == buffer.age[row]


@pytest.mark.parametrize("class_index", [0, 1, 2])
def test_one_class_only(tmp_path, class_index):
    buffer = contents()
    pictures = hardest_pictures(run_with(tmp_path / "run", buffer), class_index=class_index)
    expected = sorted(buffer.priority[buffer.teacher_class == class_index], reverse=True)
    assert [picture.priority for picture in pictures] == expected
    assert hardest_pictures(RunDirectory(tmp_path / "run"), class_index=99) == []


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_other_than_three_channels_are_grey(tmp_path, channels):
    buffer = contents(channels=channels)
    (picture,) = hardest_pictures(run_with(tmp_path / "run", buffer), limit=1)
    row = int(buffer.priority.argmax())
    grey = buffer.images[row].mean(axis=0).round().astype(np.uint8)
    assert picture.pixels_HW3.shape == (4, 6, 3)
    assert all(np.array_equal(picture.pixels_HW3[..., channel], grey) for channel in range(3))


def test_of_a_dense_task_the_class_is_the_most_frequent(tmp_path):
    buffer = contents(label_shape=(4, 6))
    (picture,) = hardest_pictures(run_with(tmp_path / "run", buffer), limit=1)
    row = int(buffer.priority.argmax())
    assert picture.class_index == np.bincount(buffer.teacher_class[row].reshape(-1)).argmax()


def test_a_buffer_that_is_missing_or_damaged_is_said_to_be(tmp_path):
    run = RunDirectory(tmp_path / "run")
    with pytest.raises(FileError, match="the run saved none"):
        hardest_pictures(run)
    run.path.mkdir()
    with run.lock.held(), pytest.raises(FileError, match="no buffer yet"):
        hardest_pictures(run)
    run_with(run.path, contents())
    whole = run.buffer_file.read_bytes()
    for damaged in (b"", b"rubbish", whole[: len(whole) // 2]):
        run.buffer_file.write_bytes(damaged)
        with pytest.raises(FileError, match="cannot be read"):
            hardest_pictures(run)


def test_the_stamp_changes_with_the_buffer(tmp_path):
    assert buffer_stamp(RunDirectory(tmp_path / "run")) is None
    run = run_with(tmp_path / "run", contents())
    first = buffer_stamp(run)
    assert buffer_stamp(run) == first
    write_buffer(run.buffer_file, contents(5))
    assert buffer_stamp(run) != first
