"""A stranger's stage or method brings its own schema, and is held against it as ours are."""

from enum import Enum
from pathlib import Path

import pytest
from pydantic import BaseModel, PositiveInt, model_validator

from stages.config import load
from stages.config_table import Table
from stages.errors import ConfigError
from stages.planning.idle_settings import warnings_of
from stages.registry import Spec
from stages.schedule import Schedule


class _Schedule(Table):
    rate: float = 0.5
    floor: float | None = None


class _Annealing(Table):
    every: PositiveInt
    note: str | None = None
    schedule: _Schedule = _Schedule()


class _Foreign(BaseModel):
    """Not one of our tables: it would ignore unknown keys."""

    low: int = 0
    high: int = 1

    @model_validator(mode="after")
    def _ordered(self):
        if self.low > self.high:
            raise ValueError("low is above high")
        return self


class _Shape(Enum):
    ROUND = "round"
    SQUARE = "square"


class _Wave(Table):
    """Of types that TOML and JSON have none for."""

    betas: tuple[float, float] = (0.5, 0.9)
    file: Path = Path("wave.csv")
    shape: _Shape = _Shape.ROUND
    steps: tuple[int, ...] = ()


STAGES = 'run.stages=["inversion", "annealing"]'


@pytest.fixture
def annealing(install):
    install("stages", Spec("annealing", "annealing:Annealing", "a stage", schema=_Annealing))


@pytest.mark.usefixtures("annealing")
class TestStage:
    def test_its_table_is_validated_by_its_schema(self, whole):
        config = load([whole], [STAGES, "annealing.every=3", "annealing.note=4"])
        assert config.tables()["annealing"] == _Annealing(every=3, note="4")
        assert config.tables()["inversion"] is config.inversion

    def test_it_may_come_before_the_stage_is_in_the_run(self, whole, problem_of):
        config = load([whole], ["annealing.every=3"])
        assert config.tables()["annealing"] == _Annealing(every=3)
        assert "`annealing.every` is 0" in problem_of("annealing.every=0").message

    def test_a_setting_of_it_is_told_where_it_does_not_run(self, whole):
        for overrides in (["annealing.every=3"], [STAGES, "annealing.every=3"]):
            config = load([whole], overrides)
            told = warnings_of(config, Schedule.of("run", config))
            expected = "`annealing.every` is 3 in --set and has no effect: `annealing` is not in run.stages"
            assert (expected in told) == (STAGES not in overrides)

    def test_problems_are_told_with_the_others(self, problems_of):
        first, second, third = problems_of(STAGES, "annealing.evry=3", "run.epochs=0")
        assert (first.message, first.hint) == (
            "unknown key `annealing.evry` in --set",
            "did you mean `annealing.every`?",
        )
        assert second.message.startswith("`run.epochs`")
        assert third.message == "`annealing.every` is not set"

    def test_unknown_keys_below_it(self, whole, write, problem_of):
        mine = write("mine.toml", "[annealing]\nevery = 3\n[annealing.schedule]\nrat = 1")
        assert "annealing.schedule" in problem_of(presets=[whole, mine]).message

    def test_it_survives_a_round_trip(self, whole, write):
        config = load([whole], [STAGES, "annealing.every=3", "annealing.schedule.rate=0.25"])
        again = load([write("again.toml", config.to_toml())])
        assert again == config
        assert again.tables()["annealing"] == _Annealing(every=3, schedule=_Schedule(rate=0.25))

    def test_it_stays_out_of_runs_that_do_not_know_it(self, whole):
        with pytest.raises(KeyError):
            load([whole], ['run.stages=["inversion"]']).tables()["annealing"]


def test_a_name_that_two_parts_serve_is_refused(whole, install, problem_of):
    load([whole], ["student.model=resnet18"])
    install("models", Spec("resnet18", "theirs:resnet18", "with another stem"))
    problem = problem_of("student.model=resnet18")
    assert problem.message.startswith("`resnet18` in `student.model` is served by ")
    assert "`theirs:resnet18`" in problem.message


def test_a_stage_cannot_have_the_name_of_a_table_of_ours(whole, install):
    install("stages", Spec("buffer", "theirs:Buffer", "a stage"))
    with pytest.raises(ConfigError, match="called `buffer`, as a table of ssdkd's own is"):
        load([whole])


