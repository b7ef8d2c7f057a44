"""Experts with packed weights: the products, for which weights and rows there are copies, and when these are taken."""

from typing import Any

import pytest
import torch
from quicksilver.kernels import packed_experts, packed_linear
from quicksilver.kernels.batch_invariance import batch_invariant, by_position
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.kernels.moe_experts import experts as plain_experts
from quicksilver.kernels.moe_sort import ExpertLoad
from quicksilver.kernels.packed_experts import LEAST_BYTES, PackedExperts, experts
from torch import Tensor

from .test_moe_experts import Inputs, by_tokens, random_inputs

PACKED = "cpu (weights packed by oneDNN)"
WIDTH, TOP_K, NUM_EXPERTS = 256, 2, 6
EXPERT_WIDTH = LEAST_BYTES[torch.float32] // (12 * WIDTH)  # of the smallest experts that are packed


@pytest.fixture(autouse=True)
def few_rows_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a processor where products of few rows are packed."""
    monkeypatch.setattr(packed_linear, "_IS_INTEL", False)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", True)


def inputs_of(num_rows: int, expert_width: int = EXPERT_WIDTH) -> Inputs:
    load = ExpertLoad(num_rows, NUM_EXPERTS, TOP_K)
    return random_inputs(load.draw(), load.num_experts, WIDTH, expert_width)


def packed(inputs: Inputs) -> PackedExperts:
    made = PackedExperts.of(inputs[1], inputs[2])
    assert made is not None
    return made


def multiplied(inputs: Inputs, held: PackedExperts | None) -> tuple[Tensor, str]:
    """The result without a gradient, and what ran in a record's words."""
    with torch.no_grad(), recording() as ran:
        found = experts(*inputs, packed=held)
    return found, named(ran)["experts"]


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_it_is_the_sum_over_tokens(num_rows: int) -> None:
    inputs = inputs_of(num_rows)
    expected = by_tokens(*(value.double() if value.is_floating_point() else value for value in inputs))
    found, what = multiplied(inputs, packed(inputs))
    assert what == PACKED
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("num_rows", [1, 7])
def test_in_bfloat16_it_is_near_and_in_the_rows_own_type(num_rows: int) -> None:
    x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = inputs_of(num_rows)
    inputs = x_TE.bfloat16(), gate_up_XGE.bfloat16(), down_XEM.bfloat16(), expert_TA, weight_TA
    held = PackedExperts.of(inputs[1], inputs[2])
    if held is None:
        pytest.skip("a processor without the instructions of bfloat16")
    found, what = multiplied(inputs, held)
    expected = by_tokens(*(value.double() if value.is_floating_point() else value for value in inputs))
    assert (found.dtype, what) == (torch.bfloat16, PACKED)
    assert (found.double() - expected).norm() < 0.01 * expected.norm()


def test_rows_that_are_computed_one_at_a_time_have_the_same_bits_in_any_batch() -> None:
    inputs = inputs_of(9)
    x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = inputs
    held = packed(inputs)

    def mixture(x_BFE: Tensor, expert_BFA: Tensor, weight_BFA: Tensor) -> Tensor:
        return experts(x_BFE[0], gate_up_XGE, down_XEM, expert_BFA[0], weight_BFA[0], packed=held)[None]

    with batch_invariant(True), torch.no_grad(), recording() as ran:
        together, some = (by_position(mixture, x_TE[None, rows], expert_TA[None, rows], weight_TA[None, rows])
                          for rows in (slice(9), slice(3, 7)))
    assert named(ran)["experts"] == PACKED
    assert torch.equal(together[:, 3:7], some)


