"""The largest margins are committed."""

from quicksilver.decoders import TopMargin

from tests.decoders.policies.conftest import MakeInputs


def test_the_largest_margins_are_committed(make: MakeInputs) -> None:
    edit = TopMargin().select(*make(margin=[0.1, 0.9, 0.5, 0.95], masked=[True, True, True, False], at_most=2))
    assert edit.commit_BQ[0].tolist() == [False, True, True, False]
