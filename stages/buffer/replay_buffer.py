"""The dynamic replay buffer B of SSD-KD, on the run's device.

Legend: N stored samples, B batch, C channels, H W pixels, K classes, ... a label's dimensions (none, or H W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.buffer.config import BufferConfig
from stages.buffer.file import BufferMeta, row_slices, write_rows
from stages.buffer.priorities import sampling_probabilities
from stages.buffer.statistics import buffer_report

_FIRST_ALLOCATION = 1024
"""Slots allocated at first where nobody says how many samples will come; then storage doubles up to the capacity."""

_MOST_IN_FLOAT32 = 2**16
"""Samples up to which cumulative probabilities in float32 are exact enough to draw by.

Beyond, the step between float32 numbers near 1 is no longer small against a sample's own probability: at 65,536 samples
a probability is off by .06 % (median), at 1,000,000 by 1 %, and of a wide spread of priorities half a percent of all
samples could not be drawn at all.
"""


def _columns_of(image_shape: Sequence[int], label_shape: Sequence[int]) -> dict[str, tuple[Sequence[int], torch.dtype]]:
    """What is kept of each sample: shape and type by the column's name."""
    return {
        "images": (image_shape, torch.uint8),
        "teacher_class": (label_shape, torch.int64),
        "teacher_prob": (label_shape, torch.float32),
        "priority": ((), torch.float32),
        "target": (label_shape, torch.int64),
        "inserted_epoch": ((), torch.int32),
        "serial": ((), torch.int64),
    }


def bytes_per_sample(image_shape: Sequence[int], label_shape: Sequence[int]) -> int:
    """What a `ReplayBuffer` takes for each sample there is room for: the image and all that is kept beside it."""
    columns = _columns_of(image_shape, label_shape).values()
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in columns)


class DrawnBatch(NamedTuple):
    """Samples drawn for a student update: slots [B] int64, images uint8 [B, C, H, W], P(x) [B] float32."""

    slots_B: Tensor
    images_BCHW: Tensor
    probability_B: Tensor


