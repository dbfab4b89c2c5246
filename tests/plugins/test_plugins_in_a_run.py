"""A stranger's stage, method, model and data set, installed beside us, make a run that names them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from child_process import run_python
from safetensors.torch import load_file

ENTRY_POINTS = """
[ssdkd.stages]
averaging = stranger.specs:AVERAGING
[ssdkd.methods]
noise = stranger.specs:NOISE
[ssdkd.models]
linear = stranger.specs:LINEAR
dense = stranger.specs:DENSE
[ssdkd.datasets]
stripes = stranger.specs:STRIPES
[ssdkd.tasks]
pixels = stranger.specs:PIXELS
[ssdkd.generators]
corner = stranger.specs:CORNER
"""

# Light, as the specs of a plugin should be: no torch.
SPECS = """
from stages.config_table import Table
from stages.registry import Spec


class AveragingConfig(Table):
    decay: float = 0.5


class NoiseOptions(Table):
    contrast: float = 0.1


AVERAGING = Spec("averaging", "stranger.parts:Averaging", "averages the student", schema=AveragingConfig)
NOISE = Spec(
    "noise",
    "stranger.parts:Noise",
    "images of noise",
    schema=NoiseOptions,
    pattern=r"noise(?P<levels>[0-9]+)(?:-(?P<palette>[a-z]+))?",
)
LINEAR = Spec("linear", "stranger.parts:linear", "one layer", pattern=r"linear(?P<width>[0-9]+)", example="linear8")
STRIPES = Spec("stripes", "stranger.parts:load_stripes", "horizontal and vertical stripes")
DENSE = Spec("dense", "stranger.parts:dense", "a class for each pixel", pattern=r"dense(?P<width>[0-9]+)")
PIXELS = Spec("pixels", "stranger.parts:Pixels", "a label for each pixel", pattern=r"pixels(?P<ignored>[0-9]+)")
CORNER = Spec("corner", "stranger.parts:Corner", "images with a black corner")
"""

PARTS = """
from dataclasses import dataclass

import torch
from torch import nn

from stages.api import Event, Inverted, LabelledImages, Stage


@dataclass(frozen=True, kw_only=True)
class Averaged(Event):
    kind = "averaged"
    distance: float


class Averaging(Stage):
    def setup(self, run):
        self.average = {name: value.detach().clone() for name, value in run.student.model.named_parameters()}
        self.best = float("inf")
        run.emit(Averaged(distance=-1.0))

    def run_epoch(self, run):
        distance = 0.0
        for name, value in run.student.model.named_parameters():
            self.average[name].lerp_(value.detach(), 1 - self.config.decay)
            distance += float((self.average[name] - value).norm())
        run.emit(Averaged(distance=distance))

    def state_dict(self):
        return {"average": self.average, "best": self.best}

    def load_state_dict(self, state):
        self.average, self.best = state["average"], state["best"]


class Noise:
    def __init__(self, config, *, levels, palette="grey"):
        self.config = config
        self.levels = levels
        assert palette == "grey", "a group that takes no part in the name is left to its default"

    def setup(self, run):
        self.num_calls = 0

    def invert(self, run):
        self.num_calls += 1
        return self._images(run, "epoch", self.config.batch_size)

    def invert_holdout(self, run, num_images):
        return self._images(run, "holdout", num_images)

    def _images(self, run, stream, num):
        rng = run.rng("inversion", stream)
        noise = torch.randint(self.levels, (num, *run.config.task.image_shape), generator=rng) / (self.levels - 1)
        images = 0.5 + self.config.options["contrast"] * (noise - 0.5)
        return Inverted(images, torch.randint(run.task.num_classes, (num,), generator=rng))

    def state_dict(self):
        return {"num_calls": self.num_calls}

    def load_state_dict(self, state):
        self.num_calls = state["num_calls"]


def linear(*, width, num_classes, in_channels, image_size):
    pixels = in_channels * image_size[0] * image_size[1]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.BatchNorm1d(width), nn.Linear(width, num_classes))


def dense(*, width, num_classes, in_channels, image_size):
    return nn.Sequential(
        nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.Tanh(), nn.Conv2d(width, num_classes, 1)
    )


class Corner(nn.Module):
    def __init__(self, *, latent_dim, image_shape):
        super().__init__()
        self.image_shape = image_shape
        self.linear = nn.Linear(latent_dim, image_shape[0] * image_shape[1] * image_shape[2])
        self.norm = nn.BatchNorm1d(self.linear.out_features)

    def forward(self, latents):
        images = self.norm(self.linear(latents)).sigmoid().view(-1, *self.image_shape)
        mask = torch.ones_like(images)
        mask[:, :, 0, 0] = 0
        return images * mask


