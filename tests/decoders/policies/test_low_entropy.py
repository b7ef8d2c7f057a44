"""The lowest entropies are committed."""

from quicksilver.decoders import LowEntropy

from tests.decoders.policies.conftest import Situate


def test_the_lowest_entropies_are_committed(situate: Situate) -> None:
    edit = LowEntropy().select(situate(entropy=[2.0, 0.1, 0.7, 0.0], eligible=[True, True, True, False], at_most=2))
    assert edit.commit_BQ[0].tolist() == [False, True, True, False]
