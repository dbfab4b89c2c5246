from __future__ import annotations

import json
from pathlib import Path

import pytest
from run_files import finished, make_run, started

from stages.errors import FileError
from stages.run_directory.lookup import (
    find_runs,
    group_of,
    list_groups,
    list_runs,
    newest_made_buffer,
    newest_run,
    resolve_run,
    run_to_watch,
)


def test_newest_run_is_the_one_taken_up_last(tmp_path: Path) -> None:
    for name, since_s in (("a", 30.0), ("b", 50.0), ("c", 40.0)):
        run = make_run(tmp_path / name)
        run.lock_file.write_text(json.dumps({"pid": 1, "since_s": since_s}))
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    assert [run.name for run in list_runs(tmp_path)] == ["b", "c", "a"]
    newest = newest_run(tmp_path)
    assert newest is not None
    assert newest.name == "b"
    assert newest_run(tmp_path / "gone") is None


def test_newest_run_may_be_in_a_group(tmp_path: Path) -> None:
    for name, since_s in (("single", 30.0), ("group/seed-0", 40.0), ("group/seed-1", 50.0)):
        make_run(tmp_path / name).lock_file.write_text(json.dumps({"pid": 1, "since_s": since_s}))
    assert resolve_run(None, tmp_path).name == "seed-1"


def test_the_newest_made_buffer_is_of_a_finished_run_that_made_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, command, status in (
        ("a", "invert", "done"),
        ("g/b", "run", "done"),
        ("c", "distill", "done"),
        ("d", "invert", "stopped"),
        ("e", "invert", "diverged"),
        ("f", "invert", "done"),
    ):
        run = make_run(Path("runs") / name, started(), finished(status))
        run.lock_file.write_text(json.dumps({"pid": 1, "since_s": float(ord(name[-1]))}))
        run.manifest_file.write_text(json.dumps({"command": command}))
        run.buffer_file.touch()
    run.buffer_file.unlink()  # of `f`
    buffer, run = newest_made_buffer()
    assert (buffer, run.name) == (Path("runs/g/b/buffer.safetensors"), "b")
    with run.lock.held():
        assert newest_made_buffer()[1].name == "a", "somebody is at work on the other one"
    monkeypatch.chdir(tmp_path / "runs" / "c")
    with pytest.raises(FileError, match="no buffer of a finished run in the folder runs") as error:
        newest_made_buffer()
    assert "ssdkd invert" in (error.value.hint or "")


def test_resolve_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "digits-1")
    for text in (str(run.path), "digits-1", None):
        assert resolve_run(text, tmp_path / "runs").path == run.path


def test_of_a_folder_the_run_at_work_is_watched_or_else_the_newest(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "group" / f"seed-{seed}") for seed in range(3)]
    for run, since_s in zip(runs, (30.0, 50.0, 40.0), strict=True):
        run.lock_file.write_text(json.dumps({"pid": 1, "since_s": since_s}))
    group = tmp_path / "group"

    def watched(text: str | None, root: Path = Path("runs")) -> tuple[str, Path | None]:
        run, folder = run_to_watch(text, root)
        return run.name, folder

    for text, root in ((str(group), Path("runs")), ("group", tmp_path), (None, group)):
        assert watched(text, root) == ("seed-1", group)
    assert watched(None, tmp_path) == ("seed-1", tmp_path)
    with runs[0].lock.held():
        runs[0].lock_file.write_text(json.dumps({"pid": 1, "since_s": 10.0}))
        assert watched("group", tmp_path) == ("seed-0", group)
        assert watched(None, tmp_path) == ("seed-0", tmp_path)
        assert watched(str(runs[2].path)) == ("seed-2", None)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("digits-2", "there is no run `digits-2`", "did you mean `digits-1`"),
        ("{root}", "is not a run directory but a folder of 1 runs", "/digits-1`"),
        ("weights.pth", "there is neither a run nor a file `weights.pth`", "relative paths start at"),
        ("{root}/empty", "is not a run directory: it has neither", "runs ls"),
        ("{root}/digits-1/config.toml", "is a file", "runs ls"),
    ],
)
def test_resolve_run_refuses(tmp_path: Path, text: str, message: str, hint: str) -> None:
    make_run(tmp_path / "digits-1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match=message) as caught:
        resolve_run(text.format(root=tmp_path), tmp_path)
    assert hint in str(caught.value.hint)


def test_resolve_run_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="there is no run in the folder"):
        resolve_run(None, tmp_path)


def test_a_group_is_a_folder_of_runs_in_the_order_of_their_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path / "runs" / "group" / f"seed-{seed}") for seed in (10, 2, 0)]
    (tmp_path / "runs" / "group" / "no run").mkdir()
    names = ["seed-0", "seed-2", "seed-10"]
    assert [run.name for run in group_of(str(tmp_path / "runs" / "group")) or []] == names
    assert [run.name for run in find_runs("group")] == names
    assert [run.name for run in list_groups(tmp_path / "runs")] == names
    assert group_of(str(runs[0].path)) is None
    assert [run.path for run in find_runs(str(runs[0].path))] == [runs[0].path]


def test_a_link_to_a_run_makes_no_second_one(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "group" / f"seed-{seed}") for seed in (0, 1)]
    (tmp_path / "group" / "latest").symlink_to("seed-1")
    (tmp_path / "best").symlink_to(runs[0].path)
    assert [run.name for run in group_of("group", tmp_path) or []] == ["seed-0", "seed-1"]
    (tmp_path / "alias").symlink_to("group")
    assert [run.path.parent.name for run in list_groups(tmp_path)] == ["group", "group"]
    # What lies elsewhere is called what the link is: that name finds it again.
    (linked,) = list_runs(tmp_path)
    assert linked.name == "best"
    assert resolve_run(linked.name, tmp_path).path.resolve() == runs[0].path


def test_a_folder_of_groups_is_watched_as_one_of_runs(tmp_path: Path) -> None:
    for seed, since_s in ((0, 30.0), (1, 50.0)):
        run = make_run(tmp_path / "runs" / "group" / f"seed-{seed}")
        run.lock_file.write_text(json.dumps({"pid": 1, "since_s": since_s}))
    run, folder = run_to_watch(str(tmp_path / "runs"), tmp_path / "elsewhere")
    assert (run.name, folder) == ("seed-1", tmp_path / "runs")


def test_groups_are_looked_for_in_their_folder_alone(tmp_path: Path, monkeypatch) -> None:
    make_run(tmp_path / "runs" / "same" / "seed-0")
    (tmp_path / "same").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [run.path for run in list_groups(Path())] == []
    assert [run.path for run in list_groups(Path("runs"))] == [Path("runs/same/seed-0")]


def test_a_folder_without_runs_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert group_of(str(tmp_path / "empty")) is None
    assert list_groups(tmp_path) == list_groups(tmp_path / "nowhere") == []
    with pytest.raises(FileError, match="not a run directory"):
        find_runs(str(tmp_path / "empty"))
