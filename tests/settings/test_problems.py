"""What is wrong is told all at once, with its place and the nearest match."""

import pytest

from stages.config import load
from stages.errors import ConfigError

STUDENTS_WEIGHTS = (
    "a student begins at random or with weights of the teacher (`student.start`); one with weights of its own is what a"
    " function in a Python file returns, `student.model = path/to/file.py:factory`"
)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("distilation.steps", "did you mean `distillation.steps`?"),
        ("run.epoch", "did you mean `run.epochs`?"),
        ("inversion.lr_generater", "did you mean `inversion.lr_generator`?"),
        ("tesk.numclasses", "did you mean `task.num_classes`?"),
        ("inversion.temperature", "did you mean `distillation.temperature`?"),
        ("run.capacity", "did you mean `buffer.capacity`?"),
        ("epochs", "did you mean `run.epochs`?"),
        ("run.epochs.x", "did you mean `run.epochs`?"),
        ("teacher.checkpoint", "`teacher.weights` names its file"),
        ("teacher.checkpoints", "did you mean `run.checkpoint_every`?"),
        ("student.file", STUDENTS_WEIGHTS),
        ("buffer.xyzzy", "keys of `buffer`: capacity, eviction"),
        ("xyzzy.q", "tables: run, task, teacher, student, inversion, buffer, distillation, evaluation"),
    ],
)
def test_unknown_keys_have_the_nearest_match(problem_of, key, hint):
    problem = problem_of(f"{key}=3")
    assert (problem.message, problem.hint) == (f"unknown key `{key}` in --set", hint)


def test_unknown_keys_of_a_file_are_told_with_its_name(whole, write, problem_of):
    mine = write("my.toml", "[distilation]\nsteps = 4")
    problem = problem_of(presets=[whole, mine])
    assert problem.message == f"unknown key `distilation.steps` in {mine}"
    assert problem.hint == "did you mean `distillation.steps`?"


def test_each_key_of_an_unknown_table_is_told(whole, write, problems_of):
    mine = write("my.toml", "three = 3\n[distilation]\nsteps = 4\nlr = 1\n[empty]")
    keys = [problem.message.split("`")[1] for problem in problems_of(presets=[whole, mine])]
    assert keys == ["three", "distilation.steps", "distilation.lr", "empty"]


def test_shipped_presets_are_places_too(problem_of):
    assert "in cifar100.toml" in problem_of("task.image_shape=[1, 32, 32]", presets=["cifar100-wrn"]).message


def test_everything_wrong_is_told_at_once(whole, write, problems_of):
    mine = write(
        "my.toml",
        """
        [run]
        epochs = 0
        epoch = 3
        [task]
        kind = "clasification"
        mean = 0.5
        [teacher]
        model = "wrn40"
        [distilation]
        steps = 4
        """,
    )
    problems = problems_of(
        "inversion.targets=ballanced",
        "distillation.alpha=3",
        "inversion.options.x=1",
        "nonsense",
        presets=[whole, mine],
    )
    told = "\n".join(problem.message for problem in problems)
    assert len(problems) == 10, told
    for part in (
        "`run.epochs` is 0 in",
        "unknown key `run.epoch` in",
        "unknown name `clasification` in `task.kind` in",
        "`task.mean` is 0.5 in",
        "unknown name `wrn40` in `teacher.model` in",
        "unknown key `distilation.steps` in",
        '`inversion.targets` is "ballanced" in --set: it must be ',
        "`distillation.beta` is 0.4 (the default) and `distillation.alpha` is 3.0 in --set",
        "unknown key `inversion.options.x` in --set",
        "--set got `nonsense`",
    ):
        assert part in told
    assert told.count("my.toml") == 6


def test_one_problem_is_the_error_and_several_are_counted(whole):
    with pytest.raises(ConfigError) as one:
        load([whole], ["run.epoch=3"])
    assert (str(one.value), one.value.hint) == ("unknown key `run.epoch` in --set", "did you mean `run.epochs`?")
    with pytest.raises(ConfigError, match=r"^2 problems in the settings$"):
        load([whole], ["run.epoch=3", "run.epochs=0"])


def test_the_same_problem_is_told_once(problem_of):
    problem_of("run.epoch=3", "run.epoch=4")


def test_what_has_no_default_must_be_set(write, problems_of):
    messages = {problem.message for problem in problems_of(presets=[write("my.toml", "")])}
    keys = ("task.num_classes", "task.image_shape", "task.mean", "task.std", "teacher.model", "student.model")
    assert messages == {f"`{key}` is not set" for key in keys}


