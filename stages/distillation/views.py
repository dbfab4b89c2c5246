"""What a drawn image looks like: one augmented view of it, and what the teacher says of that view.

Legend: N buffered samples, V views of each, B drawn samples, C channels, H W pixels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from stages.buffer.replay_buffer import DrawnBatch
from stages.data.augment import Augmentation, augmented
from stages.data.mixing import Mixing, draw_mixing, mix
from stages.distillation.config import DistillationConfig
from stages.events import ViewsJudged
from stages.machine.compiled import Compiled
from stages.machine.recorded_step import RecordedStep
from stages.run import Run

_FEW_BATCHES = 8
"""More new images than so many batches, such as all of warm-up's, take long enough to tell of, and to be stopped in."""


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


class Pairs(NamedTuple):
    """Each image's partner, a permutation of the batch [B], and how they are mixed."""

    partner_B: Tensor
    mixing: Mixing


class ViewInputs(NamedTuple):
    """How images are looked at: uint8 [B, C, H, W], each shifted and mirrored, then perhaps mixed with its partner."""

    images_BCHW: Tensor
    augmentation: Augmentation
    pairs: Pairs | None


class FreshViews:
    """A new view at every draw, shown to the teacher each time; mixed in pairs if wanted."""

    def __init__(self, run: Run, config: DistillationConfig) -> None:
        self._config = config
        self._judge = _teachers_look(run, "drawn images")

    def begin_epoch(self, run: Run) -> None:
        """Nothing to get ready."""

    def judge(self, run: Run, batch: DrawnBatch, step: int) -> JudgedViews:
        """Augment the drawn images, each by a draw of its own, and ask the teacher."""
        num_images = len(batch.images_BCHW)
        augmentation = run.draw_augmentation(num_images, run.rng("distillation", "augmentation", step))
        pairs = None
        if self._config.mix != "none":
            rng = run.rng("distillation", "mixing", step)
            pairs = _draw_pairs(num_images, share=self._config.mix_share, rng=rng)
        return self._judge(ViewInputs(batch.images_BCHW, augmentation, pairs))

    def state_dict(self) -> dict[str, Any]:
        """Nothing is kept."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


def _columns_of(mix: str) -> dict[str, torch.dtype]:
    """What a cached view is kept as beside the logits, a number each: the type by the column's name."""
    place = {"shift_y": torch.int16, "shift_x": torch.int16, "flip": torch.bool}
    if mix == "none":
        return place
    mixing = dict.fromkeys(("other", "y", "x"), torch.float32)
    partner = dict.fromkeys(("partner_slot", "partner_serial"), torch.int64)
    return place | {f"partner_{name}": dtype for name, dtype in place.items()} | mixing | partner


def bytes_per_view(mix: str, *, num_logits: int, precision: str) -> int:
    """What `CachedViews` take for each view, where the teacher's answer has so many logits in `run.precision`."""
    logit = torch.bfloat16 if precision == "bf16" else torch.float32
    return sum(dtype.itemsize for dtype in _columns_of(mix).values()) + num_logits * logit.itemsize


