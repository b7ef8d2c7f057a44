import ctypes
from pathlib import Path

import pytest
from quicksilver.kernels import host_memory
from quicksilver.kernels.host_memory import free_memory_bytes, give_back_unused

GIB = 2**30


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(host_memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(host_memory, "_CGROUPS", tmp_path)
    return tmp_path


def test_it_is_what_linux_says_is_available(machine: Path) -> None:
    (machine / "meminfo").write_text(f"MemTotal: {8 * GIB // 1024} kB\nMemAvailable: {3 * GIB // 1024} kB\n")
    assert free_memory_bytes() == 3 * GIB


@pytest.mark.parametrize(("limit", "used"), host_memory._LIMITS)
def test_a_container_may_leave_less(machine: Path, limit: str, used: str) -> None:
    test_it_is_what_linux_says_is_available(machine)
    (machine / "memory").mkdir()
    (machine / used).write_text(f"{GIB}\n")
    for said, free in ((2 * GIB, GIB), (16 * GIB, 3 * GIB), (GIB // 2, 0), ("max", 3 * GIB)):
        (machine / limit).write_text(f"{said}\n")
        assert free_memory_bytes() == free


def test_where_nothing_is_said_nothing_is_free() -> None:
    assert free_memory_bytes() == 0


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_was_freed_is_given_back() -> None:
    def held() -> int:
        return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines()
                    if line.startswith("RssAnon"))

    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.free.argtypes = [ctypes.c_void_p]
    blocks = [library.malloc(60_000) for _ in range(1000)]  # small enough to lie in the heap
    for block in blocks:
        ctypes.memset(block, 1, 60_000)
    for block in blocks[:-1]:  # the last keeps the heap from shrinking by itself
        library.free(block)
    before = held()
    give_back_unused()
    assert held() < before - 30_000
    library.free(blocks[-1])