class Pixels:
    headline = "pixel_accuracy"

    def __init__(self, num_classes, *, ignored):
        assert ignored == 255
        self.num_classes = num_classes

    def label_shape(self, image_shape):
        return tuple(image_shape[1:])

    def predict(self, logits):
        probability, classes = logits.float().softmax(dim=1).max(dim=1)
        return classes, probability

    def per_sample(self, values):
        return values.flatten(1).mean(dim=1)

    def draw_targets(self, policy, num, *, class_counts_K, image_shape, rng):
        return None

    def new_metrics(self):
        raise AssertionError("there is no real data")


def load_stripes(root, split, *, image_shape, resize, download):
    images = torch.zeros(10, *image_shape, dtype=torch.uint8)
    images[:5, :, ::2] = 255
    images[5:, :, :, ::2] = 255
    return LabelledImages(images, torch.arange(10) // 5, ("horizontal", "vertical"), "stripes", split)
"""

PRESET = """
[run]
stages = ["inversion", "distillation", "averaging", "evaluation"]
epochs = 3
warmup_epochs = 1
threads = 1
device = "cpu"
precision = "fp32"
log_every = 1

[task]
num_classes = 2
image_shape = [1, 6, 6]
mean = [0.5]
std = [0.25]

[teacher]
model = "linear7"
weights = "teacher.safetensors"

[student]
model = "linear3"

[inversion]
method = "noise2"
batch_size = 16

[inversion.options]
contrast = 0.9

[buffer]
capacity = 32

[distillation]
steps = 2
batch_size = 8

[averaging]
decay = 0.25

[evaluation]
data = "stripes"
num_holdout = 6
"""

# Runs by name, then stops a second run in the middle and resumes it: the plugin's state goes on, too.
SCRIPT = """
import json, sys
from pathlib import Path

from stages.config import load
config = load(["preset.toml"])
assert "torch" not in sys.modules, "a stranger's specs are light"

import torch
from stages.api import Spec
from stages.models.build import build_model
from stages.models.weights import save_weights
from stages.trainer import Launch, execute, plan, resume
torch.manual_seed(0)
save_weights(build_model("linear7", task=config.task, where="teacher.model"), Path("teacher.safetensors"))

def start(out, *listeners):
    return execute(plan(config, Launch(command="run", preset_name="preset", out=Path(out))), listeners)

def stop(event, epoch):
    if event.kind == "averaged" and epoch == 2:
        Path("stopped/control.jsonl").write_text('{"id": "1", "action": "stop"}' + chr(10))

first, second = start("undisturbed"), start("stopped", stop)
third = resume(Path("stopped"))
print(json.dumps([outcome.summary for outcome in (first, second, third)]))
"""


def said_by(script: str, site: Path, folder: Path, *arguments: str, told: str = "") -> str:
    """What a script prints that is run in a folder, with the stranger's package installed."""
    environment = {"PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])}
    return run_python("-B", "-c", script, *arguments, cwd=folder, environment=environment, told=told).out


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the path in which a stranger's package is installed."""
    site = tmp_path / "site"
    info = site / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (site / "stranger").mkdir()
    (site / "stranger" / "__init__.py").touch()
    (site / "stranger" / "specs.py").write_text(SPECS)
    (site / "stranger" / "parts.py").write_text(PARTS)
    return site


def test_a_run_of_a_strangers_parts(site: Path, tmp_path: Path) -> None:
    (tmp_path / "preset.toml").write_text(PRESET)
    undisturbed, stopped, resumed = json.loads(said_by(SCRIPT, site, tmp_path))
    assert [summary["status"] for summary in (undisturbed, stopped, resumed)] == ["done", "stopped", "done"]
    assert stopped["epochs"] == 1
    assert undisturbed["student"]["num_samples"] == 10
    assert "averaging" in undisturbed["seconds"]
    for name in ("student.safetensors", "buffer.safetensors", "holdout.safetensors"):
        assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    told = [json.loads(line) for line in (tmp_path / "undisturbed/events.jsonl").read_text().splitlines()]
    averaged = [(event["epoch"], event["distance"]) for event in told if event["kind"] == "averaged"]
    assert averaged[0] == (0, -1.0), "what a stage says while it is set up is told once the run has begun"
    assert [epoch for epoch, _ in averaged] == [0, 1, 2, 3]
    images = load_file(tmp_path / "undisturbed/buffer.safetensors")["images"]
    assert images.unique().tolist() == [13, 242], "the method was told of the two levels in its name"
    assert told[0]["class_names"] == ["horizontal", "vertical"]
    # The average goes on where it was: what the stage says in the last epoch depends on it.
    again = [json.loads(line) for line in (tmp_path / "stopped/events.jsonl").read_text().splitlines()]
    assert [event for event in again if event["kind"] == "averaged"][-1]["distance"] == averaged[-1][1]
    assert "contrast = 0.9" in (tmp_path / "undisturbed/config.toml").read_text()
    manifest = json.loads((tmp_path / "undisturbed/manifest.json").read_text())
    assert manifest["versions"]["stranger"] == "1.0"


DENSE_SCRIPT = """
import torch
from pathlib import Path
from stages.config import load
from stages.models.build import build_model
from stages.models.weights import save_weights
from stages.trainer import Launch, execute, plan
config = load(
    ["preset.toml"],
    ["task.kind=pixels255", "teacher.model=dense5", "student.model=dense4", "evaluation.data=none"]
    + ["inversion.method=ssdkd", "inversion.generator=corner", "inversion.steps=2", "inversion.latent_dim=4"],
)
torch.manual_seed(0)
save_weights(build_model("dense5", task=config.task, where="teacher.model"), Path("teacher.safetensors"))
planned = plan(config, Launch(command="run", preset_name="preset", out=Path("run")))
print(execute(planned).summary["agreement"])
"""


def test_a_run_of_a_strangers_task_and_generator(site: Path, tmp_path: Path) -> None:
    """A class for each pixel: one priority an image, the mean over its pixels."""
    (tmp_path / "preset.toml").write_text(PRESET.replace("[inversion.options]\ncontrast = 0.9\n", ""))
    assert 0 < float(said_by(DENSE_SCRIPT, site, tmp_path)) <= 1
    rows = load_file(tmp_path / "run/buffer.safetensors")
    images = rows["images"]
    assert images[:, :, 0, 0].unique().tolist() == [0]
    assert images[:, :, 1:, 1:].float().std() > 10
    assert rows["teacher_class"].shape == rows["teacher_prob"].shape == (32, 6, 6)
    assert rows["priority"].shape == (32,)


BROKEN = {
    "spec cannot be imported": (
        ENTRY_POINTS.replace("stranger.specs:LINEAR", "stranger.gone:LINEAR"),
        PARTS,
        "the plugin `linear` of ssdkd.models: `stranger.gone:LINEAR` cannot be loaded: ModuleNotFoundError",
    ),
    "spec leaves the process": (
        ENTRY_POINTS.replace("stranger.specs:LINEAR", "stranger.leaving:LINEAR"),
        PARTS,
        "the plugin `linear` of ssdkd.models: `stranger.leaving:LINEAR` cannot be loaded: SystemExit",
    ),
    "no spec": (
        ENTRY_POINTS.replace("stranger.specs:LINEAR", "stranger.specs:NoiseOptions"),
        PARTS,
        "`stranger.specs:NoiseOptions` is a ModelMetaclass, not a Spec",
    ),
    "name of ours": (
        ENTRY_POINTS.replace("stranger.specs:STRIPES", "stages.data:DIGITS"),
        PARTS,
        "`digits` in `evaluation.data` is served by `stages.data.digits:load_digits` and `stages.data.digits:load",
    ),
    "code cannot be imported": (ENTRY_POINTS, "import no_such_library", "plugin `linear` cannot be loaded: ModuleNot"),
    "code has no such part": (ENTRY_POINTS, "", "plugin `linear` cannot be loaded: AttributeError"),
}

# All cases in one process: importing torch is what takes long.
BROKEN_SCRIPT = """
import importlib, json, sys
from pathlib import Path
site = Path(sys.argv[1])
texts = {}
for name, (entry_points, parts, _) in json.loads(sys.stdin.read()).items():
    (site / "stranger-1.0.dist-info/entry_points.txt").write_text(entry_points)
    (site / "stranger/parts.py").write_text(parts)
    for module in [module for module in sys.modules if module.partition(".")[0] == "stranger"]:
        del sys.modules[module]
    importlib.invalidate_caches()
    from stages import registry
    from stages.errors import ConfigError
    registry.entries.cache_clear()
    registry.installed.cache_clear()
    try:
        registry.find("models", "wrn10_1", where="student.model")  # whatever is wrong with others
        registry.find("datasets", "digits", where="evaluation.data")
        registry.find("models", "linear8", where="student.model").spec.load()
    except ConfigError as error:
        texts[name] = [error.message, error.hint]
print(json.dumps(texts))
"""


def test_broken_plugins_are_named(site: Path, tmp_path: Path) -> None:
    (site / "stranger" / "leaving.py").write_text("raise SystemExit(3)")
    texts = json.loads(said_by(BROKEN_SCRIPT, site, tmp_path, str(site), told=json.dumps(BROKEN)))
    assert texts.keys() == BROKEN.keys()
    for name, (_, _, message) in BROKEN.items():
        assert message in " ".join(texts[name]), name
        assert texts[name][1], name
