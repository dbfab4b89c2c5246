"""`ssdkd plugins ls`: ours, a stranger's, and a broken one that spoils nothing."""

from __future__ import annotations

import json
import os

import pytest
from child_process import run_ssdkd

ENTRY_POINTS = """
[ssdkd.models]
tinynet = stranger:TINYNET
missing = no_such_module:SPEC
leaves = stranger_that_exits:SPEC
number = stranger:NUMBER
twin = stranger:TWIN
"""
STRANGER = """
print("welcome")
from stages.registry import Spec
TINYNET = Spec("tinynet", "stranger:build", "a network of two layers")
TWIN = Spec("tinynet", "stranger:build", "another with the same name")
NUMBER = 7
"""


@pytest.fixture
def strangers(tmp_path):
    """An environment in which another package is installed, some of it broken."""
    site = tmp_path / "site"
    info = site / "stranger-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.2\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(ENTRY_POINTS, encoding="utf-8")
    (site / "stranger.py").write_text(STRANGER, encoding="utf-8")
    (site / "stranger_that_exits.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}


def test_ours_are_listed_with_their_groups(call):
    result = call("plugins", "ls", "--json")
    assert (result.code, result.err) == (0, "")
    found = {(plugin["group"], plugin["name"]): plugin for plugin in json.loads(result.out)}
    assert found["stages", "inversion"]["package"] == "ssdkd"
    assert found["datasets", "digits"]["error"] is None
    assert found["models", "wrn"]["example"] == "wrn40_2"
    assert all(plugin["summary"] for plugin in found.values())


def test_a_row_each_off_a_terminal(call):
    rows = [line.split("\t") for line in call("plugins", "ls").out.splitlines()]
    assert all(len(row) == 4 for row in rows)
    assert ["datasets", "digits"] in [row[:2] for row in rows]


def test_broken_plugins_are_told_and_spoil_nothing(strangers):
    result = run_ssdkd("plugins", "ls", "--json", environment=strangers)
    assert (result.code, result.err) == (0, "welcome\n")
    plugins = [plugin for plugin in json.loads(result.out) if plugin["package"] == "stranger"]
    assert {plugin["version"] for plugin in plugins} == {"1.2"}
    errors = {(plugin["name"], plugin["summary"]): plugin["error"] for plugin in plugins}
    assert "no_such_module" in errors["missing", None]
    assert "SystemExit: 9" in errors["leaves", None]
    assert "not a Spec" in errors["number", None]
    of_same_name = [error for (name, _), error in errors.items() if name == "tinynet"]
    assert sorted(error or "" for error in of_same_name) == ["", "another plugin of this group has the same name"]
    assert any(plugin["name"] == "digits" for plugin in json.loads(result.out))
