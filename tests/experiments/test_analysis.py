"""Rows, the speed-up at equal quality, findings, figures and the report, from records written by hand."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from quicksilver.experiments import figures
from quicksilver.experiments.analysis import equal_quality, is_collapsed, rows, sources
from quicksilver.experiments.findings import findings
from quicksilver.experiments.report import write_report

ITEMS = 2000
TEXT = {"valid": 1.0, "unique": 0.004, "novel": 0.5, "valid_unique_novel": 0.002}


def record(family: str, share: float, speed_up: float, *, order: str = "confident", steps: int | None = 4,
           batch_size: int = 1, task: str = "sums", text: dict | None = None, commit: str = "a" * 40,
           cpu: str = "cpu", sampler: str = "greedy", seed: int = 0, source_hash: str = "s") -> dict[str, Any]:
    right = "".join("1" if i < share * ITEMS else "0" for i in range(ITEMS))
    result = {"num_items": ITEMS, "right": right, "num_right": right.count("1"), "text": text or {},
              "tokens_per_second": 1000 * speed_up, "speed_up": speed_up, "speed_up_p20": speed_up * 0.9,
              "speed_up_p80": speed_up * 1.1, "first_step_seconds_p50": 0.01, "latency_seconds_p50": 0.02,
              "latency_seconds_p95": 0.03, "peak_memory_bytes": 2**28,
              "accounting": {"forwards": {"denoise": 4 * ITEMS // batch_size}, "kv_store_bytes": 0,
                             "positions_computed": 40 * ITEMS}, "answer_tokens": 10 * ITEMS}
    return {"point": {"name": task, "batch_size": batch_size, "family": family, "order": order, "steps": steps,
                      "sampler": sampler, "model": {"seed": seed}},
            "result": result, "provenance": {"commit": commit, "dirty": source_hash != "s", "versions": {"torch": "2"},
                                             "source_hash": source_hash,
                                             "machine": {"cpu": cpu, "cores": 2}}}


def reference(share: float, **changes: Any) -> dict[str, Any]:
    return record("autoregressive", share, 1.0, order="left to right", steps=None, **changes)


def training(task: str = "sums", objective: str = "MaskedDiffusion", seconds: float = 9.0) -> dict[str, Any]:
    looks = [{"update": 1, "seconds": seconds / 2, "right": 0.4}, {"update": 2, "seconds": seconds, "right": 0.8}]
    return {"point": {"name": task, "seed": 0, "recipe": {"objective": {"kind": objective}, "format": {"kind": "F"},
                                                                 "shape": {"experts": None}}},
            "result": {"seconds": seconds, "updates": 2, "examples": 16, "tokens": 99, "parameters": 10, "threads": 1,
                       "curve": looks, "losses": [1.0]},
            "provenance": record("diffusion", 1, 1)["provenance"]}


def test_the_speed_up_is_that_of_the_fastest_setting_that_is_not_worse() -> None:
    table = rows([reference(0.9), record("diffusion", 0.5, 8.0, steps=1), record("diffusion", 0.895, 4.0, steps=2),
                  record("diffusion", 0.95, 2.0, steps=4)])
    (found,) = equal_quality(table)
    assert found.fastest is not None
    assert (found.fastest.steps, found.tolerance) == (2, 0.01)


def test_there_is_none_where_no_setting_qualifies() -> None:
    table = rows([reference(0.9), record("diffusion", 0.85, 8.0)])
    assert equal_quality(table)[0].fastest is None
    assert any("Diffusion loses: no setting comes within" in sentence for sentence in findings(table))


def test_what_diffusions_best_quality_costs_is_said() -> None:
    table = rows([reference(0.2), record("diffusion", 0.5, 8.0, steps=1), record("diffusion", 0.985, 3.0, steps=4),
                  record("diffusion", 0.99, 0.5, steps=9)])
    assert any("diffusion solves 98.5 % (confident, 4 steps) at 3.0 times" in sentence for sentence in findings(table))
    level = rows([reference(0.99), record("diffusion", 0.99, 0.5)])
    assert not any("within a point of its best" in sentence for sentence in findings(level))


def test_a_reference_that_solves_nothing_gives_no_speed_up() -> None:
    table = rows([reference(0.01), record("diffusion", 0.01, 20.0, steps=1), record("diffusion", 0.8, 2.0)])
    (found,) = equal_quality(table)
    assert found.fastest is None
    assert found.reference_fails
    assert any("too little for a speed-up at equal quality to mean anything" in sentence
               and "(confident, 4 steps) solves 80.0 %" in sentence for sentence in findings(table))


def test_a_slower_setting_is_said_to_lose() -> None:
    sentences = findings(rows([reference(0.9), record("diffusion", 0.95, 0.5)]))
    assert any("is 2.0 times slower: diffusion loses on speed" in sentence for sentence in sentences)


@pytest.mark.parametrize(("speed_ups", "expected"), [
    ((3.0, 1.5, 0.8), "vanishes between batch 4 and 16"), ((3.0, 0.9, 0.8), "vanishes between batch 1 and 4"),
    ((3.0, 2.0, 1.1), "still there at batch 16, the largest measured")])
def test_the_batch_size_where_the_advantage_vanishes_is_named(speed_ups: tuple, expected: str) -> None:
    table = rows([item for size, speed_up in zip((1, 4, 16), speed_ups, strict=True)
                  for item in (reference(0.9, batch_size=size),
                               record("diffusion", 0.9, speed_up, batch_size=size))])
    assert any(expected in sentence for sentence in findings(table))


def test_seeds_are_pooled() -> None:
    (row,) = rows([record("diffusion", 0.9, 2.0), record("diffusion", 0.8, 4.0, seed=1)])
    assert row.share == pytest.approx(0.85)
    assert row.share_by_seed == [0.9, 0.8]
    assert row.speed_up == 3.0
    assert row.num_items == 2 * ITEMS
    assert row.forwards_per_item == 4


def test_items_are_paired_within_their_seed() -> None:
    """Autoregression failed under seed 1, diffusion under seed 2: only seed 0 can be compared."""
    table = rows([reference(0.9), reference(0.2, seed=2), record("diffusion", 0.9, 3.0),
                  record("diffusion", 0.1, 3.0, seed=1)])
    assert equal_quality(table)[0].fastest is not None
    apart = rows([reference(0.9, seed=1), record("diffusion", 0.9, 3.0)])
    assert equal_quality(apart)[0].fastest is None


def test_a_collapsed_decoder_is_flagged_and_not_ranked() -> None:
    table = rows([reference(0.75, text=TEXT | {"unique": 1.0, "valid_unique_novel": 0.7}),
                  record("diffusion", 0.4, 2, order="random", text=TEXT | {"unique": 0.98, "valid_unique_novel": 0.38}),
                  record("diffusion", 1.0, 2.0, text=TEXT)])
    assert [is_collapsed(row.text) for row in table] == [False, True, False]
    sentences = findings(table)
    assert any("1 of 3 settings have collapsed" in sentence for sentence in sentences)
    best = next(sentence for sentence in sentences if "best diffusion setting" in sentence)
    assert "random" in best
    assert "confident" not in best
    assert any("no single speed-up is quoted" in sentence for sentence in sentences)
    assert equal_quality(table) == []


def test_mixed_machines_and_commits_are_said(tmp_path: Path) -> None:
    one = [reference(0.9), record("diffusion", 0.9, 2.0)]
    other_commit, other_machine = record("diffusion", 0.9, 2.0, commit="b" * 40), record("diffusion", 0.9, 2, cpu="x")
    edits = [record("diffusion", 0.9, 2.0, source_hash=source_hash) for source_hash in ("edited", "again")]
    assert len(sources(one)) == 1
    assert len(sources([*one, other_commit])) == len(sources([*one, other_machine])) == len(sources(edits)) == 2
    path = write_report(tmp_path, [training()], [*one, other_machine])
    assert "come from 2 sources" in path.read_text()
    assert "come from" not in write_report(tmp_path, [training()], one).read_text()


def test_models_may_come_from_a_commit_of_their_own(tmp_path: Path) -> None:
    """Their times are compared with one another's, not with those of what was measured."""
    earlier = training()
    earlier["provenance"] = earlier["provenance"] | {"commit": "b" * 40}
    html = write_report(tmp_path, [earlier], [reference(0.9), record("diffusion", 0.9, 2.0)]).read_text()
    assert "come from" not in html
    assert "models trained: " in html
    assert "measured: " in html
    assert "come from 2 sources" in write_report(tmp_path, [training(), earlier], [reference(0.9)]).read_text()


