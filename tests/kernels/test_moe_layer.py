"""The whole layer: its router and its experts, and the cases that send tokens where a load says."""

import pytest
import torch
import torch.nn.functional as F
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.moe_layer import LayerCase, mixture_of_experts, reference
from quicksilver.kernels.moe_router import Routing, Scoring, route
from quicksilver.kernels.moe_sort import ExpertLoad
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import DEVICE, PRODUCT, check, rel_rms, run
from .test_moe_experts import by_tokens, random_inputs

ROUTINGS = [Routing(2, Scoring.SOFTMAX), Routing(2, Scoring.SOFTMAX_OF_CHOSEN),
            Routing(3, Scoring.SIGMOID, 4, 2, renormalise=True, scale=2.5)]


@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_the_layer_is_its_router_and_its_experts(routing: Routing) -> None:
    x_TE, gate_up_XGE, down_XEM, _, _ = random_inputs(torch.zeros(5, 1, dtype=torch.int32), 8)
    router_XE, bias_X = torch.randn(8, 40), torch.randn(8)
    (found,), _ = run(mixture_of_experts, x_TE, router_XE, bias_X, gate_up_XGE, down_XEM, routing)
    x_TE, router_XE, gate_up_XGE, down_XEM = (value.double() for value in (x_TE, router_XE, gate_up_XGE, down_XEM))
    expected = by_tokens(x_TE, gate_up_XGE, down_XEM, *route(F.linear(x_TE, router_XE), bias_X, routing))
    assert rel_rms(found, expected) <= PRODUCT[torch.float32]


@pytest.mark.parametrize("implementation", list(Implementation))
def test_no_value_is_read_on_the_host(implementation: Implementation) -> None:
    with FakeTensorMode(), using(implementation):
        x_TE, gate_up_XGE, down_XEM, _, _ = random_inputs(torch.zeros(5, 1, dtype=torch.int32), 8, dtype=torch.bfloat16)
        router_XE, bias_X = torch.randn(8, 40), torch.randn(8)
        y_TE = mixture_of_experts(x_TE, router_XE, bias_X, gate_up_XGE, down_XEM, ROUTINGS[-1])
        assert (y_TE.shape, y_TE.dtype) == (x_TE.shape, x_TE.dtype)


@pytest.mark.parametrize("place", [1, 4, 6])
def test_a_gradient_that_one_of_its_weights_needs_is_there(place: int) -> None:
    case = LayerCase(ExpertLoad(3, 8, 2), 16, 8, Routing(2, Scoring.SIGMOID), shared_width=8)
    inputs = list(case.inputs(torch.float32, DEVICE))
    inputs[place].requires_grad_()
    with using(Implementation.TRITON):
        mixture_of_experts(*inputs).sum().backward()
    assert inputs[place].grad.norm() > 0


@pytest.mark.parametrize(("load", "scoring", "shared_width"), [
    (ExpertLoad(7, 8, 2), Scoring.SOFTMAX, 0), (ExpertLoad(7, 8, 2, zipf_exponent=1.5), Scoring.SIGMOID, 12),
    (ExpertLoad(7, 8, 2, num_active=2), Scoring.SOFTMAX_OF_CHOSEN, 5),
    (ExpertLoad(7, 8, 2, zipf_exponent=1.5), Scoring.SIGMOID, 16),  # as wide as the experts: one more of them
    (ExpertLoad(7, 8, 2, num_active=4), Scoring.SIGMOID, 0)], ids=str)
def test_a_case_sends_its_tokens_where_its_load_says(load: ExpertLoad, scoring: Scoring, shared_width: int) -> None:
    case = LayerCase(load, 24, 16, Routing(2, scoring), shared_width)
    inputs = case.inputs(torch.float32, torch.device("cpu"))
    x_TE, router_XE, bias_X, *_ = inputs
    assert torch.equal(route(F.linear(x_TE, router_XE), bias_X, case.routing)[0], load.draw())
    check(mixture_of_experts, reference, inputs, PRODUCT)
    assert (case.cost(torch.float32).num_bytes - case.cost(torch.bfloat16).num_bytes) * 2 > 4 * (
        3 * 24 * (load.num_distinct() * 16 + shared_width))


def test_a_case_with_groups_counts_the_experts_that_its_tokens_go_to() -> None:
    case = LayerCase(ExpertLoad(4, 16, 2), 24, 16, Routing(2, Scoring.SIGMOID, num_groups=8, groups_kept=1))
    x_TE, router_XE, bias_X, *_ = case.inputs(torch.float32, torch.device("cpu"))
    expert_TA, _ = route(F.linear(x_TE, router_XE), bias_X, case.routing)
    assert (expert_TA.sort(1).values % 2 == torch.tensor([0, 1])).all()  # both of a group of two
    assert case.num_distinct() == len(expert_TA.unique()) < case.load.num_distinct()


def test_a_case_whose_parts_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"width=7: must be an integer of at least 8"):
        LayerCase(ExpertLoad(5, 8, 2), 7, 16, Routing(2))
    with pytest.raises(ValueError, match=r"top_k=3: must be the load's, 2"):
        LayerCase(ExpertLoad(5, 8, 2), 24, 16, Routing(3))
