"""run, invert and distill on the real thing, tiny: what they print, what they leave, how they end."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest
from child_process import run_ssdkd

SUMMARY_KEYS = {
    *("run", "status", "epochs", "seconds", "images_synthesized", "buffer_size"),
    *("teacher", "student", "agreement", "device"),
}
METRICS = {"top1", "top5", "loss", "num_samples"}


def document(result):
    """The one document on stdout."""
    assert "\x1b" not in result.out
    return json.loads(result.out)


def test_run_prints_one_document_and_leaves_the_files_of_a_run(tiny, place):
    result = run_ssdkd("run", *tiny, "--json")
    assert result.code == 0, result.err
    summary = document(result)
    assert set(summary) >= SUMMARY_KEYS
    assert summary["status"] == "done"
    assert summary["epochs"] == 3
    assert set(summary["seconds"]) >= {"total", "inversion", "distillation", "evaluation"}
    assert summary["images_synthesized"] == 96
    assert summary["buffer_size"] == 64
    assert set(summary["teacher"]) == set(summary["student"]) == METRICS
    assert summary["teacher"]["top1"] > 0.9
    assert 0 <= summary["agreement"] <= 1
    assert "\x1b" not in result.err
    run = place / summary["run"]
    assert run.parent == place / "runs"
    assert re.fullmatch(r"digits-\d{8}-\d{6}", run.name)
    for name in (
        *("config.toml", "manifest.json", "events.jsonl"),
        *("buffer.safetensors", "student.safetensors", "holdout.safetensors"),
    ):
        assert (run / name).is_file(), name


def test_what_a_network_of_ones_own_prints_is_no_data(call, tiny, place):
    (place / "talkative.py").write_text(
        "from torch import nn\n"
        "class Talkative(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        print('shape', tuple(images.shape))\n"
        "        return super().forward(images)\n"
        "def build(num_classes):\n"
        "    return Talkative(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, num_classes))\n",
        encoding="utf-8",
    )
    talkative = ["--set", "teacher.model=talkative.py:build", "--set", "teacher.weights=trained.safetensors"]
    trained = call("teacher", "train", *talkative, "--epochs", "1", "--out", "trained.safetensors", "--json")
    student = ["--set", "student.model=talkative.py:build", "--set", "run.acceleration=eager"]
    for result in (
        trained,
        call("teacher", "check", *talkative, "--json"),
        call("run", *tiny, *talkative, *student, "--out", "run", "--json"),
        call("evaluate", "run", "--json"),
    ):
        assert result.code == 0, result.err
        assert document(result)
        assert "shape" in result.err
    assert "shape" not in call("evaluate", "run").out


def test_run_tells_people_how_good_the_student_is_and_what_comes_next(call, tiny, place):
    result = call("run", *tiny, "--out", "my run")
    assert result.code == 0, result.err
    for part in ("my run: done", "teacher", "student", "top-1", "agreement", "student.safetensors"):
        assert part in result.out
    assert "ssdkd inspect-buffer 'my run'" in result.out
    assert "ssdkd evaluate 'my run'\n" in result.out
    assert "\x1b" not in result.out


def test_a_student_that_was_selected_is_labelled_so(call, tiny, place):
    told = call("run", *tiny, "--set", "evaluation.select_best=true", "--out", "run").out
    (line,) = (line for line in told.splitlines() if "student-best" in line)
    assert line.startswith("another  run/student-best.safetensors: best, selected on labelled data (")
    assert line.endswith("% top-1 in epoch 3)")
    assert "another student was kept: best, selected on labelled data (" in call("runs", "show", "run").out


SIGNALS_ITSELF = """
import os, signal
from pathlib import Path
from torch import nn

class Network(nn.Sequential):
    def forward(self, images):
        signalled = Path("signalled")
        if self.training and len(images) == 32 and not signalled.exists():
            signalled.touch()
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(images)

def build(num_classes):
    return Network(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, num_classes))
