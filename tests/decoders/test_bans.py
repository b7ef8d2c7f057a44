"""Banned tokens and a least length: what binds changes only what it must, taken and captured, with either head."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.decoders import CapturedSteps, Decoder, Generation, Request, generate, presets
from quicksilver.decoders.bans import ban_levels, bans_at
from quicksilver.decoders.canvas import Canvas
from quicksilver.models import BlockCausal, Causal, DecodableTransformer, FusedHead

from tests.conftest import MASK_ID, VOCAB_SIZE, TableModel, random_model

CAUSAL, BLOCKS = random_model(Causal(), seed=2), random_model(BlockCausal(4), seed=2)
AUTOREGRESSIVE, BY_BLOCKS = presets.autoregressive(), presets.sdar_static(block=4, steps=2)
PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 1]]
BOTH = pytest.mark.parametrize(("model", "decoder"), [(CAUSAL, AUTOREGRESSIVE), (BLOCKS, BY_BLOCKS)],
                               ids=["autoregressive", "blocks"])


def with_fused_head(model: DecodableTransformer) -> DecodableTransformer:
    return replace(model, head=FusedHead())


def tokens_of(found: Generation) -> list[list[int]]:
    return [completion.completion for completion in found.completions]


def test_levels_are_one_vector_and_positions_admit_them() -> None:
    spec = TableModel(Causal()).spec
    assert ban_levels(spec, (), ()) is None
    level_V = ban_levels(spec, [3, 5], [5, 7])
    assert level_V is not None
    assert level_V.tolist() == [2 if token in (3, 5) else int(token == 7) for token in range(VOCAB_SIZE)]
    canvas = Canvas.of([Request([1, *[MASK_ID] * 4], start=1, min_new=2)], TableModel(Causal()))
    assert bans_at(level_V, canvas, torch.tensor([[1, 2, 3, 4]])).admitted_BQ.tolist() == [[0, 0, 1, 1]]


@BOTH
def test_banned_tokens_are_never_decoded_and_those_that_would_not_be_change_nothing(
        model: DecodableTransformer, decoder: Decoder) -> None:
    free = generate(model, decoder, PROMPTS, num_new=12)
    used = {token for row in tokens_of(free) for token in row}
    unused = set(range(VOCAB_SIZE)) - used - {MASK_ID}
    assert unused
    same = generate(model, decoder, PROMPTS, num_new=12, banned_ids=unused)
    assert tokens_of(same) == tokens_of(free)
    assert same.accounting == free.accounting
    banned = sorted(used)[: len(used) // 2]
    bound = generate(model, decoder, PROMPTS, num_new=12, banned_ids=banned)
    assert not {token for row in tokens_of(bound) for token in row}.intersection(banned)
    fused = generate(with_fused_head(model), decoder, PROMPTS, num_new=12, banned_ids=banned)
    assert tokens_of(fused) == tokens_of(bound)


@BOTH
def test_captured_steps_decode_the_same_with_every_call_its_own_bans(
        model: DecodableTransformer, decoder: Decoder) -> None:
    decoder = replace(decoder, end_id=tokens_of(generate(model, decoder, PROMPTS, num_new=12))[0][2])
    runner = CapturedSteps(decoder)
    calls: list[dict[str, Any]] = [{}, {"banned_ids": [3, 5]}, {"banned_ids": [8]}, {"min_new": 7},
                                   {"min_new": 12, "banned_ids": [5]}, {}, {"banned_ids": [3, 5]}]
    found = [tokens_of(generate(model, decoder, PROMPTS, num_new=12, runner=runner, **call)) for call in calls]
    assert found == [tokens_of(generate(model, decoder, PROMPTS, num_new=12, **call)) for call in calls]
    assert len({str(rows) for rows in found}) > 3
    assert runner.replays.replayed > 0


@BOTH
def test_no_end_token_stands_among_the_first_tokens(model: DecodableTransformer, decoder: Decoder) -> None:
    free = tokens_of(generate(model, decoder, PROMPTS, num_new=12))
    ends = [free[0][1], free[1][4]]
    decoder = replace(decoder, end_id=ends)
    stopped = tokens_of(generate(model, decoder, PROMPTS, num_new=12))
    assert min(map(len, stopped)) <= 2
    for min_new in (0, 1, 5, 8):
        rows = tokens_of(generate(model, decoder, PROMPTS, num_new=12, min_new=min_new))
        for row in rows:
            assert not set(row[:min_new]).intersection(ends)
            assert len(row) == 12 or row[-1] in ends
    suppressed = generate(model, decoder, PROMPTS, num_new=12, min_new=12)
    assert [len(row) for row in tokens_of(suppressed)] == [12, 12]
    by_ban = generate(model, replace(decoder, end_id=None), PROMPTS, num_new=12, banned_ids=ends)
    assert tokens_of(suppressed) == tokens_of(by_ban)


@settings(deadline=None, max_examples=25)
@given(min_new=st.integers(0, 10), end=st.integers(0, VOCAB_SIZE - 2), seed=st.integers(0, 3))
def test_a_least_length_that_does_not_bind_changes_nothing(min_new: int, end: int, seed: int) -> None:
    model, decoder = TableModel(Causal(), seed=seed), replace(AUTOREGRESSIVE, end_id=end)
    (free,) = tokens_of(generate(model, decoder, [[1]], num_new=10))
    (bound,) = tokens_of(generate(model, decoder, [[1]], num_new=10, min_new=min_new))
    if min_new <= free.index(end) if end in free else True:
        assert bound == free
    else:
        assert bound[: free.index(end)] == free[:-1]
        assert end not in bound[:min_new]


def test_requests_carry_their_own_least_length() -> None:
    model = TableModel(Causal(), seed=1)
    (row,) = tokens_of(generate(model, AUTOREGRESSIVE, [[1]], num_new=8))
    decoder = replace(AUTOREGRESSIVE, end_id=row[0])
    requests = [Request.completing([1], 8, mask_id=MASK_ID, min_new=min_new) for min_new in (0, 4)]
    first, second = tokens_of(generate(model, decoder, requests, min_new=8))
    assert first == row[:1]
    assert len(second) > 4
    assert row[0] not in second[:4]


class Numbered:
    """As many tokens as it says, each its number."""

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


class OfTransformers(Numbered):
    """Tells its vocabulary instead, in which ids may be missing."""

    def __init__(self, num_tokens: int) -> None:
        self._largest = num_tokens - 1

    def get_vocab(self) -> dict[str, int]:
        return {"a": 0, "b": self._largest}


@pytest.mark.parametrize("kind", [Numbered, OfTransformers])
def test_ids_past_the_tokenizer_are_banned_unless_they_end_a_row(kind: type[Numbered]) -> None:
    model = TableModel(Causal(), seed=5)
    free = tokens_of(generate(model, AUTOREGRESSIVE, [[1], [2]], num_new=12))
    assert max(map(max, free)) >= 6
    told = generate(model, AUTOREGRESSIVE, ["1", "2"], num_new=12, tokenizer=kind(6))
    assert max(map(max, tokens_of(told))) < 6
    assert tokens_of(told) == tokens_of(generate(model, AUTOREGRESSIVE, [[1], [2]], num_new=12,
                                                 banned_ids=range(6, VOCAB_SIZE)))
    assert tokens_of(generate(model, AUTOREGRESSIVE, ["1", "2"], num_new=12, tokenizer=kind(VOCAB_SIZE))) == free
    end = next(token for token in free[0] if token >= 6)
    ended = generate(model, replace(AUTOREGRESSIVE, end_id=end), ["1"], num_new=12, tokenizer=kind(6))
    assert all(token < 6 or token == end for token in tokens_of(ended)[0])
    alone = generate(model, replace(AUTOREGRESSIVE, end_id=end), ["1"], num_new=12, tokenizer=kind(6),
                     banned_ids=range(6))
    assert tokens_of(alone) == [[end]]


@pytest.mark.parametrize(("options", "message"), [
    ({"banned_ids": [VOCAB_SIZE]}, rf"banned_ids\[0\]={VOCAB_SIZE}: must be an integer .* at most {VOCAB_SIZE - 1}"),
    ({"banned_ids": [-1]}, r"banned_ids\[0\]=-1: must be"), ({"banned_ids": 3}, "banned_ids=3: must be a list"),
    ({"min_new": -1}, "min_new=-1: must be an integer of at least 0 and at most 4"),
    ({"min_new": 5}, "min_new=5: must be"), ({"min_new": 1.5}, "min_new=1.5: must be")], ids=lambda value: str(value))
def test_what_is_no_ban_or_length_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(TableModel(Causal()), AUTOREGRESSIVE, [[1]], num_new=4, **options)


def test_all_tokens_may_not_be_banned() -> None:
    with pytest.raises(FloatingPointError, match="every token is banned"):
        generate(TableModel(Causal()), AUTOREGRESSIVE, [[1]], num_new=4, banned_ids=range(VOCAB_SIZE))
