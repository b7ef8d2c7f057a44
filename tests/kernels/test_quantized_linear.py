"""Weights of few bits are near those that they were made of, and are multiplied as what they are."""

import pytest
import torch
import torch.nn.functional as F
from quicksilver.kernels.dispatch import Implementation, named, recording, using
from quicksilver.kernels.quantized_linear import (
    GROUP,
    Form,
    GroupedWeight,
    Levels,
    dense,
    fits,
    num_bytes_of,
    quantized,
    quantized_linear,
    two_planes,
)
from torch import Tensor

SHAPES = [(64, 32), (100, 96), (1, 64)]


def weight(num_rows: int, width: int) -> Tensor:
    """With a group of zeros and one of a single value."""
    found = torch.randn(num_rows, width, generator=torch.Generator().manual_seed(0))
    found[0, :GROUP] = 0
    found[-1, -GROUP:] = 0.7
    return found


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", Form)
def test_values_are_within_half_a_step_and_the_rounding_of_the_scale(form: Form, shape: tuple[int, int]) -> None:
    weight_NK = weight(*shape)
    group_NGK = weight_NK.unflatten(1, (-1, GROUP))
    if form is Form.INT4:
        step_NG1 = (group_NGK.amax(2, keepdim=True) - group_NGK.amin(2, keepdim=True)) / 15
        rounding_NG1 = group_NGK.abs().amax(2, keepdim=True) * 2**-6  # of the scale, 15 / 2 times, and of the zero
    elif form is Form.INT8_GROUPS:
        step_NG1 = group_NGK.abs().amax(2, keepdim=True) / 127
        rounding_NG1 = group_NGK.abs().amax(2, keepdim=True) * 2**-8
    else:
        step_NG1 = weight_NK.abs().amax(1)[:, None, None] / 127
        rounding_NG1 = weight_NK.abs().amax(1)[:, None, None] * 2**-8
    error_NGK = (dense(quantized(weight_NK, form)) - weight_NK).abs().unflatten(1, (-1, GROUP))
    assert (error_NGK <= step_NG1 / 2 + rounding_NG1).all()
    assert not dense(quantized(torch.zeros(shape), form)).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", Form)
def test_it_is_the_product_with_these_values(form: Form, shape: tuple[int, int]) -> None:
    held = quantized(weight(*shape), form)
    assert held.form is form
    assert held.shape == shape
    assert held.num_bytes == num_bytes_of(shape, form)
    bias_N = torch.randn(shape[0])
    for size in ((1,), (3,), (2, 20), (0,)):
        x = torch.randn(*size, shape[1]).bfloat16().float()
        with torch.no_grad(), recording() as ran:
            found = quantized_linear(x, held, bias_N)
        wanted = F.linear(x, dense(held), bias_N)
        torch.testing.assert_close(found, wanted, rtol=2**-7, atol=2**-6 * shape[1] ** 0.5)
        assert found.dtype == torch.float32
        assert named(ran) == {"linear": f"cpu ({form.value})"}


def test_each_value_of_eight_bits_is_two_of_four() -> None:
    q_NK = torch.arange(-128, 128).to(torch.int8).view(2, 128)
    scale_NG = torch.tensor([[0.5, 1, 2, 4], [8, 0.25, 0, 16]])
    held = GroupedWeight.of(two_planes(q_NK, scale_NG))
    assert held.form is Form.INT8_GROUPS
    assert torch.equal(dense(held), q_NK * scale_NG.repeat_interleave(GROUP, 1))


def test_rows_are_those_of_the_operators_own_layout() -> None:
    generator = torch.Generator().manual_seed(0)
    q_NK = torch.randint(0, 16, (200, 96), generator=generator).to(torch.uint8)
    scale_NG = 2.0 ** torch.randint(-3, 3, (200, 3), generator=generator)
    zero_NG = torch.randint(-8, 8, (200, 3), generator=generator).float()
    held = GroupedWeight.of([Levels(q_NK, scale_NG, zero_NG)])
    expected = (q_NK - 8.0) * scale_NG.repeat_interleave(GROUP, 1) + zero_NG.repeat_interleave(GROUP, 1)
    assert torch.equal(dense(held), expected)
    index = torch.tensor([[3, 199], [64, 3]])
    assert torch.equal(held.rows(index), expected[index])
    one_hot_KK = torch.eye(96, dtype=torch.bfloat16)
    assert torch.equal(held.product(one_hot_KK), expected.T.bfloat16())


@pytest.mark.parametrize("form", Form)
def test_a_row_has_the_same_bits_whatever_is_multiplied_with_it(form: Form) -> None:
    held, x_MK = quantized(weight(130, 96), form), torch.randn(9, 96)
    with torch.no_grad():
        all_rows = quantized_linear(x_MK, held, None)
        for num_rows in range(1, 9):
            assert torch.equal(quantized_linear(x_MK[:num_rows], held, None), all_rows[:num_rows])


@pytest.mark.parametrize("form", Form)
def test_the_reference_multiplies_by_floats_and_no_gradient_is_given(form: Form) -> None:
    held, x_MK = quantized(weight(64, 32), form), torch.randn(3, 32)
    with using(Implementation.REFERENCE), torch.no_grad(), recording() as ran:
        assert torch.equal(quantized_linear(x_MK, held, None), F.linear(x_MK, dense(held)))
    assert not ran
    with pytest.raises(ValueError, match=r"of . bits in .* cannot be trained: dequantize\(\) it first"):
        quantized_linear(x_MK.requires_grad_(), held, None)


def test_widths_of_whole_groups_fit() -> None:
    assert [width for width in (16, 32, 48, 64, 577) if fits(width)] == [32, 64]
