"""glibc is told to keep freed memory, before torch is imported, and other C libraries are left alone."""

from __future__ import annotations

import sys

import pytest
from child_process import run_python

from stages.machine import heap


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_the_heap_is_left_alone_elsewhere(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(heap.ctypes, "CDLL", None)
    assert heap.keep_heap_warm() is False


def test_a_libc_without_mallopt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(heap.ctypes, "CDLL", lambda _name: object())
    assert heap.keep_heap_warm() is False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc gives memory back and can be told not to")
def test_freed_memory_is_kept() -> None:
    """A second buffer of the same size costs no page fault where the first one's memory is kept, else all of them."""
    code = (
        "import ctypes, resource, sys; from stages.machine.heap import keep_heap_warm\n"
        "is_kept = keep_heap_warm() if sys.argv[1] == 'kept' else None\n"
        "libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p; libc.free.argtypes = [ctypes.c_void_p]\n"
        "def fill():\n"
        "    memory = libc.malloc(ctypes.c_size_t(2**26)); ctypes.memset(memory, 1, 2**26); libc.free(memory)\n"
        "fill(); before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt; fill()\n"
        "print(is_kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )

    def faults(how: str) -> tuple[str, int]:
        is_kept, num_faults = run_python("-c", code, how).out.split()
        return is_kept, int(num_faults)

    _, as_usual = faults("given back")
    is_kept, kept = faults("kept")
    if is_kept == "False":
        pytest.skip("another C library")
    assert kept < 100
    assert as_usual > 1000 or as_usual > 10 * kept, "pages may be huge"


def test_numpy_is_imported_before_torch_does_so_from_c() -> None:
    """There an interrupt is swallowed, and the run goes on with half of numpy."""
    code = (
        "import sys; from ssdkd_cli.torch_import import import_torch; import_torch()\n"
        "print([name for name in sys.modules if name in ('numpy', 'torch')])"
    )
    assert run_python("-c", code).out.strip() == "['numpy', 'torch']"


def test_the_heap_is_set_up_before_torch_is_imported() -> None:
    code = (
        "import sys; from stages.machine import heap\n"
        "heap.keep_heap_warm = lambda: print('torch' in sys.modules)\n"
        "from ssdkd_cli.torch_import import import_torch; import_torch(); print('torch' in sys.modules)"
    )
    assert run_python("-c", code).out.split() == ["False", "True"]
