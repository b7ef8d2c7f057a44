"""Approximate caches against loops written from their definitions, which keep every layer's keys and values by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from quicksilver.decoders import (
    Binomial,
    Blocks,
    Cache,
    Categorical,
    Decoder,
    Delayed,
    Dream,
    Dual,
    Greedy,
    GridBlocks,
    Hierarchy,
    Klass,
    Linear,
    Policy,
    Prefix,
    RandomOrder,
    Recompute,
    Request,
    Schedule,
    Threshold,
    TokenEditing,
    TopProbability,
    Unbounded,
    Vicinity,
    Whole,
    Windows,
)
from quicksilver.models import Bidirectional, BlockCausal, DecodableTransformer

from tests.conftest import MASK_ID, MAX_LENGTH, TableModel, ragged_requests, random_transformer
from tests.decoders.naive import NaiveTransformer
from tests.decoders.naive_caches import Feeds, Seen, cached, delayed, dual, prefix, vicinity
from tests.decoders.recording import Run, exists, run

# Of log-probabilities down to -30, against float64; 2e-5 was seen.
ROUNDING = 5e-5
SEEDS = pytest.mark.parametrize("seeds", [range(1), pytest.param(range(1, 8), marks=pytest.mark.slow)], ids=str)
DEFINITIONS: list[tuple[Cache, Feeds]] = [
    (Prefix(), prefix), (Dual(), dual), (Vicinity(1, 2, 3), vicinity(1, 2, 3)), (Vicinity(0, 0, 2), vicinity(0, 0, 2)),
    (Vicinity(3, 0, 100), vicinity(3, 0, 100)), (Delayed(3), delayed(3)), (Delayed(100), delayed(100))]
CACHES = [cache for cache, _ in DEFINITIONS]
SHIFTED = [(cache, feeds, shift) for cache, feeds in DEFINITIONS for shift in (0, 1)
           if not (shift and isinstance(cache, Delayed))]
RULES: list[tuple[Windows, int | None, Schedule, Policy, Callable[[list[float], int, int], int]]] = [
    (Blocks(4), 4, Linear(3), TopProbability(), lambda ps, masks, step: masks // 3 + (step < masks % 3)),
    (Blocks(4), 4, Unbounded(), Threshold(0.6), lambda ps, masks, step: max(1, sum(p >= 0.6 for p in ps))),
    (Whole(), None, Linear(5), TopProbability(), lambda ps, masks, step: masks // 5 + (step < masks % 5))]


def model_of(seed: int, shift: int = 0) -> DecodableTransformer:
    return DecodableTransformer(random_transformer(Bidirectional(), seed), MASK_ID, shift)


def seen(found: Run, requests: Sequence[Request]) -> list[list[list[Seen]]]:
    """What each row's windows saw step by step; a step is one forward."""
    rows: list[list[list[Seen]]] = [[] for _ in requests]
    held = {row: list(request.tokens) for row, request in enumerate(requests)}
    for taken, plan in zip(found.steps, found.plans, strict=True):
        real_BQ, log_prob_BQ = exists(taken, requests), taken.proposal.log_prob_BQ
        for place, row in enumerate(taken.rows):
            if taken.index == 0:
                rows[row].append([])
            fed, length = plan.feed_BF[place].tolist(), taken.tokens_BS.shape[1] - 1
            assert fed == sorted(fed), "what stands for no position follows the others"
            query = taken.window.query_BQ[place].tolist()
            known = list(zip(query, log_prob_BQ[place].tolist(), taken.edit.commit_BQ[place].tolist(),
                             real_BQ[place].tolist(), strict=True))
            rows[row][-1].append(Seen(
                [position for position in fed if position < length],
                {q: value for q, value, _, real in known if real and held[row][q] == MASK_ID},
                {q: int(taken.tokens_BS[place, q]) for q, _, commits, _ in known if commits}))
            held[row] = taken.tokens_BS[place].tolist()
    return rows


@pytest.mark.parametrize(("cache", "feeds", "shift"), SHIFTED,
                         ids=[f"{cache}-shift_{shift}" for cache, _, shift in SHIFTED])
