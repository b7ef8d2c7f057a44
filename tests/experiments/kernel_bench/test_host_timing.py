"""Times on a CPU: by hand arithmetic, checked before and after, and left out where they do not fit."""

from pathlib import Path

import pytest
import torch
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.kernel_bench import host_timing as module
from quicksilver.experiments.kernel_bench.host_timing import (
    HostClock,
    host_ceilings,
    host_rows,
    host_table,
    timed_on_host,
)
from quicksilver.experiments.kernel_bench.stages import Item, TimingStage
from quicksilver.kernels.packed_linear import LinearCase
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .planted_kernels import WrongCase
from .rehearsal import fake_ceilings

CASE = LinearCase(2, 64, 96)
QUICK = HostClock(0.0)
CEILINGS = {"contender": "ceilings", "key": "0", "bytes_per_second": 1e10, "flops_per_second": 1e11}
ROW = {"contender": "quicksilver", "key": "1", "kernel": "linear", "shape": "small", "num_bytes": 10_000,
       "num_flops": 2_000_000, "cold_us": [50.0, 40.0, 60.0], "warm_us": [25.0, 20.0, 30.0]}


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


def test_rates_and_shares_are_of_the_cold_median_or_else_of_the_warm_one() -> None:
    eager = ROW | {"contender": "torch eager", "key": "2", "cold_us": None}
    ours, other = host_rows([CEILINGS, eager, ROW | {"cold_us": [9.0] * 3}, ROW])  # the last counts
    assert (ours.contender, ours.cold_us, ours.warm_us, ours.median_us) == ("quicksilver", 50.0, 25.0, 50.0)
    assert (ours.gigabytes_per_second, ours.gigaflops_per_second) == (pytest.approx(0.2), pytest.approx(40.0))
    assert ours.percent == pytest.approx(100 * 20 / 50)
    assert (other.median_us, other.percent) == (25.0, pytest.approx(100 * 20 / 25))
    (alone,) = host_rows([ROW])
    assert alone.percent is None
    cells = [next(iter(column.cells)) for column in host_table([ours]).columns]
    assert cells == ["linear", "small", "quicksilver", "50", "25", "0.2", "40", "40"]


def test_what_was_not_timed_says_why() -> None:
    unmeasured = {name: value for name, value in ROW.items() if not name.endswith("_us")}
    states = [row.state for row in host_rows([unmeasured | {"key": "1", "skipped": "too large"},
                                              unmeasured | {"key": "2", "shape": "x", "failed": "wrong result"}])]
    assert states == ["too large", "wrong result"]
    assert list(host_table(list(host_rows([unmeasured | {"skipped": "too large"}]))).columns[3].cells) == ["too large"]


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
