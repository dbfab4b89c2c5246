"""A config written out and loaded again is the same, and a copy with other values is checked as a preset is."""

import tomllib

import pytest

import presets
from stages.config import from_file, load, with_values
from stages.errors import ConfigError
from stages.preset_check import check


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_survives_a_round_trip(name, tmp_path):
    config = check(name)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    again = from_file(path)
    assert again == config
    assert again.to_toml() == config.to_toml()
    assert load([str(path)]) == config


def test_it_is_complete(whole):
    config = load([whole])
    written = tomllib.loads(config.to_toml())
    for name, table in config.tables().items():
        unset = {key for key, value in table if value is None or value == {}}
        assert set(written[name]) == set(type(table).model_fields) - unset
    assert written["task"]["crop_padding"] == 2
    assert written["inversion"]["lr_meta"] == 0.015


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("teacher.weights", 'a "quoted" [\nlist, ü \\ \t \x7f'),
        ("evaluation.root", "C:\\data,\n [x]"),
        ("teacher.trained_on", ""),
        ("distillation.epsilon", 1.23456789e-300),
        ("inversion.lr_generator", 0.1 + 0.2),
        ("run.seed", 2**63 - 1),
    ],
)
def test_odd_values_survive(whole, write, key, value):
    config = with_values(load([whole]), {key: value})
    table, name = key.split(".")
    assert getattr(load([write("again.toml", config.to_toml())]).tables()[table], name) == value


def test_it_is_written_for_people(whole):
    text = load([whole]).to_toml()
    assert "image_shape = [3, 16, 24]\n" in text
    assert 'stages = ["inversion", "distillation", "evaluation"]\n' in text
    assert text.startswith("[run]\n")
    assert "options" not in text
    assert "\n# root is not set\n" in text


def test_different_values_are_different(whole):
    assert load([whole]) != load([whole], ["run.seed=1"])


def test_with_values(whole):
    config = load([whole])
    other = with_values(config, {"run.epochs": 70, "run.threads": 2, "teacher.weights": "x"})
    assert (other.run.epochs, other.run.threads, other.teacher.weights) == (70, 2, "x")
    assert config.run.epochs == 30
    assert with_values(other, {"run.epochs": 30, "run.threads": "auto", "teacher.weights": "auto"}) == config


def test_with_values_keeps_derived_defaults_derived(whole):
    config = with_values(load([whole]), {"inversion.steps": 10, "task.image_shape": [3, 64, 64]})
    assert config.inversion.lr_meta == pytest.approx(0.03)
    assert config.task.crop_padding == 8


def test_with_values_is_checked_and_told_by_its_place(whole):
    with pytest.raises(ConfigError, match=r"^`run\.device` is \"gpu\" in --device: it must be auto, cpu"):
        with_values(load([whole]), {"run.device": "gpu"}, place="--device")
    with pytest.raises(ConfigError, match=r"^unknown key `run\.epoch` in --set"):
        with_values(load([whole]), {"run.epoch": 3})


def test_with_none_a_value_is_unset(whole):
    config = load([whole], ["evaluation.root=/data"])
    assert with_values(config, {"evaluation.root": None}).evaluation.root is None
