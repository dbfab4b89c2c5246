"""The student of a run in somebody's own script."""

from __future__ import annotations

import copy
import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import NETWORKS

from stages.api import load_student
from stages.config import from_file, load
from stages.errors import ConfigError, FileError
from stages.evaluation.standalone import evaluate_run
from stages.models.build import build_model
from stages.run_directory import RunDirectory
from stages.run_directory.overview import lasting_settings, settings
from stages.run_directory.verification import Check, verify


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


def test_two_files_of_a_run_are_enough(start, out: Path, tmp_path: Path) -> None:
    start()
    (tmp_path / "elsewhere").mkdir()
    for name in ("student.safetensors", "config.toml"):
        shutil.copy(out / name, tmp_path / "elsewhere")
    images_BCHW = torch.rand(3, *from_file(out / "config.toml").task.image_shape)
    assert torch.equal(load_student(tmp_path / "elsewhere")(images_BCHW), load_student(out)(images_BCHW))


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


def look_at_settings(run: RunDirectory) -> Check:
    return next(check for check in verify(run) if check.file == "config.toml")


def test_a_student_is_used_without_the_plugins_that_the_run_was_made_by(start, out: Path) -> None:
    start()
    run = RunDirectory(out)
    expected, images_BCHW = load_student(out), torch.rand(3, *from_file(run.config_file).task.image_shape)
    text = run.config_file.read_text()
    teacher = from_file(run.config_file).teacher.model
    for ours, theirs in (
        ('method = "ssdkd"', 'method = "theirs"\noptions = {strength = 3}'),
        ('stages = ["inversion"', 'stages = ["inversion", "their-stage"'),
        ('data = "digits"', 'data = "their-data"'),
        (f'model = "{teacher}"', 'model = "their-network"'),
    ):
        assert ours in text
        text = text.replace(ours, theirs)
    run.config_file.write_text(text + "\n[their-stage]\nstrength = 3\n")
    with pytest.raises(ConfigError) as refusal:  # these may be slips of the pen, for all that is known
        load_student(out)
    assert len(refusal.value.problems) == 5
    assert not look_at_settings(run).is_sound

    manifest = run.manifest()
    begun_with = lasting_settings(settings(run), manifest["settings_left_out"])
    run.manifest_file.write_text(json.dumps(manifest | {"settings": begun_with}))
    assert torch.equal(load_student(out)(images_BCHW), expected(images_BCHW))
    check = look_at_settings(run)
    assert check.is_sound
    assert "the run cannot go on here" in check.message
    assert "`their-stage`" in check.message
    config = load([str(run.config_file)], ["evaluation.data=digits"], installed_only=True)
    document = evaluate_run(run, config, "cpu")
    assert (document["teacher"], document["student"]["num_samples"]) == (None, 364)

    run.config_file.write_text(run.config_file.read_text().replace("[distillation]", "[distilation]"))
    with pytest.raises(ConfigError) as refusal:
        load_student(out)
    assert any("distilation" in problem.message for problem in refusal.value.problems)
    assert not look_at_settings(run).is_sound


def test_values_go_on_following_others_without_the_plugins(write_run_of_plugin) -> None:
    """As `load` says of a preset that a run wrote."""
    config = load([str(write_run_of_plugin)], ["task.image_shape=[1,16,16]"], installed_only=True)
    assert config.task.crop_padding == 2


@pytest.fixture
def write_run_of_plugin(make_config, tmp_path: Path) -> Path:
    text = make_config().to_toml().replace('method = "ssdkd"', 'method = "theirs"')
    (tmp_path / "theirs.toml").write_text(text)
    return tmp_path / "theirs.toml"


def test_images_of_another_scale_are_told_of_once(start, out: Path) -> None:
    start()
    images_BCHW = torch.rand(3, *from_file(out / "config.toml").task.image_shape)
    for sound in (images_BCHW, images_BCHW * 1.4 - 0.2, (255 * images_BCHW).to(torch.uint8), images_BCHW[:0]):
        with warnings.catch_warnings(action="error"):
            load_student(out)(sound)
    for other, way_out in (
        (images_BCHW * 255, "divide them by 255"),
        (images_BCHW * 270 - 9, "divide them by 255"),  # resized by a filter that overshoots
        (images_BCHW * 4 - 2, "leave the normalisation"),
        ((images_BCHW - 0.1307) / 0.3081, "leave the normalisation"),
    ):
        student = load_student(out)
        with pytest.warns(UserWarning, match=f"from 0 to 1: {way_out}") as told:
            logits_BK = student(images_BCHW=other)
        assert told[0].filename == __file__
        with warnings.catch_warnings(action="error"):
            assert torch.equal(student(other), logits_BK)


def test_images_of_another_size_are_told_of_once(start, out: Path) -> None:
    start("student.model=resnet8")  # which takes any size
    channels, height, width = from_file(out / "config.toml").task.image_shape
    for sound in (torch.rand(2, channels, height * 5 // 4, width), torch.rand(2, channels, height, width * 3 // 4)):
        with warnings.catch_warnings(action="error"):
            load_student(out)(sound)
    for other in (
        torch.rand(2, channels, 2 * height, 2 * width),
        torch.rand(2, channels, height, 2 * width),
        torch.randint(256, (2, channels, height // 2, width), dtype=torch.uint8),
    ):
        student = load_student(out)
        with pytest.warns(UserWarning, match=f"learned from {height} x {width}: scale them") as told:
            student(other)
        assert f"of {other.shape[2]} x {other.shape[3]} pixels" in str(told[0].message)
        assert told[0].filename == __file__
        with warnings.catch_warnings(action="error"):
            student(other)


def test_a_look_at_images_is_in_nobodys_way(start, out: Path) -> None:
    start()
    images_BCHW = torch.rand(3, *from_file(out / "config.toml").task.image_shape)
    with warnings.catch_warnings(action="error"):
        assert load_student(out).to("meta")(images_BCHW.to("meta")).is_meta
        asked_BCHW = images_BCHW.clone().requires_grad_()
        load_student(out)(asked_BCHW).sum().backward()
        assert asked_BCHW.grad is not None
        eager = load_student(out)
        compiled = torch.compile(load_student(out), fullgraph=True, backend="eager")
        assert torch.equal(compiled(images_BCHW), eager(images_BCHW))


def test_a_student_can_be_exported(start, out: Path) -> None:
    """Whole, with its normalisation, and for any number of images: what exporters to other formats begin with."""
    start()
    student = load_student(out)
    shape = from_file(out / "config.toml").task.image_shape
    any_number = ({0: torch.export.Dim.DYNAMIC},)
    for images_BCHW in (torch.rand(3, *shape), torch.randint(256, (3, *shape), dtype=torch.uint8)):
        exported = torch.export.export(student, (images_BCHW,), dynamic_shapes=any_number).module()
        others_BCHW = torch.cat([images_BCHW.flip(3), images_BCHW])
        torch.testing.assert_close(exported(others_BCHW), student(others_BCHW))


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
