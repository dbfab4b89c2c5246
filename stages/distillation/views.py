"""What a drawn image looks like: one augmented view of it, and what the teacher says of that view.

Legend: N buffered samples, V views of each, B drawn samples, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from stages.buffer.replay_buffer import DrawnBatch
from stages.captured_step import CapturedStep
from stages.compiled import Compiled
from stages.data.augment import Augmentation, apply, draw_augmentation
from stages.data.mixing import Mixing, draw_mixing, mix
from stages.distillation.config import DistillationConfig
from stages.run import Run


class JudgedViews(NamedTuple):
    """Augmented images uint8 [B, C, H, W] and the teacher's logits [B, K, ...] of them. Valid until the next ones."""

    images_BCHW: Tensor
    teacher_logits_BK: Tensor


class Views(Protocol):
    """Where the views of an epoch come from."""

    def begin_epoch(self, run: Run) -> None:
        """Get ready for the samples that the buffer holds now. Called again where an epoch is resumed."""

    def judge(self, run: Run, batch: DrawnBatch, step: int) -> JudgedViews:
        """A view of each drawn sample."""

    def state_dict(self) -> dict[str, Any]:
        """Everything the next draw depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""


class Look(NamedTuple):
    """Images uint8 [B, C, H, W] and their augmentation, each [B]; and how they are mixed, if they are."""

    images_BCHW: Tensor
    shift_y_B: Tensor
    shift_x_B: Tensor
    flip_B: Tensor
    partner_B: Tensor | None = None
    own_B1HW: Tensor | None = None


class FreshViews:
    """A new view at every draw, shown to the teacher each time (Algorithm 1 as printed); mixed in pairs if wanted."""

    def __init__(self, run: Run, config: DistillationConfig) -> None:
        self._config = config
        teacher = Compiled(run, "the teacher", run.teacher)
        self._judge: CapturedStep[Look, JudgedViews] = CapturedStep(
            run, "the teacher's look at drawn images", lambda look: _judged(run, teacher, look)
        )

    def begin_epoch(self, run: Run) -> None:
        """Nothing to get ready."""

    def judge(self, run: Run, batch: DrawnBatch, step: int) -> JudgedViews:
        """Augment the drawn images, each by a draw of its own, and ask the teacher."""
        num, config = len(batch.images_BCHW), self._config
        look = _look(batch.images_BCHW, _draw(run, num, run.rng("distillation", "augmentation", step)))
        if config.mix != "none":
            _, height, width = run.config.task.image_shape
            rng = run.rng("distillation", "mixing", step)
            mixing = draw_mixing(
                config.mix, num, share=config.mix_share, height=height, width=width, rng=rng, device=run.device
            )
            look = look._replace(partner_B=mixing.partner_B, own_B1HW=mixing.own_B1HW)
        return self._judge(look)

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


class CachedViews:
    """V views of each buffered image, drawn once and shown to the teacher once; a draw takes one of them.

    Not in the paper. The teacher is frozen, so its logits of a view never change; at 5,000 images and 40 updates an
    image is drawn about 40 times before it leaves, and its teacher passes fall from 40 to V. A view is kept as its
    shift and flip, not as pixels. Memory: N V (5 bytes + the logits), where N is the buffer's room.
    """

    def __init__(self, num_views: int, device: torch.device) -> None:
        self._num_views = num_views
        self._device = device
        self._num_seen = 0
        """Samples inserted so far that have their views, or had them."""
        self._columns: dict[str, Tensor] = {}
        """By slot: shift_y, shift_x int16 [N, V], flip bool [N, V], logits [N, V, K, ...] as the teacher gives them."""

    def begin_epoch(self, run: Run) -> None:
        """Draw the views of samples that are new in the buffer, and ask the teacher about each.

        Costs V teacher passes for every new sample.
        """
        buffer, rng = run.buffer, run.rng("distillation", "views")
        num_new = min(buffer.num_inserted - self._num_seen, buffer.size)
        # The newest, by slot. Of many new ones some may have left again, and older ones are among them: no harm, for
        # how many they are is known on the device only.
        new_M = buffer.column("serial").topk(num_new).indices.sort().values
        for slots_B in torch.split(new_M, run.config.distillation.batch_size):
            images_BCHW = buffer.column("images").index_select(0, slots_B)
            for view in range(self._num_views):
                self._judge_new(run, slots_B, images_BCHW, view, rng)
        self._num_seen = buffer.num_inserted

    def _judge_new(self, run: Run, slots_B: Tensor, images_BCHW: Tensor, view: int, rng: torch.Generator) -> None:
        augmentation = _draw(run, len(slots_B), rng)
        judged = _judged(run, run.teacher, _look(images_BCHW, augmentation))
        values = {
            "shift_y": augmentation.shift_y_B.to(torch.int16),
            "shift_x": augmentation.shift_x_B.to(torch.int16),
            "flip": augmentation.flip_B,
            "logits": judged.teacher_logits_BK,
        }
        for name, value_B in values.items():
            self._column(name, like=value_B, num_slots=run.buffer.num_slots)[slots_B, view] = value_B

    def _column(self, name: str, *, like: Tensor, num_slots: int) -> Tensor:
        """A column with room for `num_slots`; what it held stays."""
        held = self._columns.get(name)
        if held is None or len(held) < num_slots:
            larger = like.new_zeros((num_slots, self._num_views, *like.shape[1:]))
            if held is not None:
                larger[: len(held)] = held
            self._columns[name] = held = larger
        return held

    def judge(self, run: Run, batch: DrawnBatch, step: int) -> JudgedViews:
        """One of its views for each drawn sample, all alike likely."""
        rng = run.rng("distillation", "view", step)
        view_B = torch.randint(self._num_views, batch.slots_B.shape, generator=rng, device=run.device)
        drawn = {name: column[batch.slots_B, view_B] for name, column in self._columns.items()}
        augmentation = Augmentation(drawn["shift_y"].long(), drawn["shift_x"].long(), drawn["flip"])
        return JudgedViews(apply(batch.images_BCHW, augmentation), drawn["logits"])

    def state_dict(self) -> dict[str, Any]:
        """The views of every slot."""
        return {"num_seen": self._num_seen, "columns": self._columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._num_seen = state["num_seen"]
        self._columns = {name: column.to(self._device, copy=True) for name, column in state["columns"].items()}


def make_views(run: Run, config: DistillationConfig) -> Views:
    """Views as `distillation.views` asks for them: 0 for a fresh one at every draw."""
    return CachedViews(config.views, run.device) if config.views > 0 else FreshViews(run, config)


def _draw(run: Run, num: int, rng: torch.Generator) -> Augmentation:
    task = run.config.task
    return draw_augmentation(num, padding=task.crop_padding, flip=task.horizontal_flip, rng=rng, device=run.device)


def _look(images_BCHW: Tensor, augmentation: Augmentation) -> Look:
    return Look(images_BCHW, augmentation.shift_y_B, augmentation.shift_x_B, augmentation.flip_B)


def _judged(run: Run, teacher: Callable[[Tensor], Tensor], look: Look) -> JudgedViews:
    views_BCHW = apply(look.images_BCHW, Augmentation(look.shift_y_B, look.shift_x_B, look.flip_B))
    if look.partner_B is not None and look.own_B1HW is not None:
        views_BCHW = mix(views_BCHW, Mixing(look.partner_B, look.own_B1HW))
    with torch.no_grad(), run.autocast():
        return JudgedViews(views_BCHW, teacher(views_BCHW))
