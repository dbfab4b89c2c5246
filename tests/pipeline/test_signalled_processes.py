"""Signals to real `ssdkd run` processes: their exit codes, and what they leave."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from run_outputs import lines

from stages.run_directory import RunDirectory

# One process per case, forked once torch is imported, for that is what takes long. Each signals itself at a moment of
# choice, so that nothing depends on how fast the machine is.
SCRIPT = """
import os, signal, sys
from ssdkd_cli.main import main
from stages import trainer

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
execute = trainer.execute

def run(name):
    numbers = [signal.Signals[part] for part in name.split("-")]

    def signal_self(event, epoch):
        if event.kind == "distillation_step":
            while numbers:
                os.kill(os.getpid(), numbers.pop(0))

    trainer.execute = lambda planned, listeners, **how: execute(planned, [*listeners, signal_self], **how)
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


def test_exit_codes(make_config, tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(make_config().to_toml(), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "SIGTERM", "SIGINT-SIGINT"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    told = {name: (tmp_path / f"{name}.err").read_text() for name in ("SIGTERM", "SIGINT-SIGINT")}
    assert done.stdout.splitlines() == ["SIGTERM 75", "SIGINT-SIGINT 130"], told
    assert not any("Traceback" in text for text in told.values())

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
