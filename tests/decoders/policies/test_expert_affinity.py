"""Rare experts go first, as far as they weigh; and what they win with a cache that feeds no decided positions."""

import pytest
from quicksilver.decoders.policies.expert_affinity import ExpertAffinity

from tests.decoders.policies.conftest import MakeInputs, committed


@pytest.mark.parametrize(("weight", "expected"), [(0, [1, 2]), (0.1, [1, 2]), (1, [0, 1])])
def test_the_largest_sums_of_probability_and_rarity_are_committed(make: MakeInputs, weight: float,
                                                                  expected: list[int]) -> None:
    at = make(log_prob=[-1.2, -0.1, -0.3, -0.01], expert_rarity=[0.9, 0.5, 0.1, 1.0],
                 masked=[True, True, True, False], at_most=2)
    assert committed(ExpertAffinity(weight).select(*at)) == expected


def test_a_model_that_does_not_tell_is_named_with_the_remedy(make: MakeInputs) -> None:
    with pytest.raises(ValueError, match=r"policy ExpertAffinity\(weight=0\.5\): needs a model .* ExpertAware"):
        ExpertAffinity(0.5).select(*make(log_prob=[-1.0], masked=[True]))


@pytest.mark.parametrize("weight", [-0.5, 1e31])
def test_a_bad_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight=.*: must be a number at least 0 and at most"):
        ExpertAffinity(weight)