@SEEDS
def test_a_cache_computes_and_decides_as_its_definition_says(seeds: range, cache: Cache, feeds: Feeds, shift: int
                                                             ) -> None:
    """The positions fed, the log-probabilities of all masks in the window and the tokens decided, in every step of
    every row: of a ragged batch, and of a row alone."""
    for seed in seeds:
        model = model_of(seed, shift)
        for windows, block, schedule, policy, num in RULES:
            requests = [*ragged_requests(3, seed, block or 1), Request([3, *[MASK_ID] * 7])]
            decoder = Decoder(windows, schedule, Greedy(), policy, cache)
            ours = seen(run(decoder, model, requests), requests)
            alone = seen(run(decoder, model, requests[:1]), requests[:1])
            for request, steps in zip([*requests, requests[0]], [*ours, *alone], strict=True):
                tokens = list(request.tokens)
                defined = cached(NaiveTransformer(model), tokens, request.start,
                                 block=block or len(tokens) - request.start, num=num, feeds=feeds)
                for window, expected_window in zip(steps, defined, strict=True):
                    assert not any(step.decided for step in window[len(expected_window) :]), "it waits for other rows"
                    for step, expected in zip(window, expected_window, strict=False):
                        assert step.fed == expected.fed
                        assert step.log_probs == pytest.approx(expected.log_probs, rel=0, abs=ROUNDING)
                        assert step.decided == expected.decided


@pytest.mark.parametrize("cache", [Vicinity(1, 0, 1), Vicinity(MAX_LENGTH, 0, 100), Delayed(1)], ids=str)
@pytest.mark.parametrize("windows", [Blocks(4), Whole()], ids=str)
def test_a_cache_that_computes_everything_at_every_step_is_recomputation(windows: Windows, cache: Cache) -> None:
    for seed in range(2):
        model, requests = model_of(seed), ragged_requests(4, seed, block=4)
        decoder = Decoder(windows, Linear(3), Greedy(), TopProbability(), cache)
        found, exact = run(decoder, model, requests), run(replace(decoder, cache=Recompute()), model, requests)
        assert found.completions == exact.completions
        for taken, asked_BQ, hidden_BQE, expected_BQE in zip(exact.steps, exact.asked, found.answers, exact.answers,
                                                             strict=True):
            real_BQ = exists(taken, requests, asked_BQ)
            torch.testing.assert_close(hidden_BQE[real_BQ], expected_BQE[real_BQ], rtol=0, atol=1e-5)


@pytest.mark.parametrize("cache", [Prefix(), Dual(), Vicinity(1, 0, 100), Delayed(100)], ids=str)
def test_a_cache_is_approximate_from_the_second_step_of_a_window_on(cache: Cache) -> None:
    model, requests = model_of(0), [Request.completing([1, 2, 3, 4], 8, mask_id=MASK_ID)]
    decoder = Decoder(Blocks(4), Linear(4), Greedy(), TopProbability(), cache)
    found, exact = run(decoder, model, requests), run(replace(decoder, cache=Recompute()), model, requests)
    errors = [float((a - b).abs().max()) for a, b in zip(found.answers[:2], exact.answers[:2], strict=True)]
    assert not cache.is_exact
    assert errors[0] < 1e-5 < 1e-3 < errors[1]


DECIDING: list[tuple[Schedule, Policy]] = [
    (Unbounded(), Klass(0.5, 0.3, 1)), (Unbounded(), Hierarchy(0.8)), (Binomial(4), RandomOrder()),
    (Dream(4), TopProbability())]


@pytest.mark.parametrize(("schedule", "policy"), DECIDING, ids=lambda part: type(part).__name__)
@pytest.mark.parametrize("cache", CACHES[1::2], ids=str)
@SEEDS
def test_over_random_transformers_a_batch_changes_no_more_than_rounding(
        seeds: range, cache: Cache, schedule: Schedule, policy: Policy) -> None:
    """Up to the first step at which a row in a batch decides differently than alone, and at that step, its proposals
    differ by rounding alone; and such rows are few."""
    num_turned = num_rows = 0
    for seed in seeds:
        model, requests = model_of(seed), ragged_requests(5, seed, block=4)
        decoder = Decoder(Blocks(4), schedule, Categorical(0.8), policy, cache)
        together = run(decoder, model, requests)
        for row, request in enumerate(requests):
            places = {(taken.window.index, taken.index): (taken, taken.rows.index(row)) for taken in together.steps
                      if row in taken.rows}
            num_rows, tokens_S = num_rows + 1, torch.tensor([*request.tokens, 0])
            for taken in run(decoder, model, [request]).steps:
                other, place = places[taken.window.index, taken.index]
                masked_Q = tokens_S[taken.window.query_BQ[0]] == MASK_ID
                for name in policy.statistics:
                    mine, theirs = (getattr(proposal, f"{name}_BQ") for proposal in (taken.proposal, other.proposal))
                    torch.testing.assert_close(mine[0][masked_Q], theirs[place][masked_Q], rtol=1e-4, atol=ROUNDING)
                tokens_S = taken.tokens_BS[0]
                if not torch.equal(tokens_S[:-1], other.tokens_BS[place, : len(request.tokens)]):
                    num_turned += 1
                    break
    assert num_turned <= num_rows // 20


