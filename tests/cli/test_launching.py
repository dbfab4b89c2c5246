"""What is refused before the first step, and how outcomes become exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from ssdkd_cli.commands.launching import parse_seeds
from ssdkd_cli.options import asks_for_evaluation_data
from stages.config import load
from stages.errors import ConfigError, DivergedError, MachineError, StorageError

REFUSED = {
    "unknown key": (["--set", "distilation.steps=3"], 2, "distillation.steps"),
    "value out of range": (["--set", "run.epochs=0"], 2, "run.epochs"),
    "warm-up without end": (["--set", "run.epochs=2", "--set", "run.warmup_epochs=2"], 2, "warmup_epochs"),
    "no warm-up": (["--set", "run.warmup_epochs=0"], 2, "at the end of warm-up the hold-out is made"),
    "no key=value": (["--set", "run.epochs"], 2, "key=value"),
    "no Unicode": (["--set", "evaluation.root=/tmp/\udce4", "--out", "new"], 2, "UTF-8"),
    "data without its folder": (["--set", "evaluation.data=imagefolder"], 3, "evaluation.root"),
    "unknown preset": (["--preset", "digit"], 2, "did you mean `digits`?"),
    "preset file missing": (["--preset", "nowhere.toml"], 3, "nowhere.toml"),
    "preset file no TOML": (["--preset", "broken.toml"], 2, "broken.toml"),
    "unknown model": (["--set", "student.model=wrn16-1"], 2, "student.model"),
    "teacher missing": (["--set", "teacher.weights=nowhere.pt"], 3, "nowhere.pt"),
    "teacher is rubbish": (["--set", "teacher.weights=rubbish.safetensors"], 3, "rubbish.safetensors"),
    "teacher not cached": (["--set", "teacher.trained_on=nothing"], 3, "teacher train"),
    "other classes": (["--set", "task.num_classes=7"], 2, "10 classes"),
    "evaluation data missing": (
        ["--set", "evaluation.data=imagefolder", "--set", "evaluation.root=nowhere"],
        3,
        "nowhere",
    ),
    "out in use": (["--out", "used"], 2, "used"),
    "out is a file": (["--out", "broken.toml"], 2, "broken.toml"),
    "out under a file": (["--out", "broken.toml/x"], 4, "broken.toml is a file"),
    "dry run under a file": (["--out", "broken.toml/x", "--dry-run"], 4, "broken.toml is a file"),
    "unknown data": (["--set", "evaluation.data=mnist"], 2, "`none` does without"),
    "no kind of device": (["--device", "gpu"], 2, "--device gpu"),
    "no such device": (["--device", "cuda:99"], 4, "cuda:99"),
    "seeds are words": (["--seeds", "a,b"], 2, "--seeds a,b"),
    "dashboard off a terminal": (["--tui"], 2, "not a terminal"),
    "dashboard of a resumed run": (["--tui", "--resume", "nowhere"], 2, "not a terminal"),
    "resume and out": (["--resume", "used", "--out", "new"], 2, "--out"),
    "resume and set": (["--resume", "used", "--set", "run.seed=1"], 2, "distill --buffer used --set"),
    "resume and preset": (["--resume", "used", "--preset", "digits"], 2, "--preset"),
    "resume and dry run": (["--resume", "used", "--dry-run"], 2, "--dry-run"),
    "resume and estimate": (["--resume", "used", "--estimate"], 2, "--estimate"),
    "resume and teacher": (["--resume", "used", "--train-teacher"], 2, "--train-teacher"),
    "resume nothing": (["--resume", "nowhere"], 3, "nowhere"),
    "resume no run": (["--resume", "used"], 3, "used"),
}


@pytest.mark.parametrize(
    "command",
    [
        ("inspect-buffer", "locked/run"),
        ("evaluate", "locked/student.safetensors", "--preset", "digits"),
        ("run", "--dry-run", "--set", "teacher.weights=locked/teacher.pth"),
        ("run", "--dry-run", "--set", "evaluation.data=imagefolder", "--set", "evaluation.root=locked"),
        ("run", "--dry-run", "--set", "student.model=locked/net.py:build"),
    ],
    ids=lambda command: command[0],
)
def test_a_folder_that_may_not_be_entered_is_no_bug(call, monkeypatch: pytest.MonkeyPatch, command) -> None:
    forbid(monkeypatch, "locked")
    result = call(*command)
    assert result.code == 3, result.err
    assert "locked" in result.err
    assert "Permission denied" in result.err
    assert "Traceback" not in result.err


def test_data_of_a_preset_that_may_not_be_looked_at_is_a_warning(call, tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.toml").write_text(
        'extends = "digits"\n[evaluation]\ndata = "imagefolder"\nroot = "locked"\n', encoding="utf-8"
    )
    forbid(monkeypatch, "locked")
    result = call("run", "--preset", "mine.toml", *tiny, "--dry-run")
    assert result.code == 0, result.err
    assert "will not be measured on real data" in result.err


def forbid(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    """As if nobody but its owner could enter the folder; who runs the tests may be allowed everything."""
    real_stat = Path.stat

    def stat(path: Path, **how: bool) -> os.stat_result:
        if folder in path.parts:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real_stat(path, **how)

    stat.__code__ = stat.__code__.replace(co_filename="<the kernel>")  # whose error it is goes by the file
    monkeypatch.setattr(Path, "stat", stat)


@pytest.mark.parametrize(("arguments", "code", "names"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_before_the_first_step(call, place, arguments, code, names):
    (place / "broken.toml").write_text("run = [", encoding="utf-8")
    (place / "rubbish.safetensors").write_bytes(b"not a tensor in sight")
    (place / "used").mkdir()
    (place / "used" / "precious.txt").write_text("mine", encoding="utf-8")
    before = sorted(place.rglob("*"))
    result = call("run", *arguments)
    assert result.code == code, result.err
    assert result.out == ""
    assert names in result.err
    assert "Traceback" not in result.err
    lines = result.err.splitlines()
    assert lines[0].startswith("error: ")
    assert any(line.startswith("hint: ") for line in lines)
    assert sorted(place.rglob("*")) == before  # no directory was left
    if "--tui" not in arguments:  # --json implies --no-tui
        assert call("run", *arguments, "--json")[:2] == (code, "")


def test_all_problems_at_once(call):
    result = call("run", "--set", "run.epoch=1", "--set", "student.modl=x", "--set", "run.seed=-1")
    assert result.code == 2
    for key in ("run.epoch", "student.modl", "run.seed"):
        assert key in result.err
    assert result.err.count("error: ") == 3


@pytest.mark.parametrize(
    ("arguments", "code", "names"),
    [
        (["--buffer", "nowhere.safetensors"], 3, "nowhere.safetensors"),
        (["--buffer", "rubbish.safetensors"], 3, "rubbish.safetensors"),
        (["--buffer", "nowhere"], 3, "nowhere"),
        ([], 3, "no buffer"),
    ],
)
def test_distill_without_a_buffer(call, place, arguments, code, names):
    (place / "rubbish.safetensors").write_bytes(b"not a tensor in sight")
    result = call("distill", *arguments)
    assert (result.code, result.out) == (code, "")
    assert names in result.err


def test_seeds_are_read():
    assert parse_seeds("0,1, 2") == (0, 1, 2)
    for text in ("", "1,", "1;2", "-1", "1.5", "2,2"):
        with pytest.raises(ConfigError):
            parse_seeds(text)


# -- outcomes ---------------------------------------------------------------------------------------------


class FakeTrainer:
    """Stands in for the trainer: gives back one prepared ending after another."""

    def __init__(self, monkeypatch, *endings):
        from stages import trainer

        self.launches = []
        self._endings = iter(endings)
        monkeypatch.setattr(trainer, "plan", lambda config, launch, **_: (config, launch))
        monkeypatch.setattr(trainer, "execute", self.execute)

    def execute(self, planned, listeners, *, on_signal):
        from stages.trainer import Outcome

        config, launch = planned
        self.launches.append((config, launch))
        status, error = next(self._endings)
        if status == "refused":
            raise error
        metrics = {"top1": 0.5 + config.run.seed / 10, "loss": 1.0}
        seconds = {"total": 1.0, "inversion": 0.5, "distillation": 0.25, "evaluation": 0.25}
        summary = {
            **{"run": "runs/x", "status": status, "epochs": 2, "seconds": seconds},
            **{"images_synthesized": 64, "buffer_size": 64, "teacher": metrics, "student": metrics},
            **{"agreement": 0.5, "device": "cpu"},
        }
        return Outcome(summary, Path("runs/x"), error)


@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        ("done", None, 0),
        ("stopped", None, 75),
        ("failed", StorageError("no space left on the disk"), 1),
        ("failed", MachineError("the device is out of memory"), 1),
        ("diverged", DivergedError("the loss is NaN"), 5),
        ("done", StorageError("the last event could not be written"), 1),
    ],
)
def test_the_exit_code_tells_how_a_run_ended(call, monkeypatch, status, error, code):
    FakeTrainer(monkeypatch, (status, error))
    result = call("run", "--json")
    assert result.code == code
    assert json.loads(result.out)["status"] == status
    if error is not None:
        assert f"error: {error.message}" in result.err
    assert ("ssdkd run --resume runs/x" in result.err) is (status == "stopped")


DIVERGED = ("diverged", DivergedError("NaN"))


@pytest.mark.parametrize(
    ("endings", "code", "num_runs"),
    [
        ([("done", None)] * 3, 0, 3),
        ([("done", None), DIVERGED, ("done", None)], 5, 3),
        ([DIVERGED, ("stopped", None)], 75, 2),
        ([("done", None), ("failed", StorageError("full"))], 1, 2),
        ([("done", None), ("refused", MachineError("full"))], 4, 1),
    ],
)
def test_the_exit_code_of_several_seeds_is_the_worst(call, monkeypatch, endings, code, num_runs):
    trainer = FakeTrainer(monkeypatch, *endings)
    result = call("run", "--seeds", "0,1,2", "--json")
    assert result.code == code
    assert len(json.loads(result.out)["runs"]) == num_runs
    assert [config.run.seed for config, _ in trainer.launches] == list(range(len(endings)))
    assert [launch.seed_in_name for _, launch in trainer.launches] == list(range(len(endings)))


def test_a_reader_that_has_gone_ends_no_seed_and_changes_no_code(call, monkeypatch):
    trainer = FakeTrainer(monkeypatch, ("done", None), ("diverged", DivergedError("lost")), ("done", None))

    def refuse(*_):
        raise BrokenPipeError

    monkeypatch.setattr("ssdkd_cli.summary.print_summary", refuse)
    monkeypatch.setattr("ssdkd_cli.diagnostics.report", refuse)
    assert call("run", "--seeds", "0,1,2").code == 5
    assert len(trainer.launches) == 3
    stopping = FakeTrainer(monkeypatch, ("stopped", None))
    monkeypatch.setattr("ssdkd_cli.diagnostics.note", refuse)
    assert call("run", "--json").code == 75
    assert len(stopping.launches) == 1


def test_several_seeds_refused_at_once_print_nothing(call, monkeypatch):
    FakeTrainer(monkeypatch, ("refused", MachineError("full")))
    result = call("run", "--seeds", "0,1", "--json")
    assert (result.code, result.out) == (4, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_two_seeds_keeps_what_was_reached(call, monkeypatch, number: signal.Signals) -> None:
    trainer = FakeTrainer(monkeypatch, ("done", None))
    plan_once = iter([True])

    def plan(config, launch, **_):
        if not next(plan_once, False):
            os.kill(os.getpid(), number)
        return config, launch

    monkeypatch.setattr("stages.trainer.plan", plan)
    before = signal.getsignal(signal.SIGTERM)
    result = call("run", "--seeds", "0,1,2", "--json")
    assert result.code == 130
    assert [run["status"] for run in json.loads(result.out)["runs"]] == ["done"]
    assert "seeds without a result: 1, 2" in result.err
    assert len(trainer.launches) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_the_user_named_reaches_the_trainer(call, monkeypatch):
    trainer = FakeTrainer(monkeypatch, *[("done", None)] * 3)
    assert call("run", "--preset", "digits", "--device", "cpu", "--out", "d").code == 0
    assert call("invert", "--set", "evaluation.split=test", "--train-teacher").code == 0
    assert call("run", "--preset", "cifar100-wrn", "--preset", "fast5").code == 0
    (config, first), (_, second), (_, third) = trainer.launches
    assert (first.command, first.preset_name, first.out) == ("run", "digits", Path("d"))
    assert config.run.device == "cpu"
    assert (first.evaluation_named, first.train_teacher, first.seed_in_name) == (False, False, None)
    assert (second.command, second.evaluation_named, second.train_teacher) == ("invert", True, True)
    assert third.preset_name == "cifar100-wrn-fast5"


@pytest.mark.parametrize(
    ("overrides", "is_named"),
    [
        ((), False),
        (("evaluation.root=images",), True),
        (("evaluation.download=true",), True),
        (("evaluation.download=false",), False),
        (("evaluation.download=true", "evaluation.download=false"), False),
        (("evaluation.batch_size=64",), False),
    ],
)
def test_images_that_are_to_be_fetched_are_asked_for(overrides, is_named):
    """That they are missing is then told before the run, which would end without being measured."""
    assert asks_for_evaluation_data(load(["cifar100-wrn"], overrides)) is is_named


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--go-on"], "finds the run by `--out`"),
        (["--go-on", "--out", "d", "--dry-run"], "takes no --dry-run"),
        (["--go-on", "--resume", "d"], "takes no --go-on"),
    ],
)
def test_what_goes_ill_with_going_on(call, arguments, said):
    result = call("run", *arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--out", LONG],
        ["run", "--resume", LONG],
        ["run", "--preset", f"{LONG}.toml"],
        ["run", "--set", f"teacher.weights={LONG}.pt"],
        ["run", "--set", "teacher.model=~nobody-of-that-name/net.py:build"],
        ["distill", "--buffer", LONG],
        ["evaluate", "~nobody-of-that-name/x"],
        ["inspect-buffer", LONG],
        ["inspect-buffer", "--grid", f"{LONG}.png"],
        ["watch", LONG],
        ["runs", "show", LONG],
        ["runs", "verify", "~nobody-of-that-name/x"],
        ["runs", "compare", LONG, LONG],
        ["runs", "stop", LONG],
        ["runs", "ls", LONG],
        ["presets", "cp", "digits", f"{LONG}.toml"],
        ["presets", "check", f"{LONG}.toml"],
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_a_name_that_no_file_can_have_is_a_missing_file(call, arguments):
    result = call(*arguments)
    assert result.code == 3, result.err
    assert result.err.startswith("error: ")
    assert "Traceback" not in result.err


def test_a_tilde_is_the_home_folder_everywhere(call, place, monkeypatch):
    home = place / "home"
    (home / "runs").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (home / "mine.toml").write_text('extends = "digits"\n', encoding="utf-8")
    assert call("presets", "check", "~/mine.toml").code == 0
    planned = call("run", "--preset=~/mine.toml", "--out=~/new", "--dry-run", "--json")
    assert json.loads(planned.out)["run_directory"] == str(home / "new")
    assert f"there is no run in the folder {home}/runs" in call("runs", "ls", "~/runs").err
    assert call("presets", "cp", "digits", "~/copy.toml").code == 0
    assert (home / "copy.toml").is_file()
    assert not (place / "~").exists()
