"""The timing, rehearsed up to the launch: contenders are called on their inputs, and nothing wrong is timed."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from quicksilver.experiments.kernel_bench import timing as kernel_timing
from quicksilver.experiments.kernel_bench.competitors import OURS
from quicksilver.experiments.kernel_bench.timing import ceilings, num_bytes, timed
from quicksilver.kernels.case import Case, Cost
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .planted_kernels import WrongCase
from .rehearsal import FakeClock, NoGraphClock

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the machine that tests is not asked."""
    monkeypatch.setattr(kernel_timing, "cache_bytes", lambda: 0)


@pytest.mark.parametrize(("cache_bytes", "num_sets"), [(1, 4), (34_000, 19)])
def test_our_row_holds_every_clock_and_cold_rotates_at_least_four_sets_that_overflow_the_cache(
        cache_bytes: int, num_sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_timing, "_LEAST_CACHE_BYTES", cache_bytes)
    case, clock = AddRMSNormCase(3, 128), FakeClock()
    row = timed(case, "float32", OURS, "cpu", clock)
    assert row["gate"]["passed"]
    assert (row["flushed_us"][0], row["warm_us"][0], row["cold_us"][0]) == (10.0, 8.0, 8.0)
    assert num_bytes(case.inputs(torch.float32, torch.device("meta"))) == 4 * (2 * 3 + 1) * 128
    assert clock.replays == [1, num_sets]
    assert row["samples"] == {"flushed_us": [10.0, 9.0, 12.0], "warm_us": [8.0, 7.5, 9.0], "cold_us": [8.0, 7.5, 9.0]}
    assert row["extra_bytes"] is None  # a CPU does not count it


class PlantedClock(FakeClock):
    """Launches take `launched` microseconds; what is replayed takes eight."""

    def __init__(self, launched: float) -> None:
        super().__init__()
        self.launched = launched

    def flushed(self, call: Callable[[], Any]) -> list[float]:
        super().flushed(call)
        return [self.launched] * 3


@pytest.mark.parametrize(("launched", "disagree"), [(9.5, False), (40.0, True), (6.0, True)])
def test_a_record_says_where_the_two_clocks_disagree(launched: float, disagree: bool) -> None:
    row = timed(AddRMSNormCase(1, 8), "float32", OURS, "cpu", PlantedClock(launched))
    assert (row["clock_ratio"], row["clocks_disagree"]) == (launched / 8, disagree)


class Forgetful:
    """A kernel that gives another result from its third call on."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x + (self.calls > 2)


def test_a_result_that_changes_while_it_is_timed_costs_the_times() -> None:
    row = kernel_timing.times(TouchesLittle(), "float32", Forgetful(), torch.device("cpu"), FakeClock())
    assert row["failed"].startswith("another result after timing: error ")
    assert not [name for name in row if name.endswith("_us")]


def test_inputs_that_never_overflow_the_cache_have_no_cold_time_and_say_so() -> None:
    row = timed(AddRMSNormCase(1, 8), "float32", OURS, "cpu", FakeClock())
    assert row["cold_us"] is None
    assert row["no_cold"] == "4096 sets of inputs fit the cache"


def test_what_cannot_be_captured_keeps_its_launched_time_and_its_reason() -> None:
    row = timed(AddRMSNormCase(1, 8), "float32", OURS, "cpu", NoGraphClock())
    assert row["flushed_us"] == pytest.approx([10.0, 9.4, 11.2])
    assert row["warm_us"] is None
    assert row["clocks_disagree"] is None
    assert row["no_graph"] == "RuntimeError: operation not permitted when stream is capturing"


def test_no_time_without_a_green_gate() -> None:
    for wrong in (WrongCase(1.01, 0), WrongCase(1.0, 1)):
        row = timed(wrong, "float32", OURS, "cpu", FakeClock())
        assert row["failed"] == "wrong result: not timed"
        assert not [name for name in row if name.endswith("_us")]


def test_ceilings_are_bytes_read_and_written_and_two_flops_a_multiply_add() -> None:
    found = ceilings("cpu", FakeClock(), elements=1000, width=16)
    assert found["bytes_per_second"] == pytest.approx(2 * 2000 / 10e-6)
    assert found["flops_per_second"] == pytest.approx(2 * 16**3 / 10e-6)


@dataclass(frozen=True)
class TouchesLittle(Case):
    """Of a store of 80 rows a case reads one."""

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor]:
        return (torch.ones(80, 100, dtype=dtype, device=device),)

    def run(self, store: torch.Tensor) -> torch.Tensor:
        return store[0].clone()

    def reference(self, store: torch.Tensor) -> torch.Tensor:
        return store[0].clone()

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(400)


def test_cold_sets_are_counted_by_what_a_case_touches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_timing, "_LEAST_CACHE_BYTES", 4000)
    clock = FakeClock()
    timed(TouchesLittle(), "float32", "torch eager", "cpu", clock)
    assert clock.replays == [1, 20]


def test_sets_that_do_not_fit_the_memory_give_no_cold_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_timing, "_LEAST_CACHE_BYTES", 4000)
    monkeypatch.setattr(kernel_timing, "_free_bytes", lambda device: 2 * 19 * 32_000)
    row = timed(TouchesLittle(), "float32", "torch eager", "cpu", FakeClock())
    assert (row["cold_us"], row["no_cold"]) == (None, "20 sets of inputs do not fit the memory")


@pytest.mark.parametrize(("counted", "hip", "num_bytes"), [
    (50 * 2**20, None, 60e6), (126 * 2**20, None, 126 * 2**20), (4 * 2**20, "6.4", 2**28)])
def test_the_cache_is_the_card_s_own(
        counted: int, hip: str | None, num_bytes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(L2_cache_size=counted))
    monkeypatch.setattr(torch.version, "hip", hip)
    assert kernel_timing._cache_bytes(torch.device("cuda")) == num_bytes
