"""The stage that executes compiled programs, around an emulation that answers by hand."""

from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.harness.worker import CallFailed
from quicksilver.experiments.kernel_bench import execution as module
from quicksilver.experiments.kernel_bench import stages
from quicksilver.experiments.kernel_bench.execution import ExecutionStage
from quicksilver.experiments.kernel_bench.stages import Item
from quicksilver.kernels.swiglu import SwiGLUCase

ITEMS = [Item("swiglu", f"tiny {number}", "bfloat16", SwiGLUCase(2, 8 + number)) for number in range(2)]


class ByHand:
    """Processes that answer the last call first, and fail the one for (second item, sm_90, seed 0)."""

    def __init__(self, environment: dict[str, str], num_processes: int) -> None:
        self.environment = environment

    def __enter__(self) -> "ByHand":
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def ask_all(self, function: object, calls: list[tuple[Any, ...]]) -> list[tuple[int, Any]]:
        assert function is module.emulated
        answers = [CallFailed("Fault: a race") if call[1:] == ("bfloat16", "sm_90", 0) and call[0].width == 9
                   else {"passed": True, "ran": f"executed for {call[2]}", "functions": {"_swiglu_kernel": 10},
                         "path": self.environment.get("PYTHONPATH")} for call in calls]
        return list(enumerate(answers))[::-1]


def test_each_item_runs_for_each_target_schedule_and_triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(stages, "Pool", ByHand)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    stage, file = ExecutionStage(["sm_80", "sm_90"], (None, str(tmp_path)), 3, 2), JsonLines(tmp_path / "rows.jsonl")
    rows = list(stage.run(ITEMS, file))
    assert file.rows() == rows
    assert len(rows) == stage.num_rows(ITEMS) == 2 * 2 * 3 * 2
    assert {(row["shape"], row["target"], row["seed"]) for row in rows} == {
        (item.shape, target, seed) for item in ITEMS for target in ("sm_80", "sm_90") for seed in range(3)}
    failed = [row for row in rows if not row["passed"]]
    assert [(row["shape"], row["target"], row["seed"], row["failed"]) for row in failed] == [
        ("tiny 1", "sm_90", 0, "Fault: a race")] * 2
    assert {row.get("path") for row in rows if row["passed"]} == {None, str(tmp_path)}
    assert all(row["provenance"]["device"] == "none" for row in rows)
