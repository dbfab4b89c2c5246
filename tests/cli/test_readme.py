"""What README tells people to type, to set and to open is there, and what the benchmarks' README links to."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

import pytest
import typer

import presets
from ssdkd_cli.main import app
from stages.config import load
from stages.planning.idle_settings import warnings_of
from stages.schedule import Schedule

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = ("README.md", "benchmarks/README.md")

TABLES = ("run", "task", "teacher", "student", "inversion", "buffer", "distillation", "evaluation")
FILES = ("config.toml", "student.safetensors")  # of no table


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def code() -> list[str]:
    """What stands between single backticks, on one line where the text is broken."""
    text = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(piece.split()) for piece in re.findall(r"`([^`]+)`", text)]


def commands() -> list[list[str]]:
    """The arguments of each `ssdkd ...`: of "A|B" the first, "[C]" as if it were there, comments and "..." left out."""
    lines = [*code(), *(line for block in blocks("sh") for line in block.splitlines())]
    typed = {line.removeprefix("uv run ") for line in lines if line.removeprefix("uv run ").startswith("ssdkd ")}
    return [
        [re.split(r"\\?\|", word)[0].strip("[]") for word in shlex.split(line.replace("\\|", "|"), comments=True)[1:]]
        for line in sorted(typed)
        if not line.endswith("...")
    ]


def values_of(arguments: list[str], option: str) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == option]


def anchors(text: str) -> set[str]:
    """The anchors of a Markdown file's headings, as its readers make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_is_something_to_look_at() -> None:
    assert len(commands()) > 20
    assert len(list(keys())) > 20


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_a_command_can_be_typed(arguments: list[str]) -> None:
    command = typer.main.get_command(app)
    arguments = list(arguments)
    while hasattr(command, "commands") and arguments:
        command = command.commands[arguments.pop(0)]
    if arguments:  # without any it is only named
        command.make_context("ssdkd", arguments)


@pytest.mark.parametrize(
    "arguments", [each for each in commands() if "--set" in each or "--preset" in each], ids=" ".join
)
def test_its_presets_and_settings_are_known(arguments: list[str]) -> None:
    names = [name for name in values_of(arguments, "--preset") if name in presets.names()]
    strangers = [name for name in values_of(arguments, "--preset") if name not in names]
    assert all(name == "NAME" or name.endswith(".toml") for name in strangers)
    load(names, values_of(arguments, "--set"))


def keys() -> list[str]:
    """`table.key`, with a value or without."""
    named = re.compile(rf"(?:{'|'.join(TABLES)})\.\w+( ?= ?\S+)?")
    return sorted({piece for piece in code() if named.fullmatch(piece) and piece not in FILES})


@pytest.mark.parametrize("key", keys())
def test_a_key_is_one(key: str) -> None:
    name, _, value = (part.strip() for part in key.partition("="))
    table, name = name.split(".")
    assert name in type(load(()).tables()[table]).model_fields
    if value:
        load((), [f"{table}.{name}={value}"])


def test_the_preset_to_begin_with_loads(place: Path) -> None:
    (preset,) = blocks("toml")[:1]
    (place / "mine.toml").write_text(preset, encoding="utf-8")
    config = load(["mine.toml"])
    assert warnings_of(config, Schedule.of("run", config)) == ()


@pytest.mark.parametrize("text", TEXTS)
def test_a_link_leads_somewhere(text: str) -> None:
    path = ROOT / text
    links = re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert links
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link
