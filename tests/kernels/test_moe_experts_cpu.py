"""Every algorithm by which a CPU multiplies a mixture's rows, against the loop over tokens, with gradients."""

from types import ModuleType
from typing import Any

import pytest
import torch
from quicksilver.kernels import moe_experts_cpu, moe_experts_padded
from quicksilver.kernels.dispatch import Implementation, named, recording
from quicksilver.kernels.moe_experts import experts, reference
from quicksilver.kernels.moe_experts_cpu import Algorithm, experts_on_cpu
from quicksilver.kernels.moe_sort import ExpertLoad
from torch import Tensor

from .test_moe_experts import Inputs, by_tokens, random_inputs

ALGORITHMS = [(moe_experts_cpu, "one_row"), (moe_experts_padded, "padded_experts"), (moe_experts_cpu, "_grouped"),
              (moe_experts_cpu, "_per_expert")]
NOTED = {"one_row": Algorithm.ONE_ROW, "padded_experts": Algorithm.PADDED, "_grouped": Algorithm.GROUPED,
         "_per_expert": Algorithm.PER_EXPERT}
# What each of these is meant to take: one row; many; few; rows that are no whole 16 bytes; many of few experts.
CASES: list[tuple[ExpertLoad, int, int, str]] = [
    (ExpertLoad(1, 8, 3), 40, 24, "one_row"), (ExpertLoad(300, 4, 2), 40, 24, "padded_experts"),
    (ExpertLoad(301, 4, 2), 37, 23, "padded_experts"), (ExpertLoad(30, 8, 2), 40, 24, "_grouped"),
    (ExpertLoad(2, 64, 8), 40, 24, "_grouped"), (ExpertLoad(30, 8, 2), 37, 23, "_per_expert"),
    (ExpertLoad(1000, 12, 2, num_active=2), 40, 24, "padded_experts")]


def inputs_of(load: ExpertLoad, width: int, expert_width: int) -> Inputs:
    return random_inputs(load.draw(), load.num_experts, width, expert_width)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The algorithms that ran."""
    found: list[str] = []

    def watched(module: ModuleType, name: str) -> None:
        algorithm = getattr(module, name)

        def call(*arguments: Any) -> Tensor:
            found.append(name)
            return algorithm(*arguments)

        monkeypatch.setattr(module, name, call)

    for module, name in ALGORITHMS:
        watched(module, name)
    return found


@pytest.mark.parametrize(("load", "width", "expert_width", "algorithm"), CASES, ids=str)
def test_each_is_the_sum_over_tokens_and_has_its_gradient(load: ExpertLoad, width: int, expert_width: int,
                                                          algorithm: str, taken: list[str]) -> None:
    inputs = inputs_of(load, width, expert_width)
    expected = by_tokens(*(value.double() if value.is_floating_point() else value for value in inputs))
    found = experts_on_cpu(*inputs).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert taken == [algorithm]

    def gradients(function: Any, dtype: torch.dtype) -> list[Tensor]:
        arguments = [value.to(dtype, copy=True) if value.is_floating_point() else value for value in inputs]
        leaves = [value.requires_grad_() for value in arguments if value.is_floating_point()]
        upstream = torch.linspace(-1, 1, expected.numel(), dtype=dtype).view_as(expected)
        return [grad.double() for grad in torch.autograd.grad(function(*arguments), leaves, upstream)]

    for ours, theirs in zip(gradients(experts_on_cpu, torch.float32), gradients(reference, torch.float64),
                            strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(("load", "width", "expert_width", "algorithm"), CASES, ids=str)
def test_the_record_names_the_algorithm_that_ran(load: ExpertLoad, width: int, expert_width: int, algorithm: str,
                                                 taken: list[str]) -> None:
    inputs = inputs_of(load, width, expert_width)
    with recording() as ran:
        experts(*inputs)
    assert taken == [algorithm]
    assert ran == {("experts", Implementation.CPU), ("experts", NOTED[algorithm])}


def test_every_one_of_several_is_on_record() -> None:
    with recording() as ran:
        for load in (ExpertLoad(1, 8, 3), ExpertLoad(30, 8, 2)):
            experts(*inputs_of(load, 40, 24))
        experts(*(value.to("meta") for value in inputs_of(ExpertLoad(30, 8, 2), 40, 24)))
    assert named(ran) == {"experts": "reference, cpu (grouped products, matrices times vectors)"}


@torch.inference_mode()
def test_many_rows_without_a_gradient_leave_the_weights_where_they_are(taken: list[str]) -> None:
    inputs = inputs_of(ExpertLoad(300, 4, 2), 40, 24)
    torch.testing.assert_close(experts_on_cpu(*inputs), reference(*inputs), rtol=1e-4, atol=1e-5)
    assert taken == ["_grouped"]


@torch.inference_mode()
def test_weights_with_gaps_are_multiplied_one_by_one(taken: list[str]) -> None:
    x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = inputs_of(ExpertLoad(30, 8, 2), 40, 24)
    expected = experts_on_cpu(x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA)
    wider = torch.cat([gate_up_XGE, gate_up_XGE], -1)[..., :40], torch.cat([down_XEM, down_XEM], 1)[:, :40]
    turned = gate_up_XGE.mT.contiguous().mT, down_XEM.mT.contiguous().mT
    for weights in (wider, turned):
        torch.testing.assert_close(experts_on_cpu(x_TE, *weights, expert_TA, weight_TA), expected, rtol=1e-4, atol=1e-5)
    assert taken == ["_grouped", "_per_expert", "_per_expert"]


@pytest.mark.parametrize("algorithm", [case for case in CASES if case[3] != "_per_expert"], ids=str)
def test_under_autocast_it_is_near_and_in_the_rows_own_type(algorithm: tuple[ExpertLoad, int, int, str]) -> None:
    inputs = inputs_of(*algorithm[:3])
    expected = experts_on_cpu(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = experts_on_cpu(*inputs)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.01 * expected.norm()
