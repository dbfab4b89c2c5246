"""What can be known before the first step is known then, and a run that is refused leaves nothing."""

from __future__ import annotations

import errno
import os
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from run_outputs import events, last_state, stop_at, warnings
from tiny_runs import NETWORKS, untrained
from weight_files import write_weights

from stages import registry, resumption
from stages.api import Stage, StorageError
from stages.buffer.file import read_buffer
from stages.errors import ConfigError, FileError, MachineError, NotDownloadedError
from stages.machine.memory import MachineMemory
from stages.models.build import build_generator
from stages.planning import footprint
from stages.planning.beginning import build_run
from stages.registry import Found, Spec
from stages.run_directory import RunDirectory

REFUSED = {
    "teacher missing": (["teacher.weights=nowhere.pt"], FileError, "nowhere.pt"),
    "no such teacher model": (["teacher.model=wrn16_2"], FileError, "another network"),
    "no such student file": (["student.model=nowhere.py:student"], FileError, "nowhere.py"),
    "student of another shape": (
        ["task.image_shape=[1, 9, 9]", "evaluation.data=none"],
        ConfigError,
        "student.model",
    ),
    "evaluation data of another shape": (
        ["task.image_shape=[1, 16, 16]", "student.model=wrn10_1"],
        FileError,
        "image_shape",
    ),
    "a student that is no relative of the teacher": (
        ["student.start=teacher", "student.model=vgg11"],
        ConfigError,
        "nothing in `vgg11` has a counterpart in the teacher",
    ),
    "nothing fills the buffer": (
        ['run.stages=["distillation", "evaluation"]'],
        ConfigError,
        "nothing that fills the buffer",
    ),
    "nothing fills the buffer before the student learns": (
        ["run.warmup_epochs=0"],
        ConfigError,
        "warmup_epochs` is 0",
    ),
}


