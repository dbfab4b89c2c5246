"""`ssdkd run` to its second inversion step, with the time of each phase: a child process of startup.py.

usage: startup_phases.py REPORT [--without NAME] -- run [options]

The command is the real one; a mark is set wherever one phase ends and the next begins. `--without` undoes one of the
means by which the start is short ("" undoes none), and ends where the first step begins:
    collector-at-rest    torch is imported with Python's garbage collector at work
    lazy-compiler        optimisers load torch's compiler
    torchvision-left-out torchvision is imported before real images are looked for
"""

from __future__ import annotations

import time

MARKS = [("interpreter", time.time(), time.process_time())]
"""(The phase that ends here, Unix time [s], processor time of this process [s])."""

import json  # noqa: E402 - the first mark is set as early as can be
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

WATCHED = ("torchvision", "torch._dynamo", "sympy", "matplotlib", "PIL", "textual")


def mark(phase: str) -> None:
    MARKS.append((phase, time.time(), time.process_time()))


def mark_around(module: Any, function: str, *, before: str | None, after: str) -> None:
    """Set a mark before and after each call of a module's function."""
    call = getattr(module, function)

    def called(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            mark(before)
        result = call(*args, **kwargs)
        mark(after)
        return result

    setattr(module, function, called)


def main(report: Path, without: str | None, arguments: list[str]) -> None:
    from ssdkd_cli import main as command_line
    from ssdkd_cli.commands import launching

    mark("command line")
    import_torch = (lambda: __import__("torch")) if without == "collector-at-rest" else launching.import_torch

    def import_and_prepare() -> None:
        mark("settings")
        import_torch()
        mark("import torch")
        from stages import events, trainer
        from stages.planning import plan
        from stages.teachers import load

        mark("import stages")
        if without == "torchvision-left-out":
            import torchvision  # noqa: F401

            mark("import torchvision")
        if without == "lazy-compiler":
            trainer.keep_compiler_unloaded = lambda: None
        mark_around(plan, "real_images", before="checks", after="real images")
        mark_around(plan, "build_model", before=None, after="student")
        mark_around(load, "sha256_of", before="teacher", after="teacher's sha256")
        mark_around(trainer, "_set_up", before="checks", after="set up of the stages")
        emit = events.EventLog.emit

        def emit_and_mark(log: Any, event: Any, *, epoch: int) -> None:
            emit(log, event, epoch=epoch)
            if isinstance(event, events.StageStarted):
                mark("run directory")
            if isinstance(event, events.InversionStep):
                mark("first step" if event.step == 0 else "second step")
            if MARKS[-1][0] == ("second step" if without is None else "run directory"):
                watched = {name: name in sys.modules for name in WATCHED}
                report.write_text(json.dumps({"marks": MARKS, "imported": watched}))
                os._exit(0)

        events.EventLog.emit = emit_and_mark  # type: ignore[method-assign]

    launching.import_torch = import_and_prepare
    sys.exit(command_line.main(arguments))


if __name__ == "__main__":
    split = sys.argv.index("--")
    main(Path(sys.argv[1]), sys.argv[3] if split > 2 else None, sys.argv[split + 1 :])
