"""Leftmost commits the first masked positions."""

import pytest
from quicksilver.decoders import Leftmost

from tests.decoders.policies.conftest import MakeInputs


@pytest.mark.parametrize(("at_most", "committed"), [(0, []), (1, [1]), (2, [1, 3]), (3, [1, 3, 4])])
def test_the_first_masked_positions_are_committed(make: MakeInputs, at_most: int, committed: list[int]) -> None:
    edit = Leftmost().select(*make(masked=[False, True, False, True, True], at_most=at_most))
    assert edit.commit_BQ[0].nonzero().flatten().tolist() == committed
