"""A comparison of speed says what was timed and whether the tokens were the same; counts are those of our decode."""

import time
from dataclasses import replace

import pytest
import torch
from quicksilver.decoders import Blocks, Decoder, Dual, Greedy, Linear, Recompute, Request, TopProbability
from quicksilver.experiments.peers import speed
from quicksilver.experiments.peers.agreement import Turns
from quicksilver.experiments.peers.speed import (
    OtherEngine,
    Setting,
    Stopwatch,
    accounted,
    compare_speed,
    in_bfloat16,
    measured_speed,
    outside,
)
from quicksilver.models import Plan, Shape
from torch import Tensor

SETTING = Setting(Shape(width=16, num_layers=2, num_heads=2, num_kv_heads=2, ffn_width=16, position_table=False), 13,
                  prompt_length=3, num_new=8, block=4, steps=4, rounds=1)
DECODER = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Recompute())
REQUEST = Request.completing(SETTING.prompt(), SETTING.num_new, mask_id=12)


def test_the_default_setting_is_the_stated_one() -> None:
    setting = Setting()
    assert setting.steps_per_block == 8
    assert (setting.shape.head_width, setting.prompt_length + setting.num_new) == (64, 256)
    per_layer = 4 * 384**2 + 3 * 384 * 1024 + 2 * 384
    assert 2 * 8192 * 384 + 8 * per_layer + 384 == pytest.approx(20e6, rel=0.03)


def test_a_race_holds_where_tokens_are_the_same_or_weights_are_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "interleaved", lambda ours, theirs, rounds: Turns([0.5], [1.0]))
    monkeypatch.setattr(speed, "timed_engines", lambda engines, theirs, rounds: (", ".join(engines), {"engines": 3}))
    model = SETTING.model()
    tokens = DECODER.decode(model, [REQUEST])[0].tokens
    with_itself = compare_speed("peer", SETTING, DECODER, model,
                                lambda _: OtherEngine("peer", lambda: tokens, 44, 33), 1.25)
    assert (with_itself.peer, with_itself.of["dtype"]) == ("peer", "float32")
    timing = with_itself.measure()
    first, why, engines = timing.text.splitlines()
    assert timing.holds
    assert first == ("peer, float32, 8 tokens after 3, blocks of 4, 4 steps: ours 16.0 tokens/s, theirs 8.0, "
                     "ratio 2.00 (aim: 1.25); tokens identical")
    assert "positions computed: ours 44, theirs 44; with logits: ours 12, theirs 33; " in why
    assert engines == ", ".join(f"products by F.linear, steps {how}" for how in ("taken", "replayed", "compiled"))
    assert timing.figures["engines"] == {"engines": 3}
    assert timing.figures.items() >= {
        "ours_seconds": [0.5], "theirs_seconds": [1.0], "ratio": 2.0, "ours_tokens_per_second": 16.0,
        "theirs_tokens_per_second": 8.0, "tokens_same": True, "theirs_positions_queried": 33}.items()
    other = OtherEngine("peer", lambda: [0] * 11, 44, 33)
    timing = measured_speed(SETTING, DECODER, model, lambda _: other, target=None)
    assert not timing.holds
    assert timing.text.splitlines()[0].endswith("ratio 2.00; tokens differ")
    timing = measured_speed(SETTING, DECODER, in_bfloat16(model), lambda _: other, target=None)
    assert timing.holds
    assert "peer, bfloat16, " in timing.text


def test_bfloat16_rounds_every_weight_and_no_table() -> None:
    model = SETTING.model()
    rounded = in_bfloat16(model).transformer
    assert {parameter.dtype for parameter in rounded.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.transformer.parameters()} == {torch.float32}
    assert rounded.cos_LD.dtype == torch.float32
    assert torch.equal(rounded.head.weight, model.transformer.head.weight.bfloat16())


def test_positions_are_counted_as_the_cache_feeds_them() -> None:
    model = SETTING.model()
    assert accounted(DECODER, model, REQUEST)["positions_computed"] == 4 * 11
    # a block begins with all 11 positions, then feeds its own 4
    assert accounted(replace(DECODER, cache=Dual()), model, REQUEST)["positions_computed"] == 2 * (11 + 4)
    # all four of a block are asked about at its first step, the two that are left at its second
    assert accounted(replace(DECODER, cache=Dual()), model, REQUEST)["positions_queried"] == 2 * (4 + 2)


def test_what_is_outside_is_neither_forward_nor_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SETTING.model()
    assert 0 < outside(DECODER, model, REQUEST, repeats=1)[0] < 1
    hidden = Stopwatch.hidden

    def slow(self: Stopwatch, tokens_BS: Tensor, plan: Plan, store: None) -> Tensor:
        time.sleep(0.02)
        return hidden(self, tokens_BS, plan, store)

    monkeypatch.setattr(Stopwatch, "hidden", slow)
    share, step_ms = outside(DECODER, model, REQUEST, repeats=1)
    assert share > 0.5
    assert step_ms > 20