def test_the_report_holds_every_row_setting_and_failure(tmp_path: Path) -> None:
    failed = record("diffusion", 0.9, 2.0)
    failed["result"] = {"failed": "RuntimeError: <out of memory>"}
    html = write_report(tmp_path, [training(), training(objective="AutoregressiveNLL", seconds=20.0)],
                        [reference(0.9), record("diffusion", 0.5, 7.25), failed]).read_text()
    for expected in ("7.25", "confident, 4 steps", "left to right", "RuntimeError: &lt;out of memory&gt;",
                     "cpu, 2 cores", "Every setting", "masked diffusion", "not measured"):
        assert expected in html, expected


def test_tasks_with_and_without_text_measures_share_a_table(tmp_path: Path) -> None:
    html = write_report(tmp_path, [training()], [
        reference(0.9), reference(0.7, task="lines", text=TEXT), record("diffusion", 1.0, 2.0, task="lines", text=TEXT)
    ]).read_text()
    assert "<th>valid unique novel</th>" in html
    assert "(collapsed)" in html


def test_an_order_without_a_style_of_its_own_is_drawn() -> None:
    table = rows([reference(0.9), record("diffusion", 0.9, 2.0, order="my new policy")])
    assert figures.frontier(table, ["here"], 1).startswith(b"\x89PNG")


def test_report_and_figures_import_no_torch() -> None:
    code = ("import sys, quicksilver.experiments.rebuild, quicksilver.experiments.figures; "
            "sys.exit('torch' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_figures_are_images_of_the_promised_size() -> None:
    table = rows([reference(0.9), record("diffusion", 1.0, 7.0), record("diffusion", 0.2, 9.0, steps=1)])
    for image in (figures.frontier(table, ["here"], 1), figures.learning_curves([training()], ["here", "there"])):
        assert image.startswith(b"\x89PNG")
        width, height = np.frombuffer(image[16:24], ">u4")
        assert 300 < width < 1500
        assert 300 < height < 1500
