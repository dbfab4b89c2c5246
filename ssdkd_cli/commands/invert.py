"""`ssdkd invert`: from a teacher to a buffer of synthetic images."""

from __future__ import annotations

from ssdkd_cli import options
from ssdkd_cli.commands.launching import LaunchRequest, launch


def invert(
    preset: options.Presets = None,
    overrides: options.Overrides = None,
    out: options.Out = None,
    resume: options.Resume = None,
    go_on: options.GoOn = False,
    device: options.Device = None,
    seeds: options.Seeds = None,
    tui: options.Tui = None,
    train_teacher: options.TrainTeacher = False,
    dry_run: options.DryRun = False,
    estimate: options.Estimate = False,
    json: options.Json = False,
) -> int:
    """Fill a buffer with images inverted from the teacher.

    Nothing is distilled. The buffer can be looked into (`ssdkd inspect-buffer`) and distilled from
    (`ssdkd distill --buffer RUN`).

    \b
    Example:
      ssdkd invert --preset cifar100-wrn --out my-buffer
    """
    return launch(
        LaunchRequest(
            command="invert",
            preset=preset,
            overrides=overrides,
            out=out,
            resume=resume,
            go_on=go_on,
            device=device,
            seeds=seeds,
            tui=tui,
            train_teacher=train_teacher,
            dry_run=dry_run,
            estimate=estimate,
            json=json,
        )
    )
