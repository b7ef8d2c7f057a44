"""All that are sure enough are committed, within the quota."""

import math

import pytest
from quicksilver.decoders import Threshold

from tests.decoders.policies.conftest import MakeInputs

P = [math.log(p) for p in (0.95, 0.5, 0.92, 0.9)]


@pytest.mark.parametrize(("tau", "masked", "at_least", "at_most", "committed"), [
    (0.91, [True] * 4, 1, 4, [0, 2]),
    (0.99, [True] * 4, 1, 4, [0]),
    (0.99, [True] * 4, 2, 4, [0, 2]),
    (0.4, [True] * 4, 1, 4, [0, 1, 2, 3]),
    (0.4, [True] * 4, 1, 3, [0, 2, 3]),
    (0.91, [False, True, True, True], 1, 3, [2]),
    (0.91, [False] * 4, 0, 0, []),
])
def test_the_sure_ones_are_committed_within_the_quota(
        make: MakeInputs, tau: float, masked: list[bool], at_least: int, at_most: int, committed: list[int]) -> None:
    edit = Threshold(tau).select(*make(log_prob=P, masked=masked, at_least=at_least, at_most=at_most))
    assert edit.commit_BQ[0].nonzero().flatten().tolist() == committed


@pytest.mark.parametrize("tau", [0, -0.1, 1.5, "abc", None])
def test_a_bad_threshold_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="tau=.*: must be a number above 0 and at most 1"):
        Threshold(tau)
