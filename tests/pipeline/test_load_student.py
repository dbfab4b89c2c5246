"""The student of a run in somebody's own script."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages.api import load_student
from stages.config import from_file
from stages.errors import FileError
from stages.models.build import build_model


def test_a_student_takes_images_as_they_are(start, out: Path) -> None:
    start()
    student = load_student(out)
    assert not student.training
    config = from_file(out / "config.toml")
    network = build_model(config.student.model, task=config.task, where="student.model")
    network.load_state_dict(load_file(out / "student.safetensors"))
    images_BCHW = torch.randint(256, (5, *config.task.image_shape), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (config.task.mean, config.task.std))
    with torch.no_grad():
        expected_BK = network.eval()((images_BCHW / 255 - mean) / std)
    torch.testing.assert_close(student(images_BCHW), expected_BK)
    torch.testing.assert_close(student(images_BCHW / 255), expected_BK)
    assert not student(images_BCHW).requires_grad


@pytest.mark.filterwarnings("ignore")  # of torch's, which has another way by now
def test_a_traced_student_takes_floats_as_it_does(start, out: Path) -> None:
    start()
    student = load_student(out)
    images_BCHW = torch.rand(3, *from_file(out / "config.toml").task.image_shape)
    traced = torch.jit.trace(student, images_BCHW)
    others_BCHW = torch.rand(5, *images_BCHW.shape[1:])
    torch.testing.assert_close(traced(others_BCHW), student(others_BCHW))


def test_no_student_is_told(start, out: Path) -> None:
    with pytest.raises(FileError, match="there is no run"):
        load_student(out)
    start()
    (out / "student.safetensors").write_bytes(b"half a")
    with pytest.raises(FileError, match=r"student\.safetensors"):
        load_student(str(out))
    (out / "student.safetensors").unlink()
    with pytest.raises(FileError, match="holds no student yet"):
        load_student(out)
