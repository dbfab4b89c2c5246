"""The user's files that networks are made by: which they are, and whether they are those that a run was made with.

Weights fit by names and shapes alone, so a network whose code has changed loads as ever and computes something else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.config import Config
from stages.event_fields import mapping
from stages.files.file_digest import sha256_of
from stages.models import FILE
from stages.paths import typed_path


def code_of(config: Config) -> dict[str, str]:
    """The SHA-256 of each file that a network is made by and that is there, by the key that names it."""
    named = {"teacher.model": FILE.match(config.teacher.model), "student.model": FILE.match(config.student.model)}
    files = {key: typed_path(file["path"]) for key, file in named.items() if file is not None}
    return {key: sha256_of(file) for key, file in files.items() if file.is_file()}


def changed_code(config: Config, manifest: Mapping[str, Any]) -> list[str]:
    """The keys whose files have changed since the run began whose manifest this is."""
    before = mapping(manifest, "code_sha256")
    return [key for key, sha256 in code_of(config).items() if before.get(key, sha256) != sha256]


def doubts_of_code(
    config: Config, manifest: Mapping[str, Any], *, keys: Sequence[str] = ("teacher.model", "student.model")
) -> list[str]:
    """What to say of a finished run whose networks, those of the keys, are made by other code now."""
    return [
        f"the file that makes `{key}` has changed since the run: its weights may fit by names and shapes, and what it"
        " computes be something else"
        for key in changed_code(config, manifest)
        if key in keys
    ]
