"""A model that tells how rare its positions' experts are, against a count by hand."""

import pytest
import torch
from quicksilver.experiments.expert_union.expert_aware import ExpertAware
from quicksilver.kernels.moe_router import Routing
from quicksilver.kernels.token_statistics import StatisticsRequest
from quicksilver.models import Bidirectional, Causal, DecodableTransformer, ExpertShape, Plan, RouterRecorder
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conftest import MASK_ID, random_transformer

EXPERTS = ExpertShape(8, 12, Routing(2), num_dense_layers=1)
TOKENS = torch.tensor([[1, MASK_ID, 3, MASK_ID, 5, 0], [2, 3, MASK_ID, 1, MASK_ID, 0]])
WHOLE = torch.arange(5).expand(2, -1).contiguous()
ASKED = StatisticsRequest(frozenset({"log_prob"}))


def aware(attention: Causal | Bidirectional, shift: int = 0) -> tuple[DecodableTransformer, ExpertAware]:
    transformer = random_transformer(attention, num_layers=3, experts=EXPERTS)
    return DecodableTransformer(transformer, MASK_ID, shift), ExpertAware(transformer, MASK_ID, shift)


@torch.inference_mode()
def test_rarity_is_the_mean_share_that_a_position_has_of_its_experts() -> None:
    usual, model = aware(Bidirectional())
    query_BQ = torch.tensor([[1, 3], [2, 4]])
    plan = Plan(WHOLE, query_BQ)
    found = model.statistics(model.hidden(TOKENS, plan, None), ASKED)
    with RouterRecorder(usual.transformer) as recorder:
        expected = usual.statistics(usual.hidden(TOKENS, plan, None), ASKED)
    assert torch.equal(found.token_BQ, expected.token_BQ)
    torch.testing.assert_close(found.log_prob_BQ, expected.log_prob_BQ)
    # The last of the two layers with experts is computed at the queried positions alone, and does not count.
    chosen = recorder.results[0][0].expert_BFA.tolist()
    for row, positions in enumerate(query_BQ.tolist()):
        for place, position in enumerate(positions):
            shares = [1 / sum(expert in others for others in chosen[row]) for expert in chosen[row][position]]
            torch.testing.assert_close(found.expert_rarity_BQ[row, place].item(), sum(shares) / 2)


@torch.inference_mode()
def test_with_a_shift_it_is_that_of_the_position_that_is_computed() -> None:
    found = []
    for query_BQ, shift in ((WHOLE[:, 1:], 1), (WHOLE[:, :-1], 0), (WHOLE[:, [3, 1, 0, 2]], 0)):
        _, model = aware(Causal(), shift)
        found.append(model.statistics(model.hidden(TOKENS, Plan(WHOLE, query_BQ), None), ASKED).expert_rarity_BQ)
    shifted, plain, mixed = found
    assert torch.equal(shifted, plain)
    assert torch.equal(mixed, plain[:, [3, 1, 0, 2]])
    assert len(plain.unique()) > 1


@torch.inference_mode()
def test_what_only_fills_a_ragged_row_shares_nothing() -> None:
    _, model = aware(Bidirectional())
    alone = Plan(WHOLE[:1, :3].contiguous(), WHOLE[:1, :3].contiguous())
    expected = model.statistics(model.hidden(TOKENS[:1, [0, 1, 2, 5]], alone, None), ASKED).expert_rarity_BQ
    feed_BF = torch.tensor([[0, 1, 2, 5, 5], [0, 1, 2, 3, 4]])
    ragged = Plan(feed_BF, WHOLE, stop_B=torch.tensor([3, 5]))
    found = model.statistics(model.hidden(TOKENS, ragged, None), ASKED).expert_rarity_BQ
    torch.testing.assert_close(found[:1, :3], expected)


def test_experts_in_the_last_layer_alone_are_refused() -> None:
    with pytest.raises(ValueError, match="needs another layer with experts"):
        ExpertAware(random_transformer(Bidirectional(), num_layers=2, experts=EXPERTS), MASK_ID)


@torch.inference_mode()
def test_a_dense_model_has_no_rare_experts() -> None:
    model = ExpertAware(random_transformer(Bidirectional()), MASK_ID)
    rarity_BQ = model.statistics(model.hidden(TOKENS, Plan(WHOLE, WHOLE), None), ASKED).expert_rarity_BQ
    assert not rarity_BQ.any()


@torch.inference_mode()
def test_a_forward_reads_nothing_back() -> None:
    """FakeTensorMode has no values, so a host read or a data-dependent shape raises."""
    given = TOKENS, WHOLE, WHOLE[:, :2].contiguous()
    with FakeTensorMode() as mode:
        _, model = aware(Bidirectional())
        tokens_BS, feed_BF, query_BQ = map(mode.from_tensor, given)
        found = model.statistics(model.hidden(tokens_BS, Plan(feed_BF, query_BQ), None), ASKED)
    assert found.expert_rarity_BQ.shape == found.token_BQ.shape == query_BQ.shape