class ReplayBuffer:
    """A bounded store of synthetic images with the teacher's verdict and a priority for each.

    A sample keeps its slot while it is stored; a new one takes a free slot or that of a sample that leaves.

    Costs, for N stored samples and a batch of B: a draw by priority, class counts and eviction of the lowest priorities
    take O(N) of the small columns, new priorities O(B^2); everything else O(B). Images are touched only where they are
    inserted or drawn.
    """

    def __init__(
        self,
        config: BufferConfig,
        *,
        image_shape: Sequence[int],
        label_shape: Sequence[int],
        num_classes: int,
        device: torch.device,
        num_expected: int = 0,
    ) -> None:
        """Room for `num_expected` samples, at most the capacity, is allocated at once; it grows where more come.

        Growing copies what is stored into twice the room, and the heap keeps what that leaves: up to three times the
        memory. On a CPU, room costs nothing before something is stored in it. On a GPU it does, so that a run which
        does not fit ends before its first step and not in the middle.
        """
        self.config = config
        self.num_classes = num_classes
        self.size = 0
        self.num_inserted = 0
        """Samples that were ever inserted: the serial number of the next one."""
        num_slots = min(num_expected, config.capacity)
        self._columns = {
            name: torch.empty((num_slots, *shape), dtype=dtype, device=device)
            for name, (shape, dtype) in _columns_of(image_shape, label_shape).items()
        }

    @property
    def num_slots(self) -> int:
        """Samples there is room for at present."""
        return len(self._columns["serial"])

    def column(self, name: str) -> Tensor:
        """View of a column [N, ...]: images, teacher_class, teacher_prob, priority, target, inserted_epoch, serial."""
        return self._columns[name][: self.size]

    def insert(
        self,
        images_BCHW: Tensor,
        *,
        teacher_class_B: Tensor,
        teacher_prob_B: Tensor,
        priority_B: Tensor,
        target_B: Tensor,
        epoch: int | Tensor,
    ) -> None:
        """B <- B united with the new samples; then samples leave so that |B| <= capacity (Algorithm 1, lines 14-15).

        Images are uint8. Of a batch above the capacity only the last samples are kept. The oldest leave, or those of
        lowest priority (`buffer.eviction`); the new ones stay. `epoch` is when they were made: one for all, or each.
        Costs O(B), eviction by priority O(N).
        """
        batch = {
            "images": images_BCHW,
            "teacher_class": teacher_class_B,
            "teacher_prob": teacher_prob_B,
            "priority": priority_B,
            "target": target_B,
            "inserted_epoch": epoch if isinstance(epoch, Tensor) else target_B.new_full((len(target_B),), epoch),
        }
        batch = {name: values[-self.config.capacity :] for name, values in batch.items()}
        num_new = len(batch["images"])
        first = self.num_inserted
        batch["serial"] = torch.arange(first, first + num_new, device=images_BCHW.device)
        slots = self._slots_for(batch["serial"])
        for name, values in batch.items():
            self._columns[name][slots] = values.to(self._columns[name].dtype)
        self.num_inserted += num_new

    def _slots_for(self, serial_B: Tensor) -> Tensor:
        """Where new samples go, with room for them made."""
        num_new, size = len(serial_B), self.size
        self.size = min(size + num_new, self.config.capacity)
        self._reserve(self.size)
        if self.config.eviction == "oldest":
            return serial_B % self.config.capacity  # a ring: the sample that is `capacity` older leaves
        free = torch.arange(size, self.size, device=serial_B.device)
        return torch.cat([free, self._lowest(num_new - len(free), among=size)])

    def _lowest(self, num: int, *, among: int) -> Tensor:
        """Slots of the `num` lowest priorities among the first slots, lowest first, of equal ones the first slot."""
        priority_N = self._columns["priority"][:among]
        # Floats >= 0 are in the order of their bits; with the slot below them no two are equal, and topk has no choice.
        order_N = (priority_N.view(torch.int32).long() << 32) + torch.arange(among, device=priority_N.device)
        return order_N.topk(num, largest=False, sorted=True).indices

    def _reserve(self, num_slots: int) -> None:
        allocated = len(self._columns["images"])
        if num_slots <= allocated:
            return
        grown = min(self.config.capacity, max(_FIRST_ALLOCATION, num_slots, 2 * allocated))
        for name, values in self._columns.items():
            larger = torch.empty((grown, *values.shape[1:]), dtype=values.dtype, device=values.device)
            larger[:allocated] = values
            self._columns[name] = larger

    def draw(self, num: int, rng: torch.Generator, *, sampling: str, alpha: float, epsilon: float) -> DrawnBatch:
        """A small-scale mini-batch M (Algorithm 1, line 17).

        "priority" draws by Eq. 6; "uniform" draws all samples alike, P = 1 / N. The buffer must not be empty.
        Costs O(N) by priority, some nanoseconds a sample on a CPU: Eq. 6 is computed anew at each draw, so that a
        resumed run, which has no earlier draws, gets the same bits. Uniform: O(B).
        """
        assert self.size > 0, "an empty buffer has nothing to draw"
        if sampling == "uniform":
            slots_B = torch.randint(self.size, (num,), generator=rng, device=rng.device)
            probability_B = torch.full((num,), 1 / self.size, device=rng.device)
        else:
            probability_N = sampling_probabilities(self.column("priority"), alpha=alpha, epsilon=epsilon)
            slots_B = _drawn(probability_N, num, rng)
            probability_B = probability_N[slots_B]
        # index_select copies a row at a time, indexing with a tensor a byte at a time: 20 times slower on a CPU.
        return DrawnBatch(slots_B, self._columns["images"].index_select(0, slots_B), probability_B)

    def update_priorities(self, slots_B: Tensor, priority_B: Tensor) -> None:
        """{x, delta_i} <- {x, delta_{i+1}} for drawn samples (Algorithm 1, line 21).

        A slot drawn more than once gets the mean of its new priorities, whatever the order. A value that is not finite
        is passed over: the loss it comes with ends the run at the next logging point. Costs O(B^2).
        """
        finite_B = priority_B.isfinite()
        same_BB = (slots_B[:, None] == slots_B[None, :]) & finite_B[None, :]
        priority_B = torch.where(finite_B, priority_B, 0.0)
        mean_B = (same_BB * priority_B[None, :]).sum(dim=1) / same_BB.sum(dim=1)  # 0 / 0 is not taken
        column_N = self._columns["priority"]
        column_N[slots_B] = torch.where(same_BB.any(dim=1), mean_B, column_N[slots_B])

    def class_counts(self) -> Tensor:
        """How many predictions of the stored samples name each class, by the teacher: [K] int64. Costs O(N)."""
        class_N = self.column("teacher_class").flatten()
        # Not torch.bincount, which waits for a CUDA device.
        counts_K = torch.zeros(self.num_classes, dtype=torch.int64, device=class_N.device)
        return counts_K.scatter_add_(0, class_N, torch.ones_like(class_N))

    def class_share(self) -> Tensor:
        """Each class's share of the buffer, as Eq. 3 needs it: [K] float32, all zero for an empty buffer."""
        counts_K = self.class_counts()
        return counts_K / counts_K.sum().clamp(min=1)

    def save(self, path: Path, meta: BufferMeta, *, epoch: int) -> None:
        """Write a buffer file: the samples in the order they came, their `age` in epochs up to `epoch`. Atomic.

        Costs O(N) time, most of it the disk's, and the memory of the small columns. Raises StorageError (disk full).
        """
        order_N = self.column("serial").argsort()
        names = ("teacher_class", "teacher_prob", "priority", "target")
        columns = {name: self.column(name)[order_N].cpu().numpy() for name in names}
        columns["age"] = self._age(epoch)[order_N].cpu().numpy()
        images_NCHW = self.column("images")
        write_rows(path, columns, tuple(images_NCHW.shape), lambda: _images_in_order(images_NCHW, order_N), meta)

    def report(self, *, epoch: int, alpha: float, epsilon: float) -> dict[str, Any]:
        """`buffer_report` of the samples as they are, their age in epochs up to `epoch`. Costs O(N)."""
        return buffer_report(
            teacher_class=self.column("teacher_class").cpu().numpy(),
            teacher_prob=self.column("teacher_prob").cpu().numpy(),
            priority=self.column("priority").cpu().numpy(),
            age=self._age(epoch).cpu().numpy(),
            num_classes=self.num_classes,
            alpha=alpha,
            epsilon=epsilon,
        )

    def _age(self, epoch: int) -> Tensor:
        return (epoch - self.column("inserted_epoch")).clamp(min=0).to(torch.int32)

    def state_dict(self) -> dict[str, Any]:
        """Every slot as it is, so that draws after a resumption find the same samples in the same slots."""
        return {
            "num_inserted": self.num_inserted,
            "columns": {name: self.column(name) for name in self._columns},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.num_inserted = state["num_inserted"]
        self.size = len(state["columns"]["images"])
        self._reserve(self.size)
        for name, values in state["columns"].items():
            self.column(name).copy_(values)


def _images_in_order(images_NCHW: Tensor, order_N: Tensor) -> Iterator[npt.NDArray[np.uint8]]:
    """The images by the indices [N], some rows at a time."""
    for part in row_slices(tuple(images_NCHW.shape)):
        yield images_NCHW.index_select(0, order_N[part]).cpu().numpy()


def _drawn(probability_N: Tensor, num: int, rng: torch.Generator) -> Tensor:
    """Indices [num] drawn with replacement by their probabilities, which sum to 1."""
    if len(probability_N) <= _MOST_IN_FLOAT32:
        return torch.multinomial(probability_N, num, replacement=True, generator=rng)
    cumulative_N = probability_N.cumsum(0, dtype=torch.float64)
    drawn_B = torch.rand(num, dtype=torch.float64, generator=rng, device=rng.device) * cumulative_N[-1]
    return torch.searchsorted(cumulative_N, drawn_B, right=True).clamp_(max=len(probability_N) - 1)
