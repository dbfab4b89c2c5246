"""Where a teacher's weights are: named by the user, shipped with the presets, or in the user's cache.

A shipped or cached file is called `<model>-<data set>.safetensors`, as in `wrn40_2-cifar100.safetensors`.
"""

from __future__ import annotations

import re
from pathlib import Path

import presets
from stages.config import Config
from stages.config_table import AUTO
from stages.errors import ConfigError, FileError, Problem
from stages.models import FILE
from stages.paths import typed_path, user_cache


def teacher_file(config: Config) -> Path:
    """The file `teacher.weights` means; it exists.

    "auto" is a teacher shipped with the presets, else one that `ssdkd teacher train` has put into the cache.
    Raises FileError where there is none, with the ways to get one.
    """
    if config.teacher.weights != AUTO:
        path = typed_path(config.teacher.weights)
        problem = missing_weights(path)
        if problem is not None:
            raise FileError(problem.message, hint=problem.hint)
        return path
    nameless = nameless_weights(config)
    if nameless is not None:
        raise FileError(nameless.message, hint=nameless.hint)
    shipped = shipped_teacher_file(config)
    if shipped is not None:
        return shipped
    cached = cached_teacher_file(config)
    if cached.is_file():
        return cached
    raise FileError(
        f"no teacher: {cached.name} is neither shipped with the presets nor in {cached.parent}",
        hint="use one you have (`--set teacher.weights=FILE`), train one and keep it there "
        "(`ssdkd teacher train --preset NAME`), or have a run train it first (`ssdkd run --train-teacher`)",
    )


def nameless_weights(config: Config) -> Problem | None:
    """What to say where nothing tells which file the teacher's is."""
    if config.teacher.weights != AUTO or config.teacher.trained_on is not None:
        return None
    hint = (
        "`--set teacher.weights=FILE` names your teacher's file; `--set teacher.trained_on=NAME` looks for one in the"
        " cache"
    )
    file = FILE.match(config.teacher.model)
    # A function may give the network with its weights, but runs are told from files, and verified by them.
    if file is not None and file["factory"] and Path(file["path"]).stem.isidentifier():
        module = Path(file["path"]).stem
        hint += (
            "; of a network that has its weights when it is built, save them once, beside its code (with the number of"
            " classes in the brackets, where it takes that):"
            f" `python -c 'import torch, {module}; torch.save({module}.{file['factory']}().state_dict(),"
            ' "teacher.pth")\'`'
        )
    return Problem('`teacher.weights` is "auto", but nothing says which data the teacher learned', hint)


def missing_weights(path: Path) -> Problem | None:
    """What to say where `teacher.weights` is a path that no file is at."""
    if path.is_file():
        return None
    what = "is a folder" if path.is_dir() else "does not exist"
    return Problem(
        f"the teacher's file {path} {what} (`teacher.weights`)",
        "name a .safetensors, .pt, .pth or .th file with the teacher's state dict;"
        f" relative paths start at {Path.cwd()}",
    )


def shipped_teacher_file(config: Config) -> Path | None:
    """The teacher that "auto" means before any other: one that ships with the presets, or None."""
    if config.teacher.trained_on is None:
        return None
    path = presets.teachers_folder() / _file_name(config.teacher.model, config.teacher.trained_on)
    return path if path.is_file() else None


def cached_teacher_file(config: Config) -> Path:
    """Where a teacher trained for this preset is kept, whether it is there or not.

    Raises ConfigError where the preset does not name the data set it learned.
    """
    if config.teacher.trained_on is None:
        raise ConfigError(
            "the preset does not say which data its teacher learns (`teacher.trained_on`)",
            hint="`--set teacher.trained_on=NAME`, or say where the file goes with `--out FILE`",
        )
    folder = user_cache() / "teachers"
    return folder / _file_name(config.teacher.model, config.teacher.trained_on)


def _file_name(model: str, trained_on: str) -> str:
    # `torchvision:resnet18` and `path/to/file.py:factory` have characters that are not for file names.
    return re.sub(r"[^\w.+-]+", "-", f"{model}-{trained_on}").strip("-") + ".safetensors"
