"""Two sides in turns, in one process and in two: both verified, all samples kept, a ratio of pairs of processes."""

import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import torch
from quicksilver.experiments.harness.json_lines import JsonLines
from quicksilver.experiments.kernel_bench.comparison import KernelComparison, comparison_table
from quicksilver.experiments.kernel_bench.experiment import KernelCases
from quicksilver.experiments.kernel_bench.sides import Side
from quicksilver.kernels.rms_norm import AddRMSNormCase
from rich.console import Console

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a rehearsal for machines without a GPU")
ROOT = Path(__file__).resolve().parents[3]
CASES = {"rms_norm": KernelCases(["bfloat16"], [], {"rows": AddRMSNormCase(2, 16)})}
COMPARISON = KernelComparison(CASES, Side("cpu"), Side("reference"), 12, 6, 60, 0)


@pytest.fixture(autouse=True)
def _children_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.slow
def test_two_implementations_in_one_process(tmp_path: Path) -> None:
    COMPARISON.check()
    assert COMPARISON.run(tmp_path) == 0
    (row,) = JsonLines(tmp_path / "kernels" / "ab.jsonl").rows()
    assert row["dtype"] == "float32"
    assert len(row["kernels_hashes"]) == 1
    assert [[len(times) for times in pair] for pair in row["samples_us"]] == [[2, 2]] * 6
    ratios = sorted(median(b / a for a, b in zip(*pair, strict=True)) for pair in row["samples_us"])
    assert row["ratio"] == pytest.approx([median(ratios), ratios[0], ratios[-1]])


@pytest.mark.slow
def test_another_checkout_s_kernels_run_in_a_process_of_their_own_and_are_verified(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "kernels", tmp_path / "other" / "kernels", ignore=shutil.ignore_patterns("__pycache__"))
    comparison = replace(COMPARISON, b=Side("cpu", checkout=str(tmp_path / "other")))
    source = tmp_path / "other" / "kernels" / "rms_norm.py"
    source.write_text(source.read_text() + "\n# another\n")
    assert comparison.run(tmp_path) == 0
    (row,) = JsonLines(tmp_path / "kernels" / "ab.jsonl").rows()
    assert len(set(row["kernels_hashes"])) == 2
    assert "ratio" in row
    source.write_text(source.read_text() + "\n\ndef _wrong(*arguments):\n    return arguments[0], arguments[1]\n\n\n"
                                           "AddRMSNormCase.run = staticmethod(_wrong)\n")
    assert comparison.run(tmp_path) == 1
    row = JsonLines(tmp_path / "kernels" / "ab.jsonl").rows()[-1]
    assert row["failed"] == "wrong result: not timed"
    assert [gate["passed"] for gate in row["gates"]] == [True, False]


@pytest.mark.parametrize(("ratio", "words"), [([0.9, 0.8, 0.99], "b is faster"), ([1.2, 1.1, 1.3], "a is faster"),
                                              ([0.9, 0.8, 1.0], "no difference")])
def test_no_difference_is_said_where_the_interval_holds_one(ratio: list[float], words: str) -> None:
    row: dict[str, Any] = {"kernel": "norm", "shape": "rows", "dtype": "float32"}
    written = StringIO()
    Console(width=140, file=written).print(comparison_table([row | {"ratio": ratio, "samples_us": [[[4.0], [2.0]]]},
                                                    row | {"failed": "a reason"}]))
    text = written.getvalue()
    assert words in text
    assert f"{ratio[1]:.3f} to {ratio[2]:.3f}" in text
    assert "a reason" in text


@pytest.mark.parametrize(("changes", "message"), [
    ({"processes": 5}, "processes=5"), ({"rounds": 11}, "rounds=11"), ({"seconds": -1}, "seconds=-1"),
    ({"shape_seconds": -1}, "shape_seconds=-1"), ({"b": Side("fast")}, "kernels='fast'"),
    ({"axis": "columns"}, "axis='columns'")], ids=str)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(COMPARISON, **changes).check()


def test_along_an_axis_every_shape_is_taken_at_each_value() -> None:
    items = replace(COMPARISON, axis="rows", values=[1, 4]).items()
    assert [(item.case, item.dtype) for item in items] == [(AddRMSNormCase(rows, 16), "float32") for rows in (1, 4)]
