"""A policy reads what it declared, and is told what it did not."""

from dataclasses import dataclass, field, fields

import pytest
import torch
from quicksilver.decoders import Decoder, Edit, Greedy, Linear, Policy, Proposal, Recompute, Request, StepState, Whole
from quicksilver.kernels.token_statistics import TokenStatistics
from quicksilver.models import Bidirectional
from torch import Tensor

from tests.conftest import MASK_ID, random_model

NAMES = [field.name for field in fields(TokenStatistics) if field.name not in ("token_BQ", "nonfinite_BQ")]


@pytest.mark.parametrize("name", NAMES)
def test_a_statistic_is_there_if_it_was_found(name: str) -> None:
    token_BQ, value_BQ = torch.tensor([[3, 4]]), torch.tensor([[0.5, 0.25]])
    proposal = Proposal(TokenStatistics(token_BQ, **{name: value_BQ}))
    assert proposal.token_BQ is token_BQ
    assert getattr(proposal, name) is value_BQ
    with pytest.raises(ValueError, match=f"statistic {name.removesuffix('_BQ')} was not declared: name it in the "
                                         "policy's `statistics`"):
        getattr(Proposal(TokenStatistics(token_BQ)), name)


def test_a_policy_that_reads_what_it_does_not_declare_is_told() -> None:
    class Undeclared(Policy):
        def select(self, state: StepState, proposal: Proposal) -> Edit:
            return Edit(proposal.entropy_BQ > 0)

    decoder = Decoder(Whole(), Linear(1), Greedy(), Undeclared(), Recompute())
    with pytest.raises(ValueError, match="statistic entropy was not declared"):
        decoder.decode(random_model(Bidirectional()), [Request.completing([1], 2, mask_id=MASK_ID)])


def test_statistics_of_some_positions_stand_at_their_places_among_zeros() -> None:
    found = TokenStatistics(torch.tensor([[7, 8], [9, 6]]), torch.tensor([[-1.0, -2.0], [-3.0, -4.0]]))
    proposal = Proposal.scattered(found, torch.tensor([[2, 0], [1, 2]]), torch.Size((2, 3)))
    assert proposal.token_BQ.tolist() == [[8, 0, 7], [0, 9, 6]]
    assert proposal.log_prob_BQ.tolist() == [[-2, 0, -1], [0, -3, -4]]


def test_further_statistics_of_a_model_are_scattered_with_the_others() -> None:
    @dataclass(frozen=True)
    class Further(TokenStatistics):
        depth_BQ: Tensor = field(kw_only=True)

    found = Further(torch.tensor([[7, 8]]), depth_BQ=torch.tensor([[0.25, 0.5]]))
    scattered = Proposal.scattered(found, torch.tensor([[2, 0]]), torch.Size((1, 3))).found
    assert isinstance(scattered, Further)
    assert (scattered.token_BQ.tolist(), scattered.depth_BQ.tolist()) == ([[8, 0, 7]], [[0.5, 0, 0.25]])
    assert scattered.log_prob_BQ is None
