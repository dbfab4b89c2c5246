"""A run's state in one file: what goes in comes out, equal states are equal bytes, damage is named."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from same_values import assert_same

from stages.checkpoint import load_checkpoint, save_checkpoint
from stages.errors import FileError, StorageError


def state() -> dict[str, Any]:
    rng = torch.Generator().manual_seed(3)
    return {
        "buffer": torch.randint(256, (5, 2, 3, 3), generator=rng, dtype=torch.uint8),
        "epoch": 7,
        "nested": {"list": [torch.arange(4), {"deep": torch.rand(2, generator=rng)}], "none": None},
        "optimizer": {0: {"momentum": torch.rand(3, generator=rng), "step": torch.tensor(2.0)}, 1: {}},
        "precision": torch.rand(3, generator=rng).bfloat16(),
        "text": "Größe / path",
        "truth": True,
        "zero": 0.1 + 0.2,
    }


def test_round_trip(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", state())
    assert_same(load_checkpoint(tmp_path / "c"), state())


EVERY_TYPE = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.int64),
    *(torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]


@pytest.mark.parametrize("piece_bytes", [1, 9, 2**24], ids=lambda size: f"pieces of {size} bytes")
@pytest.mark.parametrize("dtype", EVERY_TYPE, ids=str)
def test_every_type_of_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, piece_bytes) -> None:
    monkeypatch.setattr("stages.files.tensor_digest._PIECE_BYTES", piece_bytes)
    tensor = torch.arange(12).view(3, 4).to(dtype)
    save_checkpoint(tmp_path / "c", {"tensor": tensor, "scalar": tensor[1, 1], "turned": tensor.T})
    loaded = load_checkpoint(tmp_path / "c")
    for name, expected in {"tensor": tensor, "scalar": tensor[1, 1], "turned": tensor.T}.items():
        assert loaded[name].dtype == dtype
        assert loaded[name].shape == expected.shape
        assert torch.equal(loaded[name].reshape(-1).view(torch.uint8), expected.reshape(-1).view(torch.uint8)), name


def test_the_bytes_are_those_of_the_library(tmp_path: Path) -> None:
    """Of checkpoints that are there already, too."""
    save_checkpoint(tmp_path / "c", state())
    with safe_open(tmp_path / "c", framework="pt") as file:
        metadata = file.metadata()
    assert (tmp_path / "c").read_bytes() == save(load_file(tmp_path / "c"), metadata=metadata)


def test_equal_states_are_equal_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "one", state())
    save_checkpoint(tmp_path / "other", dict(reversed(state().items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    save_checkpoint(tmp_path / "other", state() | {"epoch": 8})
    assert (tmp_path / "one").read_bytes() != (tmp_path / "other").read_bytes()


def test_numbers_that_are_not_finite_are_kept(tmp_path: Path) -> None:
    """The best loss so far of a stranger's stage may well be infinite."""
    save_checkpoint(tmp_path / "c", {"best": math.inf, "loss": math.nan, "tensor": torch.tensor([math.nan])})
    loaded = load_checkpoint(tmp_path / "c")
    assert loaded["best"] == math.inf
    assert math.isnan(loaded["loss"])
    assert loaded["tensor"].isnan().all()


def test_strides_and_shared_memory_do_not_matter(tmp_path: Path) -> None:
    whole = torch.arange(24.0).view(2, 3, 2, 2)
    views = {
        "channels_last": whole.clone(memory_format=torch.channels_last),
        "tied": whole,
        "tied too": whole,
        "part": whole[:, 1],
        "empty": whole[:0],
        "nothing": torch.empty(0, 4),
        "nothing too": torch.empty(0),
        "gradient": whole.clone().requires_grad_(),
    }
    save_checkpoint(tmp_path / "c", views)
    loaded = load_checkpoint(tmp_path / "c")
    for name, tensor in views.items():
        assert torch.equal(loaded[name], tensor), name
        assert loaded[name].is_contiguous()
        assert not loaded[name].requires_grad


