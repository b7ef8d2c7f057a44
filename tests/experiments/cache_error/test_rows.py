"""Rows of caches from records written by hand."""

import pytest
from quicksilver.experiments.cache_error.rows import StepRow, at_most_steps, cache_rows

from tests.experiments.handmade import cache_record, step

STEPS = [step(0, 0, kl=[0.0, 0.0], flips=[0, 0], computed=100),
         step(0, 1, kl=[0.5, 3.0], flips=[1, 3], num_eligible=6, edited=4, differ=1, computed=40)]


def test_means_are_over_eligible_positions_of_all_steps_and_shares_of_commits() -> None:
    (row,) = cache_rows([cache_record("dual", STEPS, differs="0110")])
    assert row.kl == pytest.approx([0.5 / 16, 3.0 / 16])
    assert row.flips == pytest.approx([1 / 16, 3 / 16])
    assert row.curve == [StepRow(0, 0, 10, 0.0, 0.0), StepRow(0, 1, 6, 0.5, 0.5)]
    assert (row.edits, row.tokens, row.positions) == (4 / 10, 1 / 10, 140 / 200)
    assert (row.answers, row.right, row.exact_right, row.num_items) == (0.5, 0.5, 0.75, 4)
    assert not row.is_exact


def test_seeds_are_pooled_by_their_positions() -> None:
    other = [step(0, 0, kl=[0.0, 0.0], flips=[0, 0]), step(0, 1, kl=[0.0, 1.0], flips=[0, 0], num_eligible=2),
             step(0, 2, kl=[0.0, 0.0], flips=[0, 0], num_eligible=0, num_committed=0)]
    (row,) = cache_rows([cache_record("dual", STEPS), cache_record("dual", other, seed=1)])
    assert row.curve == [StepRow(0, 0, 20, 0.0, 0.0), StepRow(0, 1, 8, 0.5, 3 / 8)]  # a step of no position: no mean
    assert row.kl[-1] == pytest.approx(4.0 / 28)
    assert row.num_items == 8


def test_rounding_is_exact_and_a_single_other_commit_is_not() -> None:
    rounding = step(0, 0, kl=[1e-6, 5e-6], flips=[0, 0])
    assert cache_rows([cache_record("append", [rounding])])[0].is_exact
    assert not cache_rows([cache_record("append", [rounding | {"num_edited_otherwise": 1}])])[0].is_exact
    assert not cache_rows([cache_record("append", [rounding], differs="0001")])[0].is_exact


def test_rows_are_sorted_by_task_cache_and_steps_with_unknown_caches_last() -> None:
    found = cache_rows([cache_record(cache, STEPS, num_steps=num, task=task) for task in ("b", "a")
                        for cache in ("mine", "dual", "recompute") for num in (4, 2)])
    assert [(row.task, row.cache, row.steps) for row in found] == [
        (task, cache, num) for task in ("a", "b") for cache in ("recompute", "dual", "mine") for num in (2, 4)]
    assert {row.steps for row in at_most_steps(found)} == {4}
    assert len(at_most_steps(found)) == 6
