"""`ssdkd teacher`: train a preset's teacher on real images, or look at the one that is there."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssdkd_cli import console, diagnostics, options, progress, summary
from ssdkd_cli.torch_import import import_torch
from stages.errors import ConfigError, FileError
from stages.paths import typed_path

if TYPE_CHECKING:
    import torch
    from torch import nn

    from stages.config import Config

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
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random draws [integer].")] = 0,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Train the preset's teacher on real, labelled images.

    It is kept where the preset finds it, unless --out says otherwise; where a teacher ships with the preset --out must.

    \b
    Example:
      ssdkd teacher train --preset cifar10-resnet20 --root ~/data
    """
    from stages.config import load
    from stages.evaluation.config import NO_DATA
    from stages.teachers.resolve import cached_teacher_file, shipped_teacher_file

    options.check_device(device)
    config = load(preset or (), overrides or ())
    shipped = shipped_teacher_file(config)
    if out is None and shipped is not None:
        raise ConfigError(
            f"the preset has a teacher that ships with it, {shipped.name}, and would go on with that one",
            hint="`--out FILE` says where yours goes; `--set teacher.weights=FILE` uses it in a run",
        )
    file = out if out is not None else cached_teacher_file(config)
    if file.exists():
        raise ConfigError(
            f"{file} is there already",
            hint="delete it, or choose another file with --out; nothing is overwritten",
        )
    # Where the teacher learns the data that students are measured on, it is measured on the same part of it.
    measured = config.evaluation if data in (None, config.evaluation.data) else None
    config = options.with_data(config, data=data, root=root, split=None)
    if config.evaluation.data == NO_DATA:
        raise ConfigError("nothing says which data the teacher is to learn", hint="`--data SPEC` says it")

    from stages.device import resolve_device
    from stages.models.checkpoints import sha256_of
    from stages.teachers.train import EPOCHS, train_teacher

    with console.reserved_stdout(), progress.training_shown() as listener:
        trained = train_teacher(
            config,
            split=split,
            test_split=None if measured is None or measured.split == split else measured.split,
            epochs=epochs or EPOCHS,
            out=file,
            device=resolve_device(device or config.run.device),
            seed=seed,
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
    if json:
        console.print_json(document)
        return
    console.print_text(f"{trained.path}: {config.teacher.model}, {progress.duration(trained.seconds)}")
    summary.print_metrics({"teacher": trained.metrics})


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

    And report what it is and, with data at hand, how good.

    \b
    Example:
      ssdkd teacher check --preset cifar100-wrn
    """
    from stages.config import load

    options.check_device(device)
    config = load(preset or (), overrides or ())
    config = options.with_data(config, data=data, root=root, split=split)

    import_torch()

    from stages.device import MEASURING_HINT, out_of_memory_is_told, prepare_device, resolve_device
    from stages.evaluation.measure import DOUBT_HINT, doubt
    from stages.models.build import bn_layers
    from stages.teachers.load import load_teacher

    place = resolve_device(device or config.run.device)
    prepare_device(place)
    with console.reserved_stdout(), out_of_memory_is_told(MEASURING_HINT):
        teacher = load_teacher(config, place)
        metrics = _measure(teacher.model, config, place, must=any((data, root, split)))
    layers = count_layers(teacher.model)
    num_parameters = sum(parameter.numel() for parameter in teacher.model.parameters())
    num_batch_norms = len(bn_layers(teacher.model))
    for warning in teacher.warnings:
        diagnostics.warn(warning)
    reason = None if metrics is None else doubt(metrics, num_classes=config.task.num_classes)
    if reason is not None:
        diagnostics.warn(reason, hint=DOUBT_HINT)
    warnings = [*teacher.warnings, *([] if reason is None else [reason])]
    if json:
        console.print_json(
            {
                "file": str(teacher.path),
                "sha256": teacher.sha256,
                "model": config.teacher.model,
                "parameters": num_parameters,
                "layers": layers,
                "batch_norm_layers": num_batch_norms,
                "warnings": warnings,
                "data": config.evaluation.data if metrics is not None else None,
                "split": config.evaluation.split if metrics is not None else None,
                "teacher": metrics,
            }
        )
        return
    console.print_facts(
        [
            ("file", str(teacher.path)),
            ("sha256", teacher.sha256),
            ("model", config.teacher.model),
            ("parameters", f"{num_parameters:,}"),
            ("layers", ", ".join(f"{number} {kind}" for kind, number in layers.items())),
            ("batch-norm layers", f"{num_batch_norms} with running statistics"),
        ],
    )
    summary.print_metrics({"teacher": metrics})


def count_layers(model: nn.Module) -> dict[str, int]:
    """How many layers with weights of each kind a network has, the most frequent first."""
    kinds = (type(module).__name__ for module in model.modules() if any(True for _ in module.parameters(recurse=False)))
    return dict(Counter(kinds).most_common())


def _measure(model: nn.Module, config: Config, device: torch.device, *, must: bool) -> dict[str, Any] | None:
    """The teacher's metrics on the preset's data; None where that is missing and was not asked for."""
    from stages.data.dataset import real_images
    from stages.evaluation.config import NO_DATA
    from stages.evaluation.measure import measure
    from stages.models.normalized import NormalizedModel
    from stages.tasks.task import task_of

    if config.evaluation.data == NO_DATA:
        return None
    try:
        images = real_images(config)
    except FileError as error:
        if must:
            raise
        diagnostics.note(f"accuracy is not measured: {error.message}")
        return None
    normalized = NormalizedModel(model, mean=config.task.mean, std=config.task.std).to(device)
    return measure(normalized, images, task_of(config.task), batch_size=config.evaluation.batch_size, device=device)
