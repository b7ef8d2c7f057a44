"""Batched products of padded groups: where rows lie, the sum they give, and its gradient."""

import pytest
import torch
from quicksilver.kernels.moe_experts import reference
from quicksilver.kernels.moe_experts_padded import assign_slots, padded_experts
from quicksilver.kernels.moe_sort import ExpertLoad
from torch import Tensor

from .test_moe_experts import random_inputs

# Even, all to one of two experts, some experts without rows, loads of every size, no row at all.
LOADS = [ExpertLoad(300, 4, 2), ExpertLoad(130, 2, 1, num_active=1), ExpertLoad(70, 12, 3, num_active=5),
         ExpertLoad(400, 16, 2, zipf_exponent=1.5), ExpertLoad(0, 4, 2)]


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_every_assignment_has_its_own_slot_among_its_experts(load: ExpertLoad) -> None:
    expert_TA = load.draw()
    slots = assign_slots(expert_TA, load.num_experts)
    assert slots.slot_TA.unique().numel() == expert_TA.numel()
    rows_TA = torch.arange(load.num_tokens)[:, None].expand_as(expert_TA)
    assert torch.equal(slots.row_N[slots.slot_TA], rows_TA)
    holder_N = torch.full((len(slots.row_N),), -1)
    for experts, held, length in slots.groups:
        assert (holder_N[held] == -1).all()
        holder_N[held] = slots.expert_X[experts].repeat_interleave(length)
    assert torch.equal(holder_N[slots.slot_TA], expert_TA.long())
    assert (holder_N >= 0).all()


def test_what_it_multiplies_follows_the_rows_not_the_fullest_expert() -> None:
    assert len(assign_slots(ExpertLoad(1000, 100, 2, num_active=2).draw(), 100).row_N) < 2000 + 2 * 64


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_it_is_the_weighted_sum(load: ExpertLoad) -> None:
    x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = random_inputs(load.draw(), load.num_experts, 20, 12)
    found = padded_experts(x_TE, gate_up_XGE, down_XEM, weight_TA, assign_slots(expert_TA, load.num_experts))
    expected = reference(x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("load", [ExpertLoad(5, 3, 2), ExpertLoad(4, 6, 2, num_active=2)], ids=str)
def test_its_gradient_is_that_of_what_it_computes(load: ExpertLoad) -> None:
    x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = random_inputs(load.draw(), load.num_experts, 6, 4)
    slots = assign_slots(expert_TA, load.num_experts)
    leaves = [value.double().requires_grad_() for value in (x_TE, gate_up_XGE, down_XEM, weight_TA)]

    def weighted_sum(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, weight_TA: Tensor) -> Tensor:
        return padded_experts(x_TE, gate_up_XGE, down_XEM, weight_TA, slots)

    assert torch.autograd.gradcheck(weighted_sum, leaves)


def test_frozen_weights_get_no_gradient_and_the_rows_still_do() -> None:
    load = ExpertLoad(5, 3, 2)
    x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = random_inputs(load.draw(), load.num_experts, 6, 4)
    slots = assign_slots(expert_TA, load.num_experts)
    (whole,) = torch.autograd.grad(padded_experts(
        x_TE.requires_grad_(), gate_up_XGE.requires_grad_(), down_XEM, weight_TA, slots).sum(), [x_TE])
    (alone,) = torch.autograd.grad(padded_experts(
        x_TE, gate_up_XGE.detach(), down_XEM, weight_TA, slots).sum(), [x_TE])
    assert torch.equal(whole, alone)
