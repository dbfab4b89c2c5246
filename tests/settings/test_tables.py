"""The tables one by one: defaults, types, ranges, and the rules between the keys of a table."""

import pytest

from stages.config import RunTable, TaskTable, load, schemas
from stages.distillation.config import DistillationConfig
from stages.evaluation.config import EvaluationConfig
from stages.inversion.config import InversionConfig
from stages.settings.key_docs import key_docs


def test_defaults_are_those_of_fast_datafree_where_the_paper_follows_it():
    inversion, distillation = InversionConfig(), DistillationConfig()
    assert (inversion.steps, inversion.batch_size, inversion.latent_dim) == (5, 256, 256)
    assert (inversion.lr_generator, inversion.lr_latent, inversion.lr_meta) == (3e-3, 1e-2, 1.5e-2)
    assert (inversion.bn_loss, inversion.bn_weight, inversion.bn_momentum) == ("absolute", 10, 0.9)
    assert (inversion.task_weight, inversion.adversarial_weight) == (0.4, 1.1)
    assert (distillation.batch_size, distillation.lr, distillation.lr_min) == (256, 0.2, 2e-4)
    assert (distillation.momentum, distillation.weight_decay, distillation.temperature) == (0.9, 1e-4, 20)
    assert (RunTable().epochs, RunTable().warmup_epochs) == (220, 20)


def test_defaults_of_what_the_paper_leaves_open():
    inversion, distillation = InversionConfig(), DistillationConfig()
    assert (inversion.gamma, inversion.targets) == (2, "teacher")
    assert (inversion.diversity, inversion.difficulty) == (True, True)
    assert (distillation.alpha, distillation.beta, distillation.epsilon) == (0.6, 0.4, 1e-6)
    assert (distillation.delta_temperature, distillation.weight_loss) == (1, False)
    assert EvaluationConfig().num_holdout == 256


@pytest.mark.parametrize("table", schemas())
def test_every_key_says_what_it_is_and_what_it_takes(table):
    docs = key_docs(table, schemas()[table])
    assert docs
    for doc in docs:
        assert doc.summary, doc.key
        assert doc.takes or doc.key == "inversion.options"


@pytest.mark.parametrize(("steps", "lr_generator", "lr_meta"), [(2, 5e-3, 0.010), (5, 3e-3, 0.015), (10, 2e-3, 0.020)])
def test_meta_rate_follows_generator_rate_and_steps(steps, lr_generator, lr_meta):
    assert InversionConfig(steps=steps, lr_generator=lr_generator).lr_meta == pytest.approx(lr_meta, rel=1e-12)


def test_by_reptile_the_meta_generator_becomes_the_clone_unless_a_rate_is_given():
    assert InversionConfig(meta_update="reptile").lr_meta == 1.0
    assert InversionConfig(meta_update="reptile", lr_meta=0.5).lr_meta == 0.5


def test_weight_of_the_statistics_follows_their_units_unless_it_is_given():
    assert InversionConfig(bn_loss="standardized").bn_weight == 1
    assert InversionConfig(bn_loss="standardized", bn_weight=2).bn_weight == 2
    assert InversionConfig(bn_weight=2).bn_weight == 2


@pytest.mark.parametrize(("height", "padding"), [(32, 4), (8, 1), (128, 16), (28, 3), (7, 0)])
def test_crop_padding_is_an_eighth_of_the_height(height, padding):
    task = TaskTable(num_classes=2, image_shape=(1, height, 99), mean=(0.5,), std=(0.5,))
    assert task.crop_padding == padding


@pytest.mark.parametrize(
    ("capacity", "batch_size", "steps"),
    [
        (50_000, 256, 400),
        (5_000, 256, 40),
        (2_500, 256, 20),
        (500, 256, 4),
        (100, 256, 4),
        (2_000, 256, 16),
        (560, 256, 4),
        (5_000, 64, 160),
        (5_000, 512, 20),
    ],
)
def test_auto_steps_follow_the_capacity_and_the_batch(whole, capacity, batch_size, steps):
    sizes = [f"buffer.capacity={capacity}", f"distillation.batch_size={batch_size}"]
    assert load([whole], sizes).num_distillation_steps == steps


