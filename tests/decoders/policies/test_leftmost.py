"""Leftmost commits the first eligible positions."""

import pytest
from quicksilver.decoders import Leftmost

from tests.decoders.policies.conftest import Situate


@pytest.mark.parametrize(("at_most", "committed"), [(0, []), (1, [1]), (2, [1, 3]), (3, [1, 3, 4])])
def test_the_first_eligible_positions_are_committed(situate: Situate, at_most: int, committed: list[int]) -> None:
    edit = Leftmost().select(situate(eligible=[False, True, False, True, True], at_most=at_most))
    assert edit.commit_BQ[0].nonzero().flatten().tolist() == committed
