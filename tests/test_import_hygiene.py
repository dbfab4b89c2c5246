"""What must answer at once, and what reads the files of a run, imports no torch and nothing that draws."""

from __future__ import annotations

import json
import pkgutil

import pytest
from child_process import run_python

import ssdkd_cli
import stages
from ssdkd_cli import watching

LIGHT = {
    *("stages", "stages.errors", "stages.events", "stages.config", "stages.config_table", "stages.registry"),
    *(f"stages.settings.{name}" for name in ("loading", "schema", "key_docs")),
    *(f"stages.planning.{name}" for name in ("preset_check", "launch_checks", "idle_settings")),
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
others = [name for name in ("typer", "textual", "rich", "matplotlib", "PIL") if name in sys.modules]
print(json.dumps([guilty, others]))
"""

CHECKED_PRESET = """
import json, sys, time
from stages.config import load
config = load(["cifar100-wrn", "fast5"], ["run.epochs=60"])
config.to_toml()
print(json.dumps({"modules": list(sys.modules), "cpu_s": time.process_time()}))
"""


def imported_with(modules: set[str]) -> set[str]:
    """What draws and is imported with these modules; torch is not."""
    guilty, others = json.loads(run_python("-c", SCRIPT, *sorted(modules)).out)
    assert guilty is None
    return set(others)


def test_light_modules_import_neither_torch_nor_what_draws() -> None:
    modules = {module.name for module in pkgutil.walk_packages(stages.__path__, "stages.")}
    packages = {module.name for module in pkgutil.walk_packages(stages.__path__, "stages.") if module.ispkg}
    schemas = {name for name in modules if name.endswith(".config")}
    assert len(packages) >= 8
    assert len(schemas) >= 4
    of_directories = {name for name in modules if name.startswith("stages.run_directory.")}
    assert len(of_directories) >= 9
    assert imported_with(LIGHT | packages | schemas | of_directories) == set()


def test_what_looks_at_runs_imports_neither_torch_nor_what_draws() -> None:
    modules = {module.name for module in pkgutil.walk_packages(watching.__path__, "ssdkd_cli.watching.")}
    assert len(modules) >= 10
    assert imported_with(modules | {"ssdkd_cli.dashboard.curves"}) <= {"rich"}


def test_commands_import_no_torch_until_they_need_it() -> None:
    modules = {module.name for module in pkgutil.walk_packages(ssdkd_cli.__path__, "ssdkd_cli.")}
    assert "ssdkd_cli.commands.run" in modules
    assert imported_with(modules) <= {"typer", "textual", "rich"}


def test_checking_a_preset_imports_nothing_heavy() -> None:
    heavy = {"torch", "torchvision", "numpy", "safetensors", "matplotlib", "typer", "rich", "textual", "ssdkd_cli"}
    assert not heavy & set(json.loads(run_python("-c", CHECKED_PRESET).out)["modules"])


@pytest.mark.slow
def test_checking_a_preset_takes_a_moment() -> None:
    # CPU time of the whole process, the best of three: about .3 s, .45 s beside another process, far less than torch.
    assert min(json.loads(run_python("-c", CHECKED_PRESET).out)["cpu_s"] for _ in range(3)) < 1