"""


def test_a_signal_saves_everything_and_the_resumed_run_is_the_undisturbed_one(call, tiny, place):
    Path("student.py").write_text(SIGNALS_ITSELF)
    arguments = [*tiny, "--set", "student.model=student.py:build", "--set", "run.acceleration=eager", "--json"]
    result = run_ssdkd("run", *arguments, "--out", "stopped")
    assert result.code == 75, result.err
    stopped = json.loads(result.out)
    assert (stopped["status"], stopped["epochs"]) == ("stopped", 1)
    assert "ssdkd run --resume stopped" in result.err

    elsewhere = call("run", "--resume", "stopped", "--device", "cuda:99")
    assert (elsewhere.code, elsewhere.out) == (4, "")
    resumed = call("run", "--resume", "stopped", "--device", "cpu", "--json")
    assert resumed.code == 0, resumed.err
    assert document(resumed)["status"] == "done"
    assert document(resumed)["epochs"] == 3
    assert call("run", *arguments, "--out", "undisturbed").code == 0
    for name in ("student.safetensors", "buffer.safetensors", "holdout.safetensors"):
        assert Path("stopped", name).read_bytes() == Path("undisturbed", name).read_bytes(), name

    again = call("run", "--resume", "stopped", "--json")  # finished: its summary at once
    assert again.code == 0
    assert document(again) == document(resumed)
    Path("stopped").rename("archived")
    moved = call("run", "--resume", "archived", "--json")
    assert document(moved) == document(resumed) | {"run": "archived"}


def test_seeds_run_one_after_another_and_give_mean_and_spread(call, tiny, place):
    result = call("run", *tiny, "--seeds", "3,4", "--out", "group", "--json")
    assert result.code == 0, result.err
    series = document(result)
    assert [Path(run["run"]) for run in series["runs"]] == [Path("group/seed-3"), Path("group/seed-4")]
    losses = [run["student"]["loss"] for run in series["runs"]]
    assert losses[0] != losses[1]
    assert series["student"]["loss"]["mean"] == sum(losses) / 2
    assert set(series["agreement"]) == {"mean", "std"}
    assert json.loads(Path("group/seed-4/manifest.json").read_text())["seed"] == 4


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("return undefined", "NameError: name 'undefined' is not defined"),
        ("raise PermissionError(13, 'Permission denied', 'cache')", "PermissionError: [Errno 13] Permission denied"),
    ],
)
def test_a_student_that_fails_when_the_run_is_on_its_way_is_named(call, tiny, place, statement, told):
    (place / "mine.py").write_text(
        "from torch import nn\n"
        "class Network(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        if len(images) == 32:\n"
        f"            {statement}\n"
        "        return super().forward(images)\n"
        "def build(num_classes):\n"
        "    return Network(nn.Flatten(), nn.Linear(64, num_classes))\n",
        encoding="utf-8",
    )
    options = [*tiny, "--set", "student.model=mine.py:build", "--set", "run.acceleration=eager", "--json"]
    result = call("run", *options)
    assert result.code == 1
    assert (document(result)["status"], document(result)["epochs"]) == ("failed", 0)
    *_, error, hint = result.err.splitlines()
    assert error.startswith(f"error: {told}")
    assert f"{place / 'mine.py'}:5" in error
    assert hint.startswith("hint: correct it there")
    assert "bug in ssdkd" not in result.err


STUDENTS = """
from pathlib import Path
from torch import nn

def build(num_classes):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    number = len(list(Path().glob("built-*")))
    Path(f"built-{number}").touch()
    if number == 1:
        SECOND
    return model
