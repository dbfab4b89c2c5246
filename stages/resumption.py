"""Whether a run can be gone on with, and with which settings on this machine."""

from __future__ import annotations

import json
import tomllib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any

import torch

from stages.config import Config, is_device_name, with_values
from stages.config_table import AUTO
from stages.errors import ConfigError, FileError
from stages.events import BufferState, CheckpointSaved, RunFinished, RunResumed
from stages.files.file_digest import sha256_of
from stages.machine.device import num_usable_cpus, resolve_device, resolve_precision
from stages.manifest import git_revision, versions
from stages.own_code import changed_code
from stages.paths import in_shell
from stages.planning.footprint import check_disk, footprint_of
from stages.planning.plan import Launch, Plan, plan
from stages.run_directory import RunDirectory
from stages.run_directory.overview import lasting_settings, settings
from stages.teachers.resolve import teacher_file

_ENTRIES: dict[str, type | UnionType] = {
    "command": str,
    "preset": str,
    "automatic": list,
    "teacher_file": str,
    "teacher_sha256": str,
    "buffer": str | None,
    "buffer_sha256": str | None,
    "code_sha256": dict,
    "settings": dict,
    "settings_left_out": list,
    "versions": dict,
    "git_revision": str | None,
}
"""The entries of a manifest that a resumption reads, and their types: without them it is refused."""


def planned_again(directory: RunDirectory, config: Config, checkpoint: Path | None, *, device: str | None) -> Plan:
    """The plan of a run that goes on from a checkpoint, or from its beginning: where it was, unless a device is given.

    For the one process that has the run's lock. Raises FileError where files of the run are missing or damaged, or
    those it began with are other ones now; else as `plan`.
    """
    manifest = directory.manifest()
    device = device or _moved_to(directory, config)
    _refuse_incomplete(directory, manifest, checkpoint)
    _refuse_missing_teacher(directory, config, manifest)
    launch = Launch(
        command=manifest["command"],
        preset_name=manifest["preset"],
        buffer=None if checkpoint is not None else _first_buffer(manifest),  # a checkpoint has it
    )
    planned = plan(for_this_machine(config, manifest, device), launch, is_resumption=True)
    check_disk(_saving_bytes(directory, planned), directory.path, hint="free some space")
    _refuse_other_file(planned.teacher.path, planned.teacher.sha256, manifest["teacher_sha256"])
    started = directory.events.first()
    if started is not None:  # even where the data that knew them has come or gone since
        names = started.get("class_names")
        planned = replace(planned, class_names=None if names is None else tuple(names))
    warnings = (
        *planned.warnings,
        *_warnings_of_divergence(directory, manifest),
        *_warnings_of_precision(planned.config, planned.device, directory, manifest),
        *_warnings_of_code(planned.config, manifest),
        *_warnings_of_versions(manifest),
    )
    return replace(planned, warnings=warnings)


def refuse_other_settings(directory: RunDirectory, config: Config, command: str, *, buffer: Path | None = None) -> None:
    """Raise ConfigError where the run in a folder is not the one that is asked for: by its settings, its teacher, or
    the `buffer` that was named for it.

    What may change while a run goes on may be otherwise, too. Of a damaged manifest nothing is said here.
    """
    manifest = directory.manifest()
    before, left_out, automatic = (manifest.get(key) for key in ("settings", "settings_left_out", "automatic"))
    if not isinstance(before, dict) or not isinstance(left_out, list) or not isinstance(automatic, list):
        return
    wanted = lasting_settings(tomllib.loads(config.tables_as_toml()), left_out)
    wanted |= {key: before.get(key) for key in automatic if wanted.get(key) == AUTO}
    other = _changed_settings(before, wanted)
    if manifest.get("command") != command:
        other.append(f"it is of `ssdkd {manifest.get('command')}`")
    with suppress(FileError):  # where the teacher has moved, the run's own settings say it
        if manifest.get("teacher_sha256") not in (None, sha256_of(teacher_file(config))):
            other.append("the teacher's file is another one")
    if buffer is not None and manifest.get("buffer_sha256") != sha256_of(buffer):
        other.append("it began with another buffer")
    if other:
        raise ConfigError(
            f"{directory.path} holds another run than this command asks for: {', '.join(other)}",
            hint=f"give another --out; `ssdkd {manifest.get('command')} --resume {in_shell(directory.path)}` goes on"
            " with the one that is there",
        )


def _moved_to(directory: RunDirectory, config: Config) -> str | None:
    """The device that a run went on with last; None where its settings say it, or name another one since it began.

    Back to the one it began on leads `--device` alone.
    """
    started, resumed = directory.events.first(), directory.events.last(RunResumed.kind)
    if started is None or resumed is None or started.get("device") != config.run.device:
        return None
    device = resumed.get("device")
    return device if isinstance(device, str) and is_device_name(device) else None


def _refuse_incomplete(directory: RunDirectory, manifest: dict[str, Any], checkpoint: Path | None) -> None:
    """Raise FileError where going on would not be going on with this run."""
    path = in_shell(directory.path)
    unsound = [key for key, kind in _ENTRIES.items() if not isinstance(manifest.get(key, ...), kind)]
    if unsound:
        told = f": see its {', '.join(unsound)}" if manifest else ""
        raise FileError(
            f"{directory.manifest_file} is missing or damaged{told}",
            hint="it says what the run was made with; `ssdkd runs verify` looks at all files of the run",
        )
    anew = how_to_begin_anew(directory, manifest)
    left_out = manifest["settings_left_out"]
    changed = _changed_settings(manifest["settings"], lasting_settings(settings(directory), left_out))
    if changed:
        raise FileError(
            f"{directory.config_file} was changed since the run began: {', '.join(changed)}",
            hint=f"undo what was changed; only these may differ: {', '.join(_shown(key) for key in left_out)}; {anew}",
        )
    if checkpoint is None and directory.events.last(CheckpointSaved.kind) is not None:
        raise FileError(
            f"the checkpoints of {directory.path} are gone: it would begin anew and write over what it has reached",
            hint=f"put one back into {path}/{directory.checkpoints_dir.name}, or {anew}",
        )


