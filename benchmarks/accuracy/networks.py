"""The networks of runs, for benchmarks that look through them at images; and what happens where that is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ssdkd_cli.diagnostics import report
from stages.config import Config, from_file
from stages.errors import SsdkdError
from stages.machine.heap import keep_heap_warm
from stages.models.normalized import NormalizedModel
from stages.run_directory import RunDirectory
from stages.teachers.load import LoadedTeacher, load_teacher


@dataclass(frozen=True)
class Network:
    """The teacher of a run, by whose eyes images are seen."""

    config: Config
    model: NormalizedModel
    file: LoadedTeacher

    @classmethod
    def of(cls, run: RunDirectory) -> Network:
        """Raises FileError and ConfigError as a run does."""
        config, device = from_file(run.config_file), torch.device("cpu")
        loaded = load_teacher(config, device, is_inverted=False)
        model = NormalizedModel.on(device, loaded.model, config.task).eval().requires_grad_(False)
        return cls(config, model, loaded)


def exit_code_of(work: Callable[[], None]) -> int:
    """0, or 2 where the work is refused: the error and its hint are on stderr then."""
    keep_heap_warm()
    try:
        work()
    except SsdkdError as error:
        report(error)
        return 2
    return 0
