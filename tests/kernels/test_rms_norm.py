"""RMSNorm against float64, with and without the addition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels import rms_norm

from .comparison import DTYPES, POINTWISE, check

EPS = 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 8), (1, 1), (1, 127), (3, 128), (5, 129), (2, 3, 64)], ids=str)
def test_it_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, delta = torch.randn(2, *shape).to(dtype)
    weight_E = torch.randn(shape[-1]).to(dtype)
    check(rms_norm.rms_norm, rms_norm.reference, (x, weight_E, EPS), POINTWISE)
    check(rms_norm.add_rms_norm, rms_norm.add_reference, (x, delta, weight_E, EPS), POINTWISE)


def test_a_row_of_zeros_stays_zero() -> None:
    found = check(rms_norm.rms_norm, rms_norm.reference, (torch.zeros(2, 9), torch.ones(9), EPS), POINTWISE)
    assert not found[0].any()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 300), st.sampled_from(DTYPES))
def test_any_shape(rows: int, width: int, dtype: torch.dtype) -> None:
    x = torch.randn(rows, width).to(dtype)
    check(rms_norm.rms_norm, rms_norm.reference, (x, torch.randn(width).to(dtype), EPS), POINTWISE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(6,), (3, 10), (2, 3, 64), (0, 8)], ids=str)
@pytest.mark.parametrize("trained", [(True, True), (True, False), (False, True)], ids=str)
def test_gradients_on_a_cpu_are_the_reference_s(shape: tuple[int, ...], dtype: torch.dtype,
                                                trained: tuple[bool, bool]) -> None:
    x, delta = torch.randn(2, *shape).to(dtype)
    weight_E, grad_y, grad_total = torch.rand(shape[-1]).to(dtype), torch.randn(shape).to(dtype), torch.randn(shape)
    gradients = []
    for norm in (rms_norm.add_rms_norm, rms_norm.add_reference):
        inputs = [value.clone().requires_grad_(of) for value, of in zip((x, weight_E), trained, strict=True)]
        y, total = norm(inputs[0], delta, inputs[1], EPS)
        ((y * grad_y).sum() + (total * grad_total).sum()).backward()
        gradients.append([value.grad for value in inputs])
    for found, expected, of in zip(*gradients, trained, strict=True):
        assert (found is not None) == (expected is not None) == of
        if of:
            torch.testing.assert_close(found, expected)
