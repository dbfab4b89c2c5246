"""`--help`, `--version`, and what importing the command line costs."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from buffer_files import write_buffer
from buffer_rows import make_rows
from child_process import run_python, run_ssdkd
from run_files import finished, make_run, started

from ssdkd_cli.main import app


def named(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """A command and all that are below it, each with the words that it is typed with."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from named(below, f"{name} {word}".lstrip())


EVERYTHING = dict(named(typer.main.get_command(app)))
GROUPS = [name for name, command in EVERYTHING.items() if hasattr(command, "commands")]


@pytest.mark.parametrize(
    ("group", "commands"),
    [
        ("", "run invert distill watch evaluate inspect-buffer runs presets teacher plugins doctor"),
        ("runs", "ls show compare verify pause resume checkpoint stop"),
    ],
)
def test_help_lists_the_commands_in_the_order_of_the_contract(call, group, commands):
    result = call(*group.split(), "--help")
    assert result.code == 0
    assert re.findall(r"^  ([a-z-]+)  ", result.out.partition("Commands:")[2], re.M) == commands.split()


@pytest.mark.parametrize("group", GROUPS)
def test_no_command_in_a_list_has_its_description_cut(call, group):
    lines = call(*group.split(), "--help").out.partition("Commands:")[2].splitlines()
    assert lines
    assert [line for line in lines if line.endswith("...")] == []


@pytest.mark.parametrize("command", [name for name in EVERYTHING if name not in GROUPS])
def test_every_command_has_one_example_that_names_it(call, command):
    result = call(*command.split(), "--help")
    assert result.code == 0
    examples = re.findall(r"^ +Example:\n +(.+)$", result.out, re.M)
    assert len(examples) == 1
    assert examples[0].startswith(f"ssdkd {command}")


def test_units_survive_into_the_help_text(call):
    assert "[path]" in call("run", "--help").out


def test_run_invert_and_distill_take_the_same_options(call):
    def options(command):
        return set(re.findall(r"^  (--[a-z-]+)", call(command, "--help").out, re.M))

    assert options("run") == options("invert") == options("distill") - {"--buffer"}
    assert options("run") >= {
        *("--preset", "--set", "--out", "--resume", "--device", "--seeds"),
        *("--tui", "--train-teacher", "--dry-run", "--estimate", "--json"),
    }


def test_version(call):
    from importlib.metadata import version

    assert call("--version") == (0, f"ssdkd {version('ssdkd')}\n", "")


def test_no_command_at_all_prints_the_help_to_stderr(call):
    result = call()
    assert result.code == 2
    assert result.out == ""
    assert "Commands:" in result.err


@pytest.mark.slow
def test_help_comes_at_once():
    def used_s():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    run_ssdkd("--help")  # writes byte code
    before_s = used_s()
    assert run_ssdkd("--help").code == 0
    # Processor time: on a busy machine the clock on the wall measures the neighbours.
    assert used_s() - before_s < 1.0


def test_importing_the_command_line_pulls_in_nothing_heavy():
    heavy = ["torch", "torchvision", "numpy", "pydantic", "rich", "textual", "matplotlib", "importlib.metadata"]
    program = f"import sys, ssdkd_cli.main; print([name for name in {heavy} if name in sys.modules])"
    assert run_python("-c", program).out == "[]\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("run --set run.epoch=3", 2),
        ("run --resume nowhere", 3),
        ("presets ls", 0),
        ("presets check digits", 0),
        ("plugins ls", 0),
        ("runs ls --json", 0),
        ("runs show --json", 0),
        ("watch --json", 0),
        ("inspect-buffer --verify --grid g.png --plot p.png --json", 0),
    ],
)
def test_what_needs_no_torch_does_not_import_it(place, command, code):
    run = make_run(place / "runs" / "a-run", started(), finished())
    write_buffer(run.buffer_file, make_rows())
    program = (
        "import sys; from ssdkd_cli.main import main; code = main(sys.argv[1:])\n"
        "print([name for name in ('torch', 'textual') if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    assert run_python("-c", program, *command.split(), expected_code=code).err.splitlines()[-1] == "[]"


def test_a_ctrl_c_while_the_command_line_is_imported_is_quiet():
    program = (
        "import sys\n"
        "class Typist:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer.core':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Typist())\n"
        "from importlib.metadata import entry_points\n"
        "(command,) = entry_points(group='console_scripts', name='ssdkd')\n"
        "sys.exit(command.load()())"
    )
    assert run_python("-c", program, expected_code=130) == (130, "", "")


def test_the_shell_completes_presets():
    words = {"COMP_WORDS": "ssdkd run --preset dig", "COMP_CWORD": "3"}
    result = run_ssdkd(environment={"_SSDKD_COMPLETE": "complete_bash", **words})
    assert (result.code, result.out) == (0, "digits\n")
