"""`ssdkd doctor`: what is there, and what is missing."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ssdkd_cli.commands import doctor


def test_a_machine_that_has_everything(call, place):
    result = call("doctor", "--json")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["problems"] == []
    assert set(report["packages"]) == set(doctor.NEEDED_PACKAGES)
    assert all(report["packages"].values())
    assert report["cpu"]["threads"] >= 1
    assert isinstance(report["cpu"]["bf16"], bool)
    assert report["folder"]["path"] == str(place)
    assert report["folder"]["writable"] is True
    assert report["cache"]["path"].endswith("cache/ssdkd")
    assert list(place.iterdir()) == []


def test_what_auto_comes_to_is_what_a_run_takes(call):
    said = json.loads(call("doctor", "--json").out)["auto"]
    options = ("--set", "run.threads=auto", "--set", "run.precision=auto", "--set", "run.device=auto")
    options += ("--set", "run.acceleration=auto")
    taken = json.loads(call("run", "--dry-run", "--json", *options).out)
    assert {name: said[name]["value"] for name in said} == {name: taken[name] for name in said}
    assert set(said) == {"device", "precision", "acceleration", "threads"}
    people = call("doctor").out
    for name, resolved in said.items():
        assert re.search(rf"^{name} +auto is {resolved['value']} here: {re.escape(resolved['why'])}$", people, re.M)


@pytest.mark.parametrize(
    ("is_fast", "precision", "why"), [(True, "bf16", "matrices faster;"), (False, "fp32", "no hardware")]
)
def test_precision_follows_the_hardware(call, monkeypatch, is_fast, precision, why):
    monkeypatch.setattr("stages.machine.device.has_fast_bf16", lambda device: is_fast)
    said = json.loads(call("doctor", "--json").out)
    assert said["auto"]["precision"]["value"] == precision
    assert why in said["auto"]["precision"]["why"]
    assert said["cpu"]["bf16"] is is_fast


@pytest.mark.parametrize(
    ("can_compile", "why"), [(True, "auto compiles long runs"), (False, "takes Linux, a C++ compiler")]
)
def test_whether_long_runs_are_compiled(call, monkeypatch, can_compile, why):
    monkeypatch.setattr("stages.machine.device.can_compile_for_cpu", lambda: can_compile)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = json.loads(call("doctor", "--json").out)["auto"]["acceleration"]
    assert said["value"] == "eager"
    assert why in said["why"]


@pytest.mark.parametrize(("is_warm", "words"), [(True, "kept warm: "), (False, "not kept warm, for want of glibc: ")])
def test_the_heap(call, monkeypatch, is_warm, words):
    monkeypatch.setattr("ssdkd_cli.commands.doctor.keep_heap_warm", lambda: is_warm)
    assert json.loads(call("doctor", "--json").out)["cpu"]["keeps_freed_memory"] is is_warm
    assert re.search(rf"^heap +{words}", call("doctor").out, re.M)


def test_why_there_is_no_gpu(call, monkeypatch):
    def is_available():
        warnings.warn("CUDA initialization: the driver is too old\nPlease update", UserWarning, stacklevel=1)
        return False

    def why():
        return json.loads(call("doctor", "--json").out)["auto"]["device"]["why"]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert why() == "torch, built for CUDA 13.2, finds no GPU with a driver"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert why() == "this torch is built without CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr("stages.machine.device.torch.cuda.is_available", is_available)
    monkeypatch.setattr(doctor, "_devices", lambda _problems: [])
    assert why() == "torch cannot use CUDA: CUDA initialization: the driver is too old"


@pytest.fixture
def gpu(monkeypatch):
    """A machine with one GPU that works."""
    properties = SimpleNamespace(name="NVIDIA Example", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr("stages.machine.device._compute", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (70 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.version, "cuda", "13.2")


def test_a_gpu_that_is_there_and_cannot_be_used(call, gpu, monkeypatch):
    def fail(_device):
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nFor debugging")

    monkeypatch.setattr("stages.machine.device._compute", fail)
    result = call("doctor", "--json")
    report = json.loads(result.out)
    assert result.code == 4
    assert report["devices"][0]["free_memory_mib"] is None
    problem = "cuda:0 is there and cannot be used: CUDA error: no kernel image is available for execution on the device"
    assert report["problems"] == [problem]
    assert re.search(r"^cuda:0 +NVIDIA Example, .*unusable", call("doctor").out, re.M)


def test_a_gpu_is_described(call, gpu):
    report = json.loads(call("doctor", "--json").out)
    assert report["auto"]["device"] == {"value": "cuda:0", "why": "torch, built for CUDA 13.2, can use 1 GPU(s)"}
    assert report["auto"]["precision"]["value"] == "bf16"
    assert report["auto"]["acceleration"]["value"] == "graphs"
    assert "the GPU multiplies" in report["auto"]["precision"]["why"]
    assert report["devices"] == [
        {
            "device": "cuda:0",
            "name": "NVIDIA Example",
            "capability": "9.0",
            "memory_mib": 81920,
            "free_memory_mib": 71680,
            "bf16": True,
        }
    ]
    text = "NVIDIA Example, compute capability 9.0, 81,920 MiB, 71,680 MiB free, fast bf16: yes"
    assert re.search(rf"^cuda:0 +{text}$", call("doctor").out, re.M)


class NVMLError(Exception):
    pass


@pytest.mark.parametrize("answers", [True, False])
def test_nvml_that_is_installed(call, monkeypatch, answers):
    def start():
        if not answers:
            raise NVMLError("Driver Not Loaded")

    library = SimpleNamespace(nvmlInit=start, nvmlShutdown=lambda: None, NVMLError=NVMLError)
    monkeypatch.setitem(sys.modules, "pynvml", library)
    nvml = json.loads(call("doctor", "--json").out)["nvml"]
    assert nvml["usable"] is answers
    assert answers or nvml["why"] == "it does not answer: Driver Not Loaded"
    assert re.search(rf"^NVML +{'there' if answers else 'not there'}: ", call("doctor").out, re.M)


def test_nvml_that_is_not_installed(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    nvml = json.loads(call("doctor", "--json").out)["nvml"]
    assert nvml == {"usable": False, "why": "nvidia-ml-py is not installed"}


def test_bytecode(call, monkeypatch, tmp_path):
    """Python's cache is where `sys.pycache_prefix` says, or beside the sources."""

    def bytecode():
        return json.loads(call("doctor", "--json").out)["bytecode"]

    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert bytecode()["kept"] is False
    assert "PYTHONDONTWRITEBYTECODE is set" in bytecode()["why"]
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert bytecode()["kept"] is False
    assert f"{tmp_path}" in bytecode()["why"]
    assert "cannot be written" in bytecode()["why"]
    compiled = Path(importlib.util.cache_from_source(torch.__file__))
    compiled.parent.mkdir(parents=True)
    compiled.touch()
    assert bytecode()["kept"] is True


