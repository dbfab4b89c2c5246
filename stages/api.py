"""What a plugin imports: everything here stays.

A package that adds a stage, an inversion method, a task, a model, a generator or a data set installs an entry point
in the group `ssdkd.stages`, `.methods`, `.tasks`, `.models`, `.generators` or `.datasets` that names a `Spec`. Keep the
module of the spec free of torch and of this module: `Spec`, `Table` and the errors can also be had from
`stages.registry`, `stages.config_table` and `stages.errors`, which import no torch.
"""

from stages.config_table import Table
from stages.data.augment import Augmentation, apply, draw_augmentation
from stages.data.dataset import LabelledImages
from stages.divergence import agreement, kl_divergence
from stages.errors import ConfigError, DivergedError, FileError, MachineError, SsdkdError, StorageError
from stages.events import Event, InversionStep
from stages.inversion.config import InversionConfig
from stages.inversion.method import InversionMethod, Inverted
from stages.registry import Spec
from stages.run import NormalizedModel, Run, evaluating
from stages.stage import Stage
from stages.tasks.task import Metrics, Task

__all__ = [
    "Augmentation",
    "ConfigError",
    "DivergedError",
    "Event",
    "FileError",
    "InversionConfig",
    "InversionMethod",
    "InversionStep",
    "Inverted",
    "LabelledImages",
    "MachineError",
    "Metrics",
    "NormalizedModel",
    "Run",
    "Spec",
    "SsdkdError",
    "Stage",
    "StorageError",
    "Table",
    "Task",
    "agreement",
    "apply",
    "draw_augmentation",
    "evaluating",
    "kl_divergence",
]