def test_number_of_steps_is_taken_as_it_is(whole):
    assert load([whole], ["distillation.steps=7"]).num_distillation_steps == 7


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("run.epochs=0", "0"),
        ("run.epochs=-3", "-3"),
        ("run.epochs=3.0", "3.0"),
        ("run.epochs=true", "true"),
        ("run.epochs=nan", "NaN"),
        ('run.epochs="30"', '"30"'),
        ("run.warmup_epochs=-1", "-1"),
        ("run.seed=-1", "-1"),
        ("run.seed=9223372036854775808", "9223372036854775808"),
        ("run.device=gpu", '"gpu"'),
        ("run.device=cuda:", '"cuda:"'),
        ("run.device=cuda:x", '"cuda:x"'),
        ("run.device=CPU", '"CPU"'),
        ("run.precision=fp16", '"fp16"'),
        ("run.threads=0", "0"),
        ("run.threads=many", '"many"'),
        ("run.eval_every=0", "0"),
        ("run.checkpoint_every=0", "0"),
        ("run.log_every=0", "0"),
        ("run.acceleration=fast", '"fast"'),
        ("student.start=warm", '"warm"'),
        ("inversion.overlap=1", "1"),
        ("run.stages=3", "3"),
        ("task.num_classes=1", "1"),
        ("task.crop_padding=-1", "-1"),
        ("task.crop_padding=16", "16"),
        ("task.horizontal_flip=1", "1"),
        ("buffer.capacity=0", "0"),
        ("buffer.eviction=newest", '"newest"'),
        ("inversion.steps=0", "0"),
        ("inversion.batch_size=0", "0"),
        ("inversion.lr_generator=0", "0"),
        ("inversion.lr_latent=-1", "-1"),
        ("inversion.lr_meta=0.0", "0.0"),
        ("inversion.latent_dim=0", "0"),
        ("inversion.bn_weight=-1", "-1"),
        ("inversion.bn_momentum=1", "1"),
        ("inversion.bn_momentum=-0.1", "-0.1"),
        ("inversion.task_weight=-0.1", "-0.1"),
        ("inversion.adversarial_weight=-0.1", "-0.1"),
        ("inversion.gamma=-1", "-1"),
        ("inversion.gamma=nan", "NaN"),
        ("inversion.diversity=0", "0"),
        ('inversion.difficulty="yes"', '"yes"'),
        ("inversion.targets=random", '"random"'),
        ("inversion.gamma_start=-1", "-1"),
        ("inversion.reset_epoch=-1", "-1"),
        ("inversion.calls=0", "0"),
        ("inversion.warmup_calls=0", "0"),
        ("inversion.class_latents=-1", "-1"),
        ("inversion.meta_update=maml", '"maml"'),
        ("distillation.mix=cut", '"cut"'),
        ("distillation.mix_share=0", "0"),
        ("distillation.mix_share=1.1", "1.1"),
        ("distillation.views=-1", "-1"),
        ("distillation.loss=mse", '"mse"'),
        ("distillation.late_loss=mse", '"mse"'),
        ("distillation.late_share=-0.1", "-0.1"),
        ("distillation.late_share=1.1", "1.1"),
        ("distillation.decay_share=0", "0"),
        ("distillation.decay_share=1.1", "1.1"),
        ("distillation.optimizer=adamw", '"adamw"'),
        ("distillation.ema_decay=1", "1"),
        ("distillation.ema_decay=-0.1", "-0.1"),
        ("distillation.recalibration_batches=-1", "-1"),
        ("distillation.steps=0", "0"),
        ("distillation.steps=some", '"some"'),
        ("distillation.steps=4.5", "4.5"),
        ("distillation.batch_size=0", "0"),
        ("distillation.lr=0", "0"),
        ("distillation.lr_min=-1", "-1"),
        ("distillation.lr_min=0.3", "0.3"),
        ("distillation.weight_decay=-1", "-1"),
        ("distillation.momentum=1", "1"),
        ("distillation.momentum=-0.1", "-0.1"),
        ("distillation.temperature=0", "0"),
        ("distillation.temperature=inf", "Infinity"),
        ("distillation.sampling=prioritised", '"prioritised"'),
        ("distillation.alpha=-1", "-1"),
        ("distillation.alpha=101", "101"),
        ("distillation.beta=-1", "-1"),
        ("distillation.beta=1.7", "1.7"),
        ("distillation.epsilon=0", "0"),
        ("distillation.epsilon=1e-50", "1e-50"),
        ("distillation.delta_temperature=0", "0"),
        ("distillation.weight_loss=1", "1"),
        ("evaluation.batch_size=0", "0"),
        ("evaluation.num_holdout=-1", "-1"),
        ("evaluation.select_best=0", "0"),
        ("evaluation.resize=0", "0"),
        ("evaluation.download=0", "0"),
    ],
)
def test_values_that_are_refused_are_told(problem_of, override, told):
    assert problem_of(override).message.startswith(f"`{override.partition('=')[0]}` is {told} in --set")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("run.stages=[]", "`run.stages` is [] in --set: it must have at least 1 value(s)"),
        ("run.stages=3", "`run.stages` is 3 in --set: it must be a list"),
        ('run.stages=["inversion", "inversion"]', "each stage may be named once"),
        ("task.image_shape=[3, 16]", "`task.image_shape` is [3, 16] in --set: it must have 3 values"),
        ("task.image_shape=[3]", "`task.image_shape` is [3] in --set: it must have 3 values"),
        ("task.image_shape=[3, 16, 24, 1]", "it must have at most 3 value(s)"),
        ("task.image_shape=[3, 0, 24]", "`task.image_shape[1]` is 0 in --set: it must be greater than 0"),
        ('task.image_shape=[3, "16", 24]', '`task.image_shape[1]` is "16" in --set'),
        ("task.mean=[0.5, 0.5]", "`task.mean` is [0.5, 0.5] in --set and `task.image_shape` is [3, 16, 24] in"),
        ("task.mean=[123.7, 116.3, 103.5]", "images are in [0, 1], so is their mean"),
        ("task.mean=[-0.1, 0.5, 0.5]", "images are in [0, 1], so is their mean"),
        ("task.std=[63.0, 62.1, 66.7]", "images are in [0, 1], so is their standard deviation"),
        ("task.mean=[0.5, true, 0.5]", "`task.mean[1]` is true in --set: it must be a valid number"),
        ("task.std=[0.5]", "there must be one value for each of the 3 channels"),
        ("task.std=[0.5, 0.0, 0.5]", "`task.std[1]` is 0.0 in --set: it must be greater than 0"),
        ("task.std=[0.5, inf, 0.5]", "`task.std[1]` is Infinity in --set: it must be a finite number"),
    ],
)
def test_lists_that_are_refused_are_told(problem_of, override, told):
    assert told in problem_of(override).message


