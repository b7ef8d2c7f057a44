"""Attention on a CPU against float64: each algorithm, and which of them runs."""

import pytest
import torch
from quicksilver.kernels.attention import attention, reference
from quicksilver.kernels.attention_cpu import Algorithm, attention_on_cpu
from quicksilver.kernels.dispatch import Implementation, recording
from quicksilver.kernels.key_ranges import KEY_TILE, KeyRanges

from .comparison import PRODUCT, rel_rms, widened
from .test_attention import inputs, seen

CAUSAL = torch.arange(3, 9)[None] + 1


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("stop_BF", [None, CAUSAL, torch.tensor([[0, 5, 9, 1, 2, 3], [4, 4, 4, 0, 0, 0]])], ids=str)
def test_it_equals_the_reference(stop_BF: torch.Tensor | None, kv_heads: int) -> None:
    arguments = seen(inputs(2, 6, 4, kv_heads, 16, 9), None, stop_BF)
    assert rel_rms(attention_on_cpu(*arguments), reference(*widened(arguments))) <= PRODUCT[torch.float32]


def test_lists_of_tiles_are_those_of_each_head() -> None:
    tiles_BKN = torch.tensor([[[0], [1]]], dtype=torch.int32)
    arguments = seen(inputs(1, 2, 4, 2, 16, 2 * KEY_TILE), None, None, tiles_BKN, torch.ones(1, 2, dtype=torch.int32))
    assert rel_rms(attention_on_cpu(*arguments), reference(*widened(arguments))) <= PRODUCT[torch.float32]


@pytest.mark.parametrize(("kv_heads", "autocast", "expected"), [
    (4, False, Algorithm.FUSED), (2, False, Algorithm.FUSED), (4, True, Algorithm.SCORES), (2, True, Algorithm.FUSED)])
def test_the_record_names_the_algorithm(kv_heads: int, autocast: bool, expected: Algorithm) -> None:
    q_BFHD, k_BCKD, v_BCKD = inputs(2, 6, 4, kv_heads, 16, 9)
    exact = attention(q_BFHD, k_BCKD, v_BCKD, KeyRanges(9, None, CAUSAL))
    with recording() as ran, torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = attention(q_BFHD, k_BCKD, v_BCKD.bfloat16() if autocast else v_BCKD, KeyRanges(9, None, CAUSAL))
    assert ran == {("attention", Implementation.CPU), ("attention", expected)}
    assert rel_rms(found, exact) < 0.02
