"""Stage 2, distillation: the student learns from prioritised draws of the buffer (Sec. 3.4, Eq. 4-6)."""

from stages.distillation.config import DistillationConfig
from stages.registry import Spec

SPEC = Spec(
    name="distillation",
    target="stages.distillation.stage:Distillation",
    summary="draws batches from the buffer by priority and distils them into the student",
    schema=DistillationConfig,
)
