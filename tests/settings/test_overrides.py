"""`--set key=value`: text for a string field, TOML elsewhere."""

from pathlib import Path
from typing import Literal

import pytest

from stages.config import load
from stages.config_table import Table
from stages.registry import Spec


@pytest.mark.parametrize(
    ("override", "table", "field", "value"),
    [
        ("run.epochs=60", "run", "epochs", 60),
        (" run.epochs = 60", "run", "epochs", 60),
        ("run.seed=0x10", "run", "seed", 16),
        ("run.threads=2", "run", "threads", 2),
        ("run.threads=auto", "run", "threads", "auto"),
        ('run.threads="auto"', "run", "threads", "auto"),
        ("run.precision=fp32", "run", "precision", "fp32"),
        # One of several words may have quotes, as in a preset.
        ('run.precision = "fp32"', "run", "precision", "fp32"),
        ("run.precision = fp32", "run", "precision", "fp32"),
        ("distillation.steps = auto", "distillation", "steps", "auto"),
        ('run.stages=["inversion"]', "run", "stages", ("inversion",)),
        ("task.mean=[0.1, 0.2, 0.3]", "task", "mean", (0.1, 0.2, 0.3)),
        ("task.horizontal_flip=false", "task", "horizontal_flip", False),
        ("inversion.gamma=1", "inversion", "gamma", 1.0),
        ("distillation.lr=1e-1", "distillation", "lr", 0.1),
        ("distillation.steps=40", "distillation", "steps", 40),
        ("distillation.steps=auto", "distillation", "steps", "auto"),
        # A string field takes the text as it is.
        ("teacher.weights=my teacher=1.pth", "teacher", "weights", "my teacher=1.pth"),
        ('teacher.weights="quoted"', "teacher", "weights", '"quoted"'),
        ("teacher.weights= 3", "teacher", "weights", " 3"),
        ("teacher.trained_on=7", "teacher", "trained_on", "7"),
        ("evaluation.root=/data", "evaluation", "root", "/data"),
        ("evaluation.root=true", "evaluation", "root", "true"),
        ("evaluation.split=", "evaluation", "split", ""),
    ],
)
def test_values(whole, override, table, field, value):
    found = getattr(load([whole], [override]).tables()[table], field)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["run.epochs", "=3", "", "run"])
def test_what_is_not_key_value(problem_of, text):
    problem = problem_of(text)
    assert problem.message == f"--set got `{text}`, which is not key=value"
    assert "--set run.epochs=60" in str(problem.hint)


def test_a_table_is_no_key(problem_of):
    problem = problem_of("buffer=3")
    assert "`buffer` is a table" in problem.message
    assert problem.hint == "keys of `buffer`: capacity, eviction"


@pytest.mark.parametrize(
    "override",
    ["run.epochs=many", "run.epochs=", "run.epochs=1\nseed = 2", "run.stages=inversion", "distillation.alpha=.5"],
)
def test_what_is_not_toml(problem_of, override):
    key, _, value = override.partition("=")
    problem = problem_of(override)
    assert problem.message == f"`{key}` is `{value}` in --set: that is not a TOML value"
    assert "0.5, not .5" in str(problem.hint)


@pytest.mark.parametrize("value", ["9" * 5_000, "[" * 5_000])
def test_endless_toml(problem_of, value):
    assert "not a TOML value" in problem_of(f"run.epochs={value}").message


def test_unions_that_take_text_fall_back_to_it(problem_of):
    assert '`distillation.steps` is "som" in --set' in problem_of("distillation.steps=som").message


class _Mark(Table):
    text: str = "a"


class _Odd(Table):
    path: Path | None = None
    word: Literal["one", "two"] = "one"
    number: Literal[1, 2] = 1
    names: tuple[str, ...] = ("a",)
    mark: _Mark = _Mark()


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("odd.word=two", "two"),
        ("odd.number=2", 2),
        ("odd.mark.text=3", "3"),
    ],
)
def test_fields_of_a_plugin(whole, install, override, value):
    install("stages", Spec("odd", "odd:Odd", "a stage", schema=_Odd))
    config = load([whole], ['run.stages=["odd"]', override])
    found = config.tables()["odd"]
    for name in override.partition("=")[0].split(".")[1:]:
        found = getattr(found, name)
    assert found == value


def test_unknown_key_below_a_plugins_table(whole, install, problem_of):
    install("stages", Spec("odd", "odd:Odd", "a stage", schema=_Odd))
    assert "unknown key `odd.mark.texd`" in problem_of("odd.mark.texd=3").message
