"""Exact caches against recomputation, step by step; what they feed and what they save."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Blocks,
    Decoder,
    Even,
    Floor,
    Free,
    Greedy,
    GridBlocks,
    Leftmost,
    Linear,
    Policy,
    Recompute,
    Remdm,
    Request,
    Rescaled,
    Schedule,
    Threshold,
    TokenEditing,
    TopProbability,
    Unbounded,
    Windows,
)
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import AttentionPattern, BlockCausal, Causal, DecodableTransformer, ExpertShape

from tests.conftest import MASK_ID, ragged_requests, random_transformer
from tests.decoders.recording import Run, exists, run

END_ID = 5
# Hidden states have a root mean square of 1; 3e-6 was seen, of sums in another order.
ROUNDING = 1e-5
BLOCK_CAUSAL = (BlockCausalCache(), BlockCausalCacheApart())
SEEDS = pytest.mark.parametrize("seeds", [range(2), pytest.param(range(2, 12), marks=pytest.mark.slow)], ids=str)
EXPERTS = ExpertShape(8, 16, Routing(top_k=2), shared_width=16, num_dense_layers=1)
EDITING = TokenEditing(0.4, 0.5, 3)
BLOCK_DECODERS: list[tuple[Windows, Schedule, Policy, ExpertShape | None]] = [
    *((GridBlocks(4, num_revised), schedule, policy, experts) for num_revised in (0, 1, 2) for schedule, policy, experts
      in ((Linear(3), TopProbability(), None), (Floor(Even(2)), Threshold(0.8), None), (Unbounded(), EDITING, None),
          (Unbounded(), EDITING, EXPERTS))),
    (GridBlocks(4), Free(Linear(4)), Remdm(Rescaled(0.5)), None)]


def model_of(pattern: AttentionPattern, seed: int, experts: ExpertShape | None = None,
             shift: int | None = None) -> DecodableTransformer:
    return DecodableTransformer(random_transformer(pattern, seed, experts=experts), MASK_ID,
                                shift=int(pattern == Causal()) if shift is None else shift)


def grid_requests(seed: int, shift: int = 0) -> list[Request]:
    """Rows that end on a grid of 4, whose prompts end anywhere from `shift` on, one of them with a token given in its
    completion."""
    rng, requests = np.random.default_rng(seed), []
    for row in range(5):
        start = int(rng.integers(shift, 11))
        stop = 4 * int(rng.integers(start // 4 + 1, 7))
        tokens = rng.integers(0, MASK_ID, size=stop)
        tokens[start + (stop - start > 3 and row == 0) :] = MASK_ID
        requests.append(Request(tokens.tolist(), start, seed=10 * seed + row))
    return requests


def assert_same(run_: Run, exact: Run, requests: Sequence[Request]) -> None:
    """The same canvas after every step, and the same hidden states at every position queried, to rounding."""
    assert run_.completions == exact.completions
    assert [(taken.index, taken.rows) for taken in run_.steps] == [(taken.index, taken.rows) for taken in exact.steps]
    assert all(torch.equal(*asked) for asked in zip(run_.asked, exact.asked, strict=True))
    for taken, expected, asked_BQ, hidden_BQE, expected_BQE in zip(
            run_.steps, exact.steps, run_.asked, run_.answers, exact.answers, strict=True):
        real_BQ = exists(taken, requests, asked_BQ)
        torch.testing.assert_close(hidden_BQE[real_BQ], expected_BQE[real_BQ], rtol=0, atol=ROUNDING)
        assert torch.equal(taken.tokens_BS, expected.tokens_BS)


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["dense", "experts"])
@SEEDS
def test_append_is_recomputation(seeds: range, experts: ExpertShape | None) -> None:
    for seed in seeds:
        model, requests, end_id = model_of(Causal(), seed, experts), ragged_requests(5, seed), (None, END_ID)[seed % 2]
        decoder = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Append(), end_id)
        found, exact = (run(replace(decoder, cache=cache), model, requests) for cache in (Append(), Recompute()))
        assert_same(found, exact, requests)
        assert found.accounting.forwards == exact.accounting.forwards == {"denoise": len(found.steps)}
        assert all(plan.feed_BF.shape[1] == 1 for plan in found.plans[1:])


@pytest.mark.parametrize(("windows", "schedule", "policy", "experts"), BLOCK_DECODERS, ids=[
    f"{windows}-{type(policy).__name__}-{'experts' if experts else 'dense'}"
    for windows, _, policy, experts in BLOCK_DECODERS])
@pytest.mark.parametrize("shift", [0, 1], ids=["", "shifted"])
@SEEDS
def test_block_causal_caches_are_recomputation(seeds: range, shift: int, windows: Windows, schedule: Schedule,
                                               policy: Policy, experts: ExpertShape | None) -> None:
    num_dropped = num_edits = 0
    for seed in seeds:
        model, requests = model_of(BlockCausal(4), seed, experts, shift), grid_requests(seed, shift)
        decoder = Decoder(windows, schedule, Greedy(), policy, Recompute(), (None, END_ID)[seed % 2])
        exact = run(decoder, model, requests)
        fused, apart = (run(replace(decoder, cache=cache), model, requests) for cache in BLOCK_CAUSAL)
        for found in (fused, apart):
            assert_same(found, exact, requests)
            assert found.accounting.forwards["denoise"] == len(exact.steps)
        # A forward of its own for each window with something before it that no earlier window has passed.
        entered = [taken.window for taken in exact.steps if taken.index == 0]
        assert fused.accounting.forwards["store"] == 0
        assert apart.accounting.forwards["store"] == sum(window.before_BP is not None for window in entered)
        num_dropped += sum(len(taken.rows) < len(requests) for taken in exact.steps)
        num_edits += sum(int(taken.edit.commit_BQ[:, :-4].sum()) for taken in exact.steps)
    assert num_dropped, "rows leave the batch"
    assert bool(num_edits) == (policy.revises and windows.num_revised > 0), "finished blocks are edited, and only then"


def positions_and_keys(decoder: Decoder, model: DecodableTransformer, request: Request) -> tuple[int, int, int]:
    found = run(decoder, model, [request])
    counts = found.accounting.to_json(model)
    assert counts["forwards"] == found.accounting.forwards
    return len(found.plans), counts["positions_computed"], counts["keys_seen"]


def test_the_fused_store_saves_a_forward_a_block_and_no_position() -> None:
    """A prompt of two blocks of 4, then three blocks in 4 steps each, counted by hand."""
    model, request = model_of(BlockCausal(4), 0), Request.completing([1] * 8, 12, mask_id=MASK_ID)
    decoder = Decoder(GridBlocks(4), Linear(4), Greedy(), TopProbability(), Recompute())
    assert positions_and_keys(decoder, model, request) == (12, 12 * 20, 12 * 20 * 20)
    fed, seen = 12 + 8 + 8 + 9 * 4, 12 * 12 + 8 * 16 + 8 * 20 + 3 * 4 * (12 + 16 + 20)
    assert positions_and_keys(replace(decoder, cache=BlockCausalCache()), model, request) == (12, fed, seen)
    seen = 8 * 8 + 4 * 12 + 4 * 16 + 4 * 4 * (12 + 16 + 20)
    assert positions_and_keys(replace(decoder, cache=BlockCausalCacheApart()), model, request) == (12 + 3, fed, seen)


def test_a_shifted_model_is_fed_the_position_that_predicts_a_block() -> None:
    """With every step of a block but its first, which feeds the finished block whole, or none before it."""
    model = model_of(BlockCausal(4), 0, shift=1)
    decoder = Decoder(GridBlocks(4), Linear(2), Greedy(), TopProbability(), BlockCausalCache())
    found = run(decoder, model, [Request.completing([1] * 4, 8, mask_id=MASK_ID)])
    assert [plan.feed_BF.tolist()[0] for plan in found.plans] == [
        [0, 1, 2, 3, 4, 5, 6, 7], [3, 4, 5, 6, 7], [4, 5, 6, 7, 8, 9, 10, 11], [7, 8, 9, 10, 11]]
    apart = run(replace(decoder, cache=BlockCausalCacheApart()), model, [Request.completing([1], 3, mask_id=MASK_ID)])
    assert [plan.feed_BF.tolist()[0] for plan in apart.plans] == [[0, 1, 2, 3]] * 2


def test_without_a_prompt_there_is_nothing_to_store_before_the_first_block() -> None:
    model, request = model_of(BlockCausal(4), 0), Request([MASK_ID] * 8)
    decoder = Decoder(GridBlocks(4), Linear(2), Greedy(), TopProbability(), BlockCausalCacheApart())
    assert positions_and_keys(decoder, model, request) == (4 + 1, 4 * 4 + 4, 2 * 16 + 16 + 2 * 32)


def test_append_feeds_each_position_once() -> None:
    model, request = model_of(Causal(), 0), Request.completing([1] * 8, 12, mask_id=MASK_ID)
    decoder = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Append())
    found = run(decoder, model, [request])
    assert [plan.feed_BF.tolist() for plan in found.plans] == [[list(range(8))], *([[p]] for p in range(8, 19))]
    assert positions_and_keys(decoder, model, request) == (12, 19, 8 * 8 + sum(range(9, 20)))


def test_what_is_stored_of_a_block_is_that_of_its_last_tokens() -> None:
    """A block that later edits change is stored anew: the store holds what a forward of the final tokens writes."""
    model, requests = model_of(BlockCausal(4), 0), [Request.completing([1, 2, 3], 21, mask_id=MASK_ID)]
    decoder = Decoder(GridBlocks(4, 1), Unbounded(), Greedy(), TokenEditing(0.3, 0.4, 4), BlockCausalCache())
    decoding = decoder.begin(model, requests)
    for _ in decoder.stream(decoding):
        pass
    assert decoding.store is not None
    again = model.new_store(1, 24)
    passed = torch.arange(16)[None]
    with torch.inference_mode():
        model.hidden(decoding.full.tokens_BS, replace(run(decoder, model, requests).plans[0], feed_BF=passed,
                                                       reads_BQ=passed, context=16, no_mask=False), again)
    for mine, theirs in ((decoding.store.keys_NBLKD, again.keys_NBLKD),
                         (decoding.store.values_NBLKD, again.values_NBLKD)):
        torch.testing.assert_close(mine[:, :, :16], theirs[:, :, :16], rtol=0, atol=ROUNDING)


