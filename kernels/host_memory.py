"""How much memory the host still has for this process, by Linux and by its container, and how large its cache is."""

import ctypes
import sys
from pathlib import Path

_MEMORY = Path("/proc/meminfo")
_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
# The container's limit and use, of cgroups of version 2 and 1.
_CGROUPS = Path("/sys/fs/cgroup")
_LIMITS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))


def free_memory_bytes() -> int:
    """The least that either says; 0 where neither says anything."""
    free = []
    if _MEMORY.exists():
        free += [1024 * int(line.split()[1]) for line in _MEMORY.read_text().splitlines()
                 if line.startswith("MemAvailable:")]
    for limit, used in _LIMITS:
        if (_CGROUPS / limit).exists() and (_CGROUPS / used).exists():
            text = (_CGROUPS / limit).read_text().strip()
            free += [int(text) - int((_CGROUPS / used).read_text())] if text != "max" else []
    return max(0, min(free, default=0))


def give_back_unused() -> None:
    """Let the system have what the C library keeps of memory that was freed, where it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def cache_bytes() -> int:
    """The size of the largest cache that the first core has; 0 where Linux does not say."""
    sizes = [file.read_text().strip() for file in _CACHES.glob("index*/size")]
    return max((int(size.removesuffix("K")) << 10 for size in sizes if size.endswith("K")), default=0)
