"""Tables from records: shares by hand arithmetic, and in words what was not measured."""

import csv
import io

import pytest
from quicksilver.experiments.kernel_bench.rows import NO_GPU, kernel_lines, programs_csv, time_rows, times_csv

CASE = {"kernel": "head", "shape": "32 rows", "dtype": "bfloat16", "case": "C()", "source_hash": "a" * 16,
        "num_bytes": 430_000_000, "num_flops": 79_000_000, "floor_us": 100.0, "bound": "memory",
        "peers": {"Liger": False, "torch eager": True}}
TIME = {"kernel": "head", "shape": "32 rows", "dtype": "bfloat16", "contender": "quicksilver", "key": "1",
        "cold_us": [125.0, 120.0, 130.0], "warm_us": [110.0, 109.0, 111.0], "flushed_us": [130.0, 129.0, 140.0],
        "gate": {"error": 1e-3}, "provenance": {"device": "NVIDIA H200"}}
CEILINGS = {"contender": "ceilings", "key": "0", "bytes_per_second": 4e12, "flops_per_second": 7e14}
PROGRAM = {"kernel": "head", "target": "sm_90", "triton": "3.9.0", "label": "_head[bf16]", "key": "abc",
           "registers": 90, "spill_bytes": 0, "spill_store_bytes": 0, "spill_load_bytes": 0, "stack_bytes": 0,
           "shared_bytes": 81920, "tensor_memory_columns": 0, "num_warps": 4, "blocks": 2, "occupancy": 0.125,
           "tensor_core": {"HGMMA": 8}, "loads": {"LDGSTS 128": 40}, "loop_loads": {"LDGSTS 128": 10},
           "wide_loads": True, "needs_wide_loads": True, "code_bytes": 18000, "compile_seconds": 0.5,
           "source_hash": "a" * 16, "shapes": ["32 rows, bfloat16"]}
VERDICT = {"kernel": "head", "passed": True}


def test_without_a_gpu_every_time_says_so_and_no_share_is_made_up() -> None:
    rows = time_rows([CASE], [], NO_GPU)
    assert [(row.contender, row.state) for row in rows] == [
        ("quicksilver", "not measured: no GPU here"), ("Liger", "not installed"),
        ("torch eager", "not measured: no GPU here")]
    for row in rows:
        assert row.median_us is None
        assert row.percent_of_floor is None
        assert row.terabytes_per_second is None
    assert times_csv(rows).count("not measured: no GPU here") == 2
    (line,) = kernel_lines([PROGRAM], [VERDICT], rows)
    assert (line["state"], line["percent_of_floor"], line["times_us"]) == (NO_GPU, None, None)
    assert line["floor_us"] == (100.0, 100.0)


def test_rates_and_shares_are_of_the_cold_median() -> None:
    ours, _, eager = time_rows([CASE], [CEILINGS, TIME], None)
    assert ours.median_us == 125.0
    assert ours.percent_of_floor == pytest.approx(80.0)
    assert ours.terabytes_per_second == pytest.approx(3.44)
    assert ours.teraflops_per_second == pytest.approx(79e6 / 125e-6 / 1e12)
    assert ours.percent_of_ceiling == pytest.approx(100 * 107.5 / 125)
    assert eager.state == "not measured: the time budget ended"


def test_a_time_below_the_floor_is_rejected() -> None:
    (row, *_) = time_rows([CASE], [CEILINGS, TIME | {"cold_us": [95.0, 94.0, 96.0]}], None)
    assert (row.state, row.median_us, row.percent_of_floor) == ("rejected: below the floor", None, None)
    (row, *_) = time_rows([CASE], [CEILINGS, TIME | {"cold_us": [96.0, 94.0, 97.0]}], None)
    assert row.median_us == 96.0


