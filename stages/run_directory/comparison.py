"""Runs side by side: their results, the settings in which they differ, and mean and spread over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from stages.run_directory import RunDirectory
from stages.run_directory.overview import code_key, conditions, metrics, overview

_SEED = "run.seed"

_OF_NO_MATTER = (
    *("evaluation.root", "evaluation.download", "evaluation.batch_size"),
    *("run.device", "run.threads", "run.acceleration", "run.checkpoint_every", "run.log_every"),
)
"""Settings in which runs of one setting may differ: where things lie, and how a machine does them. So seeds of several
machines are averaged together."""


def compare(runs: Sequence[RunDirectory]) -> dict[str, Any]:
    """The document of `ssdkd runs compare`.

    `runs`: the overview of each. `metrics`: each result, with a value per run, None where a run has none.
    `differences`: each setting in which they differ, and teacher and buffer file by their checksums, with a value per
    run. `seed_groups`: mean and sample standard deviation over runs that are done and differ in nothing but their seed
    and their machine; `left_out` are those that would belong to them, but are not done. Raises FileError for a run
    without readable settings.
    """
    documents = [overview(run) for run in runs]
    results = [metrics(document) for document in documents]
    configurations = [conditions(run) for run in runs]
    return {
        "runs": documents,
        "metrics": {name: [result.get(name) for result in results] for name in _ordered_union(results)},
        "differences": differences(configurations),
        "seed_groups": _seed_groups(documents, results, configurations),
    }


def differences(configurations: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Of flat settings those that differ, with a value for each configuration, None where it has none."""
    columns = {
        key: [configuration.get(key) for configuration in configurations] for key in _ordered_union(configurations)
    }
    return {key: values for key, values in columns.items() if any(value != values[0] for value in values)}


def _ordered_union(tables: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(key for table in tables for key in table))


def _seed_groups(
    documents: Sequence[dict[str, Any]],
    results: Sequence[dict[str, float]],
    configurations: Sequence[dict[str, Any]],
) -> list[dict[str, Any]]:
    # The command counts, too: an `invert` run has the settings of the `run` it belongs to.
    settings = [
        {"command": document["command"], **configuration, _SEED: None}
        for document, configuration in zip(documents, configurations, strict=True)
    ]
    seeds = [configuration.get(_SEED) for configuration in configurations]

    def done(group: list[int]) -> list[int]:
        return [index for index in group if documents[index]["status"] == "done"]

    def have_one_seed_each(group: list[int]) -> bool:
        return len({seeds[index] for index in group}) == len(group)

    groups: list[list[int]] = []
    for group in _alike(range(len(documents)), [_without_its_machine(each) for each in settings]):
        is_clear = have_one_seed_each(done(group))
        groups += [group] if is_clear else _alike(group, settings)  # a seed on two machines: each is a group
    return [
        {
            "runs": [documents[index]["run"] for index in done(group)],
            "seeds": [seeds[index] for index in done(group)],
            "left_out": [documents[index]["run"] for index in group if index not in done(group)],
            "metrics": _of_shared_metrics([results[index] for index in done(group)]),
        }
        for group in groups
        if len(done(group)) > 1 and have_one_seed_each(done(group))
    ]


def _alike(indices: Iterable[int], settings: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """The indices of equal settings together."""
    members: dict[str, list[int]] = {}
    for index in indices:
        members.setdefault(json.dumps(settings[index], sort_keys=True, default=str), []).append(index)
    return list(members.values())


def _without_its_machine(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without what does not matter; a file that has a checksum among them is known by that."""
    rest = {**settings, **dict.fromkeys(_OF_NO_MATTER)}
    if "teacher" in settings:
        rest["teacher.weights"] = None
    for key in ("teacher.model", "student.model"):
        if code_key(key) in settings:
            rest[key] = str(settings[key]).rpartition(":")[2]
    return rest


def mean_and_std(values: Sequence[float]) -> dict[str, float]:
    """Mean, and standard deviation with n - 1, which of one value is 0. A loss may be NaN, and so are both then."""
    mean = fmean(values)
    squares = sum((value - mean) ** 2 for value in values)  # statistics.stdev knows no NaN
    return {"mean": mean, "std": math.sqrt(squares / (len(values) - 1)) if len(values) > 1 else 0.0}


def _of_shared_metrics(results: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    shared = [name for name in results[0] if all(name in result for result in results)]
    return {name: mean_and_std([result[name] for result in results]) for name in shared}
