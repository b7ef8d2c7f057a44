"""All that are sure enough are committed, or about as sure as the surest."""

import math
from typing import Any

import pytest
from quicksilver.decoders import RelativeThreshold

from tests.decoders.policies.conftest import MakeInputs, committed, rows


@pytest.mark.parametrize(("tau", "slack", "at_least", "at_most", "expected"), [
    (0.9, 1e-5, 1, 5, [1]),  # nothing reaches 0.9, and the next lies 0.1 below the surest
    (0.9, 0.1001, 1, 5, [1, 3]),
    (0.6, 1e-5, 1, 5, [1, 3]),  # both above 0.6
    (0.9, 1e-5, 3, 5, [1, 2, 3]),
    (0.1, 1e-5, 1, 2, [1, 3]),
    (0.9, 1.0, 0, 5, [0, 1, 2, 3]),
])
def test_a_case_worked_by_hand(make: MakeInputs, tau: float, slack: float, at_least: int, at_most: int,
                               expected: list[int]) -> None:
    log_prob = [math.log(p) for p in (0.2, 0.8, 0.5, 0.7, 0.95)]
    edit = RelativeThreshold(tau, slack).select(*make(log_prob=log_prob, masked=[True, True, True, True, False],
                                                        at_least=at_least, at_most=at_most))
    assert committed(edit) == expected


def test_all_that_nearly_tie_with_the_surest_are_committed(make: MakeInputs) -> None:
    log_prob = [math.log(p) for p in (0.5, 0.5 - 5e-6, 0.5 - 2e-5, 0.5)]
    assert committed(RelativeThreshold(0.9).select(*make(log_prob=log_prob, masked=[True] * 4, at_most=4))) == [
        0, 1, 3]


def test_equality_passes(make: MakeInputs) -> None:
    log_prob = [math.log(0.5), math.log(0.75)]
    edit = RelativeThreshold(0.5, slack=0.1).select(*make(log_prob=log_prob, masked=[True] * 2, at_most=2))
    assert committed(edit) == [0, 1]


@pytest.mark.parametrize("tau", [0.31, 0.81, 0.99])
def test_it_is_the_published_rule(tau: float) -> None:
    for row in rows(150):
        surest = max((row.probability[i] for i in row.masks), default=0)
        passing = [i for i in row.masks if row.probability[i] >= min(tau, surest - 1e-5)]
        assert committed(RelativeThreshold(tau).select(*row.inputs())) == row.preferring(passing)


def test_a_row_without_masks_commits_nothing(make: MakeInputs) -> None:
    edit = RelativeThreshold(0.9).select(*make(log_prob=[0.0, 0.0], masked=[False] * 2, at_least=0, at_most=0))
    assert committed(edit) == []


@pytest.mark.parametrize(("field", "allowed"), [
    ({"tau": 0}, "tau=0: must be a number above 0 and at most 1"), ({"tau": 1.1}, "tau=1.1"),
    ({"slack": -0.1}, "slack=-0.1: must be a number at least 0 and at most 1"), ({"slack": None}, "slack=None")])
def test_bad_ranges_are_refused(field: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        RelativeThreshold(**{"tau": 0.9} | field)
