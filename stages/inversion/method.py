"""How images are made from a teacher: the part of inversion that `inversion.method` chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from stages.run import Run


class Inverted(NamedTuple):
    """Images made from the teacher, floating point [B, C, H, W] in [0, 1], and the classes they were aimed at, int64
    [B, ...] with the shape of the task's labels, -1 where at none."""

    images_BCHW: Tensor
    target_B: Tensor


class InversionMethod(Protocol):
    """Makes images from the run's teacher. Constructed with the `[inversion]` table; `setup` builds its state.

    A method draws randomness only through `run.rng("inversion", ...)` and owns whatever it carries from call to call.
    With `inversion.overlap` it is at work beside distillation, in a thread of its own: its run then has copies of
    teacher and student, of the buffer it may look at classes and counts, never at priorities, and it must not use
    `run.seed_layers`: torch's global stream is the student's then. One that has a method `close` is closed once,
    however the run ended.
    """

    def setup(self, run: Run) -> None:
        """Build networks and optimisers on the run's device."""

    def invert(self, run: Run) -> Inverted:
        """One call of an epoch: `inversion.batch_size` images for the buffer."""

    def invert_holdout(self, run: Run, num_images: int) -> Inverted:
        """Images that are never trained on, from a random stream of their own; leaves the method's state as it is."""

    def state_dict(self) -> dict[str, Any]:
        """Everything the next call depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
