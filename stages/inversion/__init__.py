"""Stage 1, data inversion: images that the teacher knows and the student does not (Sec. 3.1-3.3, Eq. 1-3)."""

from stages.inversion.config import InversionConfig
from stages.registry import Spec

SPEC = Spec(
    name="inversion",
    target="stages.inversion.stage:Inversion",
    summary="inverts a batch of images from the teacher and puts it into the buffer",
    schema=InversionConfig,
)

SSDKD = Spec(
    name="ssdkd",
    target="stages.inversion.generator_inversion:GeneratorInversion",
    summary="a meta-learned generator with distribution balancing (SSD-KD), from Fast-Datafree's",
)
