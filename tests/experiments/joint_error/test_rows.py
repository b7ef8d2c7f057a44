"""Rows of parallel commits, and where quality breaks, from records written by hand."""

import pytest
from quicksilver.experiments.joint_error.rows import breaks, joint_rows

from tests.experiments.handmade import joint_record

GOOD, FAIR, BAD = "1" * 200, "1" * 199 + "0", "1" * 100 + "0" * 100


def test_the_gap_is_product_minus_joint_and_told_for_right_and_wrong_answers() -> None:
    (row,) = joint_rows([joint_record(2, "1100", bound=0.3, gap=-0.5, wrong_gap=8.0)])
    assert (row.share, row.num_items, row.tokens_per_commit) == (0.5, 4, 3.0)
    assert (row.bound, row.gap, row.right_gap, row.wrong_gap) == pytest.approx((0.3, 3.75, -0.5, 8.0))
    assert joint_rows([joint_record(2, "11")])[0].wrong_gap is None


def test_seeds_are_pooled_and_rows_sorted() -> None:
    found = joint_rows([joint_record(4, "11"), joint_record(2, "10"), joint_record(2, "00", seed=1, wrong_gap=1.0)])
    assert [(row.steps, row.num_items, row.share) for row in found] == [(2, 4, 0.25), (4, 2, 1.0)]
    assert found[0].gap == pytest.approx(0.5)


def test_quality_breaks_at_the_first_number_of_steps_that_is_worse_than_the_most() -> None:
    (found,) = breaks(joint_rows([joint_record(1, BAD), joint_record(2, FAIR), joint_record(4, BAD),
                                  joint_record(8, FAIR), joint_record(16, GOOD)]))
    assert found.breaks is not None
    assert (found.most.steps, found.holds.steps, found.breaks.steps) == (16, 8, 4)
    assert 0.01 <= found.tolerance < 0.03
    assert not found.is_failed


def test_quality_that_holds_breaks_nowhere_and_none_at_all_has_failed() -> None:
    (held,) = breaks(joint_rows([joint_record(1, GOOD), joint_record(2, GOOD)]))
    assert (held.holds.steps, held.breaks) == (1, None)
    (failed,) = breaks(joint_rows([joint_record(1, "0" * 40), joint_record(2, "0" * 39 + "1")]))
    assert failed.is_failed
