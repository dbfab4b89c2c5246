"""The commands that measure growth, start-up and the dashboard: they run, and measure what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmark_modules import BENCHMARKS
from child_process import run_python

pytestmark = pytest.mark.slow


def measured(folder: Path, script: str, *options: str) -> tuple[dict[str, Any], str]:
    """The document that a benchmark writes, and what it prints."""
    file = folder / "document.json"
    printed = run_python(BENCHMARKS / script, *options, "--json", file, cwd=folder).out
    return json.loads(file.read_text()), printed


def test_growth(tmp_path: Path) -> None:
    plot = tmp_path / "growth.png"
    document, printed = measured(tmp_path, "speed/growth.py", "--sizes", "256,64", "--plot", str(plot))
    small, large = document["results"]
    assert (small["size"], large["size"]) == (64, 256)
    image_mib = 3 * 32 * 32 / 2**20
    for result in (small, large):
        operations = [row["operation"] for row in result["rows"]]
        assert operations == [row["operation"] for row in large["rows"]]
        assert all(min(row["milliseconds"]) > 0 for row in result["rows"])
        for mib in result["file_mib"].values():
            assert 1 < mib / (result["size"] * image_mib) < 1.1, "images, and little beside them"
        assert all(name in printed for name in operations)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_startup(tmp_path: Path) -> None:
    options = ("--repeat", "2", "--cold-repeat", "0", "--parts", "commands", "--bytecode", "kept")
    document, printed = measured(tmp_path, "speed/startup.py", *options)
    (result,) = document["results"]
    assert (result["bytecode"], result["cache"]) == ("kept", "warm")
    assert set(result["cases"]) == {"--help", "presets ls", "refused key", "watch --once"}
    for name, starts in result["cases"].items():
        assert len(starts) == 2
        assert all(start["cpu_s"] > 0 for start in starts)
        assert name in printed
    assert "limit 0.3" in printed


def test_dashboard(tmp_path: Path) -> None:
    options = ("--parts", "first-paint", "--events", "500", "--repeats", "1")
    document, printed = measured(tmp_path, "dashboard/measure.py", *options)
    found = document["first_paint"]
    assert found["num_events"] == 500
    assert 0 < found["first_paint_s"][0] <= found["whole_history_s"][0]
    assert found["peak_mib"][0] > 10
    assert "first paint" in printed
