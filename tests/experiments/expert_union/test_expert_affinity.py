"""Rare experts go first, as far as they weigh; and the policy decodes as it was recorded with every other part.

    python -m tests.experiments.expert_union.test_expert_affinity      writes recorded_decodes.json anew
"""

from pathlib import Path

import pytest
import torch
from quicksilver.decoders import Proposal
from quicksilver.experiments.expert_union.expert_affinity import ExpertAffinity
from quicksilver.experiments.expert_union.expert_aware import ExpertAware, RarityStatistics

from tests.decoders.policies.conftest import committed, inputs_of
from tests.decoders.recorded_decodes import Recorded, read, write

PATH = Path(__file__).with_name("recorded_decodes.json")


@pytest.mark.parametrize(("weight", "expected"), [(0, [1, 2]), (0.1, [1, 2]), (1, [0, 1])])
def test_the_largest_sums_of_probability_and_rarity_are_committed(weight: float, expected: list[int]) -> None:
    state, plain = inputs_of(log_prob=[-1.2, -0.1, -0.3, -0.01], masked=[True, True, True, False], at_most=2)
    rarity_BQ = torch.tensor([[0.9, 0.5, 0.1, 1.0]])
    proposal = Proposal(RarityStatistics(**vars(plain.found), expert_rarity_BQ=rarity_BQ))
    assert committed(ExpertAffinity(weight).select(state, proposal)) == expected


def test_a_model_that_does_not_tell_is_named_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"policy ExpertAffinity\(weight=0\.5\): needs a model .* ExpertAware"):
        ExpertAffinity(0.5).select(*inputs_of(log_prob=[-1.0], masked=[True]))


@pytest.mark.parametrize("weight", [-0.5, 1e31])
def test_a_bad_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight=.*: must be a number at least 0 and at most"):
        ExpertAffinity(weight)


def again(recorded: Recorded) -> Recorded:
    return recorded.again(ExpertAware, ExpertAffinity=ExpertAffinity)


@pytest.mark.parametrize("recorded", [pytest.param(recorded, id=name) for name, recorded in read(PATH).items()])
def test_tokens_and_counts_are_those_recorded(recorded: Recorded) -> None:
    recorded.check(again(recorded))


if __name__ == "__main__":
    write(PATH, {name: again(recorded) for name, recorded in read(PATH).items()})
