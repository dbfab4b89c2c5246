"""`ssdkd distill`: from a buffer of synthetic images to a student."""

from __future__ import annotations

from ssdkd_cli import options
from ssdkd_cli.commands.launching import LaunchRequest, launch


def distill(
    preset: options.Presets = None,
    overrides: options.Overrides = None,
    buffer: options.Buffer = None,
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
    """Distil a student from a buffer that is there already.

    Nothing is inverted. Without --preset the settings are those of the run that the buffer is in, and the student
    learns for as many epochs as in it; run.epochs given with --set are the student's, without a warm-up.

    \b
    Example:
      ssdkd distill --buffer my-buffer --set student.model=wrn16_2 --set run.epochs=40
    """
    return launch(
        LaunchRequest(
            command="distill",
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
            buffer=buffer,
        )
    )
