"""Sections of the report, which appear where other experiments have recorded something of the same models."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from quicksilver.decoders import Greedy, TopProbability
from quicksilver.experiments.families import Diffusion
from quicksilver.experiments.frontier import Frontier
from quicksilver.experiments.joint_error import JointError
from quicksilver.experiments.progress import console
from quicksilver.experiments.records import RecordStore, key_of
from quicksilver.experiments.report import recorded_beside, report_name, write_report

from tests.experiments.handmade import PROVENANCE, cache_record, joint_record, model, step
from tests.experiments.test_analysis import training

EXACT = step(0, 0, kl=[0.0], flips=[0])


def stored(folder: Path, record: dict[str, Any]) -> Path:
    path = folder / f"{key_of(record['point'])}.json"
    path.write_text(json.dumps(record))
    return path


def test_each_kind_of_record_makes_a_section(tmp_path: Path) -> None:
    page = write_report(tmp_path, [], [], [joint_record(2, "11"), cache_record("dual", [EXACT])])
    html = page.read_text()
    assert "<h1>What caches get wrong; What parallel commits lose</h1>" in html
    assert html.count("<h2>What ") == 3  # what was found, and the two
    assert html.count("data:image/png;base64,") == 2
    assert "cache error sums" in html  # every setting
    for absent in ("Quality against speed", "All settings", "<h2>Training"):
        assert absent not in html
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache_error.png", "joint_error.png", "report.html"]


def test_failures_of_a_section_are_counted_on_the_page(tmp_path: Path) -> None:
    failed = joint_record(1, "1") | {"result": {"failed": "RuntimeError: out of memory"}}
    assert "1 points failed" in write_report(tmp_path, [], [], [joint_record(2, "11"), failed]).read_text()


def test_a_record_of_no_known_kind_is_refused(tmp_path: Path) -> None:
    record = joint_record(2, "11")
    with pytest.raises(ValueError, match="kind=.Other.: must be one of .*CacheErrorPoint, JointErrorPoint"):
        write_report(tmp_path, [], [], [record | {"point": record["point"] | {"kind": "Other"}}])


def test_only_whole_records_of_the_same_models_lie_beside(tmp_path: Path) -> None:
    mine, other_seed = joint_record(2, "11"), joint_record(2, "11", seed=1)
    for record in (mine, other_seed, {"point": model(), "result": {}, "provenance": PROVENANCE}):
        stored(tmp_path, record)
    damaged = stored(tmp_path, cache_record("dual", [EXACT]))
    damaged.write_text(damaged.read_text()[:-9])
    with console.capture() as said:
        assert recorded_beside(tmp_path, [{"point": model()}]) == [mine]
    assert f"left out: {damaged}" in said.get()


def test_the_sweeps_report_shows_what_was_recorded_of_its_models(
        tmp_path: Path, frontier: Callable[..., Frontier]) -> None:
    sweep = frontier(batch_sizes=[4], num_items=[4], thresholds=[], orders={"confident": TopProbability()})
    JointError(sweep.tasks, Diffusion(), [0], Greedy(), TopProbability(), 4, 4, 1).run(tmp_path)
    assert sweep.run(tmp_path) == 0
    (page,) = tmp_path.glob("sudoku4-*/report.html")
    html = page.read_text()
    order = [html.index(title) for title in ("<h1>Masked diffusion against autoregression", "<h2>Speed-up",
                                             "<h2>What parallel commits lose", "<h2>All settings", "<h2>Training")]
    assert order == sorted(order)
    assert len(list(RecordStore(tmp_path / "records").all())) == 2 + 2 + 3


def test_a_reports_folder_tells_tasks_and_seeds() -> None:
    assert report_name("x-", ["a", "b"], [0], 1).rpartition("-")[0] == "x-a+b"
    assert report_name("", ["a"], [1, 2], 1).rpartition("-")[0] == "a-seeds1+2"


def test_the_training_table_tells_active_parameters_experts_and_their_balance(tmp_path: Path) -> None:
    dense, mixture = training(), training("AutoregressiveNLL")
    mixture["point"]["recipe"] |= {"balancing": {"kind": "LossFree"}, "shape": {"experts": {
        "num_experts": 32, "shared_width": 16, "routing": {"top_k": 4, "scoring": "sigmoid"}}}}
    mixture["result"] |= {"parameters": 1234, "active_parameters": 567, "violations": [1.0, 0.5]}
    page = write_report(tmp_path, [dense, mixture], [])
    assert "<td>1,234</td><td>567</td><td>4 of 32 and 16 shared, sigmoid, LossFree</td>" in page.read_text()
    assert "<td>10</td><td>10</td><td></td>" in page.read_text()
    assert page.with_name("balance.png").exists()
