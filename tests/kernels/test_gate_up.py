"""Gate, up and SwiGLU in one launch against float64, in every tile and at sizes that fill none."""

import pytest
import torch
from quicksilver.kernels.gate_up import GateUpCase, gate_up_swiglu, reference

from .comparison import DTYPES, PRODUCT, check


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width", "ffn_width"), [(1, 8, 1), (16, 64, 32), (17, 70, 33), (33, 40, 70),
                                                          (65, 64, 24)])
def test_it_equals_the_reference(rows: int, width: int, ffn_width: int, dtype: torch.dtype) -> None:
    case = GateUpCase(rows, width, ffn_width)
    check(gate_up_swiglu, reference, case.inputs(dtype, torch.device("cpu")), PRODUCT)


def test_no_rows_give_none() -> None:
    check(gate_up_swiglu, reference, (torch.randn(0, 8), torch.randn(6, 8)), PRODUCT)


@pytest.mark.parametrize("size", [(6, 7), (5, 8)])
def test_weights_of_another_size_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="gate_up_GE"):
        gate_up_swiglu(torch.randn(2, 8), torch.randn(size))
