"""What the entry points name, and the tables that presets have for it. Importing this must not import torch."""

from pydantic import PositiveFloat, PositiveInt

from stages.config_table import Table
from stages.registry import Spec


class PixelOptions(Table):
    """`[inversion.options]` of the method `pixels`."""

    lr: PositiveFloat = 0.05
    """Adam's rate for the pixels, which are in [0, 1]."""


class ForgettingTable(Table):
    """`[forgetting]`."""

    batch_size: PositiveInt = 256
    """Images looked at at once."""


PIXELS = Spec("pixels", "ssdkd_pixels.method:PixelInversion", "images by their pixels alone", schema=PixelOptions)
FORGETTING = Spec("forgetting", "ssdkd_pixels.stage:Forgetting", "what the student forgets", schema=ForgettingTable)
