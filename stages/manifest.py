"""What a run was made with: versions, machine, code revision, teacher, seed, command line."""

from __future__ import annotations

import json
import platform
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stages import registry
from stages.files.file_digest import sha256_of
from stages.machine.device import device_name
from stages.own_code import code_of
from stages.planning.plan import Plan
from stages.run_directory.overview import lasting_settings

_MAY_CHANGE = (
    *("teacher.", "student.model", "evaluation.data", "evaluation.root", "evaluation.split", "evaluation.resize"),
    *("evaluation.download", "evaluation.batch_size", "run.device", "run.threads", "run.acceleration"),
    *("run.eval_every", "run.checkpoint_every", "run.log_every"),
)
"""Settings, by the beginnings of their keys, that may be others when a run goes on: where things lie (the teacher has a
checksum of its own), what is measured, and how the machine does it."""

_PACKAGES = ("ssdkd", "torch", "torchvision", "numpy", "safetensors")


def manifest_of(planned: Plan) -> bytes:
    """The manifest as JSON."""
    launch, config = planned.launch, planned.config
    document: dict[str, Any] = {
        "schema": 1,
        "command": launch.command,
        "preset": launch.preset_name,
        "command_line": list(launch.command_line),
        "seed": config.run.seed,
        "automatic": list(planned.automatic),
        "teacher_file": str(planned.teacher.path.resolve()),
        "teacher_sha256": planned.teacher.sha256,
        "buffer": None if launch.buffer is None else str(launch.buffer.resolve()),
        "buffer_sha256": None if launch.buffer is None else sha256_of(launch.buffer),
        "code_sha256": code_of(config),
        "settings": lasting_settings(tomllib.loads(config.tables_as_toml()), _MAY_CHANGE),
        "settings_left_out": list(_MAY_CHANGE),
        "versions": versions(),
        "git_revision": git_revision(),
        "machine": {
            "platform": platform.platform(),
            "device": device_name(planned.device),
            "threads": config.run.threads,
        },
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def versions() -> dict[str, str | None]:
    """Of Python, the packages that a run's numbers depend on, and all that bring plugins."""
    names = [*_PACKAGES, *(name for name in registry.packages() if name not in _PACKAGES)]
    return {"python": platform.python_version()} | {name: _version(name) for name in names}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """The commit of the checkout that this code runs from, with "-dirty" where it has changes; None outside of one."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        tracked = subprocess.run(
            ["git", "-C", str(here), "ls-files", "--error-unmatch", Path(__file__).name],
            capture_output=True,
            timeout=5,
            check=False,
        )
        if tracked.returncode != 0:  # installed into an environment that happens to lie in somebody's checkout
            return None
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None
