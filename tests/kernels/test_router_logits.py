"""The router's product against float64: in float32 whatever comes in, for few rows and for many."""

import pytest
import torch
from quicksilver.kernels.router_logits import reference, router_logits

from .comparison import DTYPES, PRODUCT, check, run


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("num_rows", "width", "num_experts"), [(0, 8, 3), (1, 8, 1), (16, 64, 16), (17, 70, 33)])
def test_it_equals_the_reference(num_rows: int, width: int, num_experts: int, dtype: torch.dtype) -> None:
    inputs = torch.randn(num_rows, width).to(dtype), torch.randn(num_experts, width)
    (found,), _ = run(router_logits, *inputs)
    assert found.dtype == torch.float32
    # Whatever the positions' dtype, the product is as exact as one of float32.
    check(router_logits, reference, inputs, dict.fromkeys(DTYPES, PRODUCT[torch.float32]))


def test_many_rows_are_multiplied_by_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quicksilver.kernels.router_logits.launch", None)
    x_TE, router_XE = torch.randn(65, 8).bfloat16(), torch.randn(4, 8)
    (found,), _ = run(router_logits, x_TE, router_XE)
    assert torch.equal(found.cpu(), x_TE.float() @ router_XE.T)


def test_float64_stays() -> None:
    x_TE, router_XE = torch.randn(2, 8, dtype=torch.float64), torch.randn(4, 8)
    (found,), _ = run(router_logits, x_TE, router_XE)
    assert torch.equal(found.cpu(), x_TE @ router_XE.double().T)


def test_weights_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match="router_XE"):
        router_logits(torch.randn(2, 8), torch.randn(3, 7))