"""


def test_a_seed_that_diverges_is_told_and_left_out(call, tiny, place):
    Path("student.py").write_text(STUDENTS.replace("SECOND", "model[1].weight.data.fill_(3e38)"))
    options = [*tiny, "--set", "student.model=student.py:build", "--seeds", "0,1,2", "--out", "group"]
    result = call("run", *options)
    assert result.code == 5
    assert "group/seed-1: diverged" in result.out
    assert "2 runs, mean ± standard deviation (left out: 1 diverged)" in result.out
    shown = call("runs", "show", "group")
    assert shown.code == 0, shown.err
    assert "B  group/seed-1  (diverged, epoch 0 of 3)" in shown.out
    assert "Mean and sample standard deviation of A, C (seeds 0, 2)" in shown.out
    assert "left out, as not done: B" in shown.out


def test_seeds_without_a_result_are_named(call, tiny, place):
    Path("student.py").write_text(STUDENTS.replace("SECOND", "raise ValueError('not twice')"))
    options = [*tiny, "--set", "student.model=student.py:build", "--seeds", "0,1,2"]
    result = call("run", *options, "--out", "group", "--json")
    assert result.code == 3, result.err
    assert [run["run"] for run in document(result)["runs"]] == ["group/seed-0"]
    assert "seeds without a result: 1, 2" in result.err
    assert "the same command with `--go-on` goes on with them" in result.err


def test_a_bug_in_a_later_seed_keeps_what_the_others_have_reached(call, tiny, place):
    fails_on_its_way = "model.register_forward_hook(lambda _m, images, _l: undefined if len(images[0]) == 32 else None)"
    Path("student.py").write_text(STUDENTS.replace("SECOND", fails_on_its_way))
    options = [*tiny, "--set", "student.model=student.py:build", "--set", "run.acceleration=eager"]
    result = call("run", *options, "--seeds", "0,1,2", "--out", "group", "--json")
    assert result.code == 1
    assert [run["status"] for run in document(result)["runs"]] == ["done", "failed"]
    assert "NameError: name 'undefined'" in result.err
    assert "seeds without a result: 2" in result.err


def test_another_student_of_a_run_gets_a_start_and_a_rate_of_its_own(call, tiny):
    automatic = ["--set", "student.start=auto", "--set", "distillation.lr=auto"]
    call("run", *tiny, *automatic, "--out", "first")
    planned = ["distill", "--buffer", "first", "--dry-run", "--json"]
    same = document(call(*planned))
    teachers_own = document(call(*planned, "--set", "student.model=wrn16_2"))
    assert teachers_own["student_start"] == "100.0% of its weights copied from the teacher"
    assert teachers_own["learning_rate"] < same["learning_rate"]
    named = document(call(*planned, "--set", "student.model=wrn16_2", "--set", "distillation.lr=0.05"))
    assert named["learning_rate"] == 0.05


def test_a_buffer_from_another_machine_is_distilled_as_suits_this_one(call, tiny):
    call("run", *tiny, "--set", "run.threads=auto", "--out", "first")
    written = Path("first/config.toml")
    here = tomllib.loads(written.read_text())["run"]["threads"]
    written.write_text(written.read_text().replace(f"threads = {here}", f"threads = {here + 5}"))
    assert document(call("distill", "--buffer", "first", "--dry-run", "--json"))["threads"] == here
    named = call("distill", "--buffer", "first", "--set", f"run.threads={here + 1}", "--dry-run", "--json")
    assert document(named)["threads"] == here + 1


def test_settings_that_a_run_left_keep_their_presets_name(call, tiny):
    call("run", *tiny, "--out", "first")
    again = document(call("run", "--preset", "first/config.toml", "--dry-run", "--json"))
    assert again["preset"] == json.loads(Path("first/manifest.json").read_text())["preset"]
    elsewhere = shutil.copy("first/config.toml", "mine.toml")
    assert document(call("run", "--preset", elsewhere, "--dry-run", "--json"))["preset"] == "mine"


def test_invert_fills_a_buffer_and_distill_goes_on_from_it(call, tiny, place):
    inverted = call("invert", *tiny, "--out", "inverted", "--json")
    assert inverted.code == 0, inverted.err
    summary = document(inverted)
    assert summary["student"] is None
    assert summary["agreement"] is None
    assert summary["buffer_size"] == 64
    assert not Path("inverted/student.safetensors").exists()

    # The run: its own settings, unless others are given.
    distilled = call("distill", "--buffer", "inverted", "--set", "run.epochs=1", "--json")
    assert distilled.code == 0, distilled.err
    assert document(distilled)["epochs"] == 1
    assert document(distilled)["images_synthesized"] == 0
    assert Path(document(distilled)["run"]).name.startswith("distill-digits-")
    assert document(distilled)["student"]["num_samples"] > 0

    # The file, with a preset.
    from_file = call("distill", "--buffer", "inverted/buffer.safetensors", *tiny, "--out", "file", "--json")
    assert from_file.code == 0, from_file.err
    assert document(from_file)["epochs"] == 2, "three less the warm-up that was named, too"

    # Nothing: the newest run in ./runs that made images, not the distillations, whose buffers have fewer.
    Path("inverted").rename("runs/inverted")
    newest = call("distill", "--dry-run", "--json")
    assert newest.code == 0, newest.err
    assert "distilling from runs/inverted/buffer.safetensors, of the newest finished run that made" in newest.err
    assert document(newest)["images_set_aside"] == 16


@pytest.mark.parametrize(("asked_for", "epochs"), [(10, 10), (15, 15), (60, 16)])
def test_as_many_epochs_of_inversion_as_asked_for(call, place, asked_for: int, epochs: int):
    """Fewer than the preset's warm-up, too, which is the student's business; and no more than fill the buffer."""
    planned = document(call("invert", "--set", f"run.epochs={asked_for}", "--dry-run", "--json"))
    assert planned["epochs"] == epochs


def test_a_preset_that_set_completes_inverts_as_many_epochs(call, place):
    Path("mine.toml").write_text('extends = "digits"\n[task]\nimage_shape = [1, 8, 8]\nmean = [0.5, 0.5]\n')
    mine = ("invert", "--preset", "mine.toml", "--set", "task.mean=[0.5]", "--dry-run", "--json")
    assert document(call(*mine, "--set", "run.epochs=3"))["epochs"] == 3


def test_the_epochs_of_inversion_that_were_asked_for_are_the_students_later_on(call, tiny, place):
    """All of them: how many of them the preset's warm-up would take is its own business."""
    own_warmup = tiny.index("run.warmup_epochs=1")
    options = [*tiny[: own_warmup - 1], *tiny[own_warmup + 1 :]]
    assert call("invert", *options, "--set", "run.epochs=3", "--out", "inverted").code == 0
    planned = document(call("distill", "--buffer", "inverted", "--dry-run", "--json"))
    assert planned["epochs"] == 3


