"""The timing stage in its order and its budget: resumes, survives a crash, and never times what is not installed."""

from pathlib import Path
from typing import Any

import pytest
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.harness.worker import LATE_SECONDS, CutShort
from quicksilver.experiments.kernel_bench import stages as kernel_stages
from quicksilver.experiments.kernel_bench.stages import Item, TimingStage, floors
from quicksilver.kernels.rms_norm import AddRMSNormCase

from .rehearsal import NoCase, fake_ceilings, fake_timer

ROOT = Path(__file__).resolve().parents[3]
CASES: Any = NoCase(2), NoCase(4), NoCase(2)
ITEMS = [Item("norm", "small", "float32", CASES[0]), Item("norm", "large", "float32", CASES[1]),
         Item("statistics", "only", "bfloat16", CASES[2])]


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_ours_come_first_then_peers_by_worth_and_a_crash_costs_one_row(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "times.jsonl")
    TimingStage(60, "cpu").run(ITEMS, file, fake_timer, fake_ceilings)
    rows = file.rows()
    ours = [("quicksilver", "norm", "small"), ("quicksilver", "statistics", "only"), ("quicksilver", "norm", "large")]
    eager = [("torch eager", *name) for _, *name in ours]
    compiled = [("torch.compile", *name) for _, *name in ours]
    assert [(row["contender"], row.get("kernel"), row.get("shape")) for row in rows] == [
        ("ceilings", None, None), *ours, *eager, *compiled]
    assert all(row["failed"] == "its process ended with status 9" for row in rows[-3:])
    assert all(row["cold_us"] == [8.0, 7.0, 9.0] for row in rows[1:-3])
    for row in rows:
        assert row["provenance"]["commit"]
        assert row["provenance"]["device"] == "cpu"
        assert "kernels" not in row["provenance"]
        assert row["provenance"]["versions"].keys() >= {"torch", "triton", "python"}
    assert all(len(row["source_hash"]) == 16 for row in rows[1:])


def test_what_is_there_is_kept_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "times.jsonl")
    TimingStage(60, "cpu").run(ITEMS[:1], file, fake_timer, fake_ceilings)
    before = file.rows()
    TimingStage(60, "cpu").run(ITEMS[:1], file, fake_timer, fake_ceilings)
    again = file.rows()
    assert again[: len(before)] == before
    assert [row["contender"] for row in again[len(before) :]] == ["torch.compile"]


def test_another_state_of_the_kernels_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JsonLines(tmp_path / "times.jsonl")
    TimingStage(60, "cpu").run(ITEMS[:1], file, fake_timer, fake_ceilings)
    before = len(file.rows())
    monkeypatch.setattr(kernel_stages, "kernels_hash", lambda: "another")
    TimingStage(60, "cpu").run(ITEMS[:1], file, fake_timer, fake_ceilings)
    assert len(file.rows()) == 2 * before


def test_nothing_is_begun_beyond_the_budget(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "times.jsonl")
    assert TimingStage(0, "cpu").run(ITEMS, file, fake_timer, fake_ceilings) == 10
    assert file.rows() == []


def test_a_late_row_gets_what_is_left_and_is_missing_if_that_is_too_little(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[float] = []

    def cut(self: object, *call: object, seconds: float) -> None:
        limits.append(seconds)
        raise CutShort("no answer within 3 s")

    monkeypatch.setattr(kernel_stages.Worker, "ask", cut)
    file = JsonLines(tmp_path / "times.jsonl")
    assert TimingStage(20, "cpu").run(ITEMS, file) == 10
    assert max(limits) <= 20 + LATE_SECONDS
    assert file.rows() == []
    assert len(TimingStage(20, "cpu").missing(ITEMS, file)) == 10


def test_each_item_has_its_floor_its_peers_and_whether_they_are_installed(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicksilver.experiments.kernel_bench.competitors.find_spec", lambda name: None)
    items = [Item("norm", "small", "float32", AddRMSNormCase(2, 8))]
    row = floors(items, JsonLines(tmp_path / "cases.jsonl"))[0]
    assert row["num_bytes"] == (4 * 2 + 1) * 8 * 4
    assert row["floor_us"] == pytest.approx(1e6 * row["num_bytes"] / 4.3e12)
    assert row["provenance"]["device"] == "none"
    assert not {"kernels", "dtype", "gpu"} & row["provenance"].keys()
    assert row["peers"] == {"torch eager": True, "Liger": False, "fla-core": False, "torch.compile": True}
    assert JsonLines(tmp_path / "cases.jsonl").rows()[0]["floor_us"] == row["floor_us"]