def test_runs_that_is_a_file_is_a_problem(call, place):
    (place / "runs").write_text("mine")
    problems = json.loads(call("doctor", "--json").out)["problems"]
    assert [problem for problem in problems if str(place / "runs") in problem and "is a file" in problem]


def test_people_get_a_line_for_each_thing(call):
    result = call("doctor")
    assert (result.code, result.err) == (0, "")
    names = [line.split("  ")[0] for line in result.out.splitlines()]
    for name in ("ssdkd", "Python", "bytecode", "device", "heap", "CPU", "NVML", "memory", "cache", "runs go to"):
        assert name in names


def test_a_missing_library_is_exit_4(call, monkeypatch):
    monkeypatch.setattr(doctor, "NEEDED_PACKAGES", (*doctor.NEEDED_PACKAGES, "no_such_library"))
    result = call("doctor", "--json")
    assert result.code == 4
    report = json.loads(result.out)
    assert report["packages"]["no_such_library"] is None
    assert any("no_such_library" in problem for problem in report["problems"])
    people = call("doctor")
    assert people.code == 4
    assert "no_such_library MISSING" in people.out
    assert "warning: no_such_library cannot be imported" in people.err


def test_a_full_disk_is_exit_4(call, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10 * 2**20))
    result = call("doctor", "--json")
    assert result.code == 4
    assert "10 MiB" in json.loads(result.out)["problems"][0]


def test_the_folder_that_runs_go_to_is_looked_at(tmp_path, monkeypatch):
    free = {"runs": SimpleNamespace(free=10 * 2**20), tmp_path.name: SimpleNamespace(free=10**12)}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free[folder.resolve().name])
    monkeypatch.chdir(tmp_path)
    assert doctor.examine()["folder"]["path"] == str(tmp_path)
    (tmp_path / "runs").mkdir()  # a mount of its own, perhaps
    report = doctor.examine()
    assert report["folder"]["path"] == str(tmp_path / "runs")
    assert "only 10 MiB" in report["problems"][0]


def test_teachers_in_the_cache_are_named(call, tmp_path):
    folder = tmp_path / "cache" / "ssdkd" / "teachers"
    folder.mkdir(parents=True)
    (folder / "wrn40_2-mine.safetensors").write_bytes(b"")
    assert json.loads(call("doctor", "--json").out)["cache"]["teachers"] == ["wrn40_2-mine.safetensors"]
