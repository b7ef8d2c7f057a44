"""Guidance on hidden states against guidance on logits, and what it costs."""

import re

import pytest
import torch
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Blocks,
    Cache,
    Categorical,
    ClassifierFree,
    Decoder,
    Delayed,
    Dual,
    Greedy,
    GridBlocks,
    Linear,
    Prefix,
    RandomOrder,
    Recompute,
    Request,
    Sampler,
    TopProbability,
    Vicinity,
    Whole,
    Windows,
)
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, DecodableTransformer

from tests.conftest import MASK_ID, ragged_requests, random_transformer
from tests.decoders.naive import NaiveTransformer
from tests.decoders.recording import run


def model_of(pattern: AttentionPattern, seed: int, shift: int = 0) -> DecodableTransformer:
    return DecodableTransformer(random_transformer(pattern, seed), MASK_ID, shift)


def naive_log_probs(naive: NaiveTransformer, tokens: list[int], given: list[bool], scale: float) -> torch.Tensor:
    """Guidance as published: l = l_without + (scale + 1)(l_with - l_without) on logits, without: all given tokens are
    masked."""
    everywhere = list(range(len(tokens)))
    without = [MASK_ID if is_given else token for token, is_given in zip(tokens, given, strict=True)]
    with_LV, without_LV = naive.logits(tokens, everywhere), naive.logits(without, everywhere)
    logits_LV = without_LV + (scale + 1) * (with_LV - without_LV)
    logits_LV[:, MASK_ID] = -torch.inf
    return logits_LV.log_softmax(-1)


@pytest.mark.parametrize(("windows", "pattern", "shift"), [
    (Whole(), Bidirectional(), 0), (Blocks(4), Bidirectional(), 0), (Blocks(4), Bidirectional(), 1),
    (GridBlocks(4), BlockCausal(4), 0)], ids=str)
@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_guidance_on_hidden_states_is_guidance_on_logits(windows: Windows, pattern: AttentionPattern, shift: int,
                                                         scale: float) -> None:
    """At every step of ragged batches with blanks among given tokens."""
    for seed in range(2):
        model, requests = model_of(pattern, seed, shift), ragged_requests(4, seed, block=4)
        naive = NaiveTransformer(model)
        decoder = Decoder(windows, Linear(3), Greedy(), TopProbability(), Recompute(), guidance=ClassifierFree(scale))
        held = {row: list(request.tokens) for row, request in enumerate(requests)}
        for taken in run(decoder, model, requests).steps:
            for place, row in enumerate(taken.rows):
                position_Q = taken.window.query_BQ[place]
                masked_Q = torch.tensor([q < len(held[row]) and held[row][q] == MASK_ID for q in position_Q.tolist()])
                query_Q = position_Q[masked_Q]
                given = [token != MASK_ID for token in requests[row].tokens]
                best_Q = naive_log_probs(naive, held[row], given, scale)[query_Q].max(-1)
                assert torch.equal(taken.proposal.token_BQ[place][masked_Q], best_Q.indices)
                torch.testing.assert_close(taken.proposal.log_prob_BQ[place][masked_Q].double(), best_Q.values,
                                           rtol=1e-4, atol=1e-4)
                held[row] = taken.tokens_BS[place, : len(held[row])].tolist()


@pytest.mark.parametrize("sampler", [Greedy(), Categorical(0.8)], ids=str)
def test_a_guided_row_decodes_the_same_alone_and_in_a_batch(sampler: Sampler) -> None:
    model, requests = model_of(Bidirectional(), 0), ragged_requests(5, seed=3, block=4)
    decoder = Decoder(Blocks(4), Linear(2), sampler, RandomOrder(), Recompute(), guidance=ClassifierFree(0.7))
    together = decoder.decode(model, requests)
    assert together == [decoder.decode(model, [request])[0] for request in requests]


def test_a_guided_forward_takes_twice_the_rows_and_is_counted_apart() -> None:
    model, requests = model_of(Bidirectional(), 0), [Request.completing([1, 2], 6, mask_id=MASK_ID)] * 3
    plain = Decoder(Whole(), Linear(3), Greedy(), TopProbability(), Recompute())
    guided = Decoder(Whole(), Linear(3), Greedy(), TopProbability(), Recompute(), guidance=ClassifierFree(1.0))
    without, with_ = run(plain, model, requests), run(guided, model, requests)
    assert without.accounting.forwards == {"denoise": 3}
    assert with_.accounting.forwards == {"guided": 3}
    assert [plan.feed_BF.shape for plan in with_.plans] == [(6, 8)] * 3
    single, double = without.accounting.to_json(model), with_.accounting.to_json(model)
    for name in ("positions_computed", "keys_seen"):
        assert double[name] == 2 * single[name]
    assert double["row_steps"] == single["row_steps"] == 9
    assert double["tokens_useful"] == single["tokens_useful"] == 18


def test_with_nothing_given_guidance_changes_nothing() -> None:
    model, requests = model_of(Bidirectional(), 1), [Request([MASK_ID] * 8)]
    plain = Decoder(Whole(), Linear(4), Greedy(), TopProbability(), Recompute())
    guided = Decoder(Whole(), Linear(4), Greedy(), TopProbability(), Recompute(), guidance=ClassifierFree(3.0))
    assert guided.decode(model, requests) == plain.decode(model, requests)


@pytest.mark.parametrize(("windows", "cache"), [
    (Blocks(1), Append()), (GridBlocks(4), BlockCausalCache()), (GridBlocks(4), BlockCausalCacheApart()),
    (Blocks(4), Prefix()), (Blocks(4), Dual()), (Blocks(4), Vicinity()), (Blocks(4), Delayed())], ids=str)
def test_a_store_is_refused(windows: Windows, cache: Cache) -> None:
    with pytest.raises(ValueError, match="a store holds keys and values of one canvas, guidance runs two"):
        Decoder(windows, Linear(1), Greedy(), TopProbability(), cache, guidance=ClassifierFree(1.0))


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), 1e31])
def test_a_bad_scale_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"scale={scale}")):
        ClassifierFree(scale)
