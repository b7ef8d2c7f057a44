"""The experts against a loop over tokens in float64, under every load and in every regime of tiles."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.dispatch import Implementation, recording, using
from quicksilver.kernels.grouped_product import DOWN, GATE_UP, tiles
from quicksilver.kernels.moe_experts import experts, reference
from quicksilver.kernels.moe_experts_cpu import Algorithm, experts_on_cpu
from quicksilver.kernels.moe_sort import ExpertLoad
from torch import Tensor

from .comparison import DEVICE, DTYPES, PRODUCT, check, rel_rms, run, widened

Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def random_inputs(expert_TA: Tensor, num_experts: int, width: int = 40, expert_width: int = 24,
                  dtype: torch.dtype = torch.float32) -> Inputs:
    x_TE = torch.randn(len(expert_TA), width).to(dtype)
    gate_up_XGE = (torch.randn(num_experts, 2 * expert_width, width) * width**-0.5).to(dtype)
    down_XEM = (torch.randn(num_experts, width, expert_width) * expert_width**-0.5).to(dtype)
    return x_TE, gate_up_XGE, down_XEM, expert_TA, torch.rand(expert_TA.shape)


def by_tokens(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
    """The definition, a token and a choice at a time."""
    y_TE = torch.zeros_like(x_TE)
    for token, row in enumerate(expert_TA.tolist()):
        for choice, expert in enumerate(row):
            gate_M, up_M = (gate_up_XGE[expert] @ x_TE[token]).chunk(2)
            y_TE[token] += weight_TA[token, choice] * (down_XEM[expert] @ (gate_M * gate_M.sigmoid() * up_M))
    return y_TE


@pytest.mark.parametrize("num_tokens", [0, 1, 17])
def test_pytorch_follows_the_definition(num_tokens: int) -> None:
    inputs = random_inputs(torch.randint(0, 5, (num_tokens, 3), dtype=torch.int32), 7)
    double = [value.double() if value.dtype.is_floating_point else value for value in inputs]
    expected = by_tokens(*double)
    torch.testing.assert_close(reference(*double), expected)
    torch.testing.assert_close(experts_on_cpu(*double), expected)
    assert reference(*inputs).dtype == torch.float32


def test_pytorch_has_the_right_gradient() -> None:
    x, gate_up, down, expert_TA, weight = random_inputs(torch.tensor([[0, 2], [2, 1], [0, 1]]), 4, 5, 3)
    floats = [value.double().requires_grad_() for value in (x, gate_up, down, weight)]
    for function in (reference, experts_on_cpu):
        assert torch.autograd.gradcheck(lambda x, gate_up, down, weight, function=function:
                                        function(x, gate_up, down, expert_TA, weight), floats)


@pytest.mark.parametrize(("regime", "num_tokens", "dtype"), [
    (0, 9, torch.float32), (0, 9, torch.float16), (0, 9, torch.bfloat16), (1, 30, torch.float32),
    (1, 30, torch.bfloat16), (2, 70, torch.float32), (2, 70, torch.bfloat16),
    pytest.param(3, 201, torch.float32, marks=pytest.mark.slow),
    pytest.param(3, 201, torch.float16, marks=pytest.mark.slow), (3, 201, torch.bfloat16)], ids=str)
def test_every_regime_equals_the_reference(regime: int, num_tokens: int, dtype: torch.dtype) -> None:
    num_experts, top_k = 3, 2
    assert tiles(num_tokens * top_k, num_experts, torch.empty(1, dtype=torch.bfloat16)) == (
        GATE_UP.buckets[regime].default, DOWN.buckets[regime].default)
    load = ExpertLoad(num_tokens, num_experts, top_k, zipf_exponent=1.0)
    check(experts, reference, random_inputs(load.draw(), num_experts, 70, 45, dtype), PRODUCT)


@pytest.mark.parametrize("load", [ExpertLoad(1, 1, 1), ExpertLoad(1, 200, 8), ExpertLoad(0, 5, 2),
                                  ExpertLoad(20, 5, 2, zipf_exponent=1.5), ExpertLoad(18, 8, 2, num_active=2),
                                  ExpertLoad(5, 24, 5)])
def test_any_load(load: ExpertLoad) -> None:
    check(experts, reference, random_inputs(load.draw(), load.num_experts), PRODUCT)


@pytest.mark.parametrize(("counts", "num_experts"), [
    ((15, 16, 17, 0, 32, 33), 15), ((1, 0, 47, 0, 0, 0), 15),
    ((33, 1, 1, 33), 4),  # as many tiles as there can be
])
def test_tiles_may_be_full_short_or_one_row_over(counts: tuple[int, ...], num_experts: int) -> None:
    expert_T1 = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[:, None]
    expert_T1 = expert_T1[torch.randperm(len(expert_T1))].int()
    check(experts, reference, random_inputs(expert_T1, num_experts), PRODUCT)


@pytest.mark.parametrize(("width", "expert_width"), [(1, 1), (64, 32), (65, 33)])
def test_any_width(width: int, expert_width: int) -> None:
    check(experts, reference, random_inputs(ExpertLoad(6, 4, 2).draw(), 4, width, expert_width), PRODUCT)


def test_the_weights_of_an_expert_without_tokens_are_not_read() -> None:
    x, gate_up, down, expert_TA, weight = random_inputs(ExpertLoad(10, 5, 2, num_active=3).draw(), 5)
    clean = check(experts, reference, (x, gate_up, down, expert_TA, weight), PRODUCT)
    gate_up[3:], down[3:] = torch.nan, torch.nan
    (found,), _ = run(experts, x, gate_up, down, expert_TA, weight)
    assert torch.equal(found, clean[0])


def test_large_gates_neither_overflow_nor_vanish() -> None:
    x, gate_up, down, expert_TA, weight = random_inputs(ExpertLoad(9, 4, 2).draw(), 4)
    gate_up[:, :24] *= 200
    check(experts, reference, (x, gate_up, down, expert_TA, weight), PRODUCT)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float16, marks=pytest.mark.slow), torch.bfloat16], ids=str)
def test_it_is_as_precise_as_torch_in_the_same_dtype(dtype: torch.dtype) -> None:
    inputs = random_inputs(ExpertLoad(128, 4, 2).draw(), 4, 32, 64, dtype)
    expected = reference(*(value.double() if value.dtype.is_floating_point else value for value in inputs))
    (found,), _ = run(experts, *inputs)
    assert expected.numel() >= 4096
    assert rel_rms(found, expected) <= 1.1 * rel_rms(reference(*inputs), expected) + 1e-4


@pytest.mark.skipif(DEVICE.type != "cpu", reason="on a GPU it is the reference")
def test_where_a_gradient_is_required_of_a_cpu_its_own_implementation_runs() -> None:
    inputs = random_inputs(ExpertLoad(5, 4, 2).draw(), 4)
    inputs[1].requires_grad_()
    with using(Implementation.TRITON), recording() as ran:
        experts(*inputs).sum().backward()
    assert ran == {("experts", Implementation.CPU), ("experts", Algorithm.GROUPED)}
    assert inputs[1].grad is not None


def test_under_autocast_products_are_narrow_and_the_sum_as_wide_as_the_rows() -> None:
    inputs = random_inputs(ExpertLoad(9, 4, 2).draw(), 4)
    narrow = [value.bfloat16() for value in inputs[:3]]

    def under_autocast(*inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return experts(*inputs)

    (found,), _ = run(under_autocast, *inputs)
    (expected,), _ = run(experts, *narrow, *inputs[3:])
    assert found.dtype == torch.float32
    assert torch.equal(found.bfloat16(), expected)


def check_any(data: st.DataObject, dtype: torch.dtype) -> None:
    num_experts, top_k, num_tokens = (data.draw(st.integers(*bounds)) for bounds in ((1, 9), (1, 4), (0, 30)))
    width, expert_width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 70))
    # Hypothesis can only repeat an example whose numbers hang on what it drew.
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    expert_TA = torch.randint(0, num_experts, (num_tokens, top_k), dtype=torch.int32)
    inputs = random_inputs(expert_TA, num_experts, width, expert_width, dtype)
    if dtype == torch.float32 or min(width, expert_width) >= 16:
        check(experts, reference, inputs, PRODUCT)
        return
    # A result of few columns may nearly cancel: torch's own error in 16 bits is then over the bound more often than
    # ours. Rounding is relative to the size of what is summed.
    (found,), _ = run(experts, *inputs)
    wide = widened(inputs)
    size = reference(*(value.abs() if value.is_floating_point() else value for value in wide)).norm()
    # Below the smallest normal number it is not: what lies between two there, of the result and of what is summed.
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps * (found.numel() ** 0.5 + wide[2].norm())
    # Of few numbers roundings do not average: of what is between the products, of a row, of the result.
    relative = max(PRODUCT[dtype], 3 * torch.finfo(dtype).eps / 2)
    assert (found.cpu().double() - reference(*wide)).norm() <= relative * size + least


@settings(max_examples=5, deadline=None)
@given(st.data(), st.sampled_from(DTYPES))
def test_any_shape_and_any_load(data: st.DataObject, dtype: torch.dtype) -> None:
    check_any(data, dtype)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(DTYPES))
def test_many_shapes_and_loads(data: st.DataObject, dtype: torch.dtype) -> None:
    check_any(data, dtype)
