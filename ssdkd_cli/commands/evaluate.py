"""`ssdkd evaluate`: how good a student is on real images, and how far it agrees with its teacher."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssdkd_cli import console, diagnostics, options, summary
from ssdkd_cli.torch_import import import_torch
from ssdkd_cli.words import agreement_text
from stages.errors import ConfigError
from stages.paths import typed_path
from stages.run_directory import RunDirectory, is_run

if TYPE_CHECKING:
    from stages.config import Config


def evaluate(
    target: Annotated[
        str, typer.Argument(metavar="RUN|WEIGHTS", help="A run, or a file with a model's weights [path].")
    ],
    preset: options.Presets = None,
    overrides: options.Overrides = None,
    device: options.Device = None,
    data: options.Data = None,
    root: options.Root = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The part of the data to measure on; default: the preset's."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure a student on real, labelled images.

    A run's, or any weights that fit the preset's student.model. Always in fp32.

    \b
    Example:
      ssdkd evaluate resnet20.th --preset cifar10-resnet20 --root ~/data
    """
    subject, config = _find(target, preset or [], overrides or [])
    config = options.with_data(config, data=data, root=root, split=split)
    if isinstance(subject, RunDirectory) and "evaluation.data" not in options.keys_of(overrides or []):
        _refuse_missing_data(subject, config)

    import_torch()

    from stages.evaluation.measure import DOUBT_HINT, doubt
    from stages.evaluation.standalone import evaluate_run, evaluate_weights

    is_named = "run.device" in options.keys_of(overrides or [])
    place = device or (config.run.device if is_named else "auto")  # where a run was trained need not be here
    warnings: list[str] = []
    with console.reserved_stdout():
        if isinstance(subject, RunDirectory):
            document, images = evaluate_run(subject, config, place, warn=warnings.append), "held-out synthetic images"
        else:
            document, images = evaluate_weights(subject, config, place, warn=warnings.append), "these images"
    for warning in warnings:
        diagnostics.warn(warning)
    reason = None if document["teacher"] is None else doubt(document["teacher"], num_classes=config.task.num_classes)
    if reason is not None:
        diagnostics.warn(reason, hint=DOUBT_HINT)
    if json:
        console.print_json(document)
        return
    console.say(f"{target} on {document['data']}, {document['split']} split")
    summary.print_metrics({role: document[role] for role in ("teacher", "student")})
    if document["agreement"] is not None:
        console.say(f"agreement with the teacher on {images}: {agreement_text(document['agreement'])}")
    if document["teacher"] is None:
        diagnostics.note("the preset's teacher is not at hand: only the student was measured")


def _refuse_missing_data(run: RunDirectory, config: Config) -> None:
    from stages.evaluation.config import NO_DATA
    from stages.run_directory.overview import flat, settings

    named = flat(settings(run)).get("evaluation.data", NO_DATA)
    if config.evaluation.data == NO_DATA != named:
        raise ConfigError(
            f"the data set `{named}` of the run is not installed here",
            hint="`--data imagefolder --root FOLDER` measures on other images (`ssdkd plugins ls` lists data sets)",
        )


def _find(target: str, presets: list[str], overrides: list[str]) -> tuple[RunDirectory | Path, Config]:
    """The run or the file that `target` means, and the settings that go with it."""
    from stages.config import load
    from stages.run_directory.lookup import resolve_run
    from stages.run_directory.overview import is_as_begun

    path = typed_path(target)
    if not path.is_file():
        run = resolve_run(target)
        if presets:
            raise ConfigError(
                f"{target} is a run and has its own settings: --preset does not apply",
                hint="single keys can be changed with --set",
            )
        return run, load([str(run.written_settings())], overrides, installed_only=is_as_begun(run))
    if not presets and not is_run(path.parent):
        raise ConfigError(
            f"nothing says which model the weights in {target} are of",
            hint="`--preset` names the preset whose student.model they fit",
        )
    if presets:
        return path, load(presets, overrides)
    # A run's student file has its settings beside it.
    run = RunDirectory(path.parent)
    return path, load([str(run.config_file)], overrides, installed_only=is_as_begun(run))
