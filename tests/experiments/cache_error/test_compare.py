"""The oracle: exact caches are exact, and every number it gives follows from its definition."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
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
    Credited,
    Decoder,
    Delayed,
    Dual,
    Greedy,
    GridBlocks,
    Leftmost,
    Linear,
    Policy,
    Prefix,
    Recompute,
    Request,
    Sampler,
    Threshold,
    TopProbability,
    Unbounded,
    Vicinity,
    Whole,
    Windows,
)
from quicksilver.decoders.policies import Klass, TokenEditing
from quicksilver.experiments.cache_error.compare import Comparison, compare_with_recompute
from quicksilver.models import AttentionPattern, Bidirectional, BlockCausal, Causal, DecodableTransformer, KVStore, Plan
from quicksilver.models import FusedHead as Fused
from torch import Tensor

from tests.conftest import MASK_ID, TableModel, ragged_requests, random_model, random_transformer

ROUNDING = 1e-6
EQUAL_LENGTHS = [Request([1, 2, 3, *[MASK_ID] * 8], 3, seed=seed) for seed in (1, 2)]


def of_masked(compared: Comparison, name: str) -> Tensor:
    """The values of all steps at masked positions, [N, masked]."""
    return torch.cat([getattr(step, name)[:, step.masked_BQ] for step in compared.steps], dim=1)


@pytest.mark.parametrize("policy", [TopProbability(), Threshold(0.4)], ids=str)
@pytest.mark.parametrize(("pattern", "windows", "cache"), [
    (Causal(), Blocks(1), Append()), (BlockCausal(4), GridBlocks(4), BlockCausalCache()),
    (BlockCausal(4), GridBlocks(4), BlockCausalCacheApart()), (Bidirectional(), Whole(), Recompute())], ids=str)
def test_exact_caches_are_exact_to_rounding_at_every_step_and_layer(
        pattern: AttentionPattern, windows: Windows, cache: Cache, policy: Policy) -> None:
    schedule = Linear(3) if isinstance(policy, TopProbability) else Unbounded()
    compared = compare_with_recompute(Decoder(windows, schedule, Greedy(), policy, cache), random_model(pattern),
                                ragged_requests(3, block=4))
    assert of_masked(compared, "kl_NBQ").shape[0] == 2
    assert of_masked(compared, "kl_NBQ").abs().max() < ROUNDING
    assert of_masked(compared, "relative_error_NBQ").max() < 1e-5
    assert not of_masked(compared, "flipped_NBQ").any()
    assert not any(step.edited_otherwise_BQ.any() or step.token_differs_BQ.any() for step in compared.steps)
    assert compared.completions == compared.exact_completions


@pytest.mark.parametrize("cache", [Prefix(), Dual(), Vicinity(1, 0, 3), Delayed(3)], ids=str)
def test_approximate_caches_are_exact_where_they_compute_everything_and_nowhere_else(cache: Cache) -> None:
    decoder = Decoder(Blocks(4), Linear(4), Greedy(), TopProbability(), cache)
    compared = compare_with_recompute(decoder, random_model(Bidirectional()), EQUAL_LENGTHS)
    everything = [step.kl_NBQ[:, step.masked_BQ].abs().max().item() for step in compared.steps
                  if step.positions_computed == step.positions_whole]
    rest = [step.kl_NBQ[-1][step.masked_BQ].max().item() for step in compared.steps
            if step.positions_computed < step.positions_whole]
    assert max(everything) < ROUNDING
    assert rest
    assert min(rest) > 100 * ROUNDING


def test_every_layer_has_the_divergence_that_a_hand_made_lens_gives() -> None:
    """Dual by hand on the oracle's canvases: everything is fed and stored at a window's first step, then the window. A
    transformer of the first block alone, with the same norm and head, is the lens on that block."""
    model = random_model(Bidirectional())
    first = random_transformer(Bidirectional())
    first.blocks = first.blocks[:1]
    decoder = Decoder(Blocks(4), Linear(3), Greedy(), TopProbability(), Dual())
    compared = compare_with_recompute(decoder, model, EQUAL_LENGTHS)
    for layer, lens in ((0, replace(model, transformer=first)), (1, model)):
        decoding = decoder.begin(model, EQUAL_LENGTHS)
        length, tokens_BS = decoding.active.length, decoding.active.tokens_BS.clone()
        position_BL, store = torch.arange(length).repeat(2, 1), lens.new_store(2, length)
        for step, error in zip(decoder.stream(decoding), compared.steps, strict=True):
            query_BQ = step.window.query_BQ
            with torch.inference_mode():
                cached_BQE = lens.hidden(
                    tokens_BS, Plan(position_BL if step.index == 0 else query_BQ, query_BQ, length), store)
                exact_BQE = lens.hidden(tokens_BS, Plan(position_BL, query_BQ), None)
                # The mask id is the last token, and no distribution holds it.
                cached_BQV, exact_BQV = (lens.logits(hidden_BQE)[..., :MASK_ID].double()
                                         for hidden_BQE in (cached_BQE, exact_BQE))
            p_BQV = exact_BQV.softmax(-1)
            kl_BQ = (p_BQV * (exact_BQV.log_softmax(-1) - cached_BQV.log_softmax(-1))).sum(-1)
            torch.testing.assert_close(error.kl_NBQ[layer], kl_BQ.float(), rtol=1e-3, atol=ROUNDING)
            assert torch.equal(error.flipped_NBQ[layer], cached_BQV.argmax(-1) != exact_BQV.argmax(-1))
            distance_BQ = (cached_BQE - exact_BQE).norm(dim=-1) / exact_BQE.norm(dim=-1)
            torch.testing.assert_close(error.relative_error_NBQ[layer], distance_BQ, rtol=1e-3, atol=1e-6)
            tokens_BS = step.canvas.tokens_BS.clone()


@dataclass(frozen=True)
class Stale(TableModel):
    """Forwards that use a store answer with token 3 likelier by `wrong` at position 5, and by as much less at 6."""

    wrong: float = 0.0

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        logits_BQV = super().hidden(tokens_BS, plan, store)
        if plan.context is not None and plan.feed_BF.shape[1] < tokens_BS.shape[1] - 1:
            logits_BQV[..., 3] += self.wrong * ((plan.query_BQ == 5).float() - (plan.query_BQ == 6).float())
        return logits_BQV


def test_a_planted_error_is_reported_as_it_was_planted() -> None:
    """Window 4 to 7, one token a step: the first step computes everything, the others carry the error."""
    request = Request([1, 2, 3, 4, *[MASK_ID] * 4], 4)
    decoder = Decoder(Blocks(4), Linear(4), Greedy(), Leftmost(), Dual())
    compared = compare_with_recompute(decoder, Stale(Bidirectional(), wrong=30.0), [request])
    assert of_masked(compared, "kl_NBQ").shape == (1, 4 + 3 + 2 + 1)
    first, second, third, fourth = compared.steps
    assert not first.kl_NBQ.any()
    exact_V = TableModel(Bidirectional())._logits((1, 2, 3, 4, int(compared.completions[0].completion[0]),
                                                   MASK_ID, MASK_ID, MASK_ID), 5, 8)[:MASK_ID]
    cached_V = exact_V + 30.0 * (np.arange(MASK_ID) == 3)
    log_p, log_q = (logits_V - np.log(np.exp(logits_V).sum()) for logits_V in (exact_V, cached_V))
    assert second.kl_NBQ[0, 0, 1].item() == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(), rel=1e-4)
    assert second.flipped_NBQ[0, 0].tolist() == [False, exact_V.argmax() != 3, third.token_differs_BQ[0, 2], False]
    assert second.commit_BQ.tolist() == [[False, True, False, False]]
    assert second.token_differs_BQ.tolist() == [[False, exact_V.argmax() != 3, False, False]]
    assert compared.completions[0].tokens[5] == 3
    assert not any(step.edited_otherwise_BQ.any() for step in compared.steps)  # the leftmost is the leftmost
    assert not fourth.kl_NBQ[0][fourth.masked_BQ].any()


def test_the_policy_is_asked_what_it_would_have_committed() -> None:
    """By error alone position 5 is the surest at the second step, where the exact model is surest of another."""
    request, seed = Request([1, 2, 3, 4, *[MASK_ID] * 4], 4), 2
    decoder = Decoder(Blocks(4), Linear(4), Greedy(), TopProbability(), Dual())
    tokens, surest = list(request.tokens), []
    for _ in range(2):
        sure = {}
        for position in (position for position in range(4, 8) if tokens[position] == MASK_ID):
            p_V = np.exp(TableModel(Bidirectional(), seed)._logits(tuple(tokens), position, 8)[:MASK_ID])
            sure[position] = (p_V.max() / p_V.sum(), int(p_V.argmax()))
        surest.append(max(sure, key=lambda position: sure[position]))
        tokens[surest[-1]] = sure[surest[-1]][1]
    assert 5 not in surest  # a seed for which the story is true
    compared = compare_with_recompute(decoder, Stale(Bidirectional(), seed, wrong=30.0), [request])
    assert [4 + int(step.commit_BQ.nonzero()[0, 1]) for step in compared.steps[:2]] == [surest[0], 5]
    assert {4 + place for place in compared.steps[1].edited_otherwise_BQ[0].nonzero()[:, 0].tolist()} == {5, surest[1]}
    exact = replace(decoder, cache=Recompute()).decode(TableModel(Bidirectional(), seed), [request])
    assert compared.exact_completions == exact
    assert compared.completions != exact


STATEFUL = [
    (Klass(0.3, 1.0, 2), Greedy(), Blocks(4)), (TopProbability(), Categorical(1.0), Blocks(4)),
    (TopProbability(), Credited(alpha=20.0, beta=1.0), Whole()), (TokenEditing(0.3, 0.5), Greedy(), Blocks(4))]


@pytest.mark.parametrize(("policy", "sampler", "windows"), STATEFUL, ids=str)
@pytest.mark.parametrize("cache", [Recompute(), Dual()], ids=str)
def test_watching_changes_no_decode_and_recompute_agrees_with_itself(
        cache: Cache, policy: Policy, sampler: Sampler, windows: Windows) -> None:
    schedule = Unbounded() if policy.needs_open_quota else Linear(3)
    decoder = Decoder(windows, schedule, sampler, policy, cache)
    model, requests = random_model(Bidirectional()), ragged_requests(3, block=4)
    compared = compare_with_recompute(decoder, model, requests)
    assert compared.completions == decoder.decode(model, requests)
    if isinstance(cache, Recompute):
        assert compared.completions == compared.exact_completions
        assert not any(step.edited_otherwise_BQ.any() or step.token_differs_BQ.any() or step.kl_NBQ.any()
                       for step in compared.steps)


def positions(compared: Comparison) -> list[tuple[int, int]]:
    return [(step.positions_computed, step.positions_whole) for step in compared.steps]


def test_positions_through_the_network_are_counted_with_forwards_that_only_store() -> None:
    requests: Sequence[Request] = EQUAL_LENGTHS
    dual = Decoder(Blocks(4), Linear(2), Greedy(), TopProbability(), Dual())
    assert positions(compare_with_recompute(dual, random_model(Bidirectional()), requests)) == [
        (2 * 11, 2 * 11), (2 * 4, 2 * 11)] * 2
    # Grid blocks of 4 on 12 positions of which 3 are given: the first block holds one mask, and takes one step.
    requests = [Request([1, 2, 3, *[MASK_ID] * 9], 3)]
    apart = Decoder(GridBlocks(4), Linear(2), Greedy(), TopProbability(), BlockCausalCacheApart())
    assert positions(compare_with_recompute(apart, random_model(BlockCausal(4)), requests)) == [
        (4, 12), (4 + 4, 12), (4, 12), (4 + 4, 12), (4, 12)]


def test_what_cannot_be_compared_is_refused() -> None:
    decoder = Decoder(Whole(), Linear(2), Greedy(), TopProbability(), Recompute())
    fused = DecodableTransformer(random_transformer(Bidirectional()), MASK_ID, head=Fused())
    with pytest.raises(ValueError, match="a fused head"):
        compare_with_recompute(decoder, fused, EQUAL_LENGTHS)
    with pytest.raises(ValueError, match=r"guidance=ClassifierFree\(scale=1.5\)"):
        compare_with_recompute(replace(decoder, guidance=ClassifierFree(1.5)), random_model(Bidirectional()),
                               EQUAL_LENGTHS)


def test_the_hooks_are_gone_when_it_is_done() -> None:
    model = random_model(Bidirectional())
    compare_with_recompute(Decoder(Whole(), Linear(2), Greedy(), TopProbability(), Recompute()), model, EQUAL_LENGTHS)
    assert not any(block._forward_hooks for block in model.transformer.blocks)
