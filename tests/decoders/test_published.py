"""Whole decodes against loops written from the papers, token for token, on 8 random models each."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial

import numpy as np
import pytest
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Blocks,
    Cache,
    ClassifierFree,
    Cosine,
    Decoder,
    Dream,
    Dual,
    EntropyBound,
    Even,
    Factor,
    Floor,
    Free,
    Greedy,
    GridBlocks,
    Klass,
    Leftmost,
    Linear,
    LowEntropy,
    PathPlanning,
    Policy,
    Prefix,
    Recompute,
    Redecide,
    Request,
    Schedule,
    Threshold,
    TokenEditing,
    TopMargin,
    TopProbability,
    Unbounded,
    Whole,
    Windows,
)
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal, DecodableTransformer

from tests.conftest import MASK_ID, random_transformer
from tests.decoders import naive_caches
from tests.decoders import naive_loops as naive
from tests.decoders.naive import NaiveTransformer

NUM_MODELS = 8
BIDIRECTIONAL, RECOMPUTE = Bidirectional(), Recompute()


Loop = Callable[[NaiveTransformer, list[int], int], list[int]]


@dataclass(frozen=True)
class Published:
    """A paper's loop, and decoders of ours with the same settings."""

    name: str
    loop: Loop
    decoders: tuple[Decoder, ...]
    pattern: AttentionPattern = BIDIRECTIONAL
    shift: int = 0

    def __str__(self) -> str:
        return self.name


def greedy(windows: Windows, schedule: Schedule, policy: Policy, cache: Cache = RECOMPUTE) -> Decoder:
    return Decoder(windows, schedule, Greedy(), policy, cache)


def on_blocks(name: str, windows: GridBlocks, schedule: Schedule, policy: Policy, loop: Loop) -> Published:
    """Of a block-causal model, with every exact cache."""
    caches = (BlockCausalCache(), BlockCausalCacheApart(), RECOMPUTE)
    return Published(name, loop, tuple(greedy(windows, schedule, policy, cache) for cache in caches), BlockCausal(4))


LLADA = [Published(f"llada_{block}_{steps}", partial(naive.llada, block=block, steps=steps),
                   (greedy(Blocks(block), Linear(steps), TopProbability()),))
         for block, steps in ((4, 1), (4, 3), (8, 5))]
GUIDED = Published("llada_guided", partial(naive.llada, block=4, steps=3, scale=0.8), (
    replace(greedy(Blocks(4), Linear(3), TopProbability()), guidance=ClassifierFree(0.8)),))
AUTOREGRESSION = Published("autoregression", naive.autoregression, tuple(
    greedy(Blocks(1), Linear(1), Leftmost(), cache) for cache in (Append(), RECOMPUTE)), Causal(), shift=1)
FAST_DLLM = [Published(f"fast_dllm_{type(cache).__name__}_{type(policy).__name__}",
                       partial(naive_caches.fast_dllm, block=8, rule=rule, feeds=feeds),
                       (greedy(Blocks(8), Unbounded(), policy, cache),))
             for cache, feeds in ((RECOMPUTE, naive_caches.no_cache), (Prefix(), naive_caches.prefix),
                                  (Dual(), naive_caches.dual))
             for policy, rule in ((Threshold(0.7), naive_caches.threshold(0.7)),
                                  (Factor(1.2), naive_caches.factor(1.2)))]
DREAM = [Published(f"dream_{order.__name__}_{steps}", partial(naive.dream, steps=steps, order=order),
                   (greedy(Whole(), Dream(steps), policy),), shift=1)
         for policy, order in ((TopProbability(), naive.most_probable), (TopMargin(), naive.margin),
                               (LowEntropy(), naive.negative_entropy)) for steps in (3, 8)]
BLOCK_DIFFUSION = [
    on_blocks("sdar_static", GridBlocks(4), Even(3), TopProbability(),
              partial(naive.block_diffusion, block=4, steps=3, tau=1.0)),
    on_blocks("sdar_dynamic", GridBlocks(4), Floor(Even(4)), Threshold(0.6),
              partial(naive.block_diffusion, block=4, steps=4, tau=0.6)),
    on_blocks("llada2", GridBlocks(4), Floor(Even(2)), Threshold(0.8),
              partial(naive.block_diffusion, block=4, steps=2, tau=0.8))]
