"""Intervals against published values and their own coverage."""

import numpy as np
import pytest
from quicksilver.experiments.study.intervals import paired_difference, wilson


@pytest.mark.parametrize(("right", "items", "low", "high"), [
    (0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662)])
def test_wilson_gives_the_published_values(right: int, items: int, low: float, high: float) -> None:
    assert wilson(right, items) == pytest.approx((low, high), abs=2e-4)


def test_wilson_covers_the_truth() -> None:
    drawn = np.random.default_rng(0).binomial(50, 0.9, size=4000)
    covered = [low <= 0.9 <= high for low, high in (wilson(int(right), 50) for right in drawn)]
    assert 0.93 < np.mean(covered) < 0.98


def test_a_paired_difference_sees_only_disagreements() -> None:
    a, b = [True] * 60 + [False] * 40, [True] * 50 + [False] * 50
    difference, half_width = paired_difference(a, b)
    assert difference == pytest.approx(0.1)
    assert 0.04 < half_width < 0.08
    same, width = paired_difference(a, a)
    assert same == 0
    assert 0 < width < 0.04


def test_unequal_or_no_items_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 items"):
        paired_difference([True, False], [True])
    with pytest.raises(ValueError, match="num_items=0"):
        wilson(0, 0)
