"""The router against its definition: which experts, with what weights, under ties, groups and rows of -inf."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.moe_router import Routing, Scoring, reference, route
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import DTYPES, POINTWISE, check, run

GROUPINGS = [(1, 1), (4, 2), (10, 7)]


def by_definition(logits: list[float], bias: list[float], routing: Routing) -> tuple[list[int], list[float]]:
    """One row's experts and weights, by the equations in the file's docstring."""
    exps = [math.exp(z) for z in logits]
    score = {Scoring.SOFTMAX: [value / sum(exps) for value in exps], Scoring.SIGMOID: [e / (1 + e) for e in exps],
             Scoring.SOFTMAX_OF_CHOSEN: logits}[routing.scoring]
    key = [s + b for s, b in zip(score, bias, strict=True)]
    size = len(logits) // routing.num_groups
    groups = [range(start, start + size) for start in range(0, len(logits), size)]
    num_ranked = 2 if routing.scoring is Scoring.SIGMOID else 1
    ranked = sorted(groups, key=lambda group: -sum(sorted((key[x] for x in group), reverse=True)[:num_ranked]))
    kept = sorted(x for group in ranked[: routing.groups_kept] for x in group)
    chosen = sorted(kept, key=lambda x: -key[x])[: routing.top_k]
    weights = [exps[x] / sum(exps[y] for y in chosen) if routing.scoring is Scoring.SOFTMAX_OF_CHOSEN else score[x]
               for x in chosen]
    total = sum(weights) if routing.renormalise else 1
    return chosen, [routing.scale * weight / total for weight in weights]


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("num_groups", "groups_kept"), GROUPINGS)
@pytest.mark.parametrize("scoring", list(Scoring))
def test_it_follows_the_definition(scoring: Scoring, num_groups: int, groups_kept: int, biased: bool) -> None:
    routing = Routing(5, scoring, num_groups, groups_kept, renormalise=biased == (num_groups == 4), scale=2.5)
    logits_TX = torch.randn(2, 40)
    bias_X = torch.randn(40) if biased else None
    check(route, reference, (logits_TX, bias_X, routing), POINTWISE)
    expert_TA, weight_TA = reference(logits_TX.double(), bias_X, routing)
    bias = [0.0] * 40 if bias_X is None else bias_X.double().tolist()
    expected = [by_definition(row, bias, routing) for row in logits_TX.double().tolist()]
    assert expert_TA.tolist() == [experts for experts, _ in expected]
    torch.testing.assert_close(weight_TA, torch.tensor([weights for _, weights in expected], dtype=torch.float64))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_rows", "num_experts", "top_k"), [(0, 8, 2), (1, 1, 1), (2, 127, 5), (1, 128, 8),
                                                                (1, 129, 7)])
def test_any_size_and_dtype(num_rows: int, num_experts: int, top_k: int, dtype: torch.dtype) -> None:
    logits_TX = torch.randn(num_rows, num_experts).to(dtype)
    check(route, reference, (logits_TX, torch.randn(num_experts), Routing(top_k, Scoring.SIGMOID)), POINTWISE)


def test_the_bias_chooses_but_does_not_weigh() -> None:
    logits_TX = torch.tensor([[2.0, 1.0, 0.0, -1.0]])
    bias_X = torch.tensor([0.0, 0.0, 0.0, 5.0])
    (expert_TA, weight_TA), _ = run(route, logits_TX, bias_X, Routing(2, Scoring.SIGMOID))
    assert expert_TA.tolist() == [[3, 0]]
    torch.testing.assert_close(weight_TA.cpu(), logits_TX.sigmoid()[:, [3, 0]])


@pytest.mark.parametrize("scoring", list(Scoring))
@pytest.mark.parametrize(("num_groups", "groups_kept"), GROUPINGS)
def test_ties_go_to_the_lowest_index(scoring: Scoring, num_groups: int, groups_kept: int) -> None:
    routing = Routing(8, scoring, num_groups, groups_kept)
    logits_TX = torch.zeros(2, 40)
    logits_TX[1, 20:] = 1.0
    (expert_TA, _), _ = run(route, logits_TX, None, routing)
    assert expert_TA.tolist() == [list(range(8)), list(range(20, 28))]


@pytest.mark.parametrize(("num_groups", "groups_kept"), GROUPINGS[:2])
@pytest.mark.parametrize("scoring", list(Scoring))
def test_rows_of_minus_infinity_have_no_weight(scoring: Scoring, num_groups: int, groups_kept: int) -> None:
    logits_TX = torch.full((2, 40), -torch.inf)
    logits_TX[1, 5] = 0.5
    routing = Routing(3, scoring, num_groups, groups_kept, renormalise=True)
    for bias_X in (None, torch.zeros(40)):
        expert_TA, weight_TA = check(route, reference, (logits_TX, bias_X, routing), POINTWISE)
        assert expert_TA.tolist() == [[0, 1, 2], [5, 0, 1]]
        assert not weight_TA[0].any()
        assert not weight_TA[1, 1:].any()


@pytest.mark.parametrize("scoring", [Scoring.SOFTMAX, Scoring.SIGMOID])
def test_scores_that_round_to_one_number_are_told_apart_by_their_logits(scoring: Scoring) -> None:
    logits_TX = torch.tensor([[-200.0, -201.0, 100.0, 101.0, -199.0]])
    (expert_TA, _), _ = run(route, logits_TX, None, Routing(4, scoring))
    assert expert_TA.tolist() == [[3, 2, 4, 0]]


def test_nan_still_gives_experts_that_exist() -> None:
    logits_TX = torch.full((2, 5), torch.nan)
    logits_TX[1, 3] = 0.0
    for bias_X in (None, torch.zeros(5)):
        (expert_TA, weight_TA), _ = run(route, logits_TX, bias_X, Routing(3))
        assert ((expert_TA >= 0) & (expert_TA < 5)).all()
        assert weight_TA[0].isnan().all()


@pytest.mark.parametrize("implementation", list(Implementation))
def test_no_value_is_read_on_the_host(implementation: Implementation) -> None:
    with FakeTensorMode(), using(implementation):
        expert_TA, weight_TA = route(torch.rand(3, 24), torch.rand(24), Routing(3, Scoring.SIGMOID, 4, 2, True))
        assert (expert_TA.dtype, weight_TA.dtype) == (torch.int32, torch.float32)
        assert expert_TA.shape == weight_TA.shape == (3, 3)


@pytest.mark.parametrize("scoring", list(Scoring))
def test_the_weights_have_the_right_gradient(scoring: Scoring) -> None:
    def weights(logits_TX: Tensor) -> Tensor:
        return reference(logits_TX, torch.linspace(-1, 1, 12), Routing(3, scoring, 3, 2, True, 2.0))[1]

    assert torch.autograd.gradcheck(weights, torch.randn(4, 12, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(("fields", "message"), [
    ({"top_k": 0}, "top_k=0"), ({"scoring": "softmax"}, "scoring='softmax'"), ({"num_groups": 0}, "num_groups=0"),
    ({"num_groups": 2, "groups_kept": 3}, "at most 2"), ({"renormalise": 1}, "renormalise=1"),
    ({"scale": 0.0}, "scale=0"),
])
def test_a_field_out_of_range_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Routing(**{"top_k": fields.get("top_k", 1), **fields})


@pytest.mark.parametrize(("routing", "message"), [
    (Routing(1, num_groups=3), "num_groups=3: must divide"),
    (Routing(3, num_groups=4, groups_kept=1), "at most the 2 experts"),
])
def test_a_routing_that_does_not_suit_the_experts_is_refused(routing: Routing, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        route(torch.zeros(1, 8), None, routing)


@settings(max_examples=8, deadline=None)
@given(st.data(), st.integers(1, 5), st.integers(1, 12), st.sampled_from(list(Scoring)), st.booleans(), st.booleans())
def test_any_routing(data: st.DataObject, num_groups: int, size: int, scoring: Scoring, biased: bool,
                     renormalise: bool) -> None:
    groups_kept = data.draw(st.integers(1, num_groups))
    top_k = data.draw(st.integers(1, min(8, groups_kept * size)))
    # Logits of few values: most rows have ties. Biases tell those experts apart by more than float32's rounding, and
    # all together are less than the step between logits, or a logit and its bias would come to another's sum.
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    logits_TX = torch.randint(0, 5, (2, num_groups * size), generator=generator) / 4
    bias_X = 0.004 * torch.randperm(num_groups * size, generator=generator).float() if biased else None
    routing = Routing(top_k, scoring, num_groups, groups_kept, renormalise)
    check(route, reference, (logits_TX, bias_X, routing), POINTWISE)