def test_a_missing_key_is_told_how_to_be_set(write, problems_of):
    assert "--set task.num_classes=VALUE" in str(problems_of(presets=[write("my.toml", "")])[0].hint)


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("run.precision=bf61", "did you mean `bf16`?"),
        ("run.epochs=0", "the default is 220"),
        ("run.threads=0", 'the default is "auto"'),
        ("inversion.lr_meta=0", "Rate of the meta-generator; `ssdkd presets explain inversion.lr_meta` says more"),
        (
            "task.num_classes=0",
            "Classes the teacher tells apart, K; `ssdkd presets explain task.num_classes` says more",
        ),
    ],
)
def test_hints_of_refused_values(problem_of, override, hint):
    assert problem_of(override).hint == hint


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("teacher.model=wrn40-2", "unknown name `wrn40-2` in `teacher.model` in --set", "did you mean `wrn40_2`?"),
        ("teacher.model=WRN-40-2", "unknown name `WRN-40-2` in `teacher.model` in --set", "did you mean `wrn40_2`?"),
        ("teacher.model=ResNet-56", "unknown name `ResNet-56` in `teacher.model` in --set", "did you mean `resnet56`?"),
        ("teacher.model=vgg16_bn", "unknown name `vgg16_bn` in `teacher.model` in --set", "did you mean `vgg16`?"),
        ("teacher.model=wrn16", "unknown name `wrn16` in `teacher.model` in --set", "did you mean `wrn40_2`?"),
        ("student.model=q", "unknown name `q` in `student.model` in --set", "known: "),
        ("task.kind=detection", "unknown name `detection` in `task.kind` in --set", "known: "),
        ("inversion.method=ssdk", "unknown name `ssdk` in `inversion.method` in --set", "did you mean `ssdkd`?"),
        ("inversion.generator=gan", "unknown name `gan` in `inversion.generator` in --set", "did you mean `dcgan`?"),
        ("evaluation.data=digit", "unknown name `digit` in `evaluation.data` in --set", "did you mean `digits`?"),
        ('run.stages=["invert"]', "unknown name `invert` in `run.stages` in --set", "did you mean `inversion`?"),
    ],
)
def test_names_are_looked_up(problem_of, override, message, hint):
    problem = problem_of(override)
    assert problem.message == message
    assert str(problem.hint).startswith(hint)


def made(name: str) -> str:
    return f"`timm.create_model('{name}', num_classes=num_classes)`"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        *(("resnet50", "did you mean `torchvision:resnet50`?"), ("resnet-50", "did you mean `torchvision:resnet50`?")),
        *(("models.vit_b_16", "did you mean `torchvision:vit_b_16`?"), ("models.resnet20", "did you mean `resnet20`?")),
        *(("resnet20_cifar10", "did you mean `resnet20`?"), ("wide_resnet28_10", "did you mean `wrn28_10`?")),
        *(("resnet18_cifar", "did you mean `resnet18`?"), ("resnet22", "did you mean `resnet20`?")),
        ("mobilenetv2", "did you mean `torchvision:mobilenet_v2`?"),
        ("MobileNet-v3-large", "did you mean `torchvision:mobilenet_v3_large`?"),
        ("wide_resnet50_2", "did you mean `torchvision:wide_resnet50_2`?"),
        *(
            (prefix + name, f"a network of timm's is what a function in a Python file returns, {made(name)}")
            for prefix, name in (
                ("timm:", "resnet18"),
                ("timm/", "vit_tiny_patch16_224.augreg_in21k"),
                ("", "resnet18.a1_in1k"),
                ("hf-hub:timm/", "resnet18.a1_in1k"),
            )
        ),
        ("microsoft/resnet-50", "a network of a hub, `microsoft/resnet-50`, is what a function in a Python file"),
        *(("my.network", "known: "), ("cifar/resnet20", "did you mean `resnet20`?")),
        ("weights/net.pth", "`teacher.weights` names a file of weights"),
    ],
)
def test_names_that_other_libraries_have_for_networks(problem_of, name, hint):
    problem = problem_of(f"teacher.model={name}")
    assert problem.message == f"unknown name `{name}` in `teacher.model` in --set"
    assert str(problem.hint).startswith(hint)


def test_a_value_in_place_of_a_table(whole, write, problem_of):
    problem = problem_of(presets=[whole, write("my.toml", "run = 3")])
    assert problem.message.startswith("`run` is 3 in ")
    assert "must be a table" in problem.message


def test_a_table_in_place_of_a_value(whole, write, problem_of):
    problem = problem_of(presets=[whole, write("my.toml", "[run.epochs]\nx = 3")])
    assert problem.message.startswith('`run.epochs` is {"x": 3} in ')


def test_long_values_are_shortened(problem_of):
    message = problem_of(f"run.precision={'x' * 500}").message
    assert len(message) < 200
    assert "..." in message


def test_a_contradiction_is_told_beside_another_keys_mistake(problems_of):
    told = problems_of("distillation.alpha=2", "distillation.beta=2", "distillation.momentum=3")
    assert [problem.message.split("`")[1] for problem in told] == ["distillation.momentum", "distillation.beta"]
    assert "alpha * beta" in told[1].message


def test_a_mistake_that_breaks_a_rule_too_is_told_once(problems_of):
    (problem,) = problems_of("distillation.lr=-1", "distillation.lr_min=0.1")
    assert problem.message.startswith("`distillation.lr` is -1")