def _changed_settings(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A sentence for each key whose value is not what it was."""
    keys = [*now, *(key for key in before if key not in now)]
    return [
        f"`{key}` is {_told(now.get(key))} and was {_told(before.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    ]


def _told(value: Any) -> str:
    return "not there" if value is None else json.dumps(value, ensure_ascii=False)


def _shown(key: str) -> str:
    """A key of a preset, or all of a table."""
    return f"{key}*" if key.endswith(".") else key


def how_to_begin_anew(directory: RunDirectory, manifest: dict[str, Any]) -> str:
    """The command for a new run with the settings that are in this one's folder now."""
    buffer = "" if manifest["buffer"] is None else f" --buffer {in_shell(manifest['buffer'])}"
    command = f"ssdkd {manifest['command']} --preset {in_shell(directory.config_file)}{buffer}"
    return f"`{command}` starts a new run with these settings"


def _refuse_missing_teacher(directory: RunDirectory, config: Config, manifest: dict[str, Any]) -> None:
    """Raise FileError where the teacher is not where it was, and say how to name its place."""
    try:
        teacher_file(config)
    except FileError as error:
        raise FileError(
            error.message,
            hint=f"put it back, or write where it is now into {directory.config_file}, `teacher.weights`: its sha256"
            f" is checked; the run began with {manifest['teacher_file']}",
        ) from error


def _saving_bytes(directory: RunDirectory, planned: Plan) -> int:
    """What the next save takes beside the files that are there; the buffer of `distill` is in the checkpoint."""
    size = (directory.events.last(BufferState.kind) or {}).get("size")
    num_stored = size if isinstance(size, int) else 0
    footprint = footprint_of(
        planned.config, planned.schedule, task=planned.task, student=planned.student, num_stored=num_stored
    )
    return max(planned.footprint.saving_bytes, footprint.saving_bytes)


def _warnings_of_divergence(directory: RunDirectory, manifest: dict[str, Any]) -> tuple[str, ...]:
    ending = directory.events.last(RunFinished.kind) or {}
    if ending.get("status") != "diverged":
        return ()
    anew = how_to_begin_anew(directory, manifest)
    return (f"this run diverged, and does so again where nothing has changed; {anew}: add --set to change some",)


def _warnings_of_precision(
    config: Config, device: torch.device, directory: RunDirectory, manifest: dict[str, Any]
) -> tuple[str, ...]:
    """A run keeps the precision that was chosen where it began; a new one might have another where it goes on."""
    best = resolve_precision("auto", device)
    if "run.precision" not in manifest["automatic"] or config.run.precision == best:
        return ()
    anew = how_to_begin_anew(directory, manifest)
    other = f"auto is {best} on {device} ({anew}, with --set run.precision=auto added)"
    return (f"this run goes on in {config.run.precision}, as it began; {other}",)


def _warnings_of_code(config: Config, manifest: dict[str, Any]) -> tuple[str, ...]:
    """Files of the user's that make its networks, and were changed: others may have weights of the same names."""
    changed = [f"`{key}`" for key in changed_code(config, manifest)]
    if not changed:
        return ()
    return (f"this run began with another file as {' and '.join(changed)}, and goes on with what is in it now",)


def _warnings_of_versions(manifest: dict[str, Any]) -> tuple[str, ...]:
    """What has been installed since the run began: it then goes on, but not to the bit."""
    before, now = manifest["versions"] | {"code": manifest["git_revision"]}, versions() | {"code": git_revision()}
    changed = [
        f"{name} {before[name]} -> {now[name]}"
        for name in now
        if None not in (before.get(name), now[name]) and before[name] != now[name]
    ]
    return (f"this run began with other versions, and goes on with today's: {', '.join(changed)}",) if changed else ()


def for_this_machine(config: Config, manifest: dict[str, Any], device: str | None) -> Config:
    """The settings, on `device` where one is given; what was "auto" is so again where that is of another kind or this
    machine has fewer CPUs."""
    wanted = str(resolve_device(device)) if device == "auto" else device or config.run.device
    is_same_kind = wanted.partition(":")[0] == config.run.device.partition(":")[0]
    has_fewer_cpus = config.run.threads != "auto" and config.run.threads > num_usable_cpus()
    has_other = {"run.acceleration": not is_same_kind, "run.threads": has_fewer_cpus}
    automatic = [key for key in manifest["automatic"] if has_other.get(key)]
    return with_values(config, dict.fromkeys(automatic, "auto") | ({} if device is None else {"run.device": device}))


def _first_buffer(manifest: dict[str, Any]) -> Path | None:
    """The buffer file that a run of `distill` began with."""
    if manifest["buffer"] is None:
        return None
    path = Path(manifest["buffer"])
    if path.is_file():
        _refuse_other_file(path, sha256_of(path), manifest["buffer_sha256"])
    return path


def _refuse_other_file(path: Path, sha256: str, expected_sha256: str) -> None:
    """Raise FileError where a file has another checksum than when the run began."""
    if sha256 != expected_sha256:
        raise FileError(
            f"{path} is not the file that this run began with",
            hint="put the old file back; manifest.json has its sha256",
        )
