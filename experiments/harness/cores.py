"""The number of cores that this process may use, and how long its threads spin while they wait.

Imported before torch, whose OpenMP runtime reads its settings when it is loaded.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_CGROUPS = Path("/sys/fs/cgroup")


def waiting_threads(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables that make a waiting thread yield its core soon; empty if the user has set how threads wait.

    libgomp's default spin count, 300,000, suits an otherwise idle machine. On two cores shared with one other process
    of two threads a decode takes up to 300 times as long as alone, with a tenth of a millisecond's spinning five times.
    On an idle machine that costs 4 to 10 %; half as long cost 15 to 35 %."""
    if environment.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        return {}
    return {"GOMP_SPINCOUNT": str(_spins_of_a_tenth_of_a_millisecond(_CPUINFO.read_text()))}


def _spins_of_a_tenth_of_a_millisecond(cpuinfo: str) -> int:
    """A spin is a pause instruction, which takes some 140 cycles on Intel's processors and 65 on AMD's."""
    return 2000 if "GenuineIntel" in cpuinfo else 4000


def available_cores() -> int:
    """The number of cores that the CPU affinity and the container's CPU quota allow, at least 1."""
    quotas = _quotas(Path("/proc/self/cgroup").read_text(), _CGROUPS)
    return max(1, min([len(os.sched_getaffinity(0)), *map(int, quotas)]))


def _quotas(membership: str, root: Path) -> Iterator[float]:
    """The CPU quota, in cores, of each cgroup of this process (version 1 or 2) and of its parents. `membership` is the
    text of /proc/self/cgroup."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounted = root
        elif "cpu" in controllers.split(","):
            mounted = next((root / name for name in (controllers, "cpu") if (root / name).is_dir()), root)
        else:
            continue
        innermost = mounted / path.lstrip("/")
        for folder in (innermost, *innermost.parents):
            yield from _quota(folder)
            if folder == mounted:
                break


def _quota(folder: Path) -> Iterator[float]:
    second, first = folder / "cpu.max", folder / "cpu.cfs_quota_us"
    if second.is_file():
        quota, period = second.read_text().split()
    elif first.is_file():
        quota, period = first.read_text(), (folder / "cpu.cfs_period_us").read_text()
    else:
        return
    if quota != "max" and int(quota) > 0:
        yield int(quota) / int(period)
