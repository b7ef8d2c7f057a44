"""The largest margins are committed."""

from quicksilver.decoders import TopMargin

from tests.decoders.policies.conftest import Situate


def test_the_largest_margins_are_committed(situate: Situate) -> None:
    edit = TopMargin().select(situate(margin=[0.1, 0.9, 0.5, 0.95], eligible=[True, True, True, False], at_most=2))
    assert edit.commit_BQ[0].tolist() == [False, True, True, False]
