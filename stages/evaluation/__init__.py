"""Stage 3, evaluation: accuracy on real data where there is some, and agreement on held-out synthetic images."""

from stages.evaluation.config import EvaluationConfig
from stages.registry import Spec

SPEC = Spec(
    name="evaluation",
    target="stages.evaluation.stage:EvaluationStage",
    summary="measures the student on real images, and its agreement with the teacher on synthetic ones",
    schema=EvaluationConfig,
)
