"""Floors by hand arithmetic."""

import pytest
import torch
from quicksilver.experiments.harness.roofline import Card, floor
from quicksilver.kernels.attention import AttentionCase
from quicksilver.kernels.case import Cost
from quicksilver.kernels.lm_head_statistics import LMHeadCase
from quicksilver.models import Shape


def test_the_longer_of_memory_and_products_is_the_floor() -> None:
    memory = floor(Cost(4_300_000, 790_000), "bfloat16")
    assert (memory.microseconds, memory.bound) == (pytest.approx(1.0), "memory")
    compute = floor(Cost(4_300_000, 7_900_000_000), "float16")
    assert (compute.microseconds, compute.bound) == (pytest.approx(10.0), "compute")
    single = floor(Cost(4_300_000, 670_000_000), "float32")
    assert (single.microseconds, single.bound) == (pytest.approx(10.0), "compute")


def test_the_head_of_llada_takes_241_microseconds_to_read() -> None:
    case = LMHeadCase(rows=32, width=4096, vocab_size=126464)
    assert floor(case.cost(torch.bfloat16), "bfloat16").microseconds == pytest.approx(241, abs=1)


def test_8k_keys_and_values_of_llada_take_31_microseconds_to_read() -> None:
    case = AttentionCase(1, 32, 32, 32, 128, 8192)
    found = floor(case.cost(torch.bfloat16), "bfloat16")
    by_hand = 1e6 * (2 * 8192 * 32 * 128 * 2 + 2 * 32 * 32 * 128 * 2) / 4.3e12  # cache; queries and results
    assert (found.microseconds, found.bound) == (pytest.approx(by_hand), "memory")
    assert found.microseconds == pytest.approx(31.3, abs=0.1)


def test_a_step_takes_itself_its_layers_their_values_and_the_floor() -> None:
    shape = Shape(width=8, num_layers=3, num_heads=1, num_kv_heads=1, ffn_width=8)
    card = Card("a machine", 1e3, {"float32": 1e6}, seconds_per_step=7.0, seconds_per_layer=0.5,
                seconds_per_row_value=0.1, seconds_per_value=0.01, cache_bytes=1999)
    layers = 3 * (0.5 + 8 * (2 * 0.1 + 4 * 0.01))
    assert card.step_seconds(shape, 2, 4, Cost(2000), "float32") == pytest.approx(7.0 + layers + 2.0)
    assert card.step_seconds(shape, 2, 4, Cost(1999, 1_000_000), "float32") == pytest.approx(7.0 + layers + 1.0)
