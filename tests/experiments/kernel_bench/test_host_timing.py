"""Times on a CPU: by hand arithmetic, checked before and after, and left out where they do not fit."""

from pathlib import Path

import pytest
import torch
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.kernel_bench import host_timing as module
from quicksilver.experiments.kernel_bench.host_rows import host_rows
from quicksilver.experiments.kernel_bench.host_timing import HostClock, host_ceilings, timed_on_host
from quicksilver.experiments.kernel_bench.stages import Item, TimingStage
from quicksilver.kernels.packed_linear import LinearCase
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .planted_kernels import WrongCase
from .rehearsal import fake_ceilings

CASE = LinearCase(2, 64, 96)
QUICK = HostClock(0.0)


def test_every_round_but_the_first_is_a_sample() -> None:
    calls: list[int] = []
    assert len(QUICK.replayed([lambda: calls.append(1), lambda: calls.append(2)])) == 3
    assert calls == [1, 2] * 4


@pytest.mark.parametrize("name", ["quicksilver", "torch eager"])
def test_a_row_holds_both_clocks_and_the_least_work(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicksilver.experiments.kernel_bench.timing._LEAST_CACHE_BYTES", 100_000)
    row = timed_on_host(CASE, "float32", name, "cpu", QUICK)
    assert row["gate"]["passed"]
    assert row["warm_us"][0] > 0
    assert row["cold_us"][0] > 0
    assert (row["num_bytes"], row["num_flops"]) == (4 * (64 * 98 + 2 * 96), 2 * 2 * 64 * 96)
    assert row["threads"] == torch.get_num_threads()


def test_what_does_not_fit_or_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert timed_on_host(WrongCase(1.01, 0), "float32", "quicksilver", "cpu", QUICK).keys() == {"gate", "failed"}
    monkeypatch.setattr(module, "_MOST_BYTES", 4 * 64 * 98 - 1)
    assert timed_on_host(CASE, "float32", "quicksilver", "cpu", QUICK) == {"skipped": "its inputs take 0.0 GB"}


def test_the_stage_times_ours_and_the_peers_that_are_for_a_cpu(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))  # of the process that measures
    file = JsonLines(tmp_path / "host_times.jsonl")
    items = [Item("rms_norm", "a row", "float32", AddRMSNormCase(1, 64))]
    assert TimingStage(60, "cpu", is_host=True).run(items, file, timed_on_host, fake_ceilings) == 0
    assert [row["contender"] for row in file.rows()] == ["ceilings", "quicksilver", "torch eager"]
    assert all(row.kernel == "rms_norm" and row.median_us for row in host_rows(file.rows()))


def test_the_machine_s_ceilings_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_COPY_ELEMENTS", 1000)
    monkeypatch.setattr(module, "_PRODUCT_WIDTH", 16)
    found = host_ceilings("cpu")
    assert found["bytes_per_second"] > 0
    assert found["flops_per_second"] > 0
