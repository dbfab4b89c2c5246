"""Everything that can be wrong with a preset by itself, with the files that it names: `ssdkd presets check`."""

from __future__ import annotations

from collections.abc import Iterator

from stages.config import DEFAULT_PRESET, Config, load
from stages.config_table import AUTO
from stages.errors import ConfigError, FileError, Problem
from stages.models import FILE
from stages.models.model_file import problem_of
from stages.paths import typed_path
from stages.planning.idle_settings import warnings_of
from stages.planning.launch_checks import refuse_futile
from stages.schedule import Schedule
from stages.settings.loading import Settings, config_error, load_presets
from stages.teachers.resolve import missing_weights, nameless_weights


def check(preset: str) -> tuple[Config, tuple[str, ...]]:
    """Load one preset by itself, an overlay on top of the default preset; and what has no effect in it.

    Raises ConfigError with all problems at once, files that are missing among them, and FileError where the preset
    itself is missing or unreadable.
    """
    settings = load_presets([preset])
    files = list(_problems_of_files(settings))
    try:
        config = load([preset] if settings.is_whole else [DEFAULT_PRESET, preset])
    except ConfigError as error:
        raise config_error([*error.problems, *files]) from error
    if files:
        raise config_error(files)
    is_learning = "distillation" in config.run.stages
    schedule = Schedule.of("run" if is_learning else "invert", config)
    refuse_futile(config, schedule, has_buffer=is_learning)
    if not settings.is_whole:  # what has no effect, or is missing, depends on the preset beneath
        return config, ()
    nameless = nameless_weights(config)
    told = () if nameless is None else (f"{nameless.message} ({nameless.hint})",)
    return config, (*told, *warnings_of(config, schedule))


def _problems_of_files(settings: Settings) -> Iterator[Problem]:
    """Networks and weights that are not where the settings say, each with the preset that says it."""
    for key in ("teacher.model", "student.model"):
        name = settings.value(key)
        file = FILE.match(name) if isinstance(name, str) else None
        problem = None if file is None else problem_of(**file)
        if problem is not None:
            yield Problem(f"`{key}` in {settings.place_of(key)}: {problem.message}", problem.hint)
    weights = settings.value("teacher.weights")
    if not isinstance(weights, str) or weights == AUTO:
        return
    try:
        problem = missing_weights(typed_path(weights))
    except FileError as error:
        problem = Problem(error.message, error.hint)
    if problem is not None:
        yield Problem(f"{problem.message} in {settings.place_of('teacher.weights')}", problem.hint)