def test_small_experts_those_elsewhere_and_those_with_gaps_are_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, gate_up_XGE, down_XEM, *_ = inputs_of(1)
    assert PackedExperts.of(*inputs_of(1, EXPERT_WIDTH - 1)[1:3]) is None
    assert PackedExperts.of(gate_up_XGE.to("meta"), down_XEM.to("meta")) is None
    assert PackedExperts.of(gate_up_XGE, down_XEM.mT.contiguous().mT) is None
    assert PackedExperts.of(gate_up_XGE.double(), down_XEM.double()) is None  # oneDNN packs none
    with torch.inference_mode():
        assert PackedExperts.of(gate_up_XGE.clone(), down_XEM.clone()) is None  # they would not tell of a change
    monkeypatch.setattr(packed_linear, "_HAS_OPERATOR", False)
    assert PackedExperts.of(gate_up_XGE, down_XEM) is None


@pytest.mark.parametrize(("is_intel", "has_avx512", "factor", "model_megabytes", "is_packed"), [
    (True, True, 2, 99, False), (True, False, 2, 99, False), (False, True, 1, 0, True), (False, False, 2, 16, False),
    (False, False, 2, 17, True), (False, False, 1, 17, False)])
def test_which_pay_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch, is_intel: bool, has_avx512: bool,
                                            factor: int, model_megabytes: int, is_packed: bool) -> None:
    monkeypatch.setattr(packed_linear, "_IS_INTEL", is_intel)
    monkeypatch.setattr(packed_linear, "_HAS_AVX512", has_avx512)
    weights = inputs_of(1, factor * EXPERT_WIDTH)[1:3]
    assert (PackedExperts.of(*weights, model_megabytes << 20) is not None) == is_packed


def test_many_rows_and_none_are_multiplied_as_the_weights_lie() -> None:
    inputs = inputs_of(packed_experts.MANY_ROWS * NUM_EXPERTS // TOP_K)
    held = packed(inputs)
    for first, what in ((0, "cpu (grouped products)"), (1, PACKED), (len(inputs[0]), "cpu (grouped products)")):
        x_TE, gate_up_XGE, down_XEM, expert_TA, weight_TA = inputs
        given = x_TE[first:], gate_up_XGE, down_XEM, expert_TA[first:], weight_TA[first:]
        found, ran = multiplied(given, held)
        assert ran == what
        torch.testing.assert_close(found, plain_experts(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [1, 2])
def test_weights_that_have_changed_or_moved_are_multiplied_as_they_are(place: int) -> None:
    inputs = inputs_of(3)
    held = packed(inputs)
    inputs[place].mul_(2)
    found, what = multiplied(inputs, held)
    assert what == "cpu (grouped products)"
    assert torch.equal(found, plain_experts(*inputs))
    held = packed(inputs)
    inputs[place].data = torch.zeros_like(inputs[place])
    found, what = multiplied(inputs, held)
    assert (what, found.count_nonzero()) == ("cpu (grouped products)", 0)


def test_gradients_autocast_other_dtypes_and_the_reference_take_the_weights_themselves() -> None:
    inputs = inputs_of(3)
    held = packed(inputs)
    inputs[1].requires_grad_()
    experts(*inputs, packed=held).sum().backward()
    assert inputs[1].grad is not None
    with using(Implementation.REFERENCE):
        assert multiplied(inputs, held)[1] == "reference"
    with torch.autocast("cpu", torch.bfloat16):
        assert multiplied(inputs, held)[1] == "cpu (grouped products)"
    assert multiplied(inputs, None)[1] == "cpu (grouped products)"
    assert multiplied(inputs, held)[1] == PACKED


def test_an_operator_whose_copies_were_dropped_takes_the_weights_themselves() -> None:
    inputs = inputs_of(3)
    handle, number = packed(inputs).handle, packed(inputs).number
    assert number not in packed_experts._held
    with torch.no_grad():
        expected = plain_experts(*inputs)
        assert torch.equal(torch.ops.quicksilver.packed_experts(*inputs, handle), expected)


def test_each_set_of_copies_is_told_from_those_before() -> None:
    inputs = inputs_of(3)
    identities: list[Any] = [packed(inputs).identity for _ in range(3)]
    assert len(set(identities)) == 3
