"""SwiGLU against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.swiglu import reference, swiglu

from .comparison import DTYPES, POINTWISE, check, run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(0, 8), (2, 0), (1, 2), (2,), (1, 2046), (3, 2048), (1, 2050), (2, 3, 74)], ids=str)
def test_it_equals_the_reference(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(swiglu, reference, (torch.randn(shape).to(dtype),), POINTWISE)


def test_far_from_zero_the_gate_is_the_identity_or_nothing() -> None:
    outputs, _ = run(swiglu, torch.tensor([[-200.0, 200.0, -88.5, 0.0, 3.0, 2.0, 1.0, 5.0]]))
    assert outputs[0][0, 1] == 400
    assert outputs[0].abs()[0, [0, 2, 3]].max() < 1e-35


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 300), st.sampled_from(DTYPES))
def test_any_shape(rows: int, width: int, dtype: torch.dtype) -> None:
    check(swiglu, reference, (torch.randn(rows, 2 * width).to(dtype),), POINTWISE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(6,), (3, 10), (2, 3, 74), (0, 8)], ids=str)
def test_gradients_on_a_cpu_are_the_references_to_the_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    of_cpu, of_reference = (torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
                            for _ in range(2))
    y, expected = swiglu(of_cpu), reference(of_reference)
    grad_y = torch.randn_like(y)
    y.backward(grad_y)
    expected.backward(grad_y)
    assert of_cpu.grad is not None
    assert of_reference.grad is not None
    assert torch.equal(y, expected)
    assert torch.equal(of_cpu.grad, of_reference.grad)
