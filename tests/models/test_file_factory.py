"""Models from the user's own Python file, and every way in which such a file can fail."""

import sys

import pytest
import torch
from image_task import image_task

from stages.errors import ConfigError, FileError
from stages.models.build import build_model

GOOD = """
from torch import nn
def small_network(num_classes):
    return nn.Sequential(nn.Conv2d(3, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def build(text, name="network.py:small_network"):
        (tmp_path / "network.py").write_text(text)
        return build_model(name, task=image_task(5, (3, 8, 8)), where="teacher.model")

    return build


def test_the_function_is_called_with_num_classes(build):
    assert build(GOOD)(torch.rand(2, 3, 8, 8)).shape == (2, 5)


def test_a_function_that_takes_nothing_is_called_with_nothing(build):
    assert build(GOOD.replace("(num_classes)", "()").replace("num_classes", "5"))(torch.rand(2, 3, 8, 8)).shape == (
        2,
        5,
    )


def test_absolute_paths_and_folders(build, tmp_path):
    folder = tmp_path / "my models: v2"
    folder.mkdir()
    (folder / "network.py").write_text(GOOD)
    build("", f"{folder}/network.py:small_network")


def test_the_file_may_import_its_neighbours_and_leaves_sys_path_alone(build, tmp_path):
    (tmp_path / "neighbouring_blocks.py").write_text(GOOD)
    before = list(sys.path)
    build("from neighbouring_blocks import small_network")
    assert sys.path == before


def test_the_function_may_import_them_too(build, tmp_path):
    (tmp_path / "late_blocks.py").write_text(GOOD)
    build("def small_network(**kwargs):\n    import late_blocks\n    return late_blocks.small_network(**kwargs)\n")


def test_two_files_may_have_neighbours_of_one_name(build, tmp_path):
    text = "from twin_blocks import NUM\n" + GOOD.replace("nn.Flatten()", "*[nn.Identity()] * NUM, nn.Flatten()")
    for folder, num in (("old", 1), ("new", 2), ("old", 1)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "twin_blocks.py").write_text(f"NUM = {num}\n")
        (tmp_path / folder / "network.py").write_text(text)
        assert len(build("", f"{folder}/network.py:small_network")) == 3 + num


def test_a_library_of_an_environment_in_the_folder_is_loaded_once(build, tmp_path, monkeypatch):
    library = tmp_path / "old" / ".venv" / "lib"
    library.mkdir(parents=True)
    (library / "library_in_old.py").write_text("")
    monkeypatch.syspath_prepend(library)
    loaded = []
    for folder in ("old", "new"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "network.py").write_text("import library_in_old\n" + GOOD)
        build("", f"{folder}/network.py:small_network")
        loaded.append(sys.modules["ssdkd_model_file_network"].library_in_old)
    assert loaded[0] is loaded[1]


def test_a_changed_file_is_read_again(build):
    assert len(build(GOOD)) == 3
    longer = GOOD.replace("nn.Flatten()", "nn.Flatten(), nn.Identity()")
    assert len(build(longer)) == 4


def test_dataclasses_in_the_file(build):
    # They look their module up in sys.modules.
    build("from __future__ import annotations\nimport dataclasses\n@dataclasses.dataclass\nclass A:\n  x: int\n" + GOOD)


def test_what_it_prints_stays_out_of_stdout(build, capsys):
    build("print('loading')" + GOOD.replace("    return", "    print('building')\n    return"))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "loading\nbuilding\n"


def refused(build, kind, message, *arguments):
    with pytest.raises(kind, match=message) as raised:
        build(*arguments)
    assert raised.value.hint
    return raised.value


def test_missing_file(build, tmp_path):
    error = refused(build, FileError, r"no such file: `nowhere\.py`", GOOD, "nowhere.py:small_network")
    assert str(tmp_path) in error.hint


def test_a_folder(build, tmp_path):
    (tmp_path / "folder.py").mkdir()
    refused(build, FileError, r"no such file: `folder\.py`", GOOD, "folder.py:small_network")


def test_misspelt_function_gets_the_nearest(build):
    error = refused(build, ConfigError, "has no function `smal_network`", GOOD, "network.py:smal_network")
    assert error.hint == "write `network.py:small_network`"


def test_no_function_named(build):
    for name in ("network.py", "network.py:"):
        error = refused(build, ConfigError, "without a function", GOOD, name)
        assert "network.py:NAME" in error.hint


def test_something_that_is_not_a_function(build):
    refused(build, ConfigError, "has no function `small_network`", "small_network = 3")


def test_relative_imports_have_a_way_out(build):
    error = refused(build, FileError, "relative import", "from .layers import block")
    assert "from PACKAGE.MODULE import FUNCTION" in error.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import torch\n\nimport no_such_library_anywhere",
            r"No module named 'no_such_library_anywhere' \(line 3\)",
        ),
        ("def small_network(:", "SyntaxError"),
        ("x = 1\n1 / 0", r"ZeroDivisionError: division by zero \(line 2\)"),
        ("raise SystemExit(2)", "SystemExit: 2"),
        ("\0", "source code"),
    ],
)
def test_a_file_that_cannot_be_imported(build, text, message):
    refused(build, FileError, r"`network\.py` cannot be imported: .*" + message, text)
    assert "ssdkd_model_file_network" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def small_network(): pass", "returned a NoneType"),
        ("def small_network(num_classes):\n    raise KeyError('x')", r"failed: KeyError: 'x' \(line 2\)"),
        ("def small_network(num_classes): exit()", "failed: SystemExit"),
        ("def small_network(num_classes): return None", "returned a NoneType, not a torch.nn.Module"),
        ("import torch\ndef small_network(num_classes): return torch.nn.ReLU", "returned a type"),
    ],
)
def test_a_function_that_gives_no_network(build, text, message):
    error = refused(build, FileError, message, text)
    assert "num_classes only" in error.hint


NEEDS_MORE = """
from torch import nn
class SmallNetwork(nn.Sequential):
    def __init__(self, width, num_classes, *, depth, kernel_size=3, **unused):
        blocks = [nn.Conv2d(3, width, kernel_size)] + [nn.Conv2d(width, width, 1) for _ in range(depth)]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))
"""


def test_a_function_that_must_be_given_more_gets_an_example_that_works(build, tmp_path):
    error = refused(build, FileError, "must be given `width`, `depth`, which", NEEDS_MORE, "network.py:SmallNetwork")
    first, second = error.hint.split("`")[1::2]
    assert second == "def teacher(num_classes): return SmallNetwork(width=..., depth=..., num_classes=num_classes)"
    (tmp_path / "mine.py").write_text(f"{first}\n{second.replace('...', '4')}\n")
    assert build(NEEDS_MORE, "mine.py:teacher")(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    alone = refused(build, FileError, "must be given `width`, which", "def small_network(width): pass")
    assert "`def teacher(): return small_network(width=...)`" in alone.hint


def test_a_network_for_another_number_of_classes(build):
    refused(build, ConfigError, r"got shape \[1, 6\]", GOOD.replace("num_classes, 3", "6, 3"))


def test_a_library_that_is_not_installed_here(build):
    error = refused(build, FileError, "ModuleNotFoundError", "import no_such_library\n" + GOOD)
    assert error.hint.startswith("install what it imports where ssdkd is (`")
    assert "-c 'import no_such_library'" in error.hint