@pytest.mark.parametrize(
    "override",
    [
        "run.warmup_epochs=29",
        "run.device=cuda",
        "run.device=cuda:11",
        "run.precision=bf16",
        "run.threads=3",
        "run.threads=auto",
        'run.stages=["distillation"]',
        "task.mean=[0, 0.5, 1]",
        "task.std=[0.0039, 1, 1]",
        "task.crop_padding=0",
        "task.crop_padding=15",
        "buffer.eviction=lowest_priority",
        "inversion.bn_momentum=0",
        "inversion.bn_loss=standardized",
        "inversion.targets=inverse_frequency",
        "inversion.gamma=0",
        "inversion.gamma_start=0",
        "distillation.mix_share=1",
        "distillation.beta=1.6",
        "distillation.lr_min=0.2",
        "distillation.lr=1",
        "evaluation.num_holdout=0",
        "evaluation.data=none",
        "evaluation.data=cifar10",
        "teacher.model=torchvision:resnet18",
        "teacher.model=nets/mine.py:make",
        "student.model=wrn10_1",
    ],
)
def test_values_at_the_edge_are_fine(whole, override):
    load([whole], [override])


def test_warmup_must_be_shorter_than_the_run(problem_of):
    problem = problem_of("run.warmup_epochs=30")
    assert "`run.warmup_epochs` is 30 in --set" in problem.message
    assert "`run.epochs` is 30 in" in problem.message
    assert problem.message.partition("run.epochs")[2].count("whole.toml") == 1


def test_priorities_must_settle(whole, problem_of):
    problem = problem_of("distillation.alpha=2", "distillation.beta=0.5")
    assert "`distillation.beta` is 0.5 in --set and `distillation.alpha` is 2.0 in --set" in problem.message
    assert "alpha * beta" in problem.message
    load([whole], ["distillation.alpha=2", "distillation.beta=0.5", "distillation.sampling=uniform"])


def test_of_mixed_views_one_is_whole(whole, problem_of):
    problem = problem_of("distillation.mix=cutmix", "distillation.views=1")
    assert "`distillation.mix_share` is 0.5 (the default) and `distillation.views` is 1 in --set" in problem.message
    mixed = ["distillation.mix=cutmix", "distillation.views=4"]
    assert "`distillation.mix_share` is 0.76 in --set" in problem_of(*mixed, "distillation.mix_share=0.76").message
    load([whole], [*mixed, "distillation.mix_share=0.75"])
    load([whole], ["distillation.mix=cutmix", "distillation.mix_share=1"])
    load([whole], ["distillation.mix=cutmix", "distillation.views=2"])
    load([whole], ["distillation.views=1"])


def test_latents_of_a_class_need_a_class(whole, problem_of):
    problem = problem_of("inversion.class_latents=1", "inversion.targets=teacher")
    assert '`inversion.class_latents` is 1.0 in --set and `inversion.targets` is "teacher" in' in problem.message
    load([whole], ["inversion.class_latents=1", "inversion.targets=balanced"])


def test_reptile_stops_at_the_clone(whole, problem_of):
    problem = problem_of("inversion.meta_update=reptile", "inversion.lr_meta=2.5")
    assert "2.5 is past it" in problem.message
    assert "`inversion.lr_meta`" in str(problem.hint)
    load([whole], ["inversion.meta_update=reptile", "inversion.lr_meta=0.5"])


def test_a_rule_tells_which_of_its_values_are_defaults(problem_of):
    assert "`distillation.alpha` is 0.6 (the default)" in problem_of("distillation.beta=1.7").message


def test_mean_of_bytes_gets_the_right_hint(problem_of):
    assert "255" in str(problem_of("task.mean=[123.7, 116.3, 103.5]").hint)


def test_tables_are_frozen(whole):
    with pytest.raises(ValueError, match="frozen"):
        load([whole]).run.epochs = 3


def test_the_rate_by_default_goes_with_the_square_root_of_the_batch():
    def rate(batch_size, whole_share, lr="auto"):
        return DistillationConfig(lr=lr, batch_size=batch_size).learning_rate(whole_share=whole_share)

    assert rate(256, 0.0) == 0.2
    assert rate(64, 0.0) == pytest.approx(0.1)
    assert rate(256, 0.5) == 0.06
    assert rate(64, 1.0) == pytest.approx(0.03)
    assert rate(64, 1.0, lr=0.5) == 0.5
