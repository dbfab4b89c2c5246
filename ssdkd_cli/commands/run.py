"""`ssdkd run`: from a teacher to a student."""

from __future__ import annotations

from ssdkd_cli import options
from ssdkd_cli.commands.launching import LaunchRequest, launch


def run(
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
    """Distil a student from a teacher, without its data.

    Images are inverted from the teacher into a buffer and distilled from there, epoch by epoch. Without --preset it
    does so for the built-in handwritten digits, in a minute or two on a CPU. On a terminal it opens the dashboard,
    where q leaves and x stops the run; with --no-tui or --seeds Ctrl-C stops it. Either saves everything, and --resume
    goes on.

    \b
    Example:
      ssdkd run --preset cifar100-wrn --set teacher.weights=my_wrn40_2.pth
    """
    return launch(
        LaunchRequest(
            command="run",
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