def test_on_another_card_the_share_of_the_h200s_floor_is_not_given() -> None:
    row = time_rows([CASE], [TIME | {"provenance": {"device": "NVIDIA A100"}}], None)[0]
    assert row.median_us == 125.0
    assert row.percent_of_floor is None


def test_shares_of_floors_below_30_microseconds_do_not_enter_the_summary() -> None:
    rows = time_rows([CASE | {"floor_us": 20.0}], [TIME], None)
    (line,) = kernel_lines([PROGRAM], [VERDICT], rows)
    assert line["percent_of_floor"] is None
    assert line["times_us"] == (125.0, 125.0)


def test_a_failure_is_shown_and_what_was_tried_again_counts_once() -> None:
    failed = {name: value for name, value in TIME.items() if not name.endswith("_us")} | {"failed": "out of memory"}
    assert time_rows([CASE], [failed], None)[0].state == "failed: out of memory"
    assert time_rows([CASE], [failed, TIME], None)[0].state == "measured"


def test_where_the_inputs_fit_the_cache_the_warm_replay_stands_in_and_says_so() -> None:
    row = time_rows([CASE], [TIME | {"cold_us": None, "no_cold": "all fit"}], None)[0]
    assert (row.median_us, row.cache, row.notes) == (110.0, "warm", "all fit")
    assert time_rows([CASE], [TIME], None)[0].cache == "cold"


def test_no_launch_from_python_enters_a_column_of_replays() -> None:
    launched = TIME | {"cold_us": None, "warm_us": None, "no_graph": "RuntimeError: capture"}
    row = time_rows([CASE], [launched], None)[0]
    assert (row.median_us, row.cache, row.percent_of_floor, row.terabytes_per_second) == (None, None, None, None)
    assert (row.flushed_us, row.state) == ([130.0, 129.0, 140.0], "launched from Python only")
    assert row.notes == "RuntimeError: capture"
    (line,) = kernel_lines([PROGRAM], [VERDICT], [row])
    assert line["times_us"] is None


@pytest.mark.parametrize(("launched", "times", "disagree"), [
    (156.0, {}, False), (157.0, {}, True), (100.0, {}, False), (99.0, {}, True),
    (130.0, {"cold_us": None}, False), (140.0, {"cold_us": None}, True)])
def test_a_row_is_marked_where_the_two_clocks_differ_by_more_than_a_quarter(
        launched: float, times: dict[str, None], disagree: bool) -> None:
    row = time_rows([CASE], [TIME | {"flushed_us": [launched] * 3} | times], None)[0]
    assert row.clocks_disagree is disagree
    assert row.clock_ratio == pytest.approx(launched / (110 if times else 125))
    ours, *_ = csv.DictReader(io.StringIO(times_csv([row])))
    assert (ours["clocks_disagree"], float(ours["clock_ratio"])) == (
        str(disagree), pytest.approx(row.clock_ratio, 1e-5))


@pytest.mark.parametrize("missing", [("flushed_us",), ("cold_us", "warm_us")])
def test_one_clock_alone_has_nothing_to_disagree_with(missing: tuple[str, ...]) -> None:
    row = time_rows([CASE], [TIME | dict.fromkeys(missing)], None)[0]
    assert (row.clock_ratio, row.clocks_disagree) == (None, None)


def test_the_csv_files_have_a_line_a_program_and_a_contender() -> None:
    (program,) = csv.DictReader(io.StringIO(programs_csv([PROGRAM])))
    assert (program["registers"], program["tensor_core"], program["shared_limit"]) == ("90", "HGMMA x8", "232448")
    ours, *others = csv.DictReader(io.StringIO(times_csv(time_rows([CASE], [TIME], None))))
    assert (ours["cold_us_median"], ours["cold_us_p20"], ours["cold_us_p80"]) == ("125", "120", "130")
    assert (ours["percent_of_floor"], ours["cache"]) == ("80", "cold")
    assert [line["state"] for line in others] == ["not installed", "not measured: the time budget ended"]
