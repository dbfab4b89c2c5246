"""CIFAR through torchvision: a tiny copy in the original layout, and each way not to find it."""

import errno
import hashlib
import pickle
import socket
import tarfile
import threading
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import datasets

from stages.data import cifar
from stages.data.cifar import DOWNLOAD_TIMEOUT_S, load_cifar10, load_cifar100
from stages.data.dataset import LabelledImages
from stages.errors import ConfigError, FileError, MachineError

Load = Callable[[Path | None, str], LabelledImages]
NAMES = {"cifar10": [f"class {i}" for i in range(10)], "cifar100": [f"class {i}" for i in range(100)]}


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (4, 3072), dtype=np.uint8)


def write_archive(monkeypatch: pytest.MonkeyPatch, name: str, folder: Path) -> dict[str, np.ndarray]:
    """Write files laid out as the originals, four images each, and let their checksums be the right ones."""
    kind: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    base = folder / kind.base_folder
    base.mkdir(parents=True)

    def write(file_name: str, content: dict[str, Any]) -> list[str]:
        data = pickle.dumps(content)
        (base / file_name).write_bytes(data)
        return [file_name, hashlib.md5(data).hexdigest()]

    stored: dict[str, np.ndarray] = {}
    lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
    for list_name, entries in lists.items():
        for file_name, _ in getattr(kind, list_name):
            first_label = len(stored)
            stored[file_name] = pixels(seed=first_label)
            entries.append(write(file_name, {"data": stored[file_name], key: [first_label, 1, 2, 3]}))
        monkeypatch.setattr(kind, list_name, entries)
    meta_name, meta_md5 = write(kind.meta["filename"], {kind.meta["key"]: NAMES[name]})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "filename": meta_name, "md5": meta_md5})
    return stored


def load10(root: Path | None, split: str, *, download: bool = False) -> LabelledImages:
    return load_cifar10(root, split, image_shape=(3, 32, 32), resize=False, download=download)


def load100(root: Path | None, split: str, *, download: bool = False) -> LabelledImages:
    return load_cifar100(root, split, image_shape=(3, 32, 32), resize=False, download=download)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the user's; returns the folder the data is looked for in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ssdkd" / "data"


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """A web server for a folder, on this machine; its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("name", "load", "files"),
    [
        ("cifar10", load10, {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}),
        ("cifar100", load100, {"train": ["train"], "test": ["test"]}),
    ],
)
def test_reads_the_original_layout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, load: Load, files: dict[str, list[str]]
) -> None:
    stored = write_archive(monkeypatch, name, tmp_path)
    for split, file_names in files.items():
        data = load(tmp_path, split)
        expected = np.concatenate([stored[file_name] for file_name in file_names]).reshape(-1, 3, 32, 32)
        assert torch.equal(data.images_NCHW, torch.from_numpy(expected))
        assert data.images_NCHW.is_contiguous()
        assert data.labels_N.dtype == torch.int64
        assert data.labels_N[1:4].tolist() == [1, 2, 3]
        assert data.class_names == tuple(NAMES[name])
        assert (data.name, data.split) == (name, split)


def test_the_cache_is_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    write_archive(monkeypatch, "cifar10", cache)
    assert len(load10(None, "test")) == 4


def test_missing_says_how_to_get_it(cache: Path) -> None:
    with pytest.raises(FileError) as caught:
        load10(None, "test")
    assert str(cache) in caught.value.message
    assert caught.value.hint is not None
    assert "evaluation.root" in caught.value.hint
    assert "evaluation.download=true" in caught.value.hint
    assert "cifar-10-batches-py" in caught.value.hint


def test_damaged_file_is_not_opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_archive(monkeypatch, "cifar10", tmp_path)
    path = tmp_path / "cifar-10-batches-py" / "test_batch"
    path.write_bytes(path.read_bytes()[:-1])
    monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("a damaged file was unpickled"))
    with pytest.raises(FileError, match="damaged"):
        load10(tmp_path, "test")


def test_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`val`"):
        load100(tmp_path, "val")


def test_downloads_only_if_asked(
    monkeypatch: pytest.MonkeyPatch, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_archive(monkeypatch, "cifar10", tmp_path / "web")
    archive = tmp_path / "web" / datasets.CIFAR10.filename
    with tarfile.open(archive, mode="w:gz") as tar:
        tar.add(tmp_path / "web" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    with serve(archive.parent) as address:
        monkeypatch.setattr(datasets.CIFAR10, "url", f"{address}/{archive.name}")
        with pytest.raises(FileError):
            load10(None, "test")
        assert not cache.exists()
        assert len(load10(None, "test", download=True)) == 4
    assert len(load10(None, "test")) == 4  # it stays
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no route to host"),
        TimeoutError("timed out"),
        RuntimeError("File not found or corrupted."),
    ],
)
def test_network_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], failure: Exception
) -> None:
    patience_s = []

    def fail(*_: object, **__: object) -> None:
        patience_s.append(socket.getdefaulttimeout())
        print("Downloading ...")  # as older versions of torchvision do
        raise failure

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    before = socket.getdefaulttimeout()
    with pytest.raises(FileError, match="cannot download cifar10") as caught:
        load10(tmp_path / "data", "test", download=True)
    assert (patience_s, socket.getdefaulttimeout()) == ([DOWNLOAD_TIMEOUT_S], before)
    assert str(failure) in caught.value.message
    assert "cifar-10-python.tar.gz" in (caught.value.hint or "")
    assert capsys.readouterr().out == ""  # stdout is for data


def test_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(MachineError, match="no space left"):
        load10(tmp_path, "test", download=True)


@pytest.mark.parametrize("kind", [datasets.CIFAR10, datasets.CIFAR100])
def test_folders_are_those_of_torchvision(kind: Any) -> None:
    assert cifar._FOLDERS[kind.__name__] == kind.base_folder
