"""Signals to real `ssdkd run` processes: their exit codes, and what they leave."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child_process import PATIENCE_S, run_python
from run_outputs import assert_same_outcome, lines

from stages.config import Config
from stages.run_directory import RunDirectory
from stages.trainer import resume

# One process per case, forked once torch is imported, for that is what takes long. Each signals itself at a moment of
# choice, so that nothing depends on how fast the machine is.
SCRIPT = """
import os, signal, sys
from pathlib import Path
from ssdkd_cli.main import main
from stages import safe_point, trainer

safe_point._ECHO_S = -1.0  # two signals are two key presses, however soon
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it, and others
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
    signal.signal(number, signal.SIG_DFL)
plan, execute, replace = trainer.plan, trainer.execute, Path.replace

def run(name):
    signals, _, moment = name.partition("@")
    numbers = [signal.Signals[part] for part in signals.split("-")]

    def signal_self():
        while numbers:
            os.kill(os.getpid(), numbers.pop(0))

    def plan_or_signal(*given, **named):
        if moment == "plan":
            signal_self()
        return plan(*given, **named)

    def listen(event, epoch):
        if event.kind == moment or (not moment and event.kind == "distillation_step"):
            if not moment or epoch == 3:  # past the first checkpoint
                signal_self()

    def replace_or_signal(path, target):
        if Path(target).name == moment:
            signal_self()
        return replace(path, target)

    trainer.plan = plan_or_signal
    trainer.execute = lambda planned, listeners, **how: execute(planned, [*listeners, listen], **how)
    Path.replace = replace_or_signal
    for descriptor, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{name}.{stream}", os.O_WRONLY | os.O_CREAT), descriptor)
    return main(["run", "--preset", "tiny.toml", "--out", name, "--json"])

for name in sys.argv[1:]:
    process = os.fork()
    if process == 0:
        code = run(name)
        sys.stdout.flush()
        os._exit(code)
    print(name, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def signalled(folder: Path, config: Config, *names: str) -> dict[str, int]:
    """How runs of these settings end that signal themselves: `SIGNAL-SIGNAL@moment` each, in a directory so named."""
    (folder / "tiny.toml").write_text(config.to_toml(), encoding="utf-8")
    told = run_python("-c", SCRIPT, *names, cwd=folder).out.splitlines()
    return {name: int(code) for name, _, code in (line.partition(" ") for line in told)}


def test_exit_codes(make_config, tmp_path: Path) -> None:
    late = "SIGINT-SIGINT@epoch-000004.safetensors"
    expected = {
        **{"SIGTERM": 75, "SIGUSR1": 75, "SIGINT-SIGTERM": 75, "SIGINT-SIGINT": 130, late: 130},
        **{"SIGTERM@plan": 130, "SIGUSR1@plan": 130, "SIGHUP@plan": 130},
        "SIGTERM@run_finished": 0,  # over, and all is saved
    }
    codes = signalled(tmp_path, make_config(), *expected)
    told = {name: (tmp_path / f"{name}.err").read_text() for name in codes}
    assert codes == expected, told
    assert not any("Traceback" in text for text in told.values())
    assert not any((tmp_path / name).exists() for name in codes if name.endswith("@plan"))

    stopped = RunDirectory(tmp_path / "SIGTERM")
    assert stopped.status() == "stopped"
    summary = json.loads((tmp_path / "SIGTERM.out").read_text())
    assert (summary["status"], summary["epochs"]) == ("stopped", 1)
    assert lines(stopped.path)[-1]["summary"] == summary
    assert "ssdkd run --resume SIGTERM" in told["SIGTERM"]
    assert "saving and stopping at the next safe point" in told["SIGTERM"]
    assert stopped.latest_checkpoint() == stopped.checkpoint_file(2)

    interrupted = RunDirectory(tmp_path / "SIGINT-SIGINT")
    assert interrupted.status() == "dead"
    assert (tmp_path / "SIGINT-SIGINT.out").read_text() == ""
    assert interrupted.latest_checkpoint() is None
    assert "ended at once, in epoch 2: nothing had been saved yet\n" in told["SIGINT-SIGINT"]
    assert "hint: `ssdkd run --resume SIGINT-SIGINT` begins it anew\n" in told["SIGINT-SIGINT"]
    assert "ended at once, in epoch 4: checkpoints/epoch-000002.safetensors is kept\n" in told[late]
    assert f"hint: go on from there with `ssdkd run --resume {late}`\n" in told[late]


def test_a_scheduler_that_insists_spoils_no_exit_code(make_config, tmp_path: Path) -> None:
    """Until the process is gone, and while the summary is written."""
    (tmp_path / "tiny.toml").write_text(make_config("run.epochs=100000").to_toml(), encoding="utf-8")
    arguments = [sys.executable, "-m", "ssdkd_cli", "run", "--preset", "tiny.toml", "--out", "run", "--json"]
    events = tmp_path / "run" / "events.jsonl"
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        try:
            while "distillation_step" not in (events.read_text() if events.exists() else ""):
                assert run.poll() is None
                time.sleep(0.05)
            give_up_s = time.monotonic() + PATIENCE_S
            while run.poll() is None and time.monotonic() < give_up_s:
                run.send_signal(signal.SIGTERM)
                time.sleep(0.005)
        finally:
            run.kill()
        out, _ = run.communicate()
    assert (run.returncode, json.loads(out)["status"]) == (75, "stopped")


@pytest.mark.parametrize("changes", [(), ("inversion.overlap=true", "run.threads=2")], ids=str)
def test_a_killed_process_loses_nothing_that_was_saved(make_config, start_in, tmp_path: Path, changes) -> None:
    """No handler, no `finally`, no thread is waited for; the next process goes on to the same student."""
    moments = ("inversion_step", "distillation_step", "buffer.safetensors", "epoch-000002.safetensors")
    names = [f"SIGKILL@{moment}" for moment in moments]
    assert signalled(tmp_path, make_config(*changes), *names) == dict.fromkeys(names, -signal.SIGKILL)
    start_in(tmp_path / "undisturbed", *changes)
    for name in names:
        assert RunDirectory(tmp_path / name).status() == "dead"
        assert resume(tmp_path / name).summary["status"] == "done"
        assert_same_outcome(tmp_path / name, tmp_path / "undisturbed")
        assert list((tmp_path / name).rglob(".*.tmp")) == []
