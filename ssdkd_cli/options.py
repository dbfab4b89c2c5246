"""Options that several commands share, each described once. Square brackets in a help text hold the unit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stages.errors import ConfigError
from stages.paths import typed_path

if TYPE_CHECKING:
    from stages.config import Config


def _complete_preset(incomplete: str) -> list[str]:
    """Shipped presets for the shell's completion."""
    import presets

    return [name for name in presets.names() if name.startswith(incomplete)]


def _check_device(device: str | None) -> str | None:
    """Raise ConfigError where it names no kind of device; whether there is such a one is seen later."""
    from stages.config import is_device_name

    if device is not None and not is_device_name(device):
        raise ConfigError(
            f"`--device {device}` is not a device",
            hint="use auto, cpu, cuda, or cuda:N with the number of a GPU",
        )
    return device


Presets = Annotated[
    list[str] | None,
    typer.Option(
        "--preset",
        metavar="NAME|FILE",
        autocompletion=_complete_preset,
        help="A preset's name, or a path ending in .toml; repeated, later ones overlay earlier ones.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any preset key, e.g. run.epochs=40 [TOML]; `ssdkd presets show NAME` lists them; repeatable.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        parser=typed_path,
        metavar="DIR",
        help="New or empty run directory (otherwise runs/PRESET-TIME); with --seeds, the folder for their runs [path].",
    ),
]
Resume = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Go on with this run, by path or name in ./runs, with its own settings."),
]
GoOn = Annotated[
    bool,
    typer.Option(
        "--go-on",
        help="Where --out holds this run already, go on with it; where it is done, only sum it up. Without the"
        " dashboard: one command for a job that may be stopped and started again.",
    ),
]
Buffer = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|RUN",
        help="The buffer to distil from [path]; default: that of the newest finished run that made images."
        " A run supplies its settings, too.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="auto|cpu|cuda[:N]", callback=_check_device, help="Where to compute; auto takes a GPU if there is one."
    ),
]
Seeds = Annotated[
    str | None,
    typer.Option(metavar="N,N,...", help="One run for each seed, then mean and spread [integers]."),
]
Tui = Annotated[
    bool | None,
    typer.Option(
        "--tui/--no-tui",
        help="The live dashboard (the default on a terminal, except with --seeds), or progress on stderr.",
        show_default=False,
    ),
]
TrainTeacher = Annotated[
    bool,
    typer.Option("--train-teacher", help="Train the teacher first where it is missing (needs its data)."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Check everything, say what would be done and what it needs, and stop."),
]
Estimate = Annotated[
    bool,
    typer.Option("--estimate", help="As --dry-run, and make a few steps: how long the run will take, in what memory."),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document on stdout and nothing else there."),
]
Data = Annotated[
    str | None,
    typer.Option("--data", metavar="SPEC", help="digits, cifar10, cifar100, imagefolder or a plugin's."),
]
Root = Annotated[
    Path | None,
    typer.Option("--root", parser=typed_path, metavar="DIR", help="Where the data set's files are [path]."),
]


def keys_of(overrides: Sequence[str]) -> set[str]:
    """The keys that `--set` names."""
    return {text.partition("=")[0].strip() for text in overrides}


def asks_for_evaluation_data(config: Config) -> bool:
    """Whether the command line names the data to measure on, or has it fetched: that it is missing is then an error."""
    typed = {key for key, place in config.settings.places.items() if place.startswith("--")}
    is_named = not typed.isdisjoint(("evaluation.data", "evaluation.root", "evaluation.split"))
    return is_named or ("evaluation.download" in typed and config.evaluation.download)


def with_data(config: Config, *, data: str | None, root: Path | None, split: str | None) -> Config:
    """`--data`, `--root` and `--split` over the preset's `[evaluation]` table; what was not given stays."""
    from stages.config import with_values

    named = {"data": data, "root": None if root is None else str(root), "split": split}
    for key, value in named.items():
        if value is not None:
            config = with_values(config, {f"evaluation.{key}": value}, place=f"--{key}")
    return config