def test_a_stage_without_a_schema_has_an_empty_table(whole, install, problem_of):
    install("stages", Spec("plain", "plain:Plain", "a stage"))
    assert load([whole], ['run.stages=["plain"]']).tables()["plain"] == Table()
    problem = problem_of("plain.key=3")
    assert (problem.message, problem.hint) == ("unknown key `plain.key` in --set", "keys of `plain`: none")


def test_a_schema_that_is_not_ours_refuses_unknown_keys_too(whole, write, install, problem_of):
    install("stages", Spec("foreign", "foreign:Foreign", "a stage", schema=_Foreign))
    mine = write("mine.toml", "[foreign]\nlov = 3")
    assert "unknown key `foreign.lov`" in problem_of(presets=[whole, mine]).message


def test_a_rule_of_a_schema_that_is_not_ours(install, problem_of):
    install("stages", Spec("foreign", "foreign:Foreign", "a stage", schema=_Foreign))
    assert problem_of("foreign.low=3").message == '`foreign` is {"low": 3} in --set: low is above high'


def test_options_of_a_method(whole, write, install, problem_of):
    install("methods", Spec("cmi", "cmi:Contrastive", "a method", schema=_Annealing))
    method = "inversion.method=cmi"
    config = load([whole], [method, "inversion.options.every=3"])
    assert config.inversion.options == {"every": 3, "note": None, "schedule": {"rate": 0.5, "floor": None}}
    assert load([write("again.toml", config.to_toml())]) == config
    assert problem_of(method).message == "`inversion.options.every` is not set"
    wrong = problem_of(method, "inversion.options.every=0")
    assert wrong.message == "`inversion.options.every` is 0 in --set: it must be greater than 0"
    unknown = problem_of(method, "inversion.options.every=3", "inversion.options.evry=3")
    assert unknown.hint == "did you mean `inversion.options.every`?"


def test_options_of_a_method_that_has_none(problem_of):
    problem = problem_of("inversion.options.tau=3")
    assert problem.message == "unknown key `inversion.options.tau` in --set"
    assert problem.hint == "keys of `inversion.options`: none"


def test_options_that_are_no_table(problem_of):
    assert problem_of("inversion.options=3").message.startswith("`inversion.options` is 3 in --set: ")


WAVE = {"betas": [0.25, 1], "file": "a/b.csv", "shape": "square", "steps": [1, 2]}


@pytest.mark.parametrize("is_set", [False, True])
def test_tuples_paths_and_enums_survive_a_round_trip(whole, write, install, is_set):
    install("stages", Spec("wave", "theirs:Wave", "a stage", schema=_Wave))
    install("methods", Spec("waves", "theirs:Waves", "a method", schema=_Wave))
    overrides = ['run.stages=["inversion", "wave"]', "inversion.method=waves"]
    for table in ("wave", "inversion.options") if is_set else ():
        overrides += [f"{table}.{key}={value}" for key, value in WAVE.items()]
    config = load([whole], overrides)
    again = load([write("again.toml", config.to_toml())])
    assert again == config
    set_ = _Wave(betas=(0.25, 1.0), file=Path("a/b.csv"), shape=_Shape.SQUARE, steps=(1, 2))
    assert again.tables()["wave"] == (set_ if is_set else _Wave())
    assert again.inversion.options == again.tables()["wave"].model_dump(mode="json")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("betas=[1, 2, 3]", "is [1, 2, 3] in --set: it must have at most 2 value(s)"),
        ("betas=[1]", "is [1] in --set: it must have 2 values"),
        ("betas=0.5", "is 0.5 in --set: it must be a list"),
        ('betas=[1, "2"]', 'wave.betas[1]` is "2" in --set: it must be a valid number'),
        ("steps=[1, 2.0]", "wave.steps[1]` is 2.0 in --set: it must be a valid integer"),
        ("steps=[true]", "wave.steps[0]` is true in --set: it must be a valid integer"),
        ("shape=squar", "is \"squar\" in --set: it must be 'round' or 'square'"),
        ("betas=[nan, 1]", "wave.betas[0]` is NaN in --set: it must be a finite number"),
    ],
)
def test_what_does_not_fit_these_types_is_told_as_elsewhere(install, problem_of, override, said):
    install("stages", Spec("wave", "theirs:Wave", "a stage", schema=_Wave))
    problem = problem_of(f"wave.{override}")
    assert said in problem.message
    key = override.partition("=")[0]
    hints = {"betas": "the default is [0.5, 0.9]", "steps": "the default is []", "shape": "did you mean `square`?"}
    assert problem.hint == hints[key]
