"""The step report: what is said of rows with a time, without one, and without a GPU."""

import io
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.step_bench import page as step_report
from quicksilver.experiments.step_bench.page import NO_GPU, Line, write_report
from rich.console import Console

ORIGIN = {"commit": "0123456789abcdef", "dirty": False, "source_hash": "feed", "device": "NVIDIA H200",
          "dtype": "bfloat16", "versions": {"torch": "2.11.0", "triton": "3.6.0"}}


def line(block: int | None, result: dict[str, Any], **changes: Any) -> Line:
    floors = {"floor_ms": 2.0 if block is None else 3.0, "bound": "memory"}
    settings: dict[str, Any] = {"name": "model", "parameters": (7_000_000_000, 1_400_000_000), "context": 1024,
                                "head": "separate", "kernels": "triton", "floors": floors, "expected_experts": None}
    return Line(**(settings | changes), block=block, result=result)


def timed(milliseconds: float, **more: Any) -> dict[str, Any]:
    return {"graph_ms": [milliseconds, milliseconds - 0.1, milliseconds + 0.1], "eager_ms": [10.0, 9.0, 11.0],
            "busy_ms": 4.0, "num_kernels": 1234, **more}


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    text = io.StringIO()
    monkeypatch.setattr(step_report, "console", Console(file=text, width=110, highlight=False))
    return text


def rows_of(page: str) -> list[dict[str, str]]:
    table = [[cell.strip() for cell in row.strip("|").split("|")] for row in page.splitlines() if row.startswith("|")]
    return [dict(zip(table[0], cells, strict=True)) for cells in table[2:]]


def test_a_row_holds_its_time_its_share_of_the_floor_and_its_ratio_to_the_autoregressive_step(tmp_path: Path) -> None:
    lines = [line(32, timed(4.0, distinct_experts=[60, 62]), expected_experts=63.1), line(None, timed(2.5)),
             line(8, {"failed": "CUDA out of memory"})]
    page = write_report(tmp_path, lines, [ORIGIN, ORIGIN]).read_text()
    autoregressive, failed, block = rows_of(page)
    assert autoregressive["step"] == "autoregressive"
    assert block == {
        "context": "1024", "step": "block of 32", "head": "separate", "kernels": "triton", "ms": "4.000",
        "p20 - p80": "3.900 - 4.100", "floor ms": "3.000", "bound": "memory", "% of floor": "75", "x AR": "1.60",
        "floor x AR": "1.50", "launches": "1,234", "launched ms": "10.000", "host gap ms": "6.000", "GPU busy %": "40",
        "experts": "61.0 (63.1)"}
    assert (failed["step"], failed["ms"], failed["floor ms"]) == ("block of 8", "-", "3.000")
    assert "- failed: CUDA out of memory (1024 block of 8 separate triton)" in page
    assert page.count("commit 0123456789ab, source feed; NVIDIA H200, bfloat16; torch 2.11.0, triton 3.6.0") == 1
    assert NO_GPU not in page
    assert "7,000M parameters in the layers' matrices, 1,400M of them active at a position." in page


def test_the_widest_row_fits_a_terminal(tmp_path: Path, terminal: io.StringIO) -> None:
    result = timed(1234.5678, distinct_experts=[222, 223], num_kernels=31_234, eager_ms=[2345.678] * 3)
    write_report(tmp_path, [line(64, result, context=131072, expected_experts=222.4, kernels="reference")], [ORIGIN])
    shown = terminal.getvalue()
    assert "\u2026" not in shown
    for text in ("131072", "block 64", "separate, PyTorch", "1234.568", "31,234", "2345.678", "222.5 (222.4)"):
        assert text in shown


def test_a_step_is_compared_with_its_own_head_and_kernels_alone(tmp_path: Path) -> None:
    lines = [line(None, timed(2.0)), line(None, timed(4.0), head="fused"), line(32, timed(4.0), head="fused"),
             line(32, timed(8.0), kernels="reference")]
    found = rows_of(write_report(tmp_path, lines, [ORIGIN]).read_text())
    assert [row["x AR"] for row in found] == ["1.00", "1.00", "1.00", "-"]


def test_without_a_gpu_each_step_has_one_floor_and_the_page_says_that_nothing_was_measured(
        tmp_path: Path, terminal: io.StringIO) -> None:
    unmeasured = {"state": NO_GPU}
    lines = [line(None, unmeasured), line(32, unmeasured), line(None, unmeasured, head="fused"),
             line(32, unmeasured, kernels="reference"), line(32, unmeasured, name="other")]
    page = write_report(tmp_path, lines, []).read_text()
    assert "**Not measured: no GPU here.** What follows are floors." in page
    assert page.count("| 1024 |") == 3
    assert "| context | step | floor ms | bound | floor x AR |" in page
    assert "separate" not in page
    assert "block 32     3.000" in terminal.getvalue()


@pytest.mark.parametrize(("result", "kernels", "failed"), [
    (timed(1.0), "triton", False), ({"failed": "why"}, "triton", True), ({"state": NO_GPU}, "triton", False),
    ({"eager_ms": [1.0] * 3, "no_graph": "why"}, "triton", True),
    ({"eager_ms": [1.0] * 3, "no_graph": "why"}, "reference", False),
    ({"eager_ms": [1.0] * 3, "no_graph": "a CPU has none"}, "triton", False)])
def test_a_row_failed_if_it_was_tried_in_vain(result: dict[str, Any], kernels: str, failed: bool) -> None:
    assert line(32, result, kernels=kernels).failed == failed
