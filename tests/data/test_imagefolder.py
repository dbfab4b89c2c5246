"""Folders of pictures: formats, colours, sizes, and each way to get the folder wrong."""

import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from child_process import run_python
from PIL import Image
from real_data import SHARED
from torchvision import datasets, transforms

from stages.data import imagefolder
from stages.data.dataset import LabelledImages
from stages.data.imagefolder import load_imagefolder
from stages.errors import ConfigError, FileError, MachineError
from stages.machine.memory import MachineMemory

SHARED_DATA = SHARED / "data"


def load(
    root: Path | None, shape: tuple[int, int, int] = (3, 6, 5), *, split: str = "test", resize: bool | int = False
) -> LabelledImages:
    return load_imagefolder(root, split, image_shape=shape, resize=resize, download=False)


def pixels(seed: int, height: int = 6, width: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes under `test/`: b.png in "cat"; a.bmp and z/d.PNG in "dog"."""
    save(tmp_path / "test" / "dog" / "a.bmp", pixels(0))
    save(tmp_path / "test" / "dog" / "z" / "d.PNG", pixels(1))
    save(tmp_path / "test" / "cat" / "b.png", pixels(2))
    return tmp_path


def test_classes_by_name_and_images_in_order(root: Path) -> None:
    data = load(root)
    assert data.class_names == ("cat", "dog")
    assert data.labels_N.tolist() == [0, 1, 1]
    expected = np.stack([pixels(2), pixels(0), pixels(1)]).transpose(0, 3, 1, 2)
    assert torch.equal(data.images_NCHW, torch.from_numpy(expected))


def test_images_of_a_class_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in (3, 0, 4, 1, 2):
        save(tmp_path / "a" / f"{number}.png", np.full((6, 5, 3), number, dtype=np.uint8))
    assert load(tmp_path).images_NCHW[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_root_itself_may_hold_the_classes(root: Path) -> None:
    direct, below = load(root / "test"), load(root)
    assert torch.equal(direct.images_NCHW, below.images_NCHW)
    assert direct.class_names == below.class_names
    assert (direct.split, below.split) == ("all", "test")


def test_same_images_and_classes_as_torchvision(root: Path) -> None:
    theirs = datasets.ImageFolder(str(root / "test"), transform=transforms.PILToTensor())
    ours = load(root)
    assert ours.class_names == tuple(theirs.classes)
    assert ours.labels_N.tolist() == theirs.targets
    assert torch.equal(ours.images_NCHW, torch.stack([image for image, _ in theirs]))


def test_other_files_are_passed_over(root: Path) -> None:
    (root / "test" / "cat" / "notes.txt").write_text("not an image")
    (root / "test" / "cat" / ".hidden.png").write_text("not an image")
    (root / "test" / ".cache").mkdir()
    (root / "test" / "cat" / ".@__thumb").mkdir()
    (root / "test" / "cat" / ".@__thumb" / "1.png").write_text("not an image")
    assert len(load(root)) == 3


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "LA", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3])
def test_colours_follow_the_task(tmp_path: Path, mode: str, channels: int) -> None:
    grey = np.full((6, 5), 255, dtype=np.uint8)
    grey[2:4] = 0
    in_mode = {"I;16": lambda: Image.fromarray(grey.astype(np.uint16) << 8)}
    image = in_mode.get(mode, lambda: Image.fromarray(grey).convert(mode))()
    (tmp_path / "a").mkdir()
    image.save(tmp_path / "a" / ("x.tif" if mode == "CMYK" else "x.png"))
    image_CHW = load(tmp_path, (channels, 6, 5)).images_NCHW[0]
    assert torch.equal(image_CHW, torch.from_numpy(grey).expand(channels, 6, 5))


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    ramp = np.arange(30, dtype=np.uint16).reshape(6, 5) * 2000
    save(tmp_path / "a" / "x.png", ramp)
    assert torch.equal(load(tmp_path, (1, 6, 5)).images_NCHW[0, 0], torch.from_numpy((ramp // 256).astype(np.uint8)))


def test_pixels_without_a_known_range(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.tif", np.ones((6, 5), dtype=np.float32))
    with pytest.raises(FileError, match="no known range"):
        load(tmp_path)


def test_wrong_size_names_file_and_sizes(root: Path) -> None:
    wrong = root / "test" / "dog" / "wrong.png"
    save(wrong, pixels(3, 9, 4))
    with pytest.raises(FileError) as caught:
        load(root)
    assert str(wrong) in caught.value.message
    assert "9 x 4" in caught.value.message
    assert "6 x 5" in caught.value.message
    assert "evaluation.resize=true" in (caught.value.hint or "")


@pytest.mark.parametrize(("height", "width"), [(40, 30), (31, 57), (8, 8), (5, 9), (8, 11), (11, 8)])
def test_resize_is_torchvisions_resize_and_centre_crop(tmp_path: Path, height: int, width: int) -> None:
    source = pixels(4, height, width)
    save(tmp_path / "a" / "x.png", source)
    expected = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8), transforms.PILToTensor()])
    result = load(tmp_path, (3, 8, 8), resize=True)
    assert torch.equal(result.images_NCHW[0], expected(Image.fromarray(source)))


@pytest.mark.parametrize(("height", "width"), [(40, 30), (31, 57), (12, 12), (8, 8), (5, 9), (12, 16)])
def test_a_shorter_side_is_torchvisions_too(tmp_path: Path, height: int, width: int) -> None:
    """Of an image that had the right size, too: all are seen from as near."""
    source = pixels(4, height, width)
    save(tmp_path / "a" / "x.png", source)
    expected = transforms.Compose([transforms.Resize(12), transforms.CenterCrop((8, 9)), transforms.PILToTensor()])
    result = load(tmp_path, (3, 8, 9), resize=12)
    assert torch.equal(result.images_NCHW[0], expected(Image.fromarray(source)))


def test_a_shorter_side_that_is_too_short_is_told(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"`evaluation.resize` = 4 leaves 4 x 4 pixels of .*, too few for 6 x 5"):
        load(root, resize=4)
    assert len(load(root, resize=5)) == 3  # which are 6 x 5


def test_resize_covers_a_shape_that_is_not_square(tmp_path: Path) -> None:
    save(tmp_path / "a" / "x.png", np.full((17, 31, 3), 200, dtype=np.uint8))
    image_CHW = load(tmp_path, (3, 6, 5), resize=True).images_NCHW[0]
    assert torch.equal(image_CHW, torch.full((3, 6, 5), 200, dtype=torch.uint8))


def test_resize_leaves_images_that_fit(root: Path) -> None:
    assert torch.equal(load(root, resize=True).images_NCHW, load(root).images_NCHW)


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_broken_image_is_named(root: Path, keep: int) -> None:
    broken = root / "test" / "cat" / "b.png"
    broken.write_bytes(broken.read_bytes()[:keep])
    with pytest.raises(FileError, match="cannot read the image") as caught:
        load(root)
    assert str(broken) in caught.value.message


def test_no_root() -> None:
    with pytest.raises(FileError, match=r"evaluation\.root"):
        load(None)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such folder"):
        load(tmp_path / "nowhere")


def test_no_class_folders(tmp_path: Path) -> None:
    save(tmp_path / "x.png", pixels(0))
    with pytest.raises(FileError, match="no class folders"):
        load(tmp_path)


def test_class_without_images(root: Path) -> None:
    (root / "test" / "empty").mkdir()
    with pytest.raises(FileError, match="empty"):
        load(root)


def test_a_folder_that_cannot_be_read_is_not_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deeper = next(path for path in (root / "test").iterdir()) / "deeper"
    deeper.mkdir()
    save(deeper / "x.png", pixels(0))
    scandir = os.scandir

    def scan(path: str) -> object:
        if Path(path) == deeper:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    with pytest.raises(FileError, match=f"cannot read the folder {deeper}: Permission denied"):
        load(root)


def test_more_images_than_there_is_memory_for(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefolder, "machine_memory", lambda: MachineMemory(total=2**30, available=3 * 90))
    assert len(load(root)) == 3
    monkeypatch.setattr(imagefolder, "machine_memory", lambda: MachineMemory(total=2**30, available=3 * 90 - 1))
    with pytest.raises(MachineError, match=r"3 images of 6 x 5 pixels take 0\.0 GiB of memory") as caught:
        load(root)
    assert "fewer of them" in (caught.value.hint or "")
    monkeypatch.setattr(imagefolder, "machine_memory", lambda: None)
    assert len(load(root)) == 3
    monkeypatch.setattr(np, "empty", Mock(side_effect=MemoryError))
    with pytest.raises(MachineError, match=r"3 images of 6 x 5 pixels take 0\.0 GiB of memory"):
        load(root)


def test_missing_split_names_those_there_are(root: Path) -> None:
    with pytest.raises(FileError, match="no folder for the split `val`") as caught:
        load(root, split="val")
    assert "test" in (caught.value.hint or "")


def test_channels_that_pictures_do_not_have(root: Path) -> None:
    with pytest.raises(ConfigError, match="4 channels"):
        load(root, (4, 6, 5))


@pytest.mark.skipif(not (SHARED_DATA / "unpack.py").is_file(), reason="no real images to test on")
def test_real_images(tmp_path: Path) -> None:
    """Ten real test images of each class of CIFAR-10, from their lossless copy."""
    run_python(SHARED_DATA / "unpack.py", "cifar10", "test", tmp_path, "--limit", "10")
    data = load(tmp_path, (3, 32, 32))
    assert data.class_names is not None
    assert data.class_names[:3] == ("airplane", "automobile", "bird")
    assert data.labels_N.bincount().tolist() == [10] * 10
    assert 0.4 < data.images_NCHW.float().mean() / 255 < 0.55
