"""`ssdkd teacher`: train a preset's teacher on real images, or look at the one that is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdkd_cli import console, diagnostics, options, progress, summary
from ssdkd_cli.signals import heard_as_ctrl_c
from ssdkd_cli.torch_import import import_torch
from ssdkd_cli.words import duration
from stages.errors import ConfigError
from stages.paths import typed_path

if TYPE_CHECKING:
    from stages.config import Config
    from stages.teachers.report import TeacherReport

NOTHING_TO_MEASURE_ON = (
    "no data is named. Names and shapes fit, which does not prove that this is the network that learned the weights;"
    " `--data imagefolder --root FOLDER` tries it on images of yours"
)

app = typer.Typer(no_args_is_help=True, help="Train a teacher on real images, or check one.")


@app.command("train")
def train(
    preset: options.Presets = None,
    overrides: options.Overrides = None,
    data: options.Data = None,
    root: options.Root = None,
    split: Annotated[str, typer.Option(metavar="NAME", help="The part of the data to train on.")] = "train",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=typed_path, metavar="FILE", help="The new file; default: the cache, where presets find it [path]."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the data [epochs; 200].")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of all random draws; default: run.seed [integer].")
    ] = None,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Train the preset's teacher on real, labelled images.

    It is kept where the preset finds it, unless --out says otherwise; where a teacher ships with the preset, --out is
    required. A training that was interrupted goes on by the same command.

    \b
    Example:
      ssdkd teacher train --preset cifar10-resnet20 --root ~/data
    """
    from stages.config import load
    from stages.evaluation.config import NO_DATA

    config = load(preset or (), overrides or ())
    file = _new_file(config, out)
    # Where the teacher learns the data that students are measured on, it is measured on the same part of it.
    measured = config.evaluation if data in (None, config.evaluation.data) else None
    config = options.with_data(config, data=data, root=root, split=None)
    if config.evaluation.data == NO_DATA:
        raise ConfigError("nothing says which data the teacher is to learn", hint="`--data SPEC` says it")
    if out is None and config.evaluation.data != config.teacher.trained_on:
        diagnostics.note(
            f"what is learned from {config.evaluation.data} is kept as the teacher of {config.teacher.trained_on}"
            " for every preset that wants one; where these are other images, give it a name of its own with --out"
        )

    import_torch()
    from stages.files.file_digest import sha256_of
    from stages.machine.device import resolve_device
    from stages.teachers.train import EPOCHS, train_teacher

    with heard_as_ctrl_c(), console.reserved_stdout(), progress.training_display() as listener:
        trained = train_teacher(
            config,
            split=split,
            test_split=None if measured is None or measured.split == split else measured.split,
            epochs=epochs or EPOCHS,
            out=file,
            device=resolve_device(device or config.run.device),
            seed=config.run.seed if seed is None else seed,
            progress=listener,
        )
    document = {
        "file": str(trained.path),
        "sha256": sha256_of(trained.path),
        "model": config.teacher.model,
        "data": config.evaluation.data,
        "split": split,
        "epochs": epochs or EPOCHS,
        "seconds": trained.seconds,
        "teacher": trained.metrics,
    }
    if trained.path != file:
        diagnostics.note(f"{file} is there by now, made by another process, and stays: this teacher lies beside it")
    if json:
        console.print_json(document)
        return
    console.say(f"{trained.path}: {config.teacher.model}, {duration(trained.seconds)}")
    summary.print_metrics({"teacher": trained.metrics})


def _new_file(config: Config, out: Path | None) -> Path:
    """Where the teacher goes: `out`, or where presets find it. Raises ConfigError where that is no place for it."""
    from stages.teachers.resolve import cached_teacher_file, shipped_teacher_file

    shipped = shipped_teacher_file(config)
    if out is None and shipped is not None:
        raise ConfigError(
            f"the preset has a teacher that ships with it, {shipped.name}, and runs would keep using that one",
            hint="`--out FILE` says where yours goes; `--set teacher.weights=FILE` uses it in a run",
        )
    file = out if out is not None else cached_teacher_file(config)
    if file.is_dir():
        raise ConfigError(f"{file} is a folder", hint="`--out` names the file that the teacher is written to")
    if file.exists():
        raise ConfigError(
            f"{file} is there already",
            hint="delete it, or choose another file with --out; nothing is overwritten",
        )
    return file


