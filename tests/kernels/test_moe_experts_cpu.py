"""Every way in which a CPU multiplies a mixture's rows, against the loop over tokens, with gradients."""

from types import ModuleType
from typing import Any

import pytest
import torch
from quicksilver.kernels import moe_experts_cpu, moe_experts_padded
from quicksilver.kernels.dispatch import named, recording
from quicksilver.kernels.moe_experts import _by_every_expert, experts, reference
from quicksilver.kernels.moe_experts_cpu import Way
from quicksilver.kernels.moe_sort import Load
from torch import Tensor

from .test_moe_experts import Inputs, by_tokens, random_inputs

WAYS = [(moe_experts_cpu, "_of_one_row"), (moe_experts_padded, "padded_experts"), (moe_experts_cpu, "_in_groups"),
        (moe_experts_cpu, "_one_by_one")]
NOTED = {"_of_one_row": Way.OF_ONE_ROW, "padded_experts": Way.PADDED, "_in_groups": Way.IN_GROUPS,
         "_one_by_one": Way.ONE_BY_ONE}
# The way that each of these is meant to take: one row; many; few; rows that are no whole 16 bytes; many of few experts.
CASES: list[tuple[Load, int, int, str]] = [
    (Load(1, 8, 3), 40, 24, "_of_one_row"), (Load(300, 4, 2), 40, 24, "padded_experts"),
    (Load(301, 4, 2), 37, 23, "padded_experts"), (Load(30, 8, 2), 40, 24, "_in_groups"),
    (Load(2, 64, 8), 40, 24, "_in_groups"), (Load(30, 8, 2), 37, 23, "_one_by_one"),
    (Load(1000, 12, 2, num_active=2), 40, 24, "padded_experts")]


def inputs_of(load: Load, width: int, expert_width: int) -> Inputs:
    return random_inputs(load.draw(), load.num_experts, width, expert_width)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ways that were taken."""
    found: list[str] = []

    def watched(module: ModuleType, name: str) -> None:
        way = getattr(module, name)

        def call(*arguments: Any) -> Tensor:
            found.append(name)
            return way(*arguments)

        monkeypatch.setattr(module, name, call)

    for module, name in WAYS:
        watched(module, name)
    return found


@pytest.mark.parametrize(("load", "width", "expert_width", "way"), CASES, ids=str)
def test_each_way_is_the_sum_over_tokens_and_has_its_gradient(load: Load, width: int, expert_width: int, way: str,
                                                              taken: list[str]) -> None:
    inputs = inputs_of(load, width, expert_width)
    expected = by_tokens(*(value.double() if value.is_floating_point() else value for value in inputs))
    torch.testing.assert_close(reference(*inputs).double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert taken == [way]

    def gradients(function: Any, dtype: torch.dtype) -> list[Tensor]:
        arguments = [value.to(dtype, copy=True) if value.is_floating_point() else value for value in inputs]
        leaves = [value.requires_grad_() for value in arguments if value.is_floating_point()]
        upstream = torch.linspace(-1, 1, expected.numel(), dtype=dtype).view_as(expected)
        return [grad.double() for grad in torch.autograd.grad(function(*arguments), leaves, upstream)]

    for ours, theirs in zip(gradients(reference, torch.float32), gradients(_by_every_expert, torch.float64),
                            strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize(("load", "width", "expert_width", "way"), CASES, ids=str)
def test_the_record_names_the_way_that_was_taken(load: Load, width: int, expert_width: int, way: str,
                                                 taken: list[str]) -> None:
    inputs = inputs_of(load, width, expert_width)
    with recording() as ran:
        experts(*inputs)
    assert taken == [way]
    assert ran == {("experts", NOTED[way])}


def test_every_way_of_several_is_on_record() -> None:
    with recording() as ran:
        for load in (Load(1, 8, 3), Load(30, 8, 2)):
            experts(*inputs_of(load, 40, 24))
        reference(*(value.to("meta") for value in inputs_of(Load(30, 8, 2), 40, 24)))
    assert named(ran) == {"experts": "every expert for every token, grouped products, matrices times vectors"}


@torch.inference_mode()
def test_many_rows_without_a_gradient_leave_the_weights_where_they_are(taken: list[str]) -> None:
    inputs = inputs_of(Load(300, 4, 2), 40, 24)
    torch.testing.assert_close(reference(*inputs), _by_every_expert(*inputs), rtol=1e-4, atol=1e-5)
    assert taken == ["_in_groups"]


@torch.inference_mode()
def test_weights_with_gaps_are_multiplied_one_by_one(taken: list[str]) -> None:
    x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = inputs_of(Load(30, 8, 2), 40, 24)
    expected = reference(x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA)
    wider = torch.cat([gate_up_XGE, gate_up_XGE], -1)[..., :40], torch.cat([down_XEM, down_XEM], 1)[:, :40]
    turned = gate_up_XGE.mT.contiguous().mT, down_XEM.mT.contiguous().mT
    for weights in (wider, turned):
        torch.testing.assert_close(reference(x_TE, *weights, expert_TA, weight_TA), expected, rtol=1e-4, atol=1e-5)
    assert taken == ["_in_groups", "_one_by_one", "_one_by_one"]


@pytest.mark.parametrize("way", [case for case in CASES if case[3] != "_one_by_one"], ids=str)
def test_under_autocast_it_is_near_and_in_the_rows_own_type(way: tuple[Load, int, int, str]) -> None:
    inputs = inputs_of(*way[:3])
    expected = reference(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = reference(*inputs)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.01 * expected.norm()
