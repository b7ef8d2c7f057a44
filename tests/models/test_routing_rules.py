"""Rules for routers against their definitions, alone and in a model whose weights they share."""

import pytest
import torch
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.models import (
    Bidirectional,
    BlockSharedExperts,
    ExpertShape,
    Router,
    RouterRecorder,
    RoutingRule,
    TokenChoice,
    TopPExperts,
    Transformer,
    with_routing_rule,
)

from tests.conftest import VOCAB_SIZE, random_transformer

NUM_EXPERTS, WIDTH = 12, 16
ROUTINGS = {"softmax": Routing(3, renormalise=True), "of_chosen": Routing(3, Scoring.SOFTMAX_OF_CHOSEN),
            "sigmoid_groups": Routing(3, Scoring.SIGMOID, num_groups=4, groups_kept=2, renormalise=True, scale=2.5)}


def routed_by(rule: RoutingRule, routing: Routing, x_BFE: torch.Tensor) -> tuple[Router, torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    router = Router(WIDTH, ExpertShape(NUM_EXPERTS, 4, routing, selection_bias=True))
    torch.nn.init.normal_(router.weight)
    assert router.bias_X is not None
    router.bias_X.normal_()
    router.rule = rule
    with torch.inference_mode():
        expert_BFA, weight_BFA, *_ = router(x_BFE)
    return router, expert_BFA, weight_BFA


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)
def test_a_block_shares_the_experts_that_its_routers_probabilities_elect(routing: Routing,
                                                                         implementation: Implementation) -> None:
    x_BFE = torch.randn(2, 7, WIDTH)
    with using(implementation):
        router, expert_BFA, weight_BFA = routed_by(BlockSharedExperts(5), routing, x_BFE)
    votes = (x_BFE @ router.weight.T).softmax(-1).sum(1)
    for row, elected in enumerate(votes.topk(5).indices.tolist()):
        assert set(expert_BFA[row].flatten().tolist()) <= set(elected)
        # A choice that found no winner stands as the first one, without weight.
        for experts, weights in zip(expert_BFA[row].tolist(), weight_BFA[row].tolist(), strict=True):
            counted = [expert for expert, weight in zip(experts, weights, strict=True) if weight]
            assert len(set(counted)) == len(counted) > 0
            assert all(expert == experts[0] for expert, weight in zip(experts, weights, strict=True) if not weight)
    if routing.renormalise or routing.scoring is Scoring.SOFTMAX_OF_CHOSEN:
        torch.testing.assert_close(weight_BFA.sum(-1), torch.full((2, 7), routing.scale))


@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)
def test_sharing_all_experts_changes_nothing(routing: Routing) -> None:
    x_BFE = torch.randn(2, 4, WIDTH)
    for one, other in zip(routed_by(BlockSharedExperts(NUM_EXPERTS), routing, x_BFE)[1:],
                          routed_by(TokenChoice(), routing, x_BFE)[1:], strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("routing", ROUTINGS.values(), ids=ROUTINGS)
def test_a_sure_position_keeps_the_fewest_best_experts_that_hold_the_share(routing: Routing, share: float) -> None:
    x_BFE = torch.randn(2, 6, WIDTH)
    _, expert_BFA, weight_BFA = routed_by(TopPExperts(share), routing, x_BFE)
    _, own_expert_BFA, own_weight_BFA = routed_by(TokenChoice(), routing, x_BFE)
    fewer = 0
    for experts, weights, own, full in zip(*(tensor.flatten(0, 1).tolist() for tensor in (
            expert_BFA, weight_BFA, own_expert_BFA, own_weight_BFA)), strict=True):
        num_kept = next(n for n in range(1, 4) if sum(full[:n]) >= share * sum(full) - 1e-6)
        assert experts == own[:num_kept] + own[:1] * (3 - num_kept)
        assert weights == pytest.approx([w * sum(full) / sum(full[:num_kept]) for w in full[:num_kept]]
                                        + [0.0] * (3 - num_kept), rel=1e-5)
        fewer += num_kept < 3
    assert (fewer > 0) == (share < 1)


def test_winners_keep_the_weights_they_have_among_all() -> None:
    x_BFE = torch.randn(2, 7, WIDTH)
    router, expert_BFA, weight_BFA = routed_by(BlockSharedExperts(5), Routing(3), x_BFE)
    share_BFX = (x_BFE @ router.weight.T).softmax(-1)
    torch.testing.assert_close(weight_BFA, share_BFX.gather(-1, expert_BFA.long()))


def test_weights_that_are_all_zero_stay_zero() -> None:
    expert_BFA, weight_BFA = torch.arange(3, dtype=torch.int32)[None, None], torch.zeros(1, 1, 3)
    found = TopPExperts(0.5).route(torch.zeros(1, 1, 4), lambda _: (expert_BFA, weight_BFA), Routing(3))
    assert torch.equal(found[1], weight_BFA)


def test_groups_that_could_all_be_left_with_one_winner_are_refused() -> None:
    with pytest.raises(ValueError, match="num_experts=4: must be more than num_groups=4"):
        BlockSharedExperts(4).check(ROUTINGS["sigmoid_groups"], NUM_EXPERTS)
    BlockSharedExperts(5).check(ROUTINGS["sigmoid_groups"], NUM_EXPERTS)


def test_a_rule_sees_one_row_of_the_batch_at_a_time() -> None:
    x_BFE = torch.randn(3, 5, WIDTH)
    for rule in (BlockSharedExperts(4), TopPExperts(0.5)):
        together = routed_by(rule, ROUTINGS["softmax"], x_BFE)[1]
        assert torch.equal(together[1], routed_by(rule, ROUTINGS["softmax"], x_BFE[1:2])[1][0])


def model() -> Transformer:
    return random_transformer(Bidirectional(), experts=ExpertShape(8, 12, Routing(3, renormalise=True)))


@torch.inference_mode()
def test_a_ruled_model_shares_its_weights_and_leaves_the_other_as_it_is() -> None:
    usual, tokens = model(), torch.randint(0, VOCAB_SIZE, (2, 6))
    before = usual.sequence_hidden(tokens)
    shared = with_routing_rule(usual, BlockSharedExperts(3))
    assert [p.data_ptr() for p in shared.parameters()] == [p.data_ptr() for p in usual.parameters()]
    with RouterRecorder(shared) as recorder:
        found = shared.sequence_hidden(tokens)
    assert all(len(routed.expert_BFA[row].unique()) == 3 for (routed,) in recorder.results for row in range(2))
    assert not torch.allclose(found, before)
    assert torch.equal(usual.sequence_hidden(tokens), before)
    assert torch.equal(with_routing_rule(shared, TokenChoice()).sequence_hidden(tokens), before)


@pytest.mark.parametrize("num_experts", [2, 9])
def test_a_rule_that_does_not_suit_the_experts_is_refused(num_experts: int) -> None:
    with pytest.raises(ValueError, match=f"num_experts={num_experts}: must be from top_k=3 to the 8 experts there are"):
        with_routing_rule(model(), BlockSharedExperts(num_experts))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: BlockSharedExperts(0), "num_experts=0"), (lambda: TopPExperts(0.0), "share=0"),
    (lambda: TopPExperts(1.1), r"share=1\.1")])
def test_a_field_out_of_range_is_refused(make: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
