"""The package in docs/plugin, installed beside us, makes a run by its own preset."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest
from child_process import run_python

FOLDER = Path(__file__).parents[2] / "docs" / "plugin"

# Small; once stopped in its second epoch and resumed: the stage knows then what the student knew.
SCRIPT = """
import json, sys, warnings
from pathlib import Path

warnings.simplefilter("error")
from stages.config import load
settings = {
    "run.epochs": 3, "run.warmup_epochs": 1, "inversion.steps": 2, "inversion.batch_size": 24, "buffer.capacity": 48,
    "distillation.steps": 2, "distillation.batch_size": 16, "evaluation.num_holdout": 32, "run.checkpoint_every": 1,
    "forgetting.batch_size": 20,
}
config = load([sys.argv[1]], [f"{key}={value}" for key, value in settings.items()])
assert "torch" not in sys.modules, "the specs are light"

from ssdkd_cli.commands.plugins import find_plugins
from stages.run_directory import RunDirectory
from stages.run_directory.overview import details
from stages.trainer import Launch, execute, plan, resume

def stop(event, epoch):
    if event.kind == "stage_finished" and event.stage == "forgetting" and epoch == 2:
        Path("stopped/control.jsonl").write_text('{"id": "1", "action": "stop"}' + chr(10))

def start(out, *listeners):
    return execute(plan(config, Launch(command="run", preset_name="pixels", out=Path(out))), listeners)

summaries = [outcome.summary for outcome in (start("undisturbed"), start("stopped", stop), resume(Path("stopped")))]
found = [[plugin.group, plugin.name] for plugin in find_plugins() if plugin.package == "ssdkd-pixels"]
shown = [details(RunDirectory(Path(name))) for name in ("undisturbed", "stopped")]
print(json.dumps([summaries, found, shown]))
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The package on the path, with what an installation writes of its `pyproject.toml`."""
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / f"ssdkd_pixels-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    path = [str(info.parent), str(FOLDER), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path)}


def test_the_example_of_a_package_makes_a_run(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run_python("-B", "-c", SCRIPT, FOLDER / "pixels.toml", cwd=tmp_path, environment=environment)
    summaries, found, (undisturbed, stopped) = json.loads(done.out)
    assert [summary["status"] for summary in summaries] == ["done", "stopped", "done"]
    assert [summary["epochs"] for summary in summaries] == [3, 1, 3]
    assert sorted(found) == [["methods", "pixels"], ["stages", "forgetting"]]
    assert "forgetting" in summaries[0]["seconds"]
    assert undisturbed["measured"].keys() == {"forgetting/forgotten", "forgetting/learnt"}
    assert undisturbed["measured"] == stopped["measured"]
    assert undisturbed["config"]["inversion"]["options"] == {"lr": 0.05}
    told = [
        [
            event
            for line in (tmp_path / run / "events.jsonl").read_text().splitlines()
            if (event := json.loads(line))["kind"] in ("measured", "inversion_step")
        ]
        for run in ("undisturbed", "stopped")
    ]
    measured = [
        [(event["epoch"], event["values"]) for event in events if event["kind"] == "measured"] for events in told
    ]
    assert measured[0] == measured[1]
    assert [epoch for epoch, _ in measured[0]] == [2, 3]
    steps = [event["step"] for event in told[0] if event["kind"] == "inversion_step"]
    assert steps == [1, 1, 1], "the last step of each epoch is told"
    for name in ("student.safetensors", "buffer.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
