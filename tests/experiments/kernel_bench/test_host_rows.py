"""Rows of CPU times from records: rates and shares by hand arithmetic, and in words what was not timed."""

import pytest
from quicksilver.experiments.kernel_bench.host_rows import host_rows, host_table
from rich.text import Text

CEILINGS = {"contender": "ceilings", "key": "0", "bytes_per_second": 1e10, "flops_per_second": 1e11}
ROW = {"contender": "quicksilver", "key": "1", "kernel": "linear", "shape": "small", "num_bytes": 10_000,
       "num_flops": 2_000_000, "cold_us": [50.0, 40.0, 60.0], "warm_us": [25.0, 20.0, 30.0]}


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


def test_shares_are_of_the_newest_ceilings() -> None:
    newer = CEILINGS | {"key": "9", "bytes_per_second": 2e10, "flops_per_second": 2e11}
    (row,) = host_rows([CEILINGS, newer, ROW])
    assert row.percent == pytest.approx(100 * 10 / 50)


def test_what_was_not_timed_says_why() -> None:
    unmeasured = {name: value for name, value in ROW.items() if not name.endswith("_us")}
    states = [row.state for row in host_rows([unmeasured | {"key": "1", "skipped": "too large"},
                                              unmeasured | {"key": "2", "shape": "x", "failed": "wrong result"}])]
    assert states == ["too large", "wrong result"]
    (cell,) = host_table(list(host_rows([unmeasured | {"failed": "[enforce fail] at [/a]"}]))).columns[3].cells
    assert Text.from_markup(str(cell)).plain == "[enforce fail] at [/a]"
