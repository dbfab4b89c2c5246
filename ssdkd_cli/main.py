"""The `ssdkd` command: registers the commands, nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ssdkd_cli import diagnostics
from ssdkd_cli.commands import (
    distill,
    doctor,
    evaluate,
    inspect_buffer,
    invert,
    plugins,
    presets,
    run,
    runs,
    teacher,
    watch,
)
from stages.errors import MachineError

ORDER = (
    "run",
    "invert",
    "distill",
    "watch",
    "evaluate",
    "inspect-buffer",
    "runs",
    "presets",
    "teacher",
    "plugins",
    "doctor",
)
"""As people meet them: make a student, look on, judge it, look into it, then what it is made from."""


class CommandsInOrder(TyperGroup):
    """Lists the commands in the order above (Typer itself puts groups of commands last)."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names in the order of `ssdkd --help`."""
        return list(ORDER)


app = typer.Typer(
    name="ssdkd",
    cls=CommandsInOrder,
    no_args_is_help=True,
    # Plain text: Rich's help takes three times as long to import as everything else, and swallows [units].
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("invert")(invert.invert)
app.command("distill")(distill.distill)
app.command("watch")(watch.watch)
app.command("evaluate")(evaluate.evaluate)
app.command("inspect-buffer")(inspect_buffer.inspect_buffer)
app.add_typer(runs.app, name="runs")
app.add_typer(presets.app, name="presets")
app.add_typer(teacher.app, name="teacher")
app.add_typer(plugins.app, name="plugins")
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"ssdkd {version('ssdkd')}")
        raise typer.Exit


@app.callback()
def describe(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Turn a trained vision model whose training data is gone into a small, fast student.

    Images are inverted from the teacher and kept in a small prioritised replay buffer, and the student is
    distilled from it, in one loop (SSD-KD, CVPR 2024).

    \b
    Example:
      ssdkd run --preset digits
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (`sys.argv` by default) and return the exit code of the process."""
    return diagnostics.run_command(lambda: _run(arguments))


def _run(arguments: Sequence[str] | None) -> object:
    """What the command returns. Raises MachineError where the current folder is gone.

    Libraries fail there as they are imported: oneMKL ends the process, and under Python 3.13.0 pydantic's core raises
    SystemError.
    """
    try:
        Path.cwd()
    except FileNotFoundError as error:
        raise MachineError("the current folder is gone", hint="`cd` to one that is there") from error
    return app(arguments, prog_name="ssdkd", standalone_mode=False)
