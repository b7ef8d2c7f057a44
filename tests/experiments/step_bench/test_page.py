"""The step report: what is said of rows with a time, without one, and without a GPU."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.step_bench import page as step_report
from quicksilver.experiments.step_bench.page import NO_GPU, Line, write_report
from rich.console import Console

ORIGIN = {"commit": "0123456789abcdef", "dirty": False, "source_hash": "feed", "device": "NVIDIA H200",
          "dtype": "bfloat16", "versions": {"torch": "2.11.0", "triton": "3.6.0"}}
CARD = "H200: 4,300 GB/s, 790 TFLOP/s in bfloat16"


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


def test_a_row_holds_its_time_its_share_of_the_floor_and_its_ratio_to_the_autoregressive_step(
        tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    lines = [line(32, timed(4.0, distinct_experts=[60, 62]), expected_experts=63.1), line(None, timed(2.5)),
             line(8, {"failed": "CUDA out of memory"})]
    golden("times.md", write_report(tmp_path, lines, [ORIGIN, ORIGIN], CARD).read_text())


def test_the_widest_row_fits_a_terminal(tmp_path: Path, terminal: io.StringIO) -> None:
    result = timed(1234.5678, distinct_experts=[222, 223], num_kernels=31_234, eager_ms=[2345.678] * 3)
    widest = line(64, result, context=131072, expected_experts=222.4, kernels="reference")
    write_report(tmp_path, [widest], [ORIGIN], CARD)
    shown = terminal.getvalue()
    assert "\u2026" not in shown
    for text in ("131072", "block 64", "separate, PyTorch", "1234.568", "31,234", "2345.678", "222.5 (222.4)"):
        assert text in shown


def test_a_step_is_compared_with_its_own_head_and_kernels_alone(tmp_path: Path) -> None:
    lines = [line(None, timed(2.0)), line(None, timed(4.0), head="fused"), line(32, timed(4.0), head="fused"),
             line(32, timed(8.0), kernels="reference")]
    found = rows_of(write_report(tmp_path, lines, [ORIGIN], CARD).read_text())
    assert [row["x AR"] for row in found] == ["1.00", "1.00", "1.00", "-"]


def test_without_a_gpu_each_step_has_one_floor_and_the_page_says_that_nothing_was_measured(
        tmp_path: Path, terminal: io.StringIO) -> None:
    unmeasured = {"state": NO_GPU}
    lines = [line(None, unmeasured), line(32, unmeasured), line(None, unmeasured, head="fused"),
             line(32, unmeasured, kernels="reference"), line(32, unmeasured, name="other")]
    page = write_report(tmp_path, lines, [], CARD).read_text()
    assert "**Not measured: no GPU here.** What follows are floors." in page
    assert page.count("| 1024 |") == 3
    assert "| context | step | floor ms | bound | floor x AR |" in page
    assert "separate" not in page
    assert "block 32     3.000" in terminal.getvalue()


def test_on_a_cpu_the_steps_taken_are_compared_and_what_does_not_fit_is_said(
        tmp_path: Path, terminal: io.StringIO) -> None:
    def taken(milliseconds: float) -> dict[str, Any]:
        return {"eager_ms": [milliseconds] * 3, "graph_ms": None, "no_graph": "a CPU has none"}

    reason = "does not fit: 33 GB of 23 GB that are free"
    lines = [line(None, taken(4.0)), line(32, taken(6.0)), line(None, {"does_not_fit": reason}, name="large"),
             line(32, {"does_not_fit": reason}, name="large")]
    text = write_report(tmp_path, lines, [ORIGIN], CARD).read_text()
    assert [(row["ms"], row["% of floor"], row["x AR"]) for row in rows_of(text.split("## large")[0])] == [
        ("4.000", "50", "1.00"), ("6.000", "50", "1.50")]
    assert "launched" not in text.split("## model")[1].split("## large")[0]
    said = f"- {reason} (1024 autoregressive separate triton; 1024 block of 32 separate triton)"
    assert text.count(reason) == 1
    assert said in text
    assert said.split() == terminal.getvalue().split()[-len(said.split()) :]
    assert not any(found.failed for found in lines)


@pytest.mark.parametrize(("result", "kernels", "failed"), [
    (timed(1.0), "triton", False), ({"failed": "why"}, "triton", True), ({"state": NO_GPU}, "triton", False),
    ({"eager_ms": [1.0] * 3, "no_graph": "why"}, "triton", True),
    ({"eager_ms": [1.0] * 3, "no_graph": "why"}, "reference", False),
    ({"eager_ms": [1.0] * 3, "no_graph": "a CPU has none"}, "triton", False)])
def test_a_row_failed_if_it_was_tried_in_vain(result: dict[str, Any], kernels: str, failed: bool) -> None:
    assert line(32, result, kernels=kernels).failed == failed
