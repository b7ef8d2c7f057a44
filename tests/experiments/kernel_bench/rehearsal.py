"""Stands in for the GPU: a clock that calls what it is given and says what it was told, and timers that fail on cue.
It imports no torch, so that a child process has it at once."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NoCase:
    """A case that nobody runs."""

    rows: int


class FakeClock:
    """Some ten microseconds for a launch, eight for a replay; every call is made, the first time round."""

    def __init__(self) -> None:
        self.replays: list[int] = []

    def flushed(self, call: Callable[[], Any]) -> list[float]:
        call()
        return [10.0, 9.0, 12.0]

    def replayed(self, calls: Sequence[Callable[[], Any]]) -> list[float]:
        self.replays.append(len(calls))
        for call in calls[:5]:
            call()
        return [8.0, 7.5, 9.0]

    def sampler(self, calls: Sequence[Callable[[], Any]]) -> Callable[[], float]:
        self.replays.append(len(calls))

        def sample() -> float:
            for call in calls:
                call()
            return 8.0

        return sample


class NoGraphClock(FakeClock):
    """A call that reads the device cannot be captured."""

    def replayed(self, calls: Sequence[Callable[[], Any]]) -> list[float]:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


def fake_timer(case: NoCase, dtype_name: str, contender: str, device_name: str) -> dict[str, Any]:
    """A row without a GPU; torch.compile kills its process."""
    if contender == "torch.compile":
        os._exit(9)
    return {"gate": {"error": 1e-4, "passed": True}, "hardware": {}, "flushed_us": [10.0, 9.0, 12.0],
            "warm_us": [5.0, 4.0, 6.0], "cold_us": [8.0, 7.0, 9.0]}


def fake_ceilings(device_name: str) -> dict[str, Any]:
    """What a card of round numbers sustains."""
    return {"hardware": {}, "copy_us": [1.0] * 3, "product_us": [1.0] * 3, "bytes_per_second": 4e12,
            "flops_per_second": 7e14}
