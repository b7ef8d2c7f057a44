"""The lowest entropies are committed."""

from quicksilver.decoders import LowEntropy

from tests.decoders.policies.conftest import MakeInputs


def test_the_lowest_entropies_are_committed(make: MakeInputs) -> None:
    edit = LowEntropy().select(*make(entropy=[2.0, 0.1, 0.7, 0.0], masked=[True, True, True, False], at_most=2))
    assert edit.commit_BQ[0].tolist() == [False, True, True, False]
