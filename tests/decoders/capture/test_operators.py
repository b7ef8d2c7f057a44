"""A tape as Python: what it does again, and where."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.decoders.capture.test_tape import FUNCTIONS, check, recorded


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_runs_again_reads_and_writes_as_the_function_does(function: Callable[..., Tensor]) -> None:
    check(function, torch.zeros(4), torch.ones(4))


def test_the_same_memory_holds_every_result() -> None:
    x_N = torch.ones(3)
    _, (replay, result) = recorded(lambda x_N: x_N + 1, x_N)
    address = result.data_ptr()
    x_N.fill_(5)
    with torch.inference_mode():
        replay()
    assert result.tolist() == [6, 6, 6]
    assert result.data_ptr() == address


def test_a_weight_that_onednn_packed_is_taken_as_it_is() -> None:
    weight_NK, x_MK = torch.randn(64, 32), torch.randn(16, 32)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight_NK, 16)
    _, (replay, result) = recorded(lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""), x_MK)
    x_MK.mul_(3)
    with torch.inference_mode():
        replay()
    torch.testing.assert_close(result, x_MK @ weight_NK.T)
