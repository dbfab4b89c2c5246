"""What differs between tasks: the class of a sample, how losses reduce, metrics, pictures."""

from stages.registry import Spec

CLASSIFICATION = Spec(
    name="classification",
    target="stages.tasks.classification:Classification",
    summary="one label an image",
)
