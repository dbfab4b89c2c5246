"""A preset is checked in a moment: nothing heavy is imported for it."""

import json

import pytest
from child_process import run_python

HEAVY = ("torch", "torchvision", "numpy", "safetensors", "matplotlib", "typer", "rich", "textual", "ssdkd_cli")

CHECK = """
import json, sys, time
from stages.config import load
config = load(["cifar100-wrn", "fast5"], ["run.epochs=60"])
config.to_toml()
print(json.dumps({"modules": list(sys.modules), "cpu_s": time.process_time()}))
"""


def checked() -> dict:
    return json.loads(run_python("-c", CHECK).out)


def test_checking_a_preset_imports_nothing_heavy():
    assert not set(HEAVY) & set(checked()["modules"])


@pytest.mark.slow
def test_checking_a_preset_takes_a_moment():
    # CPU time of the whole process, the best of three: about .3 s, .45 s beside another process, far less than torch.
    assert min(checked()["cpu_s"] for _ in range(3)) < 1
