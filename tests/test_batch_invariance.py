"""With batch_invariant=true a row's logits and tokens have the same bits alone and in any batch, whatever the cache."""

from typing import Any

import pytest
import torch
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    BlockCausalCacheApart,
    Blocks,
    Cache,
    Categorical,
    Decoder,
    Delayed,
    Dual,
    Greedy,
    GridBlocks,
    Linear,
    Prefix,
    Recompute,
    Request,
    Sampler,
    TopProbability,
    Vicinity,
)
from quicksilver.kernels.batch_invariance import batch_invariant
from quicksilver.kernels.moe_router import Routing
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    DecodableTransformer,
    ExpertShape,
    FusedHead,
    Head,
    HuggingFaceModel,
    LogitsFunction,
    SeparateHead,
    layers,
)
from quicksilver.models.routers import with_routing_rule
from quicksilver.models.routing_rules import BlockSharedExperts
from transformers import LlamaConfig, LlamaForCausalLM

from .conftest import MASK_ID, VOCAB_SIZE, random_transformer

SIZES = (1, 2, 3, 7, 8, 16)
# Batches within one of 9 rows: the first row of each, and how many.
PARTS = ((0, 1), (4, 3), (1, 8))
EXPERTS = ExpertShape(4, 16, Routing(2), shared_width=8)
GREEDY, SEPARATE = Greedy(), SeparateHead()
# Places and bits of what a step said: request, window, step, position to token and log-probability.
Said = dict[tuple[int, int, int, int], tuple[int, float]]


def requests(num: int) -> list[Request]:
    """Rows of three lengths."""
    return [Request([1 + number % 7, number % 5, *[MASK_ID] * (2 + 2 * (number % 3))], start=2, seed=number)
            for number in range(num)]


def said(decoder: Decoder, model: DecodableTransformer, asked: list[Request], first: int = 0
         ) -> tuple[list[list[int]], Said]:
    """The rows, and what was said of every position while it was masked."""
    run, found, window, last = decoder.begin(model, asked), {}, -1, -1
    for step in decoder.stream(run):
        window, last = window + int(step.index == 0), step.index
        for one in step.by_request():
            assert one.log_prob_Q is not None
            for position, token, log_prob in zip(*(value_Q[one.masked_Q].tolist() for value_Q in (
                    one.position_Q, one.token_Q, one.log_prob_Q)), strict=True):
                found[first + one.request, window, last, position] = token, log_prob
    return [completion.tokens for completion in decoder.completions(run)], found


def check(decoder: Decoder, model: DecodableTransformer, num_rows: int = 9,
          parts: tuple[tuple[int, int], ...] = PARTS) -> None:
    asked = requests(num_rows)
    rows, whole = said(decoder, model, asked)
    for first, size in parts:
        some_rows, some = said(decoder, model, asked[first : first + size], first)
        assert some_rows == rows[first : first + size]
        assert some == {place: value for place, value in whole.items() if first <= place[0] < first + size}


CASES: list[tuple[AttentionPattern, Cache]] = [
    (Bidirectional(), Recompute()), (Bidirectional(), Prefix()), (Bidirectional(), Dual()),
    (Bidirectional(), Vicinity(radius=2, warm_up=1, refresh_every=2)), (Bidirectional(), Delayed(refresh_every=2)),
    (BlockCausal(2), BlockCausalCache()), (BlockCausal(2), BlockCausalCacheApart()), (Causal(), Append()),
    (Causal(), Recompute())]


def decoder_for(pattern: AttentionPattern, cache: Cache, sampler: Sampler = GREEDY) -> Decoder:
    if pattern == Causal():
        return Decoder(Blocks(1), Linear(1), sampler, TopProbability(), cache)
    windows = GridBlocks(2) if isinstance(pattern, BlockCausal) else Blocks(2)
    return Decoder(windows, Linear(2), sampler, TopProbability(), cache)


def model_of(pattern: AttentionPattern, head: Head = SEPARATE, **shape: Any) -> DecodableTransformer:
    return DecodableTransformer(random_transformer(pattern, **shape), MASK_ID, int(pattern == Causal()), head)


@pytest.mark.parametrize(("pattern", "cache"), CASES, ids=str)
def test_a_row_has_the_same_bits_in_batches_of_any_size(pattern: AttentionPattern, cache: Cache) -> None:
    with batch_invariant(True):
        check(decoder_for(pattern, cache), model_of(pattern))


@pytest.mark.parametrize("pattern", [Bidirectional(), Causal()], ids=str)
@pytest.mark.parametrize("shape", [{"experts": EXPERTS}, {"qk_norm": True, "ffn_width": 37}], ids=["experts", "odd"])
def test_mixtures_odd_widths_draws_and_the_fused_head_too(pattern: AttentionPattern, shape: dict[str, Any]) -> None:
    decoder = decoder_for(pattern, Recompute(), Categorical(0.8))
    with batch_invariant(True):
        check(decoder, model_of(pattern, FusedHead(), **shape), 8, ((7, 1), (2, 3)))


@pytest.mark.parametrize("pattern", [Bidirectional(), Causal()], ids=str)
def test_logits_have_the_same_bits_for_any_number_of_rows(pattern: AttentionPattern) -> None:
    model, tokens_BL = model_of(pattern), torch.randint(0, VOCAB_SIZE, (33, 3))
    with batch_invariant(True), torch.inference_mode():
        whole_BLV = model.logits(model.transformer.sequence_hidden(tokens_BL))
        for size in SIZES:
            assert torch.equal(model.logits(model.transformer.sequence_hidden(tokens_BL[:size])), whole_BLV[:size])
        plain_BLV = model_of(pattern).logits(model.transformer.sequence_hidden(tokens_BL))
    torch.testing.assert_close(whole_BLV, plain_BLV)


def test_a_planted_dependence_on_the_number_of_rows_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def dependent(function: Any, *tensors: Any) -> Any:
        found = function(*tensors)
        return found if isinstance(found, tuple) else found * (1 + 2.0**-21 * len(tensors[0]))

    monkeypatch.setattr(layers, "by_position", dependent)
    with batch_invariant(True), pytest.raises(AssertionError):
        check(decoder_for(Bidirectional(), Recompute()), model_of(Bidirectional()), 3, ((0, 1),))


def test_what_computes_all_rows_in_its_own_way_is_refused_by_name() -> None:
    decoder = decoder_for(Bidirectional(), Recompute())
    bare = LogitsFunction(lambda tokens_BL: torch.zeros(*tokens_BL.shape, VOCAB_SIZE), MASK_ID, VOCAB_SIZE, 24)
    transformer = random_transformer(Bidirectional(), experts=EXPERTS)
    shared = DecodableTransformer(with_routing_rule(transformer, BlockSharedExperts(3)), MASK_ID)
    for model, name in ((bare, "a bare function"), (shared, "BlockSharedExperts")):
        with batch_invariant(True), pytest.raises(ValueError, match=f"batch_invariant=true with .*{name}"):
            decoder.decode(model, requests(2))


def test_a_model_of_transformers_is_refused_by_name() -> None:
    config = LlamaConfig(vocab_size=VOCAB_SIZE, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, max_position_embeddings=24)
    model = HuggingFaceModel.of(LlamaForCausalLM(config).eval(), mask_id=MASK_ID)
    message = "batch_invariant=true with LlamaForCausalLM: a module of another library computes all rows together"
    with batch_invariant(True), pytest.raises(ValueError, match=message):
        decoder_for(Causal(), Append()).decode(model, requests(2))
