"""The most probable proposals are committed, the lowest position on ties."""

import pytest
from quicksilver.decoders import TopProbability

from tests.decoders.policies.conftest import MakeInputs


@pytest.mark.parametrize(("log_prob", "masked", "at_most", "committed"), [
    ([-3.0, -1.0, -2.0, -0.5], [True] * 4, 2, [1, 3]),
    ([-3.0, -1.0, -2.0, -0.5], [True, True, True, False], 2, [1, 2]),
    ([-1.0, -1.0, -1.0, -1.0], [True] * 4, 2, [0, 1]),
    ([-1.0, -1.0, -1.0, -1.0], [False, True, True, True], 1, [1]),
    ([-1.0, float("-inf"), -2.0, -3.0], [False, True, False, False], 1, [1]),
    ([-1.0, -2.0, -3.0, -4.0], [True] * 4, 0, []),
])
def test_the_most_probable_are_committed(
        make: MakeInputs, log_prob: list[float], masked: list[bool], at_most: int, committed: list[int]) -> None:
    edit = TopProbability().select(*make(log_prob=log_prob, masked=masked, at_most=at_most))
    assert edit.commit_BQ[0].nonzero().flatten().tolist() == committed