OTHERS = [
    Published("eb_sampler", partial(naive.entropy_bounded, gamma=1.0),
              (greedy(Whole(), Unbounded(), EntropyBound(1.0)),)),
    *(Published(f"klass_{history}", partial(naive.klass, block=8, tau=0.5, epsilon=0.3, history=history),
                (greedy(Blocks(8), Unbounded(), Klass(0.5, 0.3, history)),)) for history in (1, 2))]
REVISING = [
    Published("diffusion_vs_ar", partial(naive.diffusion_vs_ar, rates=[Fraction(t, 5) for t in (4, 3, 2, 1, 0)]),
              (greedy(Whole(), Free(Linear(5)), Redecide()),), shift=1),
    Published("diffusion_vs_ar_cosine", partial(naive.diffusion_vs_ar, rates=[
        math.cos((5 - t) / 5 * math.pi / 2) for t in (4, 3, 2, 1, 0)]),
        (greedy(Whole(), Free(Cosine(5)), Redecide()),), shift=1),
    *(Published(f"p2_{eta}", partial(naive.path_planning, steps=5, eta=eta),
                (greedy(Whole(), Free(Linear(5)), PathPlanning(eta)),)) for eta in (0.5, 1.0, 2.0)),
    *(on_blocks(f"llada2.1_revising_{num_revised}", GridBlocks(4, num_revised), Unbounded(), TokenEditing(0.4, 0.5, 3),
                partial(naive.token_editing, block=4, draft=0.4, edit=0.5, passes=3, num_revised=num_revised))
      for num_revised in (0, 1))]
PUBLISHED = [*LLADA, GUIDED, AUTOREGRESSION, *FAST_DLLM, *DREAM, *BLOCK_DIFFUSION, *OTHERS, *REVISING]


@cache
def random_pair(pattern: AttentionPattern, shift: int, seed: int) -> tuple[DecodableTransformer, NaiveTransformer]:
    model = DecodableTransformer(random_transformer(pattern, seed), MASK_ID, shift)
    return model, NaiveTransformer(model)


def request_for(case: Published, seed: int) -> Request:
    """A prompt of 5 tokens, which ends inside a block of the row's own grid, and what fills two blocks more, in every
    other request with a token given among them."""
    length = 16 if isinstance(case.decoders[0].windows, GridBlocks) else 13
    tokens = np.random.default_rng(seed).integers(0, MASK_ID, size=length)
    wanted = np.arange(length) >= 5
    wanted[9] = seed % 2 == 0 or case.pattern == Causal()
    return Request(np.where(wanted, MASK_ID, tokens).tolist(), start=5)


@pytest.mark.parametrize("case", PUBLISHED, ids=str)
def test_five_parts_are_the_papers_loop(case: Published) -> None:
    """The same tokens, in as many forwards."""
    for seed in range(NUM_MODELS):
        model, transformer = random_pair(case.pattern, case.shift, seed)
        request = request_for(case, seed)
        transformer.num_answers = 0
        expected = case.loop(transformer, list(request.tokens), request.start)
        for decoder in case.decoders:
            decoding = decoder.begin(model, [request])
            num_steps = sum(1 for _ in decoder.stream(decoding))
            assert decoder.completions(decoding)[0].tokens == expected, (seed, decoder.cache)
            forwards = decoding.accounting.forwards
            assert num_steps == forwards["denoise"] + forwards["guided"]
            assert transformer.num_answers == forwards["denoise"] + 2 * forwards["guided"]


@pytest.mark.parametrize("case", REVISING, ids=str)
def test_the_loops_that_revise_do_revise(case: Published) -> None:
    """Else the test above would show less than it says."""
    num_revised = 0
    for seed in range(5):
        request, decoder = request_for(case, seed), case.decoders[0]
        decoding = decoder.begin(random_pair(case.pattern, case.shift, seed)[0], [request])
        for _ in decoder.stream(decoding):
            pass
        decoder.completions(decoding)
        num_revised += decoding.accounting.tokens_committed - list(request.tokens).count(MASK_ID)
    assert num_revised >= 5
