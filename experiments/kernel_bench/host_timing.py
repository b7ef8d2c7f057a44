"""Times on a CPU, where no GPU is: each kernel as it runs there, beside PyTorch's eager reference and what the machine
sustains, all in float32 with PyTorch's threads.

Two clocks: warm, one set of inputs over and over; cold, as many sets in turn as overflow the caches. The second is what
a model sees whose weights do not stay in a cache.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...kernels.case import Case
from ...kernels.host_memory import free_memory_bytes
from ..harness.records import Json
from .competitors import OURS, contender
from .timing import ceilings, num_bytes, times
from .verify import verdict

DTYPE = "float32"
_MOST_BYTES = 1 << 29  # of a case's inputs
_COPY_ELEMENTS, _PRODUCT_WIDTH = 2**27, 2048
_ROUND_SECONDS = 1e-3  # a round of shorter calls makes them several times


@dataclass(frozen=True)
class HostClock:
    """The host's clock, over so many seconds a measurement, and three rounds at least."""

    seconds: float = 0.15

    def flushed(self, call: Callable[[], Any]) -> list[float]:
        """Nothing: no cache of a CPU is flushed."""
        return []

    def replayed(self, calls: Sequence[Callable[[], Any]]) -> list[float]:
        """Microseconds a call in each round over all calls, the first of which is not counted."""
        sample = self.sampler(calls)
        found, ends = list[float](), time.perf_counter() + self.seconds
        while len(found) < 3 or time.perf_counter() < ends:
            found.append(sample())
        return found

    def sampler(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], float]:
        """What gives the microseconds a call of one round."""
        repeats = 1 + int(_ROUND_SECONDS / self._round(calls, 1))
        return lambda: 1e6 * self._round(calls, repeats) / (repeats * len(calls))

    @staticmethod
    def _round(calls: Sequence[Callable[[], Any]], repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            for call in calls:
                call()
        return time.perf_counter() - began


def too_large(case: Case, dtype: torch.dtype) -> str | None:
    """The reason if a case's inputs take more of the host's memory than they may."""
    held, most = num_bytes(case.inputs(dtype, torch.device("meta"))), min(_MOST_BYTES, free_memory_bytes() // 8)
    return f"its inputs take {held / 1e9:.2f} GB, of which {most / 1e9:.2f} GB may be taken" if held > most else None


def timed_on_host(case: Case, dtype_name: str, name: str, device_name: str, clock: HostClock | None = None) -> Json:
    """The row of one implementation on one case: its error, its times, and the least that it reads and multiplies."""
    if reason := too_large(case, getattr(torch, dtype_name)):
        return {"skipped": reason}
    function = contender(case, name)
    gate = verdict(case, dtype_name, device_name, function)
    if not gate["passed"]:
        return {"gate": gate, "failed": "wrong result: not timed"}
    if name == OURS and all(words == "reference" for words in gate["kernels"].values()):
        return {"gate": gate, "same": "PyTorch's reference runs"}
    cost = case.cost(getattr(torch, dtype_name))
    with torch.no_grad():
        found = times(case, dtype_name, function, torch.device(device_name), clock or HostClock())
    return {"gate": gate, "num_bytes": cost.num_bytes, "num_flops": cost.num_flops,
            "threads": torch.get_num_threads(), **found}


def host_ceilings(device_name: str) -> Json:
    """What the machine sustains: bytes per second of a copy, FLOPs per second of a float32 product."""
    return ceilings(device_name, HostClock(1.0), _COPY_ELEMENTS, _PRODUCT_WIDTH, DTYPE)