class CachedViews:
    """V views of each buffered image, drawn once and shown to the teacher once; a draw takes one of them.

    Not in the paper. The teacher is frozen, so its logits of a view never change; at 5,000 images and 40 updates an
    image is drawn about 40 times before it leaves, and its teacher passes fall from 40 to V. A view is kept as its
    shift and flip, not as pixels, and a mixed one also as where its partner is stored. Memory: N V `bytes_per_view`,
    where N is the buffer's room.

    Partners are chosen among the images that came with an image and so leave about when it does. The view of one whose
    partner has left cannot be made again; in its place comes the first view, which is never mixed.
    """

    def __init__(self, run: Run, config: DistillationConfig) -> None:
        self._config = config
        self._device = run.device
        self._batch_size = _batch_of_new(run, config)
        self._judge_full = _teachers_look(run, "new images")
        # What does not fill a batch is not worth compiling and recording for its size.
        self._judge_rest = partial(_judged, run, run.teacher)
        self._num_seen = 0
        """Samples inserted so far that have their views, or had them."""
        self._columns: dict[str, Tensor] = {}
        """By slot and view: those of `_columns_of` [N, V], and the logits [N, V, K, ...] as the teacher gives them."""

    def begin_epoch(self, run: Run) -> None:
        """Draw the views of samples that are new in the buffer, and ask the teacher about each.

        Costs V teacher passes for every new sample. A run that stops here begins again with the first of them, and
        draws the same.
        """
        buffer, rng = run.buffer, run.rng("distillation", "views")
        num_new = min(buffer.num_inserted - self._num_seen, buffer.size)
        if num_new == 0:  # `torch.split` of nothing is one batch of no images, which not every teacher takes
            return
        # The newest, by slot. Of many new ones some may have left again, and older ones are among them: no harm, for
        # how many they are is known on the device only.
        new_M = buffer.column("serial").topk(num_new).indices.sort().values
        batches = torch.split(new_M, self._batch_size)
        num_judged = 0
        for index, slots_B in enumerate(batches):
            run.seed_layers("distillation", "teacher", index)
            images_BCHW = buffer.column("images").index_select(0, slots_B)
            for view in range(self._config.views):
                self._judge_new(run, slots_B, images_BCHW, view, rng)
            num_judged += len(slots_B)
            if len(batches) > _FEW_BATCHES:
                run.emit(ViewsJudged(done=num_judged, total=num_new))
                run.safe_point()
        self._num_seen = buffer.num_inserted

    def _judge_new(self, run: Run, slots_B: Tensor, images_BCHW: Tensor, view: int, rng: torch.Generator) -> None:
        config = self._config
        augmentation, pairs = run.draw_augmentation(len(images_BCHW), rng), None
        values = _place(augmentation)
        if config.mix != "none":
            # The first view is whole; the others make up for it as far as they can.
            share = 0.0 if view == 0 else config.mix_share * config.views / (config.views - 1)
            pairs = _draw_pairs(len(images_BCHW), share=share, rng=rng)
            values |= {f"partner_{name}": value_B[pairs.partner_B] for name, value_B in values.items()}
            values |= {"other": pairs.mixing.other_B, "y": pairs.mixing.y_B, "x": pairs.mixing.x_B}
            values["partner_slot"] = slots_B[pairs.partner_B]
            values["partner_serial"] = run.buffer.column("serial")[values["partner_slot"]]
        is_full = len(slots_B) == self._batch_size
        judge = self._judge_full if is_full else self._judge_rest
        kept = {name: values[name].to(dtype) for name, dtype in _columns_of(config.mix).items()}
        kept["logits"] = judge(ViewInputs(images_BCHW, augmentation, pairs)).teacher_logits_BK
        for name, value_B in kept.items():
            self._column(name, like=value_B, num_slots=run.buffer.num_slots)[slots_B, view] = value_B

    def _column(self, name: str, *, like: Tensor, num_slots: int) -> Tensor:
        """A column with room for `num_slots`; what it held stays."""
        held = self._columns.get(name)
        if held is None or len(held) < num_slots:
            larger = like.new_zeros((num_slots, self._config.views, *like.shape[1:]))
            if held is not None:
                larger[: len(held)] = held
            self._columns[name] = held = larger
        return held

    def judge(self, run: Run, batch: DrawnBatch, step: int) -> JudgedViews:
        """One of its views for each drawn sample, all alike likely."""
        rng = run.rng("distillation", "view", step)
        view_B = torch.randint(self._config.views, batch.slots_B.shape, generator=rng, device=run.device)
        if self._config.mix == "none":
            drawn = self._drawn(batch.slots_B, view_B)
            return JudgedViews(augmented(batch.images_BCHW, _augmentation(drawn)), drawn["logits"])
        slot_B, serial_B = (self._columns[name][batch.slots_B, view_B] for name in ("partner_slot", "partner_serial"))
        has_left_B = run.buffer.column("serial")[slot_B] != serial_B
        drawn = self._drawn(batch.slots_B, torch.where(has_left_B, 0, view_B))
        partners_BCHW = run.buffer.column("images").index_select(0, drawn["partner_slot"])
        views_BCHW = mix(
            self._config.mix,
            augmented(batch.images_BCHW, _augmentation(drawn)),
            augmented(partners_BCHW, _augmentation(drawn, "partner_")),
            Mixing(drawn["other"], drawn["y"], drawn["x"]),
        )
        return JudgedViews(views_BCHW, drawn["logits"])

    def _drawn(self, slots_B: Tensor, view_B: Tensor) -> dict[str, Tensor]:
        return {name: column[slots_B, view_B] for name, column in self._columns.items()}

    def state_dict(self) -> dict[str, Any]:
        """The views of every slot."""
        return {"num_seen": self._num_seen, "columns": self._columns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._num_seen = state["num_seen"]
        self._columns = {name: column.to(self._device, copy=True) for name, column in state["columns"].items()}


def _batch_of_new(run: Run, config: DistillationConfig) -> int:
    """How many images are judged at once: a batch of the student's, or all that an epoch brings if fewer."""
    if "inversion" not in run.schedule.stages:
        return config.batch_size
    return min(config.batch_size, run.config.inversion.calls * run.config.inversion.batch_size)


def make_views(run: Run, config: DistillationConfig) -> Views:
    """Views as `distillation.views` asks for them: 0 for a fresh one at every draw."""
    return CachedViews(run, config) if config.views > 0 else FreshViews(run, config)


def _draw_pairs(num_images: int, *, share: float, rng: torch.Generator) -> Pairs:
    partner_B = torch.randperm(num_images, generator=rng, device=rng.device)
    return Pairs(partner_B, draw_mixing(num_images, share=share, rng=rng))


def _teachers_look(run: Run, at_what: str) -> RecordedStep[ViewInputs, JudgedViews]:
    """What the teacher says of images, compiled and recorded where the run is."""
    teacher = Compiled(run, "the teacher", run.teacher, has_fixed_weights=True)
    return RecordedStep(run, f"the teacher's look at {at_what}", lambda look: _judged(run, teacher, look))


def _judged(run: Run, teacher: Callable[[Tensor], Tensor], look: ViewInputs) -> JudgedViews:
    views_BCHW = augmented(look.images_BCHW, look.augmentation)
    if look.pairs is not None:
        others_BCHW = views_BCHW[look.pairs.partner_B]
        views_BCHW = mix(run.config.distillation.mix, views_BCHW, others_BCHW, look.pairs.mixing)
    with torch.no_grad(), run.autocast():
        return JudgedViews(views_BCHW, teacher(views_BCHW))


def _place(augmentation: Augmentation) -> dict[str, Tensor]:
    """Shift and flip by their columns' names."""
    shift_y_B, shift_x_B, flip_B = augmentation
    return {"shift_y": shift_y_B, "shift_x": shift_x_B, "flip": flip_B}


def _augmentation(drawn: dict[str, Tensor], prefix: str = "") -> Augmentation:
    """Shift and flip as they were drawn."""
    shift_y_B, shift_x_B = (drawn[f"{prefix}{name}"].long() for name in ("shift_y", "shift_x"))
    return Augmentation(shift_y_B, shift_x_B, drawn[f"{prefix}flip"])
