"""Paths as people type them, as they can paste them, and what can be seen at their ends."""

from __future__ import annotations

import json
import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.errors import FileError, MachineError


def typed_path(text: str | Path) -> Path:
    """Where a path leads that somebody typed: a leading `~` is a home folder. Nothing needs to be there.

    Raises FileError for what no file can be called.
    """
    try:
        path = Path(text).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    except RuntimeError as error:  # ~somebody
        raise FileError(f"`{text}` leads nowhere: there is no such user", hint="write the whole path") from error
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"`{text}` cannot be looked at: {reason}", hint="is it the path you mean?") from error
    return path


def user_cache() -> Path:
    """The folder in the user's cache for what was trained or fetched. Raises MachineError where there is no home."""
    import platformdirs

    try:
        return platformdirs.user_cache_path("ssdkd")
    except RuntimeError as error:  # a user that the system knows no home of, as in some containers
        raise MachineError(
            "there is no home folder for a cache of teachers and data sets",
            hint="set XDG_CACHE_HOME, or HOME, to a folder that can be written",
        ) from error


def in_shell(path: str | Path) -> str:
    """A path as it goes into a command that is to be pasted: quoted where a shell would take it apart."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)  # else an option


def is_there(path: Path) -> bool:
    """Whether one can see something there; False, too, where the file system does not answer or one may not look."""
    return os.path.exists(path)  # noqa: PTH110 - of pathlib's, these raise


def is_folder(path: Path) -> bool:
    """Whether one can see a folder there; False, too, where the file system does not answer or one may not look."""
    return os.path.isdir(path)  # noqa: PTH112


def json_object(path: Path) -> dict[str, Any]:
    """What a file holds; {} where there is none, or it holds no JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
