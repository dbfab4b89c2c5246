"""A file that is to give a network, looked at without running it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stages.models.model_file import problem_of

BINDING = {
    "function": "def build(num_classes): ...",
    "coroutine": "async def build(num_classes): ...",
    "class": "class build: ...",
    "assignment": "other, build = 1, 2",
    "annotated": "build: object = print",
    "under a condition": "if True:\n    build = print\nelse:\n    def build(): ...",
    "in a try": "try:\n    from a import b as build\nexcept ImportError:\n    pass",
    "import": "from a import build",
    "all of another": "from a import *",
    "made on demand": "def __getattr__(name): ...",
    "with a warning": "def build(): '\\d'",
}


@pytest.mark.parametrize("text", BINDING.values(), ids=BINDING.keys())
def test_every_way_to_bind_a_name_is_known(tmp_path: Path, text: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(text)
    assert problem_of(str(file), "build") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no function `build`"),
        ("class A:\n    def build(self): ...", "has no function `build`"),
        ("def outer():\n    build = 1", "has no function `build`"),
        ("print(build)", "has no function `build`"),
        ("from a import build as b", "has no function `build`"),
        ("def build(:", "is not valid Python"),
        ("\0", "is not valid Python"),
    ],
)
def test_a_file_that_has_no_such_function(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "net.py"
    file.write_text(text)
    problem = problem_of(str(file), "build")
    assert problem is not None
    assert message in problem.message
    assert problem.hint


def test_no_function_no_file_and_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("def build(): ...")
    Path("folder.py").mkdir()
    told = [problem_of("net.py", ""), problem_of("gone.py", "build"), problem_of("folder.py", "build")]
    assert [problem and problem.message for problem in told] == [
        "`net.py` is named without a function",
        "no such file: `gone.py`",
        "no such file: `folder.py`",
    ]
    assert f"relative paths start at {tmp_path}" in [problem and problem.hint for problem in told]
