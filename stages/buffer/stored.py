"""What is told of the buffer on the device: its rows as files hold them, oldest first, and a report of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stages.buffer.file import BufferMeta, row_slices, write_rows
from stages.buffer.replay_buffer import ReplayBuffer
from stages.buffer.statistics import buffer_report


def save_buffer(path: Path, buffer: ReplayBuffer, meta: BufferMeta, *, epoch: int) -> None:
    """Write the buffer's samples in the order they came; `age` counts epochs up to `epoch`. Atomic.

    Costs O(N) time, most of it the disk's, and the memory of the small columns. Raises StorageError (disk full).
    """
    order_N = buffer.column("serial").argsort()
    names = ("teacher_class", "teacher_prob", "priority", "target")
    columns = {name: buffer.column(name)[order_N].cpu().numpy() for name in names}
    columns["age"] = _age(buffer, epoch)[order_N].cpu().numpy()
    images_NCHW = buffer.column("images")
    write_rows(path, columns, tuple(images_NCHW.shape), lambda: _images_in_order(images_NCHW, order_N), meta)


def report_of(buffer: ReplayBuffer, *, epoch: int, alpha: float, epsilon: float) -> dict[str, Any]:
    """`buffer_report` of the buffer as it is. Costs O(N)."""
    return buffer_report(
        teacher_class=buffer.column("teacher_class").cpu().numpy(),
        teacher_prob=buffer.column("teacher_prob").cpu().numpy(),
        priority=buffer.column("priority").cpu().numpy(),
        age=_age(buffer, epoch).cpu().numpy(),
        num_classes=buffer.num_classes,
        alpha=alpha,
        epsilon=epsilon,
    )


def _age(buffer: ReplayBuffer, epoch: int) -> Tensor:
    return (epoch - buffer.column("inserted_epoch")).clamp(min=0).to(torch.int32)


def _images_in_order(images_NCHW: Tensor, order_N: Tensor) -> Iterator[npt.NDArray[np.uint8]]:
    for part in row_slices(tuple(images_NCHW.shape)):
        yield images_NCHW.index_select(0, order_N[part]).cpu().numpy()
