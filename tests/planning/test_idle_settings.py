"""Settings that change nothing are told, where someone meant them."""

import pytest

from stages.config import load
from stages.planning.idle_settings import warnings_of
from stages.schedule import Schedule


def warnings(presets, overrides=(), command="run"):
    config = load(presets, overrides)
    return warnings_of(config, Schedule.of(command, config))


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["distillation.sampling=uniform", "distillation.beta=0.5"], "distillation.beta"),
        (["distillation.sampling=uniform", "distillation.alpha=0.5"], "distillation.alpha"),
        (["distillation.sampling=uniform", "distillation.epsilon=0.5"], "distillation.epsilon"),
        (["distillation.sampling=uniform", "distillation.weight_loss=true"], "distillation.weight_loss"),
        (["distillation.alpha=0", "distillation.beta=0.5"], "distillation.beta"),
        (["distillation.beta=0", "distillation.weight_loss=true"], "distillation.weight_loss"),
        (["distillation.sampling=uniform", "distillation.delta_temperature=4"], "distillation.delta_temperature"),
        (["inversion.difficulty=false", "inversion.gamma=1"], "inversion.gamma"),
        (["inversion.difficulty=false", "inversion.gamma_start=1"], "inversion.gamma_start"),
        (["distillation.mix_share=0.3"], "distillation.mix_share"),
        (["distillation.loss=standardized", "distillation.temperature=4"], "distillation.temperature"),
        (
            ["distillation.late_loss=standardized", "distillation.late_share=1", "distillation.temperature=4"],
            "distillation.temperature",
        ),
        (
            ["distillation.late_loss=standardized", "distillation.late_share=1", "distillation.loss=kl"],
            "distillation.loss",
        ),
        (["distillation.late_share=0.3"], "distillation.late_share"),
        (["distillation.late_loss=kl", "distillation.late_share=0.3"], "distillation.late_share"),
        (["inversion.task_weight=0", "inversion.targets=balanced"], "inversion.targets"),
        (["inversion.task_weight=0", "inversion.diversity=false"], "inversion.diversity"),
        (["inversion.bn_weight=0", "inversion.bn_momentum=0.5"], "inversion.bn_momentum"),
        (["inversion.bn_weight=0", "inversion.bn_loss=standardized"], "inversion.bn_loss"),
        (["inversion.reset_epoch=31"], "inversion.reset_epoch"),
        (['run.stages=["inversion"]', "inversion.overlap=true"], "inversion.overlap"),
        (["evaluation.root=/data"], "evaluation.root"),
        (["evaluation.select_best=true"], "evaluation.select_best"),
        (['run.stages=["inversion"]', "inversion.adversarial_weight=1"], "inversion.adversarial_weight"),
        (['run.stages=["inversion"]', "distillation.lr=0.1"], "distillation.lr"),
    ],
)
def test_a_setting_without_effect_is_told(whole, overrides, key):
    (warning,) = warnings([whole], overrides)
    assert warning.startswith(f"`{key}` is ")
    assert " in --set and has no effect: " in warning


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["distillation.beta=0.5"],
        ["distillation.sampling=uniform"],
        ["distillation.sampling=uniform", "distillation.delta_temperature=4", "buffer.eviction=lowest_priority"],
        ["inversion.gamma=1"],
        ["distillation.mix=mixup", "distillation.mix_share=0.3"],
        ["distillation.late_loss=standardized", "distillation.late_share=0.3", "distillation.temperature=4"],
        ["distillation.late_loss=standardized", "distillation.late_share=0.9", "distillation.loss=kl"],
        ["distillation.late_loss=standardized", "distillation.late_share=1"],
        ["inversion.adversarial_weight=1"],
        ["inversion.reset_epoch=30"],
        ["evaluation.data=digits", "evaluation.root=/data"],
        ['run.stages=["inversion"]', "inversion.steps=3"],
        ['run.stages=["inversion"]', "distillation.alpha=0.3"],
        ['run.stages=["inversion"]', "distillation.sampling=uniform"],
        ['run.stages=["inversion"]', "distillation.delta_temperature=2"],
        ["inversion.task_weight=0", "inversion.class_latents=1", "inversion.targets=balanced"],
    ],
)
def test_a_setting_with_effect_is_not_told(whole, overrides):
    assert warnings([whole], overrides) == ()


