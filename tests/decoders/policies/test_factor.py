"""The more tokens at once, the surer each must be."""

import math
from dataclasses import replace

import pytest
from quicksilver.decoders import Factor

from tests.decoders.policies.conftest import MakeInputs, committed, rows


@pytest.mark.parametrize(("factor", "at_least", "at_most", "expected"), [
    (1.0, 0, 4, [1, 2]),  # 2 x 0.1 and 3 x 0.2 are below 1; 4 x 0.5 is not
    (0.5, 0, 4, [2]),
    (2.1, 0, 4, [0, 1, 2]),  # 4 x 0.5, but not 5 x 0.7
    (0.1, 0, 4, []),
    (0.1, 2, 4, [1, 2]),
    (9.0, 0, 2, [1, 2]),
])
def test_a_case_worked_by_hand(make: MakeInputs, factor: float, at_least: int, at_most: int, expected: list[int]
                               ) -> None:
    edit = Factor(factor).select(*make(log_prob=[math.log(p) for p in (0.5, 0.8, 0.9, 0.3)], masked=[True] * 4,
                                         at_least=at_least, at_most=at_most))
    assert committed(edit) == expected


def test_equality_does_not_pass(make: MakeInputs) -> None:
    half = make(log_prob=[math.log(0.5)], masked=[True], at_least=0)
    assert committed(Factor(1.0).select(*half)) == []  # 2 x 0.5
    assert committed(Factor(1.0001).select(*half)) == [0]


@pytest.mark.parametrize("factor", [0.37, 1.03, 2.11])
def test_it_is_the_papers_rule(factor: float) -> None:
    for row in rows(150):
        best_first = sorted(row.masks, key=lambda i: (-row.probability[i], i))
        fitting = [n for n in range(1, len(best_first) + 1)
                   if (n + 1) * (1 - row.probability[best_first[n - 1]]) < factor]
        assert committed(Factor(factor).select(*row.inputs())) == row.first(best_first, max(fitting, default=0))


def published(falling: list[float], factor: float) -> int:
    """How many of falling probabilities the loop of Fast-dLLM commits."""
    last = len(falling) - 1
    fails = next((rank for rank in range(1, last + 1) if falling[rank] < 1 - factor / (rank + 2)), last)
    return len(falling) if fails == last else fails


def test_the_published_code_commits_one_more_where_only_the_last_fails() -> None:
    differing = 0
    for row in rows(150):
        if not row.masks:
            continue
        ours = len(committed(Factor(1.03).select(*replace(row, at_least=1, at_most=len(row.masks)).inputs())))
        theirs = published(sorted((row.probability[i] for i in row.masks), reverse=True), 1.03)
        assert ours == theirs or (ours, theirs) == (len(row.masks) - 1, len(row.masks))
        differing += ours != theirs
    assert differing


@pytest.mark.parametrize("factor", [0, -1.0, None, "abc", math.nan])
def test_a_bad_factor_is_refused(factor: float) -> None:
    with pytest.raises(ValueError, match="factor=.*: must be a number above 0"):
        Factor(factor)
