"""Runs of masks are split at their surest positions."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from quicksilver.decoders import Hierarchy

from tests.decoders.policies.conftest import MakeInputs, committed, rows


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


@pytest.mark.parametrize(("log_prob", "masks", "expected"), [
    (logs(0.5, 0.6, 0.7, 0.5, 0.45), "mmm.m", [2, 4]),  # the best of either run
    (logs(0.5, 0.6, 0.7, 0.5, 0.45), "mmmmm", [2]),
    (logs(0.5, 0.95, 0.97, 0.5, 0.39), "mmm.m", [1, 2]),  # all above tau; the second run has none above low
    (logs(0.3, 0.2, 0.1, 0.9, 0.39), "mmm.m", [4]),  # none: the surest mask of all
    (logs(0.6, 0.2, 0.6, 0.9, 0.6), "mmm.m", [0, 2, 4]),  # leaders that tie
    (logs(0.3, 0.2, 0.3, 0.9, 0.3), "mmm.m", [0]),
    (logs(0.5, 0.6, 0.7, 0.5, 0.45), ".m.m.", [1, 3]),
])
def test_a_case_worked_by_hand(make: MakeInputs, log_prob: Sequence[float], masks: str, expected: list[int]) -> None:
    masked = [letter == "m" for letter in masks]
    edit = Hierarchy(0.9).select(*make(log_prob=log_prob, masked=masked, at_most=sum(masked)))
    assert committed(edit) == expected


@pytest.mark.parametrize(("at_least", "at_most", "expected"), [(0, 1, [4]), (3, 5, [1, 2, 4]), (1, 2, [2, 4])])
def test_the_quota_holds(make: MakeInputs, at_least: int, at_most: int, expected: list[int]) -> None:
    log_prob = logs(0.1, 0.3, 0.5, 0.9, 0.6)  # leaders 2 and 4
    edit = Hierarchy(0.9).select(*make(log_prob=log_prob, masked=[True, True, True, False, True],
                                         at_least=at_least, at_most=at_most))
    assert committed(edit) == expected


def test_equality_passes_neither_bound(make: MakeInputs) -> None:
    halves = make(log_prob=logs(0.5, 0.5), masked=[True] * 2, at_least=0, at_most=2)
    assert committed(Hierarchy(0.9, low=0.5).select(*halves)) == []
    assert committed(Hierarchy(0.9, low=0.4999).select(*halves)) == [0, 1]
    led = make(log_prob=logs(0.5, 0.75), masked=[True] * 2, at_least=0, at_most=2)
    assert committed(Hierarchy(0.5, low=0.2).select(*led)) == [1]


@pytest.mark.parametrize(("tau", "low"), [(0.91, 0.41), (0.41, 0.91), (0.61, 0.0)])
def test_it_is_the_published_rule(tau: float, low: float) -> None:
    for row in rows(200):
        passing = [i for i in row.masks if row.probability[i] > tau]
        for _, run in itertools.groupby(enumerate(row.masks), key=lambda entry: entry[1] - entry[0]):
            positions = [position for _, position in run]
            best = max(row.probability[i] for i in positions)
            passing += [i for i in positions if row.probability[i] == best > low]
        assert committed(Hierarchy(tau, low).select(*row.inputs())) == row.preferring(passing)
        surest = sorted(row.masks, key=lambda i: (-row.probability[i], i))[:1]
        unbounded = replace(row, at_least=len(surest), at_most=len(row.masks))
        assert committed(Hierarchy(tau, low).select(*unbounded.inputs())) == sorted({*passing, *surest})


@pytest.mark.parametrize(("field", "allowed"), [
    ({"tau": 0}, "tau=0: must be a number above 0 and at most 1"), ({"tau": "high"}, "tau='high'"),
    ({"low": -0.1}, "low=-0.1: must be a number at least 0 and at most 1"), ({"low": 1.5}, "low=1.5")])
def test_bad_ranges_are_refused(field: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        Hierarchy(**{"tau": 0.9} | field)
