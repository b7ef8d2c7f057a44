"""What keeps experts equally busy: against the definitions, and that it does."""

import pytest
import torch
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.models import (
    AuxiliaryLoss,
    Balancing,
    ExpertShape,
    LossFree,
    NoBalancing,
    Router,
    RoutingResult,
    Shape,
)
from quicksilver.models.routers import expert_counts, max_violation

NUM_EXPERTS, TOP_K, WIDTH = 6, 2, 16


def router(scoring: Scoring = Scoring.SOFTMAX, selection_bias: bool = False) -> Router:
    made = Router(WIDTH, ExpertShape(NUM_EXPERTS, 4, Routing(TOP_K, scoring), selection_bias=selection_bias))
    torch.nn.init.normal_(made.weight, std=WIDTH**-0.5)
    return made


@pytest.mark.parametrize("scoring", list(Scoring))
def test_the_auxiliary_loss_follows_its_definition(scoring: Scoring) -> None:
    layers = [router(scoring), router(scoring)]
    routed = [layer(torch.randn(2, 5, WIDTH)) for layer in layers]
    total = 0.0
    for forward in routed:
        logits = forward.logits_BFX.detach().flatten(0, 1).double()
        score = logits.sigmoid() if scoring is Scoring.SIGMOID else logits.exp()
        for expert in range(NUM_EXPERTS):
            f = sum(row.count(expert) for row in forward.expert_BFA.flatten(0, 1).tolist()) / (10 * TOP_K)
            p = sum(float(row[expert] / row.sum()) for row in score) / 10
            total += NUM_EXPERTS * f * p / len(layers)
    found = AuxiliaryLoss(0.5).loss(layers, routed)
    assert isinstance(found, torch.Tensor)
    assert found.requires_grad
    assert found.item() == pytest.approx(0.5 * total, rel=1e-5)


def test_the_auxiliary_loss_is_its_coefficient_where_all_are_equally_busy_and_likely() -> None:
    expert_BFA = torch.arange(NUM_EXPERTS, dtype=torch.int32).view(1, 3, 2)
    routed = RoutingResult(expert_BFA, torch.ones(1, 3, 2), torch.zeros(1, 3, NUM_EXPERTS))
    assert float(AuxiliaryLoss(0.3).loss([router()], [routed])) == pytest.approx(0.3)
    assert max_violation(expert_counts(routed)) == 0


def test_the_bias_moves_against_the_load_and_by_the_rate_alone() -> None:
    layer = router(Scoring.SIGMOID, selection_bias=True)
    expert_BFA = torch.tensor([[[0, 1], [0, 1], [0, 2]]], dtype=torch.int32)  # a mean of one
    routed = RoutingResult(expert_BFA, torch.ones(1, 3, 2), torch.zeros(1, 3, NUM_EXPERTS))
    LossFree(0.25).adjust([layer], [routed])
    assert layer.bias_X is not None
    assert layer.bias_X.tolist() == [-0.25, -0.25, 0.0, 0.25, 0.25, 0.25]
    assert max_violation(expert_counts(routed)) == 2.0  # three where one is the mean


@pytest.mark.parametrize(("balancing", "scoring"), [
    (AuxiliaryLoss(1.0), Scoring.SOFTMAX), (AuxiliaryLoss(1.0), Scoring.SOFTMAX_OF_CHOSEN),
    (AuxiliaryLoss(1.0), Scoring.SIGMOID), (LossFree(0.005), Scoring.SIGMOID)], ids=str)
def test_a_skewed_router_becomes_balanced(balancing: Balancing, scoring: Scoring) -> None:
    layer = router(scoring, selection_bias=isinstance(balancing, LossFree))
    with torch.no_grad():
        layer.weight[:2] += 0.3
    x_BFE = torch.randn(4, 64, WIDTH) + 0.3
    optimizer, before = torch.optim.SGD(layer.parameters(), lr=0.5), max_violation(expert_counts(layer(x_BFE)))
    for _ in range(200):
        routed = layer(x_BFE)
        loss = balancing.loss([layer], [routed])
        if isinstance(loss, torch.Tensor):
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        balancing.adjust([layer], [routed])
    assert before > 0.8
    assert max_violation(expert_counts(layer(x_BFE))) < before / 3


@pytest.mark.parametrize(("balancing", "experts", "message"), [
    (AuxiliaryLoss(), None, "needs a model with experts"), (LossFree(), None, "needs a model with experts"),
    (LossFree(), ExpertShape(4, 8, Routing(2)), "needs experts with selection_bias=True")])
def test_a_shape_that_cannot_be_balanced_is_refused(balancing: Balancing, experts: ExpertShape | None,
                                                     message: str) -> None:
    with pytest.raises(ValueError, match=message):
        balancing.check(Shape(experts=experts))
    NoBalancing().check(Shape(experts=experts))


@pytest.mark.parametrize("make", [lambda: AuxiliaryLoss(0.0), lambda: LossFree(-1.0)])
def test_a_strength_that_is_none_is_refused(make: type) -> None:
    with pytest.raises(ValueError, match=r"must be a number above 0"):
        make()
