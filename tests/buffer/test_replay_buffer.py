"""The buffer against a plain list of samples; what it draws against Eq. 6; what it forgets and what it keeps."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from buffer_files import make_meta
from child_process import run_python
from torch import Tensor

from stages.buffer.config import BufferConfig
from stages.buffer.file import read_buffer
from stages.buffer.priorities import sampling_probabilities
from stages.buffer.replay_buffer import ReplayBuffer, bytes_per_sample
from stages.machine.device import resident_memory_mib

IMAGE_SHAPE = (1, 2, 3)
NUM_CLASSES = 4


def make_buffer(
    capacity: int, *, eviction: str = "oldest", label_shape: Sequence[int] = (), num_expected: int = 0
) -> ReplayBuffer:
    return ReplayBuffer(
        BufferConfig(capacity=capacity, eviction=eviction),
        image_shape=IMAGE_SHAPE,
        label_shape=label_shape,
        num_classes=NUM_CLASSES,
        device=torch.device("cpu"),
        num_expected=num_expected,
    )


def images_of(name_B: Tensor) -> Tensor:
    return (name_B % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, *IMAGE_SHAPE)


def insert(
    buffer: ReplayBuffer, names: Sequence[int], *, priorities: Sequence[float] | None = None, epoch: int | Tensor = 1
) -> None:
    """Insert samples that tell their name in every column."""
    name_B = torch.tensor(names)
    buffer.insert(
        images_of(name_B),
        teacher_class_B=name_B % NUM_CLASSES,
        teacher_prob_B=name_B / 1000,
        priority_B=name_B / 10 if priorities is None else torch.tensor(priorities),
        target_B=name_B,
        epoch=epoch,
    )


def names_in(buffer: ReplayBuffer) -> list[int]:
    """Names in the order of the slots, after checking that every column speaks of the same sample."""
    name_N = buffer.column("target")
    assert torch.equal(
        buffer.column("images"), (name_N % 256).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, *IMAGE_SHAPE)
    )
    assert torch.equal(buffer.column("teacher_class"), name_N % NUM_CLASSES)
    assert torch.equal(buffer.column("teacher_prob"), name_N / 1000)
    assert len(name_N) == buffer.size
    return name_N.tolist()


@pytest.mark.parametrize("label_shape", [(), (2, 3)])
def test_a_sample_takes_as_many_bytes_as_is_said(label_shape: Sequence[int]) -> None:
    buffer = make_buffer(5, label_shape=label_shape, num_expected=5)
    assert sum(column.nbytes for column in buffer._columns.values()) == 5 * bytes_per_sample(IMAGE_SHAPE, label_shape)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(buffer: ReplayBuffer, num: int, *, seed: int = 0, sampling: str = "priority", alpha: float = 0.6):
    return buffer.draw(num, rng(seed), sampling=sampling, alpha=alpha, epsilon=1e-6)


# What is stored, and who leaves.


def test_samples_are_stored_in_the_order_they_come() -> None:
    buffer = make_buffer(10)
    insert(buffer, [7, 3, 5])
    insert(buffer, [1, 9], epoch=2)
    assert names_in(buffer) == [7, 3, 5, 1, 9]
    assert buffer.column("serial").tolist() == [0, 1, 2, 3, 4]
    assert buffer.column("inserted_epoch").tolist() == [1, 1, 1, 2, 2]
    torch.testing.assert_close(buffer.column("priority"), torch.tensor([0.7, 0.3, 0.5, 0.1, 0.9]))
    assert buffer.column("images").dtype == torch.uint8


def test_the_oldest_leave_and_the_others_keep_their_slots() -> None:
    buffer = make_buffer(5)
    insert(buffer, [0, 1, 2])
    insert(buffer, [3, 4, 5])  # one batch fills the last free slots and takes the oldest one's
    assert names_in(buffer) == [5, 1, 2, 3, 4]
    insert(buffer, [6, 7])
    assert names_in(buffer) == [5, 6, 7, 3, 4]
    insert(buffer, [8, 9, 10])  # 5 is in the first slot but older than 6: it goes after 3 and 4
    assert sorted(names_in(buffer)) == [6, 7, 8, 9, 10]


def test_oldest_first_against_a_list() -> None:
    draw = random.Random(3)
    buffer, expected, next_name = make_buffer(11), [], 0
    for _insertion in range(60):
        slots_before = {name: slot for slot, name in enumerate(names_in(buffer))}
        batch = list(range(next_name, next_name + draw.randint(1, 14)))
        next_name = batch[-1] + 1
        insert(buffer, batch)
        expected = (expected + batch)[-11:]
        stored = names_in(buffer)
        assert sorted(stored) == expected
        kept = [name for name in stored if name in slots_before]
        assert all(stored.index(name) == slots_before[name] for name in kept)


def test_lowest_priority_first_against_a_list() -> None:
    draw = random.Random(4)
    buffer, stored, next_name = make_buffer(9, eviction="lowest_priority"), {}, 0
    for _insertion in range(60):
        batch = {next_name + index: float(draw.randint(0, 1000)) for index in range(draw.randint(1, 12))}
        next_name += len(batch)
        insert(buffer, list(batch), priorities=list(batch.values()))
        batch = dict(list(batch.items())[-9:])
        num_leaving = max(0, len(stored) + len(batch) - 9)
        leaving = sorted(stored, key=lambda name: stored[name])[:num_leaving]
        stored = {name: value for name, value in stored.items() if name not in leaving} | batch
        assert sorted(buffer.column("priority").tolist()) == sorted(stored.values())


def test_of_equal_priorities_the_first_slots_leave() -> None:
    """As a stable sort of all priorities would have it: the order decides which new sample takes which slot."""
    draw = random.Random(5)
    buffer, next_name = make_buffer(40, eviction="lowest_priority"), 0
    for _insertion in range(80):
        before = names_in(buffer)
        priority_N = buffer.column("priority").clone()
        batch = list(range(next_name, next_name + draw.randint(1, 25)))
        next_name = batch[-1] + 1
        insert(buffer, batch, priorities=[float(draw.randint(0, 4)) for _ in batch])
        num_free = min(len(batch), 40 - len(before))
        leaving = priority_N.sort(stable=True).indices[: len(batch) - num_free].tolist()
        expected = before + batch[:num_free]
        for slot, name in zip(leaving, batch[num_free:], strict=True):
            expected[slot] = name
        assert names_in(buffer) == expected


def test_free_slots_are_taken_before_those_of_the_lowest_priorities() -> None:
    buffer = make_buffer(5, eviction="lowest_priority")
    insert(buffer, [0, 1, 2], priorities=[5.0, 1.0, 4.0])
    insert(buffer, [3, 4, 5, 6], priorities=[9.0, 9.0, 9.0, 9.0])
    assert names_in(buffer) == [0, 5, 6, 3, 4]


def test_of_many_samples_the_lowest_leaves_by_however_little() -> None:
    size = 100_000
    buffer = make_buffer(size, eviction="lowest_priority")
    priority_N = torch.full((size,), 2.0)
    priority_N[-1] = priority_N[-1].nextafter(torch.tensor(0.0))
    insert(buffer, list(range(size)), priorities=priority_N.tolist())
    insert(buffer, [size], priorities=[2.0])
    assert buffer.column("target")[-1] == size


def test_new_samples_stay_even_if_their_priority_is_the_lowest() -> None:
    buffer = make_buffer(4, eviction="lowest_priority")
    insert(buffer, [0, 1, 2, 3], priorities=[5.0, 1.0, 4.0, 2.0])
    insert(buffer, [4, 5], priorities=[0.0, 0.0])
    assert names_in(buffer) == [0, 4, 2, 5]


@pytest.mark.parametrize("eviction", ["oldest", "lowest_priority"])
@pytest.mark.parametrize("num_before", [0, 2, 3])
def test_of_a_batch_above_the_capacity_the_last_are_kept(eviction: str, num_before: int) -> None:
    buffer = make_buffer(3, eviction=eviction)
    if num_before:
        insert(buffer, list(range(100, 100 + num_before)))
    insert(buffer, [0, 1, 2, 3, 4], epoch=torch.tensor([5, 6, 7, 8, 9]))
    assert sorted(names_in(buffer)) == [2, 3, 4]
    assert sorted(buffer.column("inserted_epoch").tolist()) == [7, 8, 9]


def test_storage_grows_with_what_is_stored() -> None:
    buffer = make_buffer(10**12)  # allocated at once it would not fit anywhere
    insert(buffer, list(range(700)))
    insert(buffer, list(range(700, 1500)))
    insert(buffer, list(range(1500, 5000)))
    assert names_in(buffer) == list(range(5000))


def test_room_doubles_with_what_is_stored() -> None:
    buffer = make_buffer(10**12)
    rooms = []
    for first in range(0, 5000, 100):
        insert(buffer, list(range(first, first + 100)))
        rooms.append(buffer.num_slots)
    assert sorted(set(rooms)) == [1024, 2048, 4096, 8192]


@pytest.mark.parametrize("num_expected", [0, 4000])
def test_storage_never_exceeds_the_capacity(num_expected: int) -> None:
    buffer = make_buffer(1500, num_expected=num_expected)
    for first in range(0, 4000, 400):
        insert(buffer, list(range(first, first + 400)))
    assert sorted(names_in(buffer)) == list(range(2500, 4000))
    assert buffer.column("images").untyped_storage().nbytes() == 1500 * 6


@pytest.mark.parametrize("capacity", [5000, 10**12])
def test_room_for_the_expected_is_allocated_once(capacity: int) -> None:
    buffer = make_buffer(capacity, num_expected=5000)
    assert buffer.size == 0
    places = set()
    for first in range(0, 5000, 500):
        insert(buffer, list(range(first, first + 500)))
        places.add(buffer.column("images").data_ptr())
    assert len(places) == 1
    assert buffer.column("images").untyped_storage().nbytes() == 5000 * 6
    insert(buffer, list(range(5000, 5600)))  # more than expected: the ample capacity is made use of
    assert sorted(names_in(buffer)) == list(range(600 if capacity == 5000 else 0, 5600))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's books of memory are Linux's")
def test_room_that_is_not_used_takes_no_memory() -> None:
    before_mib = resident_memory_mib(torch.device("cpu"))
    buffer = make_buffer(10**9, num_expected=2**26)  # 64 Mi samples: 384 MiB of images alone
    insert(buffer, list(range(100)))
    assert resident_memory_mib(torch.device("cpu")) - before_mib < 64


def test_class_counts_and_shares() -> None:
    buffer = make_buffer(8)
    assert buffer.class_counts().tolist() == [0, 0, 0, 0]
    assert buffer.class_share().tolist() == [0, 0, 0, 0]
    insert(buffer, [0, 1, 1, 3, 5, 3])  # classes 0 1 1 3 1 3
    assert buffer.class_counts().tolist() == [1, 3, 0, 2]
    torch.testing.assert_close(buffer.class_share(), torch.tensor([1, 3, 0, 2]) / 6)
    insert(buffer, [2, 2, 2, 2])  # 0 and 1 leave: of 8 stored, the share is of these
    torch.testing.assert_close(buffer.class_share(), torch.tensor([0, 2, 4, 2]) / 8)


def test_classes_of_pixels_are_counted_by_pixel() -> None:
    buffer = make_buffer(8, label_shape=(2, 3))
    class_BHW = torch.tensor([[[0, 0, 1], [1, 1, 3]], [[3, 3, 3], [3, 3, 3]]])
    buffer.insert(
        torch.zeros(2, *IMAGE_SHAPE, dtype=torch.uint8),
        teacher_class_B=class_BHW,
        teacher_prob_B=torch.ones(2, 2, 3),
        priority_B=torch.ones(2),
        target_B=class_BHW,
        epoch=1,
    )
    assert buffer.class_counts().tolist() == [2, 3, 0, 7]
    torch.testing.assert_close(buffer.class_share(), torch.tensor([2, 3, 0, 7]) / 12)


# What is drawn.


@pytest.mark.parametrize(("sampling", "alpha"), [("priority", 0.6), ("priority", 1.0), ("uniform", 0.6)])
def test_how_often_each_sample_is_drawn(sampling: str, alpha: float) -> None:
    priorities = [0.0, 0.2, 1.0, 3.0, 3.0, 10.0, 40.0]
    buffer = make_buffer(7)
    insert(buffer, list(range(7)), priorities=priorities)
    num = 40_000
    slots_B, images_BCHW, probability_B = drawn(buffer, num, sampling=sampling, alpha=alpha)

    powers = np.ones(7) if sampling == "uniform" else (np.array(priorities) + 1e-6) ** alpha
    expected_N = powers / powers.sum()
    count_N = np.bincount(slots_B.numpy(), minlength=7)
    # Chi-squared with 6 degrees of freedom is above 28 once in 10,000 times; another alpha gives thousands.
    assert ((count_N - num * expected_N) ** 2 / (num * expected_N)).sum() < 28

    np.testing.assert_allclose(probability_B.numpy(), expected_N[slots_B.numpy()], rtol=1e-5)
    assert torch.equal(images_BCHW, buffer.column("images")[slots_B])


@pytest.mark.parametrize("size", [7, 2**16])
def test_few_samples_are_drawn_as_torch_draws(size: int) -> None:
    """The draws of published runs: they do not change."""
    buffer = make_buffer(size)
    insert(buffer, list(range(size)))
    probability_N = sampling_probabilities(buffer.column("priority"), alpha=0.6, epsilon=1e-6)
    expected_B = torch.multinomial(probability_N, 500, replacement=True, generator=rng(3))
    assert torch.equal(drawn(buffer, 500, seed=3).slots_B, expected_B)


def test_many_samples_are_drawn_by_their_exact_probabilities() -> None:
    size = 100_000
    buffer = make_buffer(size)
    priority_N = np.random.default_rng(0).lognormal(-2, 2, size)
    insert(buffer, list(range(size)), priorities=priority_N.tolist())
    slots_B, _, probability_B = drawn(buffer, 5000, seed=3)
    power_N = (priority_N.astype(np.float32).astype(np.float64) + 1e-6) ** 0.6
    uniform_B = torch.rand(5000, dtype=torch.float64, generator=rng(3)).numpy()
    expected_B = np.searchsorted(np.cumsum(power_N) / power_N.sum(), uniform_B, side="right")
    assert (slots_B.numpy() == expected_B).mean() > 0.999  # but for draws that fall between two samples
    np.testing.assert_allclose(probability_B.numpy(), (power_N / power_N.sum())[slots_B.numpy()], rtol=1e-5)


def test_many_improbable_samples_have_their_share() -> None:
    """Each is below half a step of float32 near 1: added up in float32 they would count for nothing."""
    size = 2**18
    buffer = make_buffer(size)
    priorities = torch.full((size,), 2.9e-8)
    priorities[0] = 1.0
    insert(buffer, list(range(size)), priorities=priorities.tolist())
    slots_B = buffer.draw(100_000, rng(), sampling="priority", alpha=1.0, epsilon=1e-12).slots_B
    num_improbable, expected = int((slots_B > 0).sum()), 100_000 * size * 2.9e-8
    assert abs(num_improbable - expected) < 5 * expected**0.5
    assert slots_B.max() < size


def test_a_sample_of_priority_zero_is_drawn_where_all_are_zero() -> None:
    buffer = make_buffer(3)
    insert(buffer, [0, 1, 2], priorities=[0.0, 0.0, 0.0])
    slots_B, _, probability_B = drawn(buffer, 100)
    assert set(slots_B.tolist()) == {0, 1, 2}
    torch.testing.assert_close(probability_B, torch.full((100,), 1 / 3))


@pytest.mark.parametrize("sampling", ["priority", "uniform"])
def test_draws_depend_on_the_generator_alone(sampling: str) -> None:
    buffer = make_buffer(50)
    insert(buffer, list(range(50)))
    first, again, other = (drawn(buffer, 20, seed=seed, sampling=sampling) for seed in (1, 1, 2))
    assert torch.equal(first.slots_B, again.slots_B)
    assert not torch.equal(first.slots_B, other.slots_B)


def test_only_stored_samples_are_drawn() -> None:
    buffer = make_buffer(5000)
    insert(buffer, [0, 1, 2])  # room for a thousand is allocated
    for sampling in ("priority", "uniform"):
        assert drawn(buffer, 300, sampling=sampling).slots_B.max() == 2


def test_drawn_images_are_a_copy() -> None:
    buffer = make_buffer(3)
    insert(buffer, [0, 1, 2])
    drawn(buffer, 4).images_BCHW.fill_(99)
    assert names_in(buffer) == [0, 1, 2]


def test_an_empty_buffer_has_nothing_to_draw() -> None:
    with pytest.raises(AssertionError, match="empty"):
        drawn(make_buffer(3), 1)


# New priorities.


def updated(priorities: Sequence[float], slots: Sequence[int], values: Sequence[float]) -> list[float]:
    buffer = make_buffer(len(priorities))
    insert(buffer, list(range(len(priorities))), priorities=priorities)
    buffer.update_priorities(torch.tensor(slots), torch.tensor(values))
    return buffer.column("priority").tolist()


def test_drawn_samples_get_their_new_priority() -> None:
    assert updated([1.0, 2.0, 3.0, 4.0], [3, 1], [7.0, 0.0]) == [1.0, 0.0, 3.0, 7.0]


def test_a_sample_drawn_more_than_once_gets_the_mean() -> None:
    slots, values = [2, 0, 2, 1, 2, 0], [1.0, 8.0, 2.0, 5.0, 6.0, 4.0]
    expected = [6.0, 5.0, 3.0, 9.0]
    draw = random.Random(0)
    for _order in range(10):
        order = draw.sample(range(6), 6)
        shuffled = updated([9.0] * 4, [slots[index] for index in order], [values[index] for index in order])
        assert shuffled == expected


def test_many_duplicates_give_the_same_bits_again() -> None:
    slot_B = torch.randint(5, (256,), generator=rng(1))
    value_B = torch.rand(256, generator=rng(2))
    first = updated([0.0] * 5, slot_B.tolist(), value_B.tolist())
    expected = [value_B[slot_B == slot].double().mean().item() for slot in range(5)]
    assert first == pytest.approx(expected, rel=1e-6)
    assert updated([0.0] * 5, slot_B.tolist(), value_B.tolist()) == first


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_priority_that_is_not_finite_is_passed_over(bad: float) -> None:
    assert updated([1.0, 2.0, 3.0], [0, 1, 1, 1], [bad, 4.0, bad, 6.0]) == [1.0, 5.0, 3.0]


# What a checkpoint and a file keep.


def test_a_restored_buffer_goes_on_as_the_first() -> None:
    original, restored = make_buffer(6), make_buffer(6)
    insert(original, [0, 1, 2, 3, 4])
    insert(original, [5, 6])
    restored.load_state_dict(original.state_dict())
    assert names_in(restored) == names_in(original)

    # What happens to one afterwards does not happen to the other.
    before = original.column("priority").clone()
    restored.update_priorities(torch.tensor([0]), torch.tensor([55.0]))
    assert torch.equal(original.column("priority"), before)
    original.update_priorities(torch.tensor([0]), torch.tensor([55.0]))

    for buffer in (original, restored):
        insert(buffer, [7, 8])
    assert names_in(restored) == names_in(original) == [6, 7, 8, 3, 4, 5]
    assert torch.equal(restored.column("serial"), original.column("serial"))
    assert torch.equal(drawn(restored, 30).slots_B, drawn(original, 30).slots_B)


def test_a_restored_buffer_keeps_its_room() -> None:
    original, restored = make_buffer(3000), make_buffer(3000, num_expected=3000)
    insert(original, list(range(20)))
    before = restored.column("images").untyped_storage().data_ptr()
    restored.load_state_dict(original.state_dict())
    insert(restored, list(range(20, 3000)))
    assert restored.column("images").untyped_storage().data_ptr() == before
    assert names_in(restored) == list(range(3000))


def test_a_restored_buffer_grows_on() -> None:
    original, restored = make_buffer(3000), make_buffer(3000)
    insert(original, list(range(20)))
    restored.load_state_dict(original.state_dict())
    insert(restored, list(range(20, 2000)))
    assert names_in(restored) == list(range(2000))


META = make_meta(capacity=5)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images at a time, where there would be thousands."""
    monkeypatch.setattr("stages.buffer.file._PIECE_BYTES", 2 * 6)


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("eviction", ["oldest", "lowest_priority"])
def test_rows_in_a_file_are_oldest_first_with_their_ages(tmp_path: Path, eviction: str) -> None:
    buffer = make_buffer(5, eviction=eviction)
    for epoch in range(1, 5):
        insert(buffer, [2 * epoch, 2 * epoch + 1], epoch=epoch)
    assert names_in(buffer) != [5, 6, 7, 8, 9]
    buffer.save(tmp_path / "b", META, epoch=6)
    rows = read_buffer(tmp_path / "b")
    assert rows.target.tolist() == [5, 6, 7, 8, 9]
    assert rows.age.tolist() == [4, 3, 3, 2, 2]
    assert rows.images[:, 0, 0, 0].tolist() == [5, 6, 7, 8, 9]
    np.testing.assert_allclose(rows.priority, [0.5, 0.6, 0.7, 0.8, 0.9], rtol=1e-6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel's books of memory are Linux's")
def test_saving_takes_the_memory_of_a_piece(tmp_path: Path) -> None:
    """Of 96 MiB of images, out of order, a few MiB at a time are copied: with 64 MiB left it can be done."""
    code = """
import resource, sys, torch
from pathlib import Path
from stages.buffer.config import BufferConfig
from stages.buffer.file import BufferMeta, read_buffer
from stages.buffer.replay_buffer import ReplayBuffer
size = 32 * 1024
meta = BufferMeta(task="t", num_classes=2, class_names=None, mean=(0.5,) * 3, std=(0.5,) * 3, capacity=size, alpha=0.6,
                  epsilon=1e-6, teacher_sha256="0" * 64)
buffer = ReplayBuffer(BufferConfig(capacity=size, eviction="lowest_priority"), image_shape=(3, 32, 32),
                      label_shape=(), num_classes=2, device=torch.device("cpu"), num_expected=size)
for first in range(0, size + 8192, 8192):
    zeros = torch.zeros(8192, dtype=torch.int64)
    buffer.insert(torch.full((8192, 3, 32, 32), 7, dtype=torch.uint8), teacher_class_B=zeros,
                  teacher_prob_B=torch.ones(8192), priority_B=torch.rand(8192), target_B=zeros, epoch=1)
data_kib = int(Path("/proc/self/status").read_text().split("VmData:")[1].split()[0])
resource.setrlimit(resource.RLIMIT_DATA, (data_kib * 1024 + 64 * 2**20, resource.RLIM_INFINITY))
buffer.save(Path(sys.argv[1]), meta, epoch=1)
"""
    path = tmp_path / "b"
    run_python("-c", code, path)
    assert path.stat().st_size > 96 * 2**20
