"""The tokens a block's step must commit, by hand arithmetic at both ends, and where it loses."""

from dataclasses import replace

import pytest
from quicksilver.experiments.harness.roofline import Card
from quicksilver.experiments.step_bench.break_even import (
    break_even_tokens,
    losing_batch,
    predicted_seconds,
    section,
)
from quicksilver.experiments.step_bench.point import ModelShape, StepPoint
from quicksilver.models import SeparateHead, Shape

MODEL = ModelShape(20, Shape(width=16, num_layers=2, num_heads=2, num_kv_heads=2, ffn_width=8))
BLOCK = StepPoint("model", MODEL, 32, 8, "separate", SeparateHead(), "cpu", "float32", 64)
MEMORY = Card("slow memory", 1.0, {"float32": 1e30})
PRODUCTS = Card("slow products", 1e30, {"float32": 1.0})


def test_what_waits_for_weights_alone_needs_one_token_and_what_multiplies_one_a_position() -> None:
    assert break_even_tokens(BLOCK, 1, MEMORY) == 1
    config, one = BLOCK.config, replace(BLOCK, block=None)
    by_hand = config.forward_flops(3 * 8, 3 * 8 * 40, 3 * 8) / config.forward_flops(3, 3 * 33, 3)
    assert break_even_tokens(BLOCK, 3, PRODUCTS) == pytest.approx(by_hand)
    assert 8 < by_hand < 9  # a position of the block sees seven keys more
    assert predicted_seconds(one, 3, PRODUCTS) == pytest.approx(config.forward_flops(3, 3 * 33, 3))
    assert predicted_seconds(one, 1, MEMORY) == pytest.approx(config.forward_bytes(1, 32, 1))


def test_what_a_layer_takes_besides_is_added_to_both() -> None:
    slow = replace(PRODUCTS, seconds_per_layer=1e12)
    assert predicted_seconds(BLOCK, 1, slow) == pytest.approx(2e12 + predicted_seconds(BLOCK, 1, PRODUCTS))
    assert break_even_tokens(BLOCK, 1, slow) == pytest.approx(1, abs=1e-3)


def test_the_losing_batch_is_the_first_at_which_too_few_tokens_come() -> None:
    assert losing_batch(BLOCK, 7.9, PRODUCTS) == 1
    assert losing_batch(BLOCK, 9, PRODUCTS) is None
    card = Card("between", 1e9, {"float32": 1.5e9})
    between = losing_batch(BLOCK, 2, card)
    assert between is not None
    assert break_even_tokens(BLOCK, between, card) > 2 >= break_even_tokens(BLOCK, between // 2, card)


def test_a_section_has_a_row_for_every_block_of_several_positions() -> None:
    points = [BLOCK, replace(BLOCK, head_name="fused"), replace(BLOCK, block=None), replace(BLOCK, block=1),
              replace(BLOCK, block=4)]
    lines = list(section(points, replace(PRODUCTS, seconds_per_layer=1e-3)))
    assert lines[0] == "## Break-even, predicted for slow products"
    assert "1000 us a layer" in " ".join(lines)
    rows = [line.split(" | ") for line in lines if line.startswith("| model |")][1:]
    assert [row[2] for row in rows] == ["4", "8"]
    assert rows[1][3] == f"{break_even_tokens(BLOCK, 1, replace(PRODUCTS, seconds_per_layer=1e-3)):.2f}"
    assert rows[1][-1].startswith("batch ")


def test_a_dtype_whose_rate_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="dtype='bfloat16' with card='slow memory': must be one of float32"):
        predicted_seconds(replace(BLOCK, dtype="bfloat16"), 1, MEMORY)
