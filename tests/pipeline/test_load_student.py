"""The student of a run in somebody's own script."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import NETWORKS

from stages.api import load_student
from stages.config import from_file
from stages.errors import ConfigError, FileError
from stages.evaluation.standalone import evaluate_run
from stages.models.build import build_model
from stages.run_directory import RunDirectory
from stages.run_directory.verification import verify


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


def test_a_student_can_be_saved_and_copied_whole(start, out: Path, tmp_path: Path) -> None:
    start()
    student = load_student(out)
    torch.save(student, tmp_path / "whole.pt")
    read = torch.load(tmp_path / "whole.pt", weights_only=False)
    images_BCHW = torch.rand(3, *from_file(out / "config.toml").task.image_shape)
    for other in (read, copy.deepcopy(student)):
        assert other.memory_format == student.memory_format
        assert torch.equal(other(images_BCHW), student(images_BCHW))


def test_a_student_of_code_that_has_changed_is_told_of(start, out: Path, tmp_path: Path) -> None:
    """Its names and shapes fit, and nothing else would show it."""
    network = tmp_path / "net.py"
    network.write_text(NETWORKS.read_text())
    start(f"student.model={network}:student")
    with warnings.catch_warnings(action="error"):
        load_student(out)
    network.write_text(NETWORKS.read_text() + "\n# another activation, say\n")
    with pytest.warns(UserWarning, match="the file that makes `student.model` has changed since the run"):
        load_student(out)
    run, told = RunDirectory(out), []
    evaluate_run(run, from_file(out / "config.toml"), "cpu", warn=told.append)
    assert [warning for warning in told if "the file that makes `student.model` has changed" in warning]
    config_check = next(check for check in verify(run) if check.file == "config.toml")
    assert config_check.is_sound
    assert "has changed since the run" in config_check.message


def test_a_student_is_used_without_the_plugins_that_the_run_was_made_by(start, out: Path) -> None:
    start()
    run = RunDirectory(out)
    expected, images_BCHW = load_student(out), torch.rand(3, *from_file(run.config_file).task.image_shape)
    text = run.config_file.read_text()
    for ours, theirs in (
        ('method = "ssdkd"', 'method = "theirs"\noptions = {strength = 3}'),
        ('stages = ["inversion"', 'stages = ["inversion", "their-stage"'),
        ('data = "digits"', 'data = "their-data"'),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    run.config_file.write_text(text + "\n[their-stage]\nstrength = 3\n")
    with pytest.raises(ConfigError) as refusal:
        from_file(run.config_file)
    assert len(refusal.value.problems) == 4
    assert torch.equal(load_student(out)(images_BCHW), expected(images_BCHW))
    config_check = next(check for check in verify(run) if check.file == "config.toml")
    assert config_check.is_sound
    assert "the run cannot go on here" in config_check.message
    assert "`their-stage`" in config_check.message
    student = from_file(run.config_file, installed_only=True).student.model
    run.config_file.write_text(text.replace(f'[student]\nmodel = "{student}"', '[student]\nmodel = "their-network"'))
    with pytest.raises(ConfigError, match="unknown name `their-network`"):
        load_student(out)
    (config_check,) = (check for check in verify(run) if check.file == "config.toml")
    assert not config_check.is_sound


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
