"""glibc is told to keep freed memory, before torch is imported, and other C libraries are left alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stages import heap


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_the_heap_is_left_alone_elsewhere(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(heap.ctypes, "CDLL", None)
    assert heap.keep_heap_warm() is False


def test_a_libc_without_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _name: object())
    assert heap.keep_heap_warm() is False


def test_the_heap_is_set_up_before_torch_is_imported() -> None:
    code = (
        "import sys; from stages import heap\n"
        "heap.keep_heap_warm = lambda: print('torch' in sys.modules)\n"
        "from ssdkd_cli.torch_import import import_torch; import_torch(); print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False", "True"]