def test_what_is_loaded_is_independent_of_the_file(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", state())
    before = (tmp_path / "c").read_bytes()
    loaded = load_checkpoint(tmp_path / "c")
    loaded["buffer"].fill_(9)
    loaded["nested"]["list"][0].fill_(9)
    assert (tmp_path / "c").read_bytes() == before
    save_checkpoint(tmp_path / "c", state() | {"epoch": 8})
    assert bool((loaded["buffer"] == 9).all())


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is told by Linux only")
def test_a_small_tensor_does_not_hold_a_large_file(tmp_path: Path) -> None:
    def is_mapped() -> bool:
        return str(tmp_path / "c") in Path("/proc/self/maps").read_text()

    save_checkpoint(tmp_path / "c", state() | {"large": torch.zeros(20, 2**20, dtype=torch.uint8)})
    loaded = load_checkpoint(tmp_path / "c")
    assert is_mapped(), "the large one is not copied"
    del loaded["large"]
    assert not is_mapped()
    assert_same(loaded, state())


def test_tensors_must_not_share_a_name(tmp_path: Path) -> None:
    for collision in ({"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}}, {1: torch.ones(1), "1": torch.zeros(1)}):
        with pytest.raises(AssertionError, match="two tensors"):
            save_checkpoint(tmp_path / "c", {"state": collision})


def test_disk_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(tmp_path / "c", {"epoch": 1})

    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(StorageError, match="no space left"):
        save_checkpoint(tmp_path / "c", {"epoch": 2})
    assert load_checkpoint(tmp_path / "c") == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_changed_bit_is_found(tmp_path: Path) -> None:
    """In any of the tensors, and in a number beside them."""
    save_checkpoint(tmp_path / "c", state())
    content = (tmp_path / "c").read_bytes()
    header_end = 8 + int.from_bytes(content[:8], "little")
    epoch = content.index(b'\\"epoch\\": 7') + len(b'\\"epoch\\": ')
    for position in (epoch, *range(header_end, len(content))):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (tmp_path / "c").write_bytes(damaged)
        with pytest.raises(FileError, match="sha256"):
            load_checkpoint(tmp_path / "c")


def test_a_lost_digest_is_damage(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"tensor": torch.ones(2), "epoch": 3})
    with safe_open(tmp_path / "c", framework="pt") as file:
        document = json.loads(file.metadata()[KEY])
    del document["sha256"]
    save_file(load_file(tmp_path / "c"), tmp_path / "c", metadata={KEY: json.dumps(document)})
    with pytest.raises(FileError, match="sha256 is another one, or lost"):
        load_checkpoint(tmp_path / "c")


KEY = "ssdkd_checkpoint"
ONE = {"x": torch.ones(2)}
NOT_OURS = {
    "no metadata": None,
    "others' metadata": {"format": "pt"},
    "no JSON": {KEY: "{"},
    "no object": {KEY: "[]"},
    "no schema": {KEY: json.dumps({"state": {}})},
    "no state": {KEY: json.dumps({"schema": 1})},
    "state no object": {KEY: json.dumps({"schema": 1, "state": []})},
    "without end": {KEY: "[" * 100_000},
}


@pytest.mark.parametrize("metadata", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_files_of_another_kind(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file(ONE, tmp_path / "c", metadata=metadata)
    with pytest.raises(FileError, match="not a checkpoint of a run"):
        load_checkpoint(tmp_path / "c")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "c")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, share: float) -> None:
    save_checkpoint(tmp_path / "c", state())
    content = (tmp_path / "c").read_bytes()
    (tmp_path / "c").write_bytes(content[: int(share * len(content))])
    with pytest.raises(FileError, match="is damaged"):
        load_checkpoint(tmp_path / "c")


def test_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is damaged"):
        load_checkpoint(tmp_path)


def test_lost_tensor(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", {"x": torch.ones(2), "y": torch.ones(2)})
    with safe_open(tmp_path / "c", framework="pt") as file:
        metadata = file.metadata()
    save_file({"/x": torch.ones(2)}, tmp_path / "c", metadata=metadata)
    with pytest.raises(FileError, match="is damaged"):
        load_checkpoint(tmp_path / "c")


def test_newer_schema(tmp_path: Path) -> None:
    save_file(ONE, tmp_path / "c", metadata={KEY: json.dumps({"schema": 2, "state": {}})})
    with pytest.raises(FileError, match="has checkpoint schema 2, this version reads 1"):
        load_checkpoint(tmp_path / "c")


def test_anyone_can_read_the_tensors(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", state())
    assert torch.equal(load_file(tmp_path / "c")["/nested/list/0"], torch.arange(4))