@app.command("check")
def check(
    preset: options.Presets = None,
    overrides: options.Overrides = None,
    data: options.Data = None,
    root: options.Root = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="The part of the data to measure on.")] = None,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Load the preset's teacher as a run would.

    Prints what it is and, where there is data, how good.

    \b
    Example:
      ssdkd teacher check --preset cifar100-wrn
    """
    from stages.config import load
    from stages.evaluation.config import NO_DATA

    config = load(preset or (), overrides or ())
    config = options.with_data(config, data=data, root=root, split=split)
    if config.evaluation.data == NO_DATA and (root or split):
        raise ConfigError("nothing to measure on: `evaluation.data` is none", hint="add `--data imagefolder`")

    import_torch()

    from stages.evaluation.measure import DOUBT_HINT
    from stages.machine.device import resolve_device
    from stages.teachers.report import report_teacher

    with console.reserved_stdout():
        place = resolve_device(device or config.run.device)
        report = report_teacher(config, place, must_measure=options.asks_for_evaluation_data(config))
    if report.metrics is None:
        diagnostics.note(f"accuracy is not measured: {report.missing or NOTHING_TO_MEASURE_ON}")
    for warning in report.teacher.warnings:
        diagnostics.warn(warning)
    if report.doubt is not None:
        diagnostics.warn(report.doubt, hint=DOUBT_HINT)
    if json:
        console.print_json(_document(report, config))
        return
    layers = ", ".join(f"{number} {kind}" for kind, number in report.layers.items())
    console.print_facts(
        [
            ("file", str(report.teacher.path)),
            ("sha256", report.teacher.sha256),
            ("model", config.teacher.model),
            ("parameters", f"{report.num_parameters:,}"),
            ("layers", layers),
            ("batch-norm layers", f"{report.num_batch_norms} with running statistics"),
            *((f"{name} of its images", _with_place(config, f"task.{name}")) for name in ("mean", "std")),
            *_facts_of_learned(report),
        ],
    )
    summary.print_metrics({"teacher": report.metrics})


def _with_place(config: Config, key: str) -> str:
    """A setting's value, and the preset or option that it comes from."""
    value, place = config.settings.value(key), config.settings.place_of(key)
    return f"{', '.join(map(str, value))} ({place})"


def _facts_of_learned(report: TeacherReport) -> list[tuple[str, str]]:
    """Mean and spread of the images it learned, by its first batch-norm, if they were normalised as is set here."""
    learned = report.teacher.learned
    if learned is None:
        return [("images it learned", "its batch-norms do not tell: whether mean and std are its own is not checked")]
    told = f"mean {learned.mean:.2f}, standard deviation {learned.std:.2f}, from 0 to 1 (by its first batch-norm)"
    return [("images it learned", told)]


def _document(report: TeacherReport, config: Config) -> dict[str, Any]:
    learned = report.teacher.learned
    return {
        "file": str(report.teacher.path),
        "sha256": report.teacher.sha256,
        "model": config.teacher.model,
        "parameters": report.num_parameters,
        "layers": report.layers,
        "batch_norm_layers": report.num_batch_norms,
        "mean": config.task.mean,
        "std": config.task.std,
        "learned_images": None if learned is None else {"mean": learned.mean, "std": learned.std},
        "warnings": [*report.teacher.warnings, *([] if report.doubt is None else [report.doubt])],
        "data": None if report.images is None else config.evaluation.data,
        "split": None if report.images is None else report.images.split,
        "teacher": report.metrics,
        "missing": report.missing,
    }