@pytest.mark.parametrize(("overrides", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_runs_leave_no_directory(start, out: Path, overrides: list[str], error, message: str) -> None:
    with pytest.raises(error, match=message) as refusal:
        start(*overrides, evaluation_named=True)
    assert refusal.value.hint
    assert list(out.parent.iterdir()) == []


def test_a_used_directory_is_left_alone(start, out: Path) -> None:
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        start()
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_a_directory_that_may_not_be_seen(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    out.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        with pytest.raises(MachineError, match="cannot look into the output directory"):
            start()
    assert list(out.iterdir()) == []


def test_no_such_device(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MachineError, match="no such device: `cuda:7`"):
        start("run.device=cuda:7")
    assert not out.exists()


def test_not_enough_disk(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.planning.footprint.shutil.disk_usage", lambda _folder: SimpleNamespace(free=2**20))
    with pytest.raises(MachineError, match=r"not enough disk .* 1 MiB free"):
        start()
    assert not out.exists()


@pytest.mark.parametrize("is_too_little", [True, False])
def test_not_enough_memory_for_the_buffer(plan_run, monkeypatch, is_too_little: bool) -> None:
    """It would be ended by the system, and only when the buffer is full."""
    needed = plan_run().footprint.buffer_bytes
    memory = MachineMemory(total=2**40, available=needed - is_too_little)
    monkeypatch.setattr(footprint, "machine_memory", lambda: memory)
    if not is_too_little:
        plan_run()
        return
    with pytest.raises(MachineError, match="not enough memory: 0 MiB are available, the full buffer takes 0 MiB"):
        plan_run()


def test_not_enough_disk_to_go_on(start, go_on, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that filled the disk fails at once again, and not at its next checkpoint."""
    start(listeners=[stop_at(out, epoch=3)])
    with monkeypatch.context() as patch:
        patch.setattr("stages.planning.footprint.shutil.disk_usage", lambda _folder: SimpleNamespace(free=2**20))
        with pytest.raises(MachineError, match=r"not enough disk .* 1 MiB free"):
            go_on()
    assert go_on().summary["status"] == "done"


def test_the_disk_is_looked_at_for_a_buffer_that_is_in_the_checkpoint(
    start, go_on, out: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of `distill`, which makes no images: as many as there are, whatever its capacity may be."""
    asked_for: list[int] = []
    monkeypatch.setattr(resumption, "check_disk", lambda num_bytes, _folder, **_: asked_for.append(num_bytes))
    buffer = undisturbed / "buffer.safetensors"
    stop = stop_at(out, "checkpoint_saved", epoch=2)
    start("buffer.capacity=1000000", command="distill", buffer=buffer, listeners=[stop])
    assert go_on().summary["status"] == "done"
    with_buffer = footprint.OTHER_FILES_BYTES + 2 * 32 * 64  # 40 images less the 8 set aside, in both files
    assert with_buffer < asked_for[0] < with_buffer + 2**20


def test_the_disk_is_looked_at_before_a_teacher_is_trained(plan_run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.planning.footprint.shutil.disk_usage", lambda _folder: SimpleNamespace(free=2**20))
    monkeypatch.setattr("stages.planning.plan.ensure_teacher", None)
    with pytest.raises(MachineError, match="not enough disk"):
        plan_run(train_teacher=True)


def test_what_fails_before_the_first_step_leaves_no_directory(start, out: Path, monkeypatch) -> None:
    def interrupt(_planned: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stages.trainer.manifest_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start()
    assert not out.exists()


@pytest.mark.parametrize("is_link", [False, True])
def test_an_empty_folder_of_the_users_is_as_it_was(start, out: Path, monkeypatch, is_link: bool) -> None:
    folder = out.with_name("mine")
    folder.mkdir()
    if is_link:
        out.symlink_to(folder)
    else:
        out = folder

    def fail(*_arguments: object) -> None:
        raise StorageError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("stages.trainer.write_atomically", fail)
        with pytest.raises(MachineError, match="no space left"):
            start(out=out)
    assert list(folder.iterdir()) == []
    assert out.is_symlink() == is_link
    assert start(out=out).summary["status"] == "done"


def test_out_of_memory_while_it_is_set_up(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_arguments: object, **_options: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    for place in ("stages.planning.plan.load_teacher", "stages.trainer.build_run"):
        with monkeypatch.context() as patch:
            patch.setattr(place, run_out)
            with pytest.raises(MachineError, match="out of memory"):
                start()
    assert not out.exists()


class Refusing(Stage):
    def setup(self, run) -> None:
        raise StorageError("my cache is full")

    def run_epoch(self, run) -> None:
        raise AssertionError("there is no first step")


def test_a_stage_that_cannot_be_set_up_leaves_no_directory(start, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_find = registry.find

    def find(group: str, name: str, *, where: str) -> Found:
        if name == "evaluation":
            return Found(Spec("evaluation", f"{__name__}:Refusing", "refuses"), {})
        return real_find(group, name, where=where)

    monkeypatch.setattr(registry, "find", find)
    with pytest.raises(StorageError, match="my cache is full"):
        start()
    assert not out.exists()


def test_missing_data_that_the_user_named_is_an_error(start, out: Path) -> None:
    overrides = ("evaluation.data=imagefolder", "evaluation.root=nowhere")
    with pytest.raises(FileError, match="nowhere"):
        start(*overrides, evaluation_named=True)
    assert not out.exists()


def test_missing_data_that_only_the_preset_named_is_a_warning(start, out: Path, undisturbed: Path) -> None:
    summary = start("evaluation.data=imagefolder", "evaluation.root=nowhere").summary
    assert (summary["status"], summary["student"], summary["teacher"]) == ("done", None, None)
    assert summary["agreement"] is not None
    (warning,) = warnings(out)
    assert "will not be measured on real data" in warning["message"]
    last = events(out, "evaluation")[-1]
    assert last["real"] is None
    assert last["synthetic"] == {name: summary[name] for name in ("agreement", "agreement_by_chance", "ece")}
    assert (out / "student.safetensors").read_bytes() == (undisturbed / "student.safetensors").read_bytes()


@pytest.mark.parametrize("named", [False, True])
def test_a_disk_full_of_a_download_is_the_users_only_if_asked_for(plan_run, monkeypatch, named: bool) -> None:
    def fill_the_disk(_config: object) -> None:
        raise MachineError("no space left for the download", hint="free some")

    monkeypatch.setattr("stages.planning.plan.real_images", fill_the_disk)
    with pytest.raises(MachineError) if named else nullcontext():
        assert "no space left" in plan_run(evaluation_named=named).warnings[-1]


def test_a_dry_run_downloads_nothing(plan_run, monkeypatch, tmp_path: Path) -> None:
    def download(*_arguments: object) -> None:
        raise AssertionError("it went to the network")

    monkeypatch.setattr("stages.data.cifar._download", download)
    root = tmp_path / "data"
    overrides = ("evaluation.data=cifar10", f"evaluation.root={root}", "evaluation.download=true")
    planned = plan_run(*overrides, evaluation_named=True, is_dry_run=True)
    assert planned.evaluation_data is None
    assert planned.warnings[-1] == "the real images are not here yet: the run would download them first"
    assert not root.exists()
    with pytest.raises(AssertionError, match="network"):
        plan_run(*overrides, evaluation_named=True)


def test_a_dry_run_downloads_no_images_for_a_teacher_either(plan_run, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("stages.data.cifar._download", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    overrides = ["teacher.weights=auto", "teacher.trained_on=cifar10", "evaluation.data=cifar10"]
    overrides += [f"evaluation.root={tmp_path / 'data'}", "evaluation.download=true"]
    planned = plan_run(*overrides, train_teacher=True, is_dry_run=True)
    assert "the images that the teacher learns are not here yet: the run would download them first" in planned.warnings
    with pytest.raises(NotDownloadedError):
        plan_run(*overrides, "evaluation.download=false", train_teacher=True, is_dry_run=True)


def test_a_run_of_a_group_is_planned_under_its_own_name(plan_run) -> None:
    planned = plan_run(seed_in_name=7)
    assert planned.describe()["run_directory"] == "runs/tiny-<time>-7"


def test_the_folder_that_is_planned_is_called_as_the_one_that_is_made(plan_run, tmp_path: Path, monkeypatch) -> None:
    planned = plan_run(command="invert", preset_name="my own: preset", seed_in_name=7)
    monkeypatch.chdir(tmp_path)
    made = RunDirectory.create(None, planned.launch.run_name, "<time>", seed=7)
    assert planned.describe()["run_directory"] == made.path.as_posix()
    assert made.name == "invert-my-own-preset-<time>-7"


def test_evaluation_that_is_not_in_the_run_needs_no_data(start) -> None:
    overrides = ("evaluation.data=imagefolder", "evaluation.root=nowhere", 'run.stages=["inversion", "distillation"]')
    assert start(*overrides, evaluation_named=True).summary["status"] == "done"


def test_a_plan_says_what_is_going_to_happen(plan_run, out: Path, teacher_file: Path) -> None:
    description = plan_run(out=out).describe()
    assert not out.exists()
    assert {key: description[key] for key in ("command", "epochs", "warmup_epochs", "device", "acceleration")} == {
        "command": "run",
        "epochs": 4,
        "warmup_epochs": 1,
        "device": "cpu",
        "acceleration": "eager",
    }
    assert (description["images_to_synthesize"], description["student_updates"]) == (64, 9)
    assert (description["teacher_file"], description["run_directory"]) == (str(teacher_file), str(out))
    assert description["student"] == f"{NETWORKS}:student"
    assert description["disk_mib"] > description["buffer_mib"]
    assert description["augmentation"] == {"crop_padding": 1, "horizontal_flip": False}
    assert plan_run('run.stages=["inversion", "evaluation"]').describe()["student_updates"] == 0
    large = plan_run("buffer.capacity=10_000", "run.epochs=5000")
    assert large.describe()["buffer_mib"] == pytest.approx(10_000 * (64 + 40) / 2**20, abs=0.05)
    assert large.describe()["run_directory"] == "runs/tiny-<time>"


@pytest.mark.parametrize(
    ("changes", "acceleration"),
    [
        ([], "eager"),
        (["run.epochs=49_000"], "compile"),  # an epoch of 5 steps, 16 images of 8x8 each
        (["run.epochs=48_000"], "eager"),
        (["run.epochs=49_000", "run.threads=2", "inversion.overlap=true"], "eager"),
        (["run.epochs=49_000", "run.threads=1", "inversion.overlap=true"], "compile"),  # nothing overlaps
        (["run.epochs=1_000_000", "run.acceleration=eager"], "eager"),
    ],
)
def test_a_run_is_compiled_where_that_pays(
    plan_run, monkeypatch: pytest.MonkeyPatch, changes: list[str], acceleration: str
) -> None:
    monkeypatch.setattr("stages.machine.device.can_compile_for_cpu", lambda: True)
    planned = plan_run("run.device=cpu", *changes)
    assert planned.config.run.acceleration == acceleration, "what the run's own config.toml says"
    assert planned.describe()["acceleration"] == acceleration


def test_who_only_inverts_leaves_compiling_open(plan_run) -> None:
    """`ssdkd distill` takes its settings from the run that made the buffer, and may be far longer."""
    planned = plan_run(command="invert")
    assert planned.config.run.acceleration == "auto"
    assert planned.describe()["acceleration"] == "eager"


@pytest.mark.parametrize(("has_compiler", "num_warnings"), [(True, 0), (False, 1)])
def test_a_compiled_run_resumed_without_a_compiler_is_told_of(
    plan_run, monkeypatch: pytest.MonkeyPatch, has_compiler: bool, num_warnings: int
) -> None:
    monkeypatch.setattr("stages.planning.resolution.can_compile_for_cpu", lambda: has_compiler)
    planned = plan_run("run.acceleration=compile", is_resumption=True)
    assert sum("not to the bit" in warning for warning in planned.warnings) == num_warnings


@pytest.mark.parametrize(
    ("is_resumption", "threads", "is_told"), [(True, "auto", True), (True, "1", False), (False, "auto", False)]
)
def test_a_run_resumed_with_fewer_cpus_is_told_of(
    plan_run, monkeypatch: pytest.MonkeyPatch, is_resumption: bool, threads: str, is_told: bool
) -> None:
    """Its threads are left open again where the machine has fewer CPUs than it had threads."""
    monkeypatch.setattr("stages.planning.resolution.resolve_threads", lambda wanted: 2 if wanted == "auto" else wanted)
    planned = plan_run(f"run.threads={threads}", is_resumption=is_resumption)
    told = [warning for warning in planned.warnings if "threads than there are CPUs" in warning]
    expected = "the run had more threads than there are CPUs here: it goes on with 2, not to the bit"
    assert told == ([expected] if is_told else [])


@pytest.mark.parametrize("start", ["teacher", "auto"])
def test_a_student_that_begins_with_the_teachers_weights(plan_run, start: str) -> None:
    planned = plan_run(f"student.start={start}", f"student.model={NETWORKS}:teacher")
    assert planned.describe()["student_start"] == "100.0% of its weights copied from the teacher"
    assert planned.config.student.start == "teacher", "what the run's own config.toml says"
    run = build_run(planned)
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(run.student.eval()(images), run.teacher(images))
    other = plan_run()
    assert other.describe()["student_start"] == "random weights"


@pytest.mark.parametrize(
    ("student", "start", "batch_size", "rate"),
    [
        ("teacher", "auto", 64, 0.03),  # the teacher's weights as they were
        ("teacher", "teacher", 256, 0.06),
        ("student", "teacher", 64, 0.1),  # narrower: none of them computes what it did
        ("student", "random", 256, 0.2),
        ("teacher", "random", 16, 0.05),
    ],
)
def test_the_rate_follows_from_the_first_weights(
    plan_run, student: str, start: str, batch_size: int, rate: float
) -> None:
    overrides = (
        f"student.model={NETWORKS}:{student}",
        f"student.start={start}",
        "distillation.lr=auto",
        f"distillation.batch_size={batch_size}",
    )
    planned = plan_run(*overrides)
    assert planned.config.distillation.lr == pytest.approx(rate), "what the run's own config.toml says"
    assert planned.describe()["learning_rate"] == planned.config.distillation.lr


@pytest.mark.parametrize(("student", "rate"), [("resnet8b", 0.03), ("resnet8", 0.1)])
def test_a_student_that_loses_the_teachers_shortcuts_is_told_of(
    make_config, plan_run, tmp_path: Path, student: str, rate: float
) -> None:
    overrides = ("teacher.model=resnet14b", f"student.model={student}", "student.start=auto")
    overrides += ("distillation.lr=auto", "distillation.batch_size=64")
    weights = write_weights(tmp_path / "resnet14b.safetensors", "resnet14b", make_config().task)
    planned = plan_run(*overrides, f"teacher.weights={weights}")
    told = [warning for warning in planned.warnings if "differ in `shortcut.0`" in warning]
    assert (len(told), planned.config.distillation.lr) == (rate == 0.1, pytest.approx(rate))


def test_who_only_inverts_leaves_the_rate_open(plan_run) -> None:
    """The student of a later `ssdkd distill` may begin otherwise."""
    overrides = ("distillation.lr=auto", "student.start=auto", f"student.model={NETWORKS}:teacher")
    planned = plan_run(*overrides, command="invert")
    assert (planned.config.distillation.lr, planned.config.student.start) == ("auto", "auto")
    assert planned.describe()["learning_rate"] is None
    assert planned.describe()["augmentation"] == {"crop_padding": 1, "horizontal_flip": False}
    assert planned.warnings == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (["run.threads=1"], "run.threads is 1"),
        (["run.threads=2", "run.acceleration=compile"], "compiled"),
        (["run.threads=2"], None),
    ],
)
def test_overlap_that_saves_no_time_is_told(plan_run, changes: list[str], reason: str | None) -> None:
    planned = plan_run("inversion.overlap=true", *changes)
    told = [warning for warning in planned.warnings if warning.startswith("inversion.overlap")]
    assert bool(told) == (reason is not None)
    assert all(reason in warning for warning in told)
    plain = plan_run(*changes)
    assert planned.footprint.disk_bytes - plain.footprint.disk_bytes == 3 * 4 * 16 * 64


def test_overlap_is_nothing_to_who_does_not_do_both(plan_run, inverted: Path) -> None:
    for command, buffer in (("invert", None), ("distill", inverted / "buffer.safetensors")):
        launch = {"command": command, "buffer": buffer}
        plain, overlapping = plan_run(**launch), plan_run("inversion.overlap=true", **launch)
        told = [warning for warning in overlapping.warnings if warning not in plain.warnings]
        assert ["`inversion.overlap` is true" in warning for warning in told] == [True]
        assert overlapping.footprint.disk_bytes == plain.footprint.disk_bytes


def test_a_teacher_that_is_hard_to_invert_is_told_of_where_it_is_inverted(
    plan_run, inverted: Path, tmp_path: Path
) -> None:
    teacher = untrained("teacher_without_norms", tmp_path)
    file = inverted / "buffer.safetensors"
    for command, buffer, is_told in (("run", None, True), ("invert", None, True), ("distill", file, False)):
        planned = plan_run(*teacher, command=command, buffer=buffer)
        assert any("no batch-norm" in warning for warning in planned.warnings) == is_told, command


def test_a_student_that_begins_with_little_of_the_teacher_is_told_of(plan_run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torch import nn\n"
        "class Network(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(64, 99), nn.ReLU())\n"
        "        self.linear = nn.Linear(99, 10)\n"
        "def factory(**_):\n"
        "    return Network()\n"
    )
    planned = plan_run("student.start=teacher", f"student.model={mine}:factory")
    assert any("only 13.4% of the student's weights" in warning for warning in planned.warnings), planned.warnings


def test_a_student_that_gives_a_pair_while_it_learns_is_refused_where_it_is_to_learn(plan_run, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from torch import nn\n"
        "class Network(nn.Sequential):\n"
        "    def forward(self, images):\n"
        "        logits = super().forward(images)\n"
        "        return (logits, logits) if self.training else logits\n"
        "def factory(num_classes):\n"
        "    return Network(nn.Flatten(), nn.Linear(64, num_classes))\n"
    )
    student = f"student.model={mine}:factory"
    with pytest.raises(ConfigError, match="must give a tensor in training mode; got a tuple"):
        plan_run(student)
    assert plan_run(student, command="invert").warnings == ()


def test_a_stranger_begins_at_random_where_that_is_left_to_the_program(plan_run) -> None:
    states = []
    for start in ("random", "auto"):
        planned = plan_run(f"student.start={start}", "student.model=wrn10_1")
        assert planned.describe()["student_start"] == "random weights"
        assert planned.config.student.start == "random"
        states.append(planned.student.state_dict())
    for value, expected in zip(states[1].values(), states[0].values(), strict=True):
        assert torch.equal(value, expected)


@pytest.mark.parametrize(
    ("precision", "is_fast", "num_told"),
    [("bf16", False, 1), ("bf16", True, 0), ("auto", False, 0), ("fp32", False, 0)],
)
def test_a_precision_that_brings_nothing_here_is_told(
    plan_run, monkeypatch: pytest.MonkeyPatch, precision: str, is_fast: bool, num_told: int
) -> None:
    for module in ("machine.device", "planning.resolution"):
        monkeypatch.setattr(f"stages.{module}.has_fast_bf16", lambda _device: is_fast)
    planned = plan_run(f"run.precision={precision}")
    assert sum("run.precision is bf16" in warning for warning in planned.warnings) == num_told


@pytest.mark.parametrize(
    ("student", "side", "is_told"),
    [("wrn10_1", 96, True), ("wrn10_1", 95, False), ("torchvision:shufflenet_v2_x0_5", 96, False)],
)
def test_a_student_for_small_images_is_told_of_where_these_are_large(
    make_config, plan_run, tmp_path: Path, student: str, side: int, is_told: bool
) -> None:
    networks = ("teacher.model=wrn10_1", f"student.model={student}")
    sizes = (f"task.image_shape=[1,{side},{side}]", "inversion.batch_size=2", "distillation.batch_size=2")
    weights = write_weights(tmp_path / "teacher.safetensors", "wrn10_1", make_config(*sizes).task)
    planned = plan_run(*networks, *sizes, "evaluation.data=none", f"teacher.weights={weights}")
    assert any("made for images of some 32 pixels" in warning for warning in planned.warnings) == is_told


def test_a_plan_says_how_large_the_generator_is(plan_run, inverted: Path) -> None:
    planned = plan_run()
    config = planned.config
    generator = build_generator("dcgan", latent_dim=config.inversion.latent_dim, image_shape=config.task.image_shape)
    assert planned.describe()["generator_parameters"] == sum(weights.numel() for weights in generator.parameters())
    distill = plan_run(command="distill", buffer=inverted / "buffer.safetensors")
    assert distill.describe()["generator_parameters"] is None


def test_a_student_that_is_larger_than_its_teacher_is_told_of(plan_run) -> None:
    def told(*overrides: str) -> list[str]:
        planned = plan_run(*overrides)
        facts = planned.describe()
        assert facts["student_parameters"] == sum(weights.numel() for weights in planned.student.parameters())
        assert facts["teacher_parameters"] == sum(weights.numel() for weights in planned.teacher.model.parameters())
        return [warning for warning in planned.warnings if "is larger than the teacher" in warning]

    (warning,) = told("student.model=wrn16_2")
    assert re.search(r"^the student `wrn16_2` is .* 691,386 parameters for [0-9,]+$", warning)
    assert told(f"student.model={NETWORKS}:teacher") == []
    invert = plan_run("student.model=wrn16_2", command="invert")
    assert not any("is larger than" in warning for warning in invert.warnings), "nothing is distilled"


def test_cached_views_are_part_of_what_a_run_needs(plan_run) -> None:
    views = "distillation.views=3"
    plain, cached, cached_bf16, mixed = (
        plan_run(*some) for some in ([], [views], [views, "run.precision=bf16"], [views, "distillation.mix=cutmix"])
    )
    assert cached.footprint.buffer_bytes - plain.footprint.buffer_bytes == 40 * 3 * (5 + 10 * 4)
    assert cached_bf16.footprint.buffer_bytes - plain.footprint.buffer_bytes == 40 * 3 * (5 + 10 * 2)
    assert mixed.footprint.buffer_bytes - plain.footprint.buffer_bytes == 40 * 3 * (38 + 10 * 4)
    assert cached.footprint.disk_bytes > plain.footprint.disk_bytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_cached_views_are_as_large_as_was_foretold(start, out: Path, plan_run, precision: str, mix: str) -> None:
    overrides = ("distillation.views=3", f"run.precision={precision}", f"distillation.mix={mix}")
    plain, cached = (plan_run(*some) for some in ((), overrides))
    start(*overrides)
    columns = last_state(out)["stages"]["distillation"]["views"]["columns"]
    kept_bytes = sum(column.nbytes for column in columns.values())
    assert kept_bytes == cached.footprint.buffer_bytes - plain.footprint.buffer_bytes


def test_disk_counts_the_hold_out_and_the_best_student(plan_run) -> None:
    def disk_bytes(*overrides: str) -> int:
        return plan_run(*overrides).footprint.disk_bytes

    few, many = (disk_bytes(f"evaluation.num_holdout={num}") for num in (6, 1006))
    assert many - few == (3 + 2) * 1000 * 64
    student = plan_run().student
    student_bytes = sum(parameter.numel() * 4 for parameter in student.parameters())
    assert disk_bytes("evaluation.select_best=true") - disk_bytes() == 3 * student_bytes


def test_a_buffers_class_names_stay_where_the_data_has_none(plan_run, undisturbed: Path, monkeypatch) -> None:
    stored = read_buffer(undisturbed / "buffer.safetensors")
    names = tuple(f"class {index}" for index in range(stored.meta.num_classes))
    named = replace(stored, meta=replace(stored.meta, class_names=names))
    monkeypatch.setattr("stages.planning.stored_buffer.read", lambda *_, **__: named)
    nameless = SimpleNamespace(class_names=None, name="nameless")
    monkeypatch.setattr("stages.planning.plan._evaluation_data", lambda *_: (nameless, ()))
    assert plan_run(command="distill", buffer=undisturbed / "buffer.safetensors").class_names == names


def test_disk_is_enough_for_all_that_a_run_writes(start, out: Path, plan_run) -> None:
    overrides = ("inversion.latent_dim=200", "distillation.ema_decay=0.9", "distillation.views=2")
    overrides += ("run.checkpoint_every=1",)
    planned = plan_run(*overrides)
    start(*overrides)
    checkpoints = [path.stat().st_size for path in (out / "checkpoints").iterdir()]
    weights = [path.stat().st_size for path in out.glob("*.safetensors")]
    foretold_bytes = planned.footprint.disk_bytes - footprint.OTHER_FILES_BYTES
    written_bytes = 3 * max(checkpoints) + sum(weights)
    assert written_bytes * 0.98 < foretold_bytes < written_bytes * 1.3  # headers are among the other files


def test_the_buffer_is_as_large_as_was_foretold(plan_run) -> None:
    planned = plan_run()
    columns = build_run(planned).buffer._columns.values()
    assert planned.footprint.buffer_bytes == sum(column.nbytes for column in columns)


@pytest.mark.parametrize(("capacity", "num"), [(40, 40), (1_000_000, 4 * 16)])
def test_the_buffer_has_room_for_all_that_will_come(plan_run, capacity: int, num: int) -> None:
    """Else it grows by copying, into several times the memory that was foretold."""
    planned = plan_run(f"buffer.capacity={capacity}")
    assert planned.footprint.num_buffered == build_run(planned).buffer.num_slots == num


def test_each_seed_has_a_student_of_its_own(plan_run) -> None:
    def first_weights(seed: int) -> dict[str, torch.Tensor]:
        return plan_run(f"run.seed={seed}").student.state_dict()

    one, again, other = first_weights(0), first_weights(0), first_weights(1)
    assert all(torch.equal(value, again[name]) for name, value in one.items())
    drawn = [name for name, value in one.items() if value.is_floating_point() and value.unique().numel() > 1]
    assert drawn
    assert not any(torch.equal(one[name], other[name]) for name in drawn)


def test_what_depends_on_the_task_is_written_out(plan_run) -> None:
    """So that a run's settings say what it did, and compare with those of runs that named it."""
    planned = plan_run("distillation.late_loss=auto")
    assert planned.config.distillation.late_loss == "standardized"
    assert "distillation.late_loss" in planned.automatic
