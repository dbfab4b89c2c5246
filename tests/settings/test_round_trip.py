"""A config written out and loaded again is the same, and a copy with other values is checked as a preset is."""

import re

import pytest
from pydantic import Field

import presets
from stages.config import from_file, load, with_values
from stages.config_table import Table
from stages.errors import ConfigError
from stages.planning.preset_check import check
from stages.registry import Spec
from stages.settings.loading import resolved_tables


@pytest.mark.parametrize("name", presets.names())
def test_every_preset_survives_a_round_trip(name, tmp_path):
    config, _ = check(name)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    again = from_file(path)
    assert again == config
    assert again.to_toml() == config.to_toml()
    assert load([str(path)]) == config


def test_it_is_complete(whole):
    config = load([whole])
    written = resolved_tables(config.to_toml())
    assert set(written) == set(config.tables())
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
        ("distillation.lr_min", 1.23456789e-300),
        ("inversion.lr_generator", 0.1 + 0.2),
        ("run.seed", 2**63 - 1),
    ],
)
def test_odd_values_survive(whole, write, key, value):
    config = with_values(load([whole]), {key: value})
    table, name = key.split(".")
    assert getattr(load([write("again.toml", config.to_toml())]).tables()[table], name) == value


def test_it_is_written_for_people(whole):
    config = load([whole])
    text = config.tables_as_toml()
    assert config.to_toml().partition("resolved = true\n\n")[2] == text
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


def test_what_follows_from_other_values_goes_on_following_in_a_written_preset(whole, write):
    written = write("config.toml", load([whole]).to_toml())
    changes = [
        "inversion.steps=10",
        "inversion.calls=2",
        "inversion.bn_loss=standardized",
        "distillation.loss=standardized",
        "task.image_shape=[3,64,64]",
    ]
    again = load([written], changes)
    assert again == load([whole], changes)
    assert again.inversion.lr_meta == pytest.approx(0.03)
    assert again.inversion.warmup_calls == 2
    assert again.inversion.bn_weight == 1
    assert again.distillation.late_loss == "standardized"
    assert again.task.crop_padding == 8
    overlay = write("overlay.toml", 'overlay = true\n[inversion]\nmeta_update = "reptile"\n')
    assert load([written, overlay]).inversion.lr_meta == 1.0


def test_it_goes_on_following_though_a_key_has_come_since(whole, write):
    """The file of a run made before there was such a key."""
    text = load([whole]).to_toml()
    for key in ("log_every", "warmup_calls"):
        text, num_lines = re.subn(rf"^{key} = .*\n", "", text, flags=re.M)
        assert num_lines == 1
    changes = ["inversion.bn_loss=standardized", "inversion.calls=2"]
    assert load([write("config.toml", text)], changes) == load([whole], changes)


def test_it_goes_on_following_beneath_and_above_other_presets(whole, write):
    written = write("config.toml", load([whole]).to_toml())
    above = write("above.toml", 'extends = "config.toml"\n[inversion]\nbn_loss = "standardized"\nlr_meta = 0.015\n')
    again = load([above], ["inversion.steps=10"])
    assert again.inversion.bn_weight == 1
    assert again.inversion.lr_meta == 0.015, "the file above has chosen it"
    assert load(["digits", written], ["inversion.steps=10"]).inversion.lr_meta == pytest.approx(0.03)


def test_what_follows_in_a_plugins_table(whole, write, install):
    class Annealing(Table):
        every: int = 3
        twice: int = Field(default_factory=lambda table: 2 * table["every"])

    install("stages", Spec("annealing", "nowhere:Annealing", "cools down", schema=Annealing))
    written = write("config.toml", load([whole], ['run.stages=["annealing"]']).to_toml())
    assert load([written], ["annealing.every=4"]).plugin_tables["annealing"].twice == 8


def test_whoever_wrote_all_keys_out_chose_them(whole, write):
    """Of a run made before there was such a word, too."""
    config = load([whole])
    for text in (config.tables_as_toml(), config.to_toml().replace("resolved = true", "resolved = false")):
        by_hand = write("by_hand.toml", text)
        assert load([by_hand]) == config
        again = load([by_hand], ["inversion.bn_loss=standardized", "inversion.steps=10"])
        assert again.inversion.bn_weight == config.inversion.bn_weight != 1
        assert again.inversion.lr_meta == config.inversion.lr_meta


def test_what_was_chosen_does_not_follow(whole, write):
    chosen = write("config.toml", load([whole], ["inversion.lr_meta=0.5"]).to_toml())
    assert load([chosen], ["inversion.steps=10"]).inversion.lr_meta == 0.5
    written = write("again.toml", load([whole]).to_toml())
    assert load([written], ["inversion.steps=10", "inversion.lr_meta=0.015"]).inversion.lr_meta == 0.015
    by_hand = write("by_hand.toml", f'extends = "{whole}"\n[inversion]\nlr_meta = 0.015\n')
    assert load([by_hand], ["inversion.steps=10"]).inversion.lr_meta == 0.015


def test_a_written_preset_that_is_wrong_is_told_once(whole, write):
    text = load([whole]).to_toml().replace("image_shape = [3, 16, 24]", "image_shape = [3]")
    with pytest.raises(ConfigError) as caught:
        load([write("config.toml", text)], ["inversion.steps=10"])
    assert [problem.message.count("image_shape") for problem in caught.value.problems] == [1]


def test_what_is_no_table_over_a_written_preset(whole, write, problem_of):
    written = write("config.toml", load([whole]).to_toml())
    overlay = write("overlay.toml", "overlay = true\ninversion = 3\n")
    assert problem_of(presets=[written, overlay]).message == f"`inversion` is 3 in {overlay}: it must be a table"


def test_with_values_is_checked_and_told_by_its_place(whole):
    with pytest.raises(ConfigError, match=r"^`run\.device` is \"gpu\" in --device: it must be auto, cpu"):
        with_values(load([whole]), {"run.device": "gpu"}, place="--device")
    with pytest.raises(ConfigError, match=r"^unknown key `run\.epoch` in --set"):
        with_values(load([whole]), {"run.epoch": 3})


def test_with_none_a_value_is_unset(whole):
    config = load([whole], ["evaluation.root=/data"])
    assert with_values(config, {"evaluation.root": None}).evaluation.root is None


def _nested_lists(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"), [("/data/\udce4", "is no Unicode"), (_nested_lists(300), "is nested too deep")]
)
def test_what_no_file_of_settings_can_hold_is_told_by_its_key(whole, value, reason):
    with pytest.raises(ConfigError, match=rf"^`evaluation\.root` is .* in --root: it {reason}"):
        with_values(load([whole]), {"evaluation.root": value}, place="--root")
