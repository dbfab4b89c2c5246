"""The settings of a run: the tables of a preset, checked all at once, before anything heavy is imported.

    config = load(["cifar100-wrn", "fast5"], ["run.epochs=60"])

A preset is TOML. Tables of a fixed meaning are here; the table of a stage has the schema that the stage
brings, ours as well as a stranger's (`stages.registry`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from stages import registry
from stages.buffer.config import BufferConfig
from stages.config_table import Table, follows, rule_error
from stages.distillation.config import DistillationConfig, Loss
from stages.errors import ConfigError, Problem
from stages.evaluation.config import NO_DATA, EvaluationConfig
from stages.inversion.config import InversionConfig
from stages.settings.loading import RESOLVED_KEY, Settings, config_error, load_file, load_presets, nested
from stages.settings.schema import parse_override, validate, validate_table

DEFAULT_PRESET = "digits"
"""What runs when no preset is named."""


class RunTable(Table):
    """The `[run]` table: which stages, for how long, on what."""

    stages: tuple[str, ...] = Field(default=("inversion", "distillation", "evaluation"), min_length=1)
    """Names of the stages of an epoch, in order; each reads the table that bears its name."""

    epochs: PositiveInt = 220
    """All epochs, warm-up included."""

    warmup_epochs: NonNegativeInt = 20
    """Epochs that only fill the buffer; the adversarial term is off until the last of them. At least one where
    `ssdkd run` makes images; `distill` has none, and in `invert` all are. Not in the paper, whose Algorithm 1 distils
    in every epoch: as in Fast-Datafree."""

    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of every random draw."""

    device: str = "auto"
    """"auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N"."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the networks; losses and statistics are fp32 always.

    "auto": bf16 where the device is faster with it.
    """

    acceleration: Literal["auto", "eager", "graphs", "compile"] = "auto"
    """How the steps of training are launched.

    "eager": by Python, one operation after the other; "graphs": recorded once and replayed, on a CUDA device;
    "compile": by torch's compiler, and recorded too where that is possible; on a CPU it takes a C++ compiler and a
    minute or two at the start. "auto": graphs where there are any; on a CPU with a C++ compiler compile, where training
    steps see 250 million pixels or more; else eager. What cannot be recorded or compiled runs eagerly, with a warning.
    """

    threads: PositiveInt | Literal["auto"] = "auto"
    """CPU threads of the arithmetic; "auto": as many as the process may use."""

    eval_every: PositiveInt = 20
    """Epochs between evaluations; the last epoch is always evaluated."""

    checkpoint_every: PositiveInt = 10
    """Epochs between checkpoints; a stop and the end always make one."""

    log_every: PositiveInt = 10
    """Steps of a synthesis call, or of the student in an epoch, between logged ones; logging waits for the device. The
    last step is always logged."""

    @field_validator("device")
    @classmethod
    def _device_must_be_known(cls, device: str) -> str:
        if not is_device_name(device):
            raise ValueError("it must be auto, cpu, cuda or cuda:N")
        return device

    @model_validator(mode="after")
    def _warmup_must_leave_epochs(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise rule_error(
                self,
                "warmup_epochs",
                "epochs",
                message="the student learns in the epochs after warm-up, so there must be some",
                hint="raise `run.epochs` or lower `run.warmup_epochs`",
            )
        return self

    @model_validator(mode="after")
    def _stages_must_differ(self) -> Self:
        if len(set(self.stages)) < len(self.stages):
            raise rule_error(self, "stages", message="each stage may be named once", hint="remove the repeated name")
        return self


def is_device_name(text: str) -> bool:
    """Whether `text` names a kind of device, and maybe which one; whether there is such a one is seen later."""
    return re.fullmatch(r"auto|cpu|cuda(:\d+)?", text) is not None


@follows
def _eighth_of_height(table: dict[str, Any]) -> int:
    return int(table["image_shape"][1]) // 8


class TaskTable(Table):
    """The `[task]` table: what the teacher does, and what its inputs look like."""

    kind: str = "classification"
    """The kind of task: the name of a registered one."""

    num_classes: int = Field(ge=2)
    """Classes the teacher tells apart, K."""

    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    """Channels, height, width of its inputs."""

    mean: tuple[float, ...]
    """Mean of each channel, of images in [0, 1], that the teacher was trained with."""

    std: tuple[PositiveFloat, ...]
    """Standard deviation of each channel, of images in [0, 1], that the teacher was trained with."""

    crop_padding: NonNegativeInt = Field(default_factory=_eighth_of_height)
    """Zero pixels on each side that a random crop may take in. Default: an eighth of the height."""

    horizontal_flip: bool = True
    """Whether images are mirrored at random: not where mirrored images are other things (digits)."""

    @model_validator(mode="after")
    def _normalisation_must_fit_images(self) -> Self:
        num_channels = self.image_shape[0]
        for name in ("mean", "std"):
            if len(getattr(self, name)) != num_channels:
                raise rule_error(
                    self,
                    name,
                    "image_shape",
                    message=f"there must be one value for each of the {num_channels} channels",
                    hint="image_shape is channels, height, width",
                )
        if any(not 0 <= mean <= 1 for mean in self.mean):
            raise rule_error(
                self,
                "mean",
                message="images are in [0, 1], so is their mean",
                hint="divide a mean and std of images in 0..255 by 255",
            )
        if any(std > 1 for std in self.std):
            raise rule_error(
                self,
                "std",
                message="images are in [0, 1], so is their standard deviation",
                hint="divide a mean and std of images in 0..255 by 255; 1 changes nothing",
            )
        return self

    @model_validator(mode="after")
    def _crop_must_keep_pixels(self) -> Self:
        if self.crop_padding >= min(self.image_shape[1:]):
            raise rule_error(
                self,
                "crop_padding",
                "image_shape",
                message="the padding must be smaller than the image, or crops may hold nothing of it",
                hint="an eighth of the height is usual",
            )
        return self


class TeacherTable(Table):
    """The `[teacher]` table: the trained network."""

    model: str
    """Its architecture: a built-in name, `torchvision:NAME`, a plugin's, or `path/to/file.py:factory`."""

    weights: str = "auto"
    """Its file; "auto": one shipped with the presets, else one in the user's cache."""

    hints_at_unknown = dict.fromkeys(
        ("checkpoint", "ckpt", "file", "path", "state_dict"), "`teacher.weights` names its file"
    )

    trained_on: str | None = None
    """Its data set, part of the file name that "auto" looks for: `<model>-<trained_on>.safetensors`."""


class StudentTable(Table):
    """The `[student]` table: the network that learns."""

    model: str
    """Its architecture, named as the teacher's."""

    hints_at_unknown = dict.fromkeys(
        ("weights", "checkpoint", "ckpt", "file", "path", "state_dict"),
        "a student begins at random or with weights of the teacher (`student.start`); one with weights of its own is"
        " what a function in a Python file returns, `student.model = path/to/file.py:factory`",
    )

    start: Literal["random", "teacher", "auto"] = "random"
    """Its first weights: drawn at random, or those of the teacher's that have a counterpart in it, by name within a
    family, by depth between two (`stages.models.weight_selection`); "auto": the teacher's where they are at least half
    of all. Not in the paper, whose students start at random.
    """


@dataclass(frozen=True)
class Config:
    """The settings of a run, checked. Two are equal when all their values are."""

    run: RunTable
    task: TaskTable
    teacher: TeacherTable
    student: StudentTable
    inversion: InversionConfig
    buffer: BufferConfig
    distillation: DistillationConfig
    evaluation: EvaluationConfig
    plugin_tables: Mapping[str, BaseModel]
    """The tables of stages that others bring, by their names."""

    settings: Settings = field(default_factory=Settings, compare=False, repr=False)
    """What was set, and where; the rest are defaults."""

    def tables(self) -> dict[str, BaseModel]:
        """All tables by name."""
        return {name: getattr(self, name) for name in _OWN_TABLES} | dict(self.plugin_tables)

    @property
    def num_distillation_steps(self) -> int:
        """T_kd, student updates per epoch: `distillation.steps`, or what "auto" stands for."""
        if self.distillation.steps != "auto":
            return self.distillation.steps
        return max(4, round(400 * 256 / self.distillation.batch_size * self.buffer.capacity / 50_000))

    @property
    def late_loss(self) -> Loss:
        """The loss of the student's last updates: `distillation.late_loss`, or what "auto" stands for."""
        if self.distillation.late_loss != "auto":
            return self.distillation.late_loss
        return "standardized" if self.task.num_classes > 2 else "kl"

    def to_toml(self) -> str:
        """The complete preset, defaults written out: loading it gives an equal Config. What is not set is a comment.

        It says of itself that nobody chose its values one by one: see `load`.
        """
        return f"{_RESOLVED_HEADER}\n{self.tables_as_toml()}"

    def tables_as_toml(self) -> str:
        """As `to_toml`, as a person might have written it: each value counts as chosen where it is loaded."""
        return "\n".join(_table_as_toml(name, table) for name, table in self.tables().items())


_RESOLVED_HEADER = f"""\
# What follows from other values here goes on following them where those are set on top of this file.
{RESOLVED_KEY} = true
"""

_OWN_TABLES: dict[str, type[Table]] = {
    "run": RunTable,
    "task": TaskTable,
    "teacher": TeacherTable,
    "student": StudentTable,
    "inversion": InversionConfig,
    "buffer": BufferConfig,
    "distillation": DistillationConfig,
    "evaluation": EvaluationConfig,
}

_REGISTERED_NAMES = {
    "run.stages": "stages",
    "task.kind": "tasks",
    "teacher.model": "models",
    "student.model": "models",
    "inversion.method": "methods",
    "inversion.generator": "generators",
    "evaluation.data": "datasets",
}
"""Keys whose value must be known to the registry, and the group it is looked up in."""

_NEEDED_TO_MAKE = ("run.stages", "inversion.method", "inversion.generator", "evaluation.data")
"""Those of `_REGISTERED_NAMES` that say how a student is made, and that a finished one is used without."""


def load(presets: Sequence[str], overrides: Sequence[str] = (), *, installed_only: bool = False) -> Config:
    """The settings of presets, the later over the earlier, with `key=value` overrides (`--set`) on top.

    A preset is the name of a shipped one, or a path ending in `.toml`. No preset: the default one. In a preset that
    `Config.to_toml` wrote, such as a run's `config.toml`, values that follow from others go on following them where
    those are set on top. With `installed_only`, what plugins made a run by that are not here is left out, and nobody
    asks for the teacher's network: the student is used without them.
    Raises ConfigError with all problems at once, FileError for a preset file that is missing or unreadable.
    """
    known = schemas()
    problems: list[Problem] = []
    overriding: list[tuple[str, Any]] = []
    for text in overrides:
        try:
            overriding.append(parse_override(text, known, place="--set"))
        except ConfigError as error:
            problems.extend(error.problems)
    names = tuple(presets) or (DEFAULT_PRESET,)
    try:
        settings = load_presets(names)
    except ConfigError as error:
        raise config_error([*error.problems, *problems]) from error
    if installed_only:
        settings = _installed(settings)
    if not settings.is_whole:
        problem = Problem(
            f"only overlays were given: {', '.join(presets)}",
            f"name the preset they go on first, for example: --preset {DEFAULT_PRESET} --preset {presets[0]}",
        )
        raise config_error([problem, *problems])
    if settings.resolved is not None:
        for key in _followers(settings.resolved):
            is_there = settings.value(key) is not None  # unless something that is no table is in its table's place
            if is_there and settings.place_of(key) == settings.resolved.place_of(key):
                settings = settings.without(key)
    for key, value in overriding:
        settings = settings.overlaid(nested(key, value), place="--set")
    return _config(settings, problems, installed_only=installed_only)


def from_file(path: Path, *, installed_only: bool = False) -> Config:
    """The settings that a run keeps in its `config.toml`. Raises, and leaves out, as `load`."""
    settings = load_file(path)
    return _config(_installed(settings) if installed_only else settings, [], installed_only=installed_only)


def with_values(config: Config, values: Mapping[str, Any], *, place: str = "--set") -> Config:
    """A copy with other values for some dotted keys; `place` is who says so, for errors. Raises as `load`."""
    settings = config.settings
    for key, value in values.items():
        settings = settings.overlaid(nested(key, value), place=place)
    return _config(settings, [])


def _installed(settings: Settings) -> Settings:
    """Settings without the stages, tables, methods and data of plugins that are not here."""
    known = schemas()
    settings = replace(settings, values={name: table for name, table in settings.values.items() if name in known})
    for key in _NEEDED_TO_MAKE:
        if _unregistered(settings, key):
            settings = settings.without(key)
            if key == "inversion.method":
                settings = settings.without("inversion.options")
    resolved = settings.resolved
    return settings if resolved is None else replace(settings, resolved=_installed(resolved))


def _followers(settings: Settings) -> list[str]:
    """The keys of a preset that `Config.to_toml` wrote whose values are what others of it lead to."""
    try:
        tables = _config(settings, []).tables()
    except ConfigError:
        return []  # told with the presets and overrides on top
    return [
        f"{name}.{key}"
        for name, table in tables.items()
        for key, info in type(table).model_fields.items()
        if info.default_factory_takes_validated_data
        and info.get_default(call_default_factory=True, validated_data=dict(table)) == getattr(table, key)
    ]


def schemas() -> dict[str, type[BaseModel]]:
    """The schema of every table that any preset may have. Raises ConfigError where a plugin takes the name of ours."""
    brought = {}
    for spec in registry.all_specs("stages"):
        if spec.name not in _OWN_TABLES:
            brought[spec.name] = spec.schema or Table
        elif not spec.is_ours:
            raise ConfigError(
                f"the plugin `{spec.target}` of ssdkd.stages is called `{spec.name}`, as a table of ssdkd's own is",
                hint="uninstall it, or rename it",
            )
    return _OWN_TABLES | brought


def _config(settings: Settings, problems: Sequence[Problem], *, installed_only: bool = False) -> Config:
    """Settings held against all schemas and the registry; `problems` were found before."""
    stages = _as_texts(settings.value("run.stages"))
    tables, table_problems = validate(settings, schemas(), [*_OWN_TABLES, *stages])
    looked_up = [key for key in _REGISTERED_NAMES if not (installed_only and key == "teacher.model")]
    found = [*problems, *table_problems, *(problem for key in looked_up for problem in _unregistered(settings, key))]
    options, option_problems = _method_options(settings)
    found += option_problems
    if found:
        raise config_error(list(dict.fromkeys(found)))
    own: dict[str, Any] = {name: tables.pop(name) for name in _OWN_TABLES}
    own["inversion"] = own["inversion"].model_copy(update={"options": options})
    return Config(**own, plugin_tables=tables, settings=settings)


def _table_as_toml(name: str, table: BaseModel) -> str:
    values = table.model_dump(mode="json", exclude_none=True)
    if name == "inversion":
        options = _without_nones(values.pop("options"))
        values |= {"options": options} if options else {}
    header, _, rest = _arrays_on_one_line(tomli_w.dumps({name: values})).partition("\n")
    unset = [f"# {key} is not set" for key, value in table if value is None]
    return "\n".join([header, *unset, rest])


def _without_nones(value: Any) -> Any:
    """A value without what is None in it, for which TOML has no word."""
    if isinstance(value, Mapping):
        return {key: _without_nones(item) for key, item in value.items() if item is not None}
    return [_without_nones(item) for item in value] if isinstance(value, list) else value


def _arrays_on_one_line(toml: str) -> str:
    # tomli_w puts each item on a line of its own. A line never ends with `[` or `,` inside of a string.
    toml = re.sub(r"\[\n\s*", "[", toml)
    return re.sub(r",\n\s*", ", ", re.sub(r",\n\s*\]", "]", toml))


def _unregistered(settings: Settings, key: str) -> list[Problem]:
    """Names among a key's values that no installed part of ssdkd bears."""
    problems = []
    for name in _as_texts(settings.value(key)):
        if key == "evaluation.data" and name == NO_DATA:
            continue
        try:
            registry.find(_REGISTERED_NAMES[key], name, where=key)
        except ConfigError as error:
            place = f" in {settings.place_of(key)}"
            otherwise = f"; `{NO_DATA}` does without" if key == "evaluation.data" else ""
            problems += [Problem(problem.message + place, f"{problem.hint}{otherwise}") for problem in error.problems]
    return problems


def _as_texts(value: Any) -> list[str]:
    """The strings in a value that has not been validated yet."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return [text for text in values if isinstance(text, str)]


def _method_options(settings: Settings) -> tuple[dict[str, Any], list[Problem]]:
    """`inversion.options`, completed by the schema that the inversion method brings."""
    key = "inversion.options"
    method = settings.value("inversion.method") or InversionConfig().method
    values = settings.value(key) or {}
    if not isinstance(method, str) or not isinstance(values, Mapping):
        return {}, []  # told with the table
    try:
        schema = registry.find("methods", method, where="inversion.method").spec.schema or Table
    except ConfigError:
        return {}, []  # told with the other unregistered names
    options, problems = validate_table(key, values, {key: schema}, settings)
    return {} if options is None else options.model_dump(mode="json"), problems
