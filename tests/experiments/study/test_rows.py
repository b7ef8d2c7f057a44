"""Rows and the speed-up at equal quality, from records written by hand."""

from typing import Any

import pytest
from quicksilver.experiments.study.rows import equal_quality, is_collapsed, rows, sources

ITEMS = 2000
TEXT = {"valid": 1.0, "unique": 0.004, "novel": 0.5, "valid_unique_novel": 0.002}


def record(family: str, share: float, speed_up: float, *, order: str = "confident", steps: int | None = 4,
           batch_size: int = 1, task: str = "sums", text: dict | None = None, commit: str = "a" * 40,
           cpu: str = "cpu", sampler: str = "greedy", seed: int = 0, source_hash: str = "s",
          precision: str = "bfloat16", num_items: int = ITEMS) -> dict[str, Any]:
    right = "".join("1" if i < share * num_items else "0" for i in range(num_items))
    result = {"num_items": num_items, "right": right, "num_right": right.count("1"), "text": text or {},
              "tokens_per_second": 1000 * speed_up, "speed_up": speed_up, "speed_up_p20": speed_up * 0.9,
              "speed_up_p80": speed_up * 1.1, "first_step_seconds_p50": 0.01, "latency_seconds_p50": 0.02,
              "latency_seconds_p95": 0.03, "peak_memory_bytes": 2**28,
              "accounting": {"forwards": {"denoise": 4 * -(-num_items // batch_size)}, "kv_store_bytes": 0,
                             "positions_computed": 40 * ITEMS}, "answer_tokens": 10 * ITEMS}
    model = {"seed": seed, "recipe": {"precision": precision}}
    return {"point": {"kind": "DecodePoint", "name": task, "batch_size": batch_size, "family": family, "order": order,
                      "steps": steps, "sampler": sampler, "model": model, "reference": model, "reference_decoder": {},
                      "num_items": num_items, "threads": 1},
            "result": result, "provenance": {"commit": commit, "dirty": source_hash != "s", "versions": {"torch": "2"},
                                             "source_hash": source_hash,
                                             "machine": {"cpu": cpu, "cores": 2}}}


def reference(share: float, **changes: Any) -> dict[str, Any]:
    return record("autoregressive", share, 1.0, order="left to right", steps=None, **changes)


def training(task: str = "sums", objective: str = "MaskedDiffusion", seconds: float = 9.0,
             precision: str = "bfloat16") -> dict[str, Any]:
    looks = [{"update": 1, "seconds": seconds / 2, "right": 0.4}, {"update": 2, "seconds": seconds, "right": 0.8}]
    recipe = {"objective": {"kind": objective}, "format": {"kind": "PromptThenAnswer"}, "shape": {"experts": None},
              "precision": precision, "threads": 1}
    return {"point": {"kind": "TrainingPoint", "name": task, "seed": 0, "recipe": recipe},
            "result": {"seconds": seconds, "updates": 2, "examples": 16, "tokens": 99, "parameters": 10,
                       "curve": looks, "losses": [1.0]},
            "provenance": record("diffusion", 1, 1)["provenance"]}


def test_the_speed_up_is_that_of_the_fastest_setting_that_is_not_worse() -> None:
    table = rows([reference(0.9), record("diffusion", 0.5, 8.0, steps=1), record("diffusion", 0.895, 4.0, steps=2),
                  record("diffusion", 0.95, 2.0, steps=4)])
    (found,) = equal_quality(table)
    assert found.fastest is not None
    assert (found.fastest.steps, found.tolerance) == (2, 0.01)


def test_seeds_are_pooled() -> None:
    (row,) = rows([record("diffusion", 0.8, 4.0, seed=1), record("diffusion", 0.9, 2.0)])
    assert row.share == pytest.approx(0.85)
    assert row.share_by_seed == [0.9, 0.8]
    assert row.speed_up == 3.0
    assert row.num_items == 2 * ITEMS
    assert row.forwards_per_item == 4


@pytest.mark.parametrize("num_items", [32, 33, 5])
def test_the_items_of_a_smaller_last_batch_take_as_many_forwards_as_the_others(num_items: int) -> None:
    (row,) = rows([record("diffusion", 0.8, 4.0, batch_size=16, num_items=num_items)])
    assert row.forwards_per_item == 4


def test_quality_at_a_small_batch_is_that_of_all_items() -> None:
    """At batch 1 the few items would not part 0.7 from 0.75; those of batch 16 do, seed by seed."""
    few: dict[str, Any] = {"batch_size": 1, "num_items": 100}
    many: dict[str, Any] = {"batch_size": 16}
    table = rows([reference(0.75, **few), reference(0.75, **many), record("diffusion", 0.7, 9.0, steps=1, **few),
                  record("diffusion", 0.7, 3.0, steps=1, **many), record("diffusion", 1.0, 2.0, **few),
                  record("diffusion", 0.9, 1.5, **many, steps=8)])
    assert [(row.batch_size, row.label, row.timed_items, row.num_items) for row in table] == [
        (1, "left to right", 100, ITEMS), (1, "confident, 1 step", 100, ITEMS), (1, "confident, 4 steps", 100, 100),
        (16, "left to right", ITEMS, ITEMS), (16, "confident, 1 step", ITEMS, ITEMS),
        (16, "confident, 8 steps", ITEMS, ITEMS)]
    assert [found.fastest and found.fastest.speed_up for found in equal_quality(table)] == [2.0, 1.5]


def test_items_are_paired_within_their_seed() -> None:
    """Autoregression failed under seed 1, diffusion under seed 2: only seed 0 can be compared."""
    table = rows([reference(0.9), reference(0.2, seed=2), record("diffusion", 0.9, 3.0),
                  record("diffusion", 0.1, 3.0, seed=1)])
    assert equal_quality(table)[0].fastest is not None
    apart = rows([reference(0.9, seed=1), record("diffusion", 0.9, 3.0)])
    assert equal_quality(apart)[0].fastest is None


def test_a_reference_that_solves_nothing_gives_no_speed_up() -> None:
    (found,) = equal_quality(rows([reference(0.01), record("diffusion", 0.01, 20.0, steps=1)]))
    assert found.fastest is None
    assert found.reference_fails


def test_diffusions_best_quality_is_at_its_fastest_within_a_point() -> None:
    (found,) = equal_quality(rows([reference(0.2), record("diffusion", 0.985, 3.0), record("diffusion", 0.99, 0.5,
                                                                                           steps=9)]))
    assert found.best is not None
    assert found.highest is not None
    assert (found.best.steps, found.highest.steps, found.best_is_better) == (4, 9, True)
    (alone,) = equal_quality(rows([reference(0.2)]))
    assert (alone.best, alone.highest, alone.best_is_better) == (None, None, False)


def test_records_of_one_row_differ_in_the_seed_alone() -> None:
    """Other numbers of items, say: neither takes the place of the other, and each has its own reference."""
    table = rows([reference(0.9), reference(0.5, num_items=100), record("diffusion", 0.9, 2.0),
                  record("diffusion", 0.5, 3.0, num_items=100)])
    assert [(row.label, row.timed_items) for row in table] == [
        ("left to right", 100), ("left to right (2)", ITEMS), ("confident, 4 steps", 100),
        ("confident, 4 steps (2)", ITEMS)]
    assert [found.fastest and found.fastest.speed_up for found in equal_quality(table)] == [3.0, 2.0]


@pytest.mark.parametrize("other", [{"precision": "float32"}, {"cpu": "another"}])
def test_neither_precisions_nor_devices_are_pooled(other: dict[str, Any]) -> None:
    mixed = [record("diffusion", 0.9, 2.0), record("diffusion", 0.9, 2.0, seed=1, **other)]
    with pytest.raises(ValueError, match="and of models trained in .*: must be of one"):
        rows(mixed)


def test_a_line_of_sources_names_precision_device_threads_and_commit() -> None:
    on_gpu = reference(0.9)
    on_gpu["point"] |= {"device": "cuda", "threads": 2}
    on_gpu["provenance"] = on_gpu["provenance"] | {"gpu": {"name": "H200"}}
    assert sources([reference(0.9), on_gpu]) == [
        "models trained in bfloat16; cpu, 1 thread of 2 cores; torch 2; commit aaaaaaaaaa",
        "models trained in bfloat16; H200, 2 threads of cpu, 2 cores; torch 2; commit aaaaaaaaaa"]


def test_text_that_repeats_itself_has_collapsed() -> None:
    table = rows([record("diffusion", 0.4, 2, order="random", text=TEXT | {"unique": 0.98}),
                  record("diffusion", 1.0, 2.0, text=TEXT)])
    assert [is_collapsed(row.text) for row in table] == [True, False]
    assert equal_quality(table) == []
