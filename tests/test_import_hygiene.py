"""What must answer at once, and what reads the files of a run, imports no torch."""

from __future__ import annotations

import json
import pkgutil

from child_process import run_python

import ssdkd_cli
import stages
from ssdkd_cli import watching

LIGHT = {
    *("stages", "stages.errors", "stages.events", "stages.config", "stages.config_table", "stages.registry"),
    *(f"stages.settings.{name}" for name in ("loading", "schema", "preset_check", "key_docs", "idle_settings")),
    *("stages.accounts", "stages.schedule", "stages.pictures", "stages.stage", "stages.models.model_file"),
    *("stages.buffer.file", "stages.buffer.statistics", "stages.buffer.priorities"),
    *("stages.teachers.resolve", "presets"),
}

SCRIPT = """
import importlib, json, sys
guilty = None
for module in sys.argv[1:]:
    importlib.import_module(module)
    if "torch" in sys.modules:
        guilty = module
        break
print(json.dumps([guilty, [name for name in ("typer", "textual", "rich") if name in sys.modules]]))
"""


def run(modules: set[str]) -> list:
    return json.loads(run_python("-c", SCRIPT, *sorted(modules)).out)


def test_light_modules_import_neither_torch_nor_a_terminal() -> None:
    modules = {module.name for module in pkgutil.walk_packages(stages.__path__, "stages.")}
    packages = {module.name for module in pkgutil.walk_packages(stages.__path__, "stages.") if module.ispkg}
    schemas = {name for name in modules if name.endswith(".config")}
    assert len(packages) >= 8
    assert len(schemas) >= 4
    of_directories = {name for name in modules if name.startswith("stages.run_directory.")}
    assert len(of_directories) >= 9
    assert run(LIGHT | packages | schemas | of_directories) == [None, []]


def test_what_looks_at_runs_imports_neither_torch_nor_what_draws() -> None:
    modules = {module.name for module in pkgutil.walk_packages(watching.__path__, "ssdkd_cli.watching.")}
    assert len(modules) >= 10
    guilty, terminals = run(modules)
    assert guilty is None
    assert "textual" not in terminals


def test_commands_import_no_torch_until_they_need_it() -> None:
    modules = {module.name for module in pkgutil.walk_packages(ssdkd_cli.__path__, "ssdkd_cli.")}
    assert "ssdkd_cli.commands.run" in modules
    guilty, _ = run(modules)
    assert guilty is None
