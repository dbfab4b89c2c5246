"""What a plugin or a script imports: everything here stays.

    student = load_student("runs/digits-20260101-120000")      # images in [0, 1] or uint8 -> logits

A package that adds a part installs an entry point in one of these groups that names a `Spec`, whose `target` is called
as below; the groups of the spec's `pattern` come as further keyword arguments, but not to a stage, which has one name
alone. Whoever is called refuses bad settings by ConfigError and files by FileError.

    ssdkd.stages       (config) -> Stage                            config: the table named after the stage
    ssdkd.methods      (config) -> InversionMethod                  config: the [inversion] table
    ssdkd.generators   (latent_dim=, image_shape=) -> nn.Module     latents [B, Z] -> images [B, C, H, W] in [0, 1];
                                                                    every parameter takes part in every pass; layers
                                                                    that draw (dropout) repeat their draws in a resumed
                                                                    run; with `inversion.overlap` they are refused
    ssdkd.models       (num_classes=, in_channels=, image_size=) -> nn.Module       normalised images -> logits [B, K]
                       or [B, K, H, W] where the task has a label for each pixel
    ssdkd.datasets     (root, split, *, image_shape=, resize=, download=) -> LabelledImages        uint8, int64 labels;
                       root is a Path or None, split "train", "test" or another part's name (`UNSPLIT` is all there is),
                       resize `evaluation.resize`, true, false or a shorter side in pixels;
                       FileError where it is not there: a run then goes without, with a warning
    ssdkd.tasks        (num_classes) -> Task                        serves every policy of `inversion.targets`

The `schema` of a spec is the pydantic model of a table: of a stage the one named after it, of a method
`[inversion.options]`, which reaches it as the dict `config.options`; other parts read none. Of a `Table`, the docstring
below a field is what `ssdkd presets explain` says of the key. A method emits an
`InversionStep` for steps that `run.should_log` asks for, and adds the images of each step to `run.num_trained`. A stage
that trains the student emits a `DistillationStep`, any part a `Warning`, and a `Measured` with numbers by name, which
the dashboard draws as curves, and `ssdkd watch` and `ssdkd runs show` print. An event of your own, which nothing shows,
is a frozen dataclass, a subclass of `Event` with a `kind` of its own; the fields `loss*` of a subclass of our two steps
become curves. `run.stages` run in every epoch, in warm-up too (`run.in_warmup`); `ssdkd invert` leaves out
"distillation" and `ssdkd distill` "inversion", by these names.

A task has one class an image, or one a pixel, under a softmax: neither several labels at once nor regression. Of its
metrics `loss` is in nats and `num_samples` a count; all others are fractions of which higher is better.

    # my_package/spec.py, which entry points name: free of torch, and so of this module
    from stages.registry import Spec
    SPEC = Spec("my-method", "my_package.method:MyMethod", "what it does, in a line")

`Spec`, `Table` with its `rule_error`, the errors and `load` (presets and overrides -> `Config`, whose table `task`
`build_model` takes) can also be had from `stages.registry`, `stages.config_table`, `stages.errors` and `stages.config`,
which import no torch; this module does, so the file that entry points name takes its `Spec` from `stages.registry`.
"""

from stages.config import Config, load
from stages.config_table import Table, rule_error
from stages.data.augment import Augmentation, augmented, draw_augmentation
from stages.data.dataset import UNSPLIT, LabelledImages
from stages.divergence import agreement, kl_divergence
from stages.errors import ConfigError, DivergedError, FileError, MachineError, SsdkdError, StorageError
from stages.events import DistillationStep, Event, InversionStep, Measured, Warning
from stages.inversion.bn_statistics import BatchNormMatching
from stages.inversion.config import InversionConfig
from stages.inversion.method import InversionMethod, Inverted
from stages.inversion.objectives import adversarial_loss, modulation, task_loss
from stages.models.build import build_generator, build_model
from stages.models.frozen_batch_norm import frozen_batch_norm
from stages.models.layers import evaluating
from stages.models.normalized import NormalizedModel
from stages.models.weights import load_weights
from stages.registry import Spec
from stages.run import Run
from stages.stage import Stage
from stages.student import load_student
from stages.tasks.task import Metrics, Task

__all__ = [
    "UNSPLIT",
    "Augmentation",
    "BatchNormMatching",
    "Config",
    "ConfigError",
    "DistillationStep",
    "DivergedError",
    "Event",
    "FileError",
    "InversionConfig",
    "InversionMethod",
    "InversionStep",
    "Inverted",
    "LabelledImages",
    "MachineError",
    "Measured",
    "Metrics",
    "NormalizedModel",
    "Run",
    "Spec",
    "SsdkdError",
    "Stage",
    "StorageError",
    "Table",
    "Task",
    "Warning",
    "adversarial_loss",
    "agreement",
    "augmented",
    "build_generator",
    "build_model",
    "draw_augmentation",
    "evaluating",
    "frozen_batch_norm",
    "kl_divergence",
    "load",
    "load_student",
    "load_weights",
    "modulation",
    "rule_error",
    "task_loss",
]