def test_the_images_that_distill_sets_aside_are_told(call, tiny, place):
    inverted = call("invert", *tiny, "--out", "inverted")
    assert "64 images made, 64 in the buffer\n" in inverted.out
    distilled = call("distill", "--buffer", "inverted", "--set", "run.epochs=1")
    assert "0 images made, 48 in the buffer, 16 set aside to measure agreement\n" in distilled.out


def test_a_buffer_file_in_a_run_has_the_settings_of_its_run(call, tiny, place):
    assert call("invert", *tiny, "--out", "inverted").code == 0
    described = [
        json.loads(call("distill", "--buffer", buffer, "--dry-run", "--json").out)
        for buffer in ("inverted", "inverted/buffer.safetensors")
    ]
    assert described[0] == described[1]


def test_a_dry_run_checks_everything_and_leaves_nothing(call, tiny, place):
    useless = ["--set", "distillation.sampling=uniform", "--set", "distillation.beta=0.3"]
    result = call("run", *tiny, *useless, "--dry-run", "--json")
    assert result.code == 0, result.err
    description = document(result)
    assert description["epochs"] == 3
    assert description["device"] == "cpu"
    assert "beta" in result.err  # its warnings are a run's
    people = call("run", *tiny, "--dry-run")
    assert "teacher file" in people.out
    several = document(call("run", *tiny, "--dry-run", "--json", "--seeds", "0,1"))
    assert len(several["runs"]) == 2
    assert list(place.iterdir()) == []


def test_an_estimate_says_how_long_and_leaves_nothing(call, tiny, place):
    description = document(call("run", *tiny, "--estimate", "--json"))
    seconds = description["estimated_seconds"]
    assert seconds["total"] == pytest.approx(seconds["inversion"] + seconds["distillation"], abs=0.002)
    assert seconds["inversion"] > 0 < seconds["distillation"]
    assert description["not_estimated"] == ["evaluation"]
    assert description["epochs"] == 3, "beside what a dry run says"
    people = call("run", *tiny, "--estimate")
    assert re.search(r"^estimated time +total \d+ s, inversion \d+ s, distillation \d+ s$", people.out, re.M)
    assert "making a few steps" in people.err
    several = call("run", *tiny, "--estimate", "--json", "--seeds", "0,1")
    runs = document(several)["runs"]
    assert runs[0]["estimated_seconds"] == runs[1]["estimated_seconds"]
    assert several.err.count("making a few steps") == 1
    assert list(place.iterdir()) == []


def test_evaluation_data_that_only_the_preset_names_may_be_missing(call, tiny, place):
    Path("mine.toml").write_text(
        'extends = "digits"\n[evaluation]\ndata = "imagefolder"\nroot = "nowhere"\n', encoding="utf-8"
    )
    result = call("run", "--preset", "mine.toml", *tiny, "--out", "r", "--json")
    assert result.code == 0, result.err
    summary = document(result)
    assert summary["teacher"] is None
    assert summary["student"] is None
    assert summary["agreement"] is not None
    assert "warning: " in result.err
    assert "nowhere" in result.err
    people = call("run", "--resume", "r")
    assert "accuracy is unknown until `ssdkd evaluate`" in people.out
    assert people.out.splitlines()[-1] == "  ssdkd evaluate r --root FOLDER"


def test_the_next_command_works_where_there_are_no_real_images(call, tiny, place):
    told = call("run", *tiny, "--set", "evaluation.data=none", "--out", "r").out.splitlines()
    assert told[-1] == "  ssdkd evaluate r --data imagefolder --root FOLDER"
    result = call(*told[-1].split()[1:])
    assert (result.code, "FOLDER" in result.err) == (3, True), "the folder is all that is missing"


def test_a_run_says_where_it_is_once(call, tiny, place):
    for arguments, path in (
        (("run", *tiny, "--out", "mine"), Path("mine")),
        (("distill", "--buffer", "mine"), Path("runs")),
    ):
        told = [line for line in call(*arguments).err.splitlines() if line.startswith("the run is ")]
        assert len(told) == 1
        assert told[0].startswith(f"the run is {path}")
        assert f"`ssdkd watch {path.absolute()}" in told[0]
    stopping = ("run", *tiny, "--set", "run.checkpoint_every=1", "--out", "other")
    assert call(*stopping).code == 0
    (place / "other/student.safetensors").unlink()
    assert "the run is other; " in call("run", "--resume", "other").err
