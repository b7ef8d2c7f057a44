"""Times on a CPU: by hand arithmetic, checked before and after, and left out where they do not fit."""

from pathlib import Path

import pytest
import torch
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.kernel_bench import host_timing as module
from quicksilver.experiments.kernel_bench import timing
from quicksilver.experiments.kernel_bench.host_rows import host_rows
from quicksilver.experiments.kernel_bench.host_timing import HostClock, host_ceilings, timed_on_host
from quicksilver.experiments.kernel_bench.stages import Item, TimingStage
from quicksilver.kernels import packed_linear
from quicksilver.kernels.commit import CommitCase
from quicksilver.kernels.packed_linear import LinearCase
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .planted_kernels import WrongCase
from .rehearsal import fake_ceilings

CASE = LinearCase(2, 64, 96)
QUICK = HostClock(0.0)


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the machine that tests is not asked."""
    monkeypatch.setattr(timing, "cache_bytes", lambda: 0)


def test_a_round_makes_short_calls_many_times_and_the_first_round_is_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(module.time, "perf_counter", lambda: 1e-4 * len(calls))
    found = QUICK.replayed([lambda: calls.append(1), lambda: calls.append(2)])
    assert calls == [1, 2] * (1 + 3 * 6)
    assert found == pytest.approx([100.0] * 3)


@pytest.mark.parametrize("name", ["quicksilver", "torch eager"])
def test_a_row_holds_both_clocks_and_the_least_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_LEAST_CACHE_BYTES", 100_000)
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)
    monkeypatch.setattr(packed_linear, "_LEAST_BYTES_FROM_MEMORY", 1)
    row = timed_on_host(CASE, "float32", name, "cpu", QUICK)
    assert row["gate"]["passed"]
    assert row["warm_us"][0] > 0
    assert row["cold_us"][0] > 0
    assert (row["num_bytes"], row["num_flops"]) == (4 * (64 * 98 + 2 * 96), 2 * 2 * 64 * 96)
    assert row["threads"] == torch.get_num_threads()


def test_what_does_not_fit_or_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed_on_host(WrongCase(1.01, 0), "float32", "quicksilver", "cpu", QUICK).keys() == {"gate", "failed"}
    monkeypatch.setattr(module, "_MOST_BYTES", 4 * 64 * 98 - 1)
    assert timed_on_host(CASE, "float32", "quicksilver", "cpu", QUICK) == {
        "skipped": "its inputs take 0.00 GB, of which 0.00 GB may be taken"}


def test_what_runs_no_implementation_of_its_own_is_not_timed_twice() -> None:
    case = CommitCase(2, 3, 5)
    assert timed_on_host(case, "float32", "quicksilver", "cpu", QUICK)["same"] == "PyTorch's reference runs"
    assert timed_on_host(case, "float32", "torch eager", "cpu", QUICK)["warm_us"][0] > 0


def test_sets_of_inputs_that_do_not_fit_the_memory_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_LEAST_CACHE_BYTES", 100_000)
    monkeypatch.setattr(timing, "free_memory_bytes", lambda: 100_000)
    row = timed_on_host(CASE, "float32", "torch eager", "cpu", QUICK)
    assert row["cold_us"] is None
    assert "do not fit the memory" in row["no_cold"]


def test_the_stage_times_ours_and_the_peers_that_are_for_a_cpu(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))  # of the process that measures
    file = JsonLines(tmp_path / "host_times.jsonl")
    items = [Item("rms_norm", "a row", "float32", AddRMSNormCase(1, 64))]
    assert TimingStage(60, "cpu", is_host=True).run(items, file, timed_on_host, fake_ceilings) == 0
    assert [row["contender"] for row in file.rows()] == ["ceilings", "quicksilver", "torch eager"]
    assert all(row.kernel == "rms_norm" and row.median_us for row in host_rows(file.rows()))
    stage = TimingStage(60, "cpu", is_host=True)
    assert stage.current(items, file) == file.rows()
    assert [row["contender"] for row in stage.current([], file)] == ["ceilings"]
    monkeypatch.setattr("torch.get_num_threads", lambda: 99)
    assert stage.current(items, file) == []


def test_the_machine_s_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COPY_ELEMENTS", 1000)
    monkeypatch.setattr(module, "_PRODUCT_WIDTH", 16)
    found = host_ceilings("cpu")
    assert found["bytes_per_second"] > 0
    assert found["flops_per_second"] > 0
