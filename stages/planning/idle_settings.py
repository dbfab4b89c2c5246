"""Settings that someone wrote down and that change nothing, given the others and what is run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stages.config import Config
from stages.config_table import AUTO
from stages.evaluation.config import NO_DATA
from stages.schedule import Schedule
from stages.settings.schema import shown


@dataclass(frozen=True)
class _Idle:
    """Keys that have no effect where `holds` is true of the configuration; `reason` says why."""

    keys: tuple[str, ...]
    holds: Callable[[Config], bool]
    reason: str


def _is_late_share_of_auto_loss(config: Config) -> bool:
    """Whether `late_share` was set where `late_loss = "auto"` was, so for "standardized", which two classes do without.

    A preset that says both is right for more classes, and with two the share is no mistake of anybody's.
    """
    places = [config.settings.place_of(f"distillation.{key}") for key in ("late_loss", "late_share")]
    return config.distillation.late_loss == AUTO and places[0] == places[1]


def _losses(config: Config) -> set[str]:
    """The losses that some update minimises."""
    first = {config.distillation.loss} if config.distillation.late_share < 1 else set()
    return first | {config.late_loss}


_IDLE = (
    _Idle(
        ("distillation.alpha", "distillation.beta", "distillation.epsilon", "distillation.weight_loss"),
        lambda config: config.distillation.sampling == "uniform",
        'distillation.sampling is "uniform"',
    ),
    _Idle(
        ("distillation.beta", "distillation.epsilon", "distillation.weight_loss"),
        lambda config: config.distillation.sampling == "priority" and config.distillation.alpha == 0,
        "distillation.alpha is 0, which is uniform sampling",
    ),
    _Idle(
        ("distillation.weight_loss",),
        lambda config: config.distillation.sampling == "priority" and config.distillation.beta == 0,
        "distillation.beta is 0, which makes all weights 1",
    ),
    _Idle(
        ("distillation.delta_temperature",),
        lambda config: config.distillation.sampling == "uniform" and config.buffer.eviction == "oldest",
        "with uniform sampling, and where the oldest images leave first, nothing depends on priorities",
    ),
    _Idle(
        ("distillation.temperature",),
        lambda config: _losses(config) == {"standardized"},
        'the loss is "standardized" from first to last',
    ),
    _Idle(
        ("distillation.loss",),
        lambda config: config.distillation.loss not in _losses(config),
        "distillation.late_share is 1, so distillation.late_loss is the loss from first to last",
    ),
    _Idle(
        ("distillation.late_share",),
        lambda config: config.late_loss == config.distillation.loss and not _is_late_share_of_auto_loss(config),
        "distillation.late_loss is distillation.loss",
    ),
    _Idle(
        ("distillation.mix_share",),
        lambda config: config.distillation.mix == "none",
        'distillation.mix is "none"',
    ),
    _Idle(
        ("inversion.gamma", "inversion.gamma_start"),
        lambda config: not config.inversion.difficulty,
        "inversion.difficulty is false",
    ),
    _Idle(
        ("inversion.diversity", "inversion.difficulty", "inversion.gamma", "inversion.gamma_start"),
        lambda config: config.inversion.task_weight == 0,
        "inversion.task_weight is 0",
    ),
    _Idle(
        ("inversion.targets",),
        lambda config: config.inversion.task_weight == 0 and config.inversion.class_latents == 0,
        "inversion.task_weight is 0",
    ),
    _Idle(
        ("inversion.overlap",),
        lambda config: "distillation" not in config.run.stages,
        "no student learns beside it",
    ),
    _Idle(
        ("inversion.bn_loss", "inversion.bn_momentum"),
        lambda config: config.inversion.bn_weight == 0,
        "inversion.bn_weight is 0",
    ),
    _Idle(
        ("inversion.reset_epoch",),
        lambda config: config.inversion.reset_epoch > config.run.epochs,
        "the run has fewer epochs",
    ),
    _Idle(
        (
            "evaluation.root",
            "evaluation.split",
            "evaluation.resize",
            "evaluation.download",
            "evaluation.select_best",
        ),
        lambda config: config.evaluation.data == NO_DATA,
        'evaluation.data is "none"',
    ),
)


_BEYOND_THEIR_STAGE = (
    *("distillation.sampling", "distillation.alpha", "distillation.epsilon", "distillation.delta_temperature"),
    "evaluation.num_holdout",
)
"""Keys with an effect where their stage does not run: images get priorities when they are inserted, and the buffer's
file says what these mean; the hold-out is set aside whether something is measured on it or not."""


def warnings_of(config: Config, schedule: Schedule) -> tuple[str, ...]:
    """A sentence for each setting without effect in the stages that are run; `config` is as it was written.

    A default, even written out in a file, stays untold.
    """
    warnings: dict[str, str] = {}
    for idle in _IDLE:
        if not idle.holds(config):
            continue
        for key in idle.keys:
            if key not in warnings and _is_deliberate(config, key):
                warnings[key] = _told(config, key, idle.reason)
    for key, reason in _left_out(config, schedule):
        warnings.setdefault(key, _told(config, key, reason))
    return (*warnings.values(), *_surplus(config, schedule), *_parted_pairs(config, schedule))


def _left_out(config: Config, schedule: Schedule) -> Iterator[tuple[str, str]]:
    """Keys of what does not run, where they were given on the command line, and why it does not.

    A preset that is used for a part of the chain has keys for the rest, and rightly so; and what `invert` leaves behind
    is what `distill` goes on from, with all its settings.
    """
    left_out = {"inversion", "distillation", "evaluation", *config.plugin_tables} - set(config.run.stages)
    reasons = {table: f"`{table}` is not in run.stages" for table in left_out}
    if schedule.command == "distill":
        reasons.setdefault("inversion", "`ssdkd distill` makes no images")
    if not schedule.is_adversarial(schedule.epochs):
        reasons["inversion.adversarial_weight"] = "no student learns"
    if schedule.command == "invert":
        reasons["inversion.overlap"] = "no student learns beside it"
    if "inversion" in schedule.stages and config.inversion.reset_epoch > schedule.epochs:
        reasons["inversion.reset_epoch"] = f"there are {schedule.epochs} epochs"
    for key, place in config.settings.places.items():
        table, _, name = key.partition(".")
        reason = reasons.get(key, reasons.get(table))
        if place.startswith("--") and name and reason is not None and key not in _BEYOND_THEIR_STAGE:
            yield key, reason


def _surplus(config: Config, schedule: Schedule) -> list[str]:
    if "inversion" not in schedule.stages:
        return []
    capacity = config.buffer.capacity
    num_images = schedule.num_calls(schedule.epochs) * config.inversion.batch_size
    if capacity >= num_images:
        return []
    lost = num_images - capacity
    return [f"`buffer.capacity` is {capacity:,}: {lost:,} of each epoch's {num_images:,} images are dropped unused"]


def _parted_pairs(config: Config, schedule: Schedule) -> list[str]:
    table = config.distillation
    is_chained = {"inversion", "distillation"} <= set(schedule.stages)
    if not is_chained or config.buffer.eviction == "oldest" or table.views == 0 or table.mix == "none":
        return []
    reason = "images that stay lose those they are mixed with, so of cached views fewer and fewer are mixed"
    return [f"`buffer.eviction` is {shown(config.buffer.eviction)}: {reason} (`distillation.views` = 0 mixes anew)"]


def _is_deliberate(config: Config, key: str) -> bool:
    place = config.settings.places.get(key)
    if place is None:
        return False
    return place.startswith("--") or _value(config, key) != _default(config, key)


def _told(config: Config, key: str, reason: str) -> str:
    value, place = shown(_value(config, key)), config.settings.place_of(key)
    return f"`{key}` is {value} in {place} and has no effect: {reason}"


def _value(config: Config, key: str) -> Any:
    table, _, name = key.partition(".")
    return getattr(config.tables()[table], name.partition(".")[0])


def _default(config: Config, key: str) -> Any:
    table, _, name = key.partition(".")
    return type(config.tables()[table]).model_fields[name].get_default()