def test_a_late_share_that_a_preset_gives_to_two_classes_is_told_where_someone_changes_it(whole, write):
    mine = write("mine.toml", 'overlay = true\n[distillation]\nlate_loss = "auto"\nlate_share = 0.3')
    assert warnings([whole, mine], ["task.num_classes=2"]) == ()
    assert len(warnings([whole, mine], ["task.num_classes=2", "distillation.late_share=0.7"])) == 1
    assert warnings([whole, mine], ["distillation.late_share=0.7"]) == ()


def test_a_default_is_told_on_the_command_line_but_not_in_a_file(whole, write):
    mine = write("mine.toml", '[distillation]\nsampling = "uniform"\nbeta = 0.4')
    assert warnings([whole, mine]) == ()
    assert len(warnings([whole, mine], ["distillation.beta=0.4"])) == 1


def test_a_resolved_preset_warns_of_nothing(whole, write):
    config = load([whole], ["distillation.sampling=uniform"])
    assert warnings([write("again.toml", config.to_toml())]) == ()


def test_a_buffer_smaller_than_what_an_epoch_makes_is_told(whole):
    (warning,) = warnings([whole], ["buffer.capacity=200"])
    assert "56 of each epoch's 256 images" in warning
    assert warnings([whole], ["buffer.capacity=256"]) == ()
    (warning,) = warnings([whole], ["buffer.capacity=256", "inversion.calls=2"])
    assert "256 of each epoch's 512 images" in warning
    assert warnings([whole], ["buffer.capacity=256", "inversion.warmup_calls=2"]) == ()


def test_what_a_command_leaves_out_is_not_counted_and_what_it_needs_is(whole):
    small, parting = ["buffer.capacity=256"], ["buffer.eviction=lowest_priority", "distillation.views=8"]
    assert warnings([whole], ["buffer.capacity=200"], "distill") == ()
    assert warnings([whole], [*small, "inversion.calls=2", "inversion.warmup_calls=1"], "invert") == ()
    (warning,) = warnings([whole], [*small, "inversion.warmup_calls=2"], "invert")
    assert "256 of each epoch's 512 images" in warning
    for command in ("invert", "distill"):
        assert warnings([whole], [*parting, "distillation.mix=cutmix"], command) == ()


def test_what_distill_makes_nothing_of_is_told_and_what_invert_leaves_to_it_is_not(whole):
    (warning,) = warnings([whole], ["inversion.steps=3"], "distill")
    assert warning == "`inversion.steps` is 3 in --set and has no effect: `ssdkd distill` makes no images"
    (warning,) = warnings([whole], ["inversion.reset_epoch=15"], "distill")  # of whose 10 epochs it would be none
    assert warning.endswith("`ssdkd distill` makes no images")
    assert warnings([whole], ["distillation.lr=0.1"], "distill") == ()
    assert warnings([whole], ["inversion.steps=3", "distillation.lr=0.1"], "invert") == ()


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("inversion.adversarial_weight=3", "no student learns"),
        ("inversion.overlap=true", "no student learns beside it"),
        ("inversion.reset_epoch=21", "there are 20 epochs"),
    ],
)
def test_what_inversion_alone_makes_nothing_of_is_told_where_it_was_typed(whole, write, override, reason):
    (warning,) = warnings([whole], [override], "invert")
    assert warning.endswith(f"has no effect: {reason}")
    key, value = override.removeprefix("inversion.").split("=")
    mine = write("mine.toml", f"overlay = true\n[inversion]\n{key} = {value}")
    assert warnings([whole, mine], [], "invert") == warnings([whole, mine]) == ()


def test_pairs_that_part_are_told(whole):
    parting = ["buffer.eviction=lowest_priority", "distillation.views=8", "distillation.mix=cutmix"]
    (warning,) = warnings([whole], parting)
    assert warning.startswith('`buffer.eviction` is "lowest_priority": ')
    assert "fewer and fewer are mixed" in warning
    for others in (parting[:2], [*parting, "distillation.views=0"], parting[1:]):
        assert warnings([whole], others) == ()