@pytest.mark.parametrize("cache", CACHES, ids=str)
@pytest.mark.parametrize("tokens", [[1, 2, 3, MASK_ID], [1, MASK_ID, 3, 4, 5], [MASK_ID]], ids=str)
def test_a_single_mask_may_wait_for_its_step(cache: Cache, tokens: list[int]) -> None:
    """Dream's schedule commits nothing in the first of two steps here; the delayed cache then feeds one position."""
    decoder = Decoder(Whole(), Dream(2), Greedy(), TopProbability(), cache)
    found, exact = (run(replace(decoder, cache=each), model_of(0), [Request(tokens)]) for each in (cache, Recompute()))
    assert len(found.steps) == 2
    assert found.completions == exact.completions


def test_a_vicinity_wider_than_every_canvas_is_the_whole_of_it() -> None:
    """And nothing of its own size is built."""
    model = DecodableTransformer(random_transformer(Bidirectional()), MASK_ID)
    far, near = (Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Vicinity(radius, 0, 9))
                 for radius in (2**62, MAX_LENGTH))
    for requests in (ragged_requests(3, block=4), ragged_requests(1, block=4)):
        assert far.decode(model, requests) == near.decode(model, requests)


def test_what_is_computed_is_what_the_formulas_say() -> None:
    """Positions through the network for a prompt of P and blocks of B in S steps (reference: Fast-dLLM's section 3)."""
    prompt, block, num_blocks, steps = 4, 4, 3, 4
    length = prompt + block * num_blocks
    starts = [prompt + block * number for number in range(num_blocks)]
    computed = {
        Recompute(): num_blocks * steps * length,
        Prefix(): sum(length + (steps - 1) * (length - start) for start in starts),
        Dual(): num_blocks * (length + (steps - 1) * block),
        Vicinity(2, 0, 3): sum(2 * length + 2 * (min(start + block + 2, length) - start + 2) for start in starts),
        # One of the block's masks is decided at a step, so the fed ones are those it started with, less one a step.
        Delayed(100): sum(length + sum(length - start - step for step in range(steps - 1)) for start in starts)}
    for cache, positions in computed.items():
        decoder = Decoder(Blocks(block), Linear(steps), Greedy(), TopProbability(), cache)
        model = model_of(0)
        found = run(decoder, model, [Request.completing([1] * prompt, block * num_blocks, mask_id=MASK_ID)])
        assert found.accounting.forwards == {"denoise": num_blocks * steps}
        assert found.accounting.to_json(model)["positions_computed"] == positions, cache
        assert found.accounting.to_json(model)["keys_seen"] == positions * length


@pytest.mark.parametrize("cache", CACHES, ids=str)
def test_what_a_cache_cannot_serve_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="finished windows are not fed again"):
        Decoder(GridBlocks(4, num_revised=1), Unbounded(), Greedy(), Threshold(0.9), cache)
    decoder = Decoder(GridBlocks(4), Unbounded(), Greedy(), Threshold(0.9), cache)
    with pytest.raises(ValueError, match="needs a bidirectional model"):
        decoder.decode(TableModel(BlockCausal(4)), [Request([MASK_ID] * 4)])


def test_the_delayed_cache_takes_no_shift_and_no_revision() -> None:
    with pytest.raises(ValueError, match="which the cache does not compute again"):
        Decoder(Whole(), Unbounded(), Greedy(), TokenEditing(0.5, 0.5), Delayed())
    decoder = Decoder(Whole(), Unbounded(), Greedy(), Threshold(0.9), Delayed())
    with pytest.raises(ValueError, match="needs a model without shift"):
        decoder.decode(model_of(0, shift=1), [Request([1, MASK_ID])])


@pytest.mark.parametrize(("kind", "wrong"), [
    (Vicinity, {"radius": -1}), (Vicinity, {"warm_up": -1}), (Vicinity, {"refresh_every": 0}),
    (Delayed, {"refresh_every": 0}), (Delayed, {"refresh_every": math.inf})], ids=str)
def test_a_bad_number_is_refused(kind: type[Cache], wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        kind(**wrong)
