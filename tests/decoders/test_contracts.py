"""Contracts that every combination of parts keeps. New parts join by being in the lists, policies by their YAML."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    Blocks,
    Cache,
    Categorical,
    Cosine,
    Decoder,
    Greedy,
    GridBlocks,
    Linear,
    Policy,
    Recompute,
    Request,
    Sampler,
    Schedule,
    Unbounded,
    Whole,
    Windows,
)
from quicksilver.kernels.dispatch import Implementation, recording, using
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    Causal,
    DecodableTransformer,
    LanguageModel,
)
from quicksilver.models.heads import FusedHead, SeparateHead
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conftest import MASK_ID, VOCAB_SIZE, TableModel, ragged_requests, random_model

CONF = Path(__file__).resolve().parents[2] / "conf"
POLICIES: dict[str, Policy] = {path.stem: instantiate(OmegaConf.load(path))
                               for path in sorted((CONF / "policy").glob("*.yaml"))}
SCHEDULES: list[Schedule] = [Linear(1), Linear(3), Cosine(3), Unbounded()]
PLACES: list[tuple[Windows, Cache, AttentionPattern]] = [
    (Whole(), Recompute(), Bidirectional()),
    (Blocks(4), Recompute(), Bidirectional()),
    (GridBlocks(4), Recompute(), BlockCausal(4)),
    (GridBlocks(4), BlockCausalCache(), BlockCausal(4)),
    (Blocks(1), Recompute(), Causal()),
    (Blocks(1), Append(), Causal()),
]
SAMPLERS: list[Sampler] = [Greedy(), Categorical(temperature=0.8, top_k=5, top_p=0.9)]


def decoders() -> Iterator[tuple[Decoder, AttentionPattern]]:
    for (windows, cache, pattern), schedule, policy, sampler in itertools.product(
            PLACES, SCHEDULES, POLICIES.values(), SAMPLERS):
        if not (policy.needs_open_quota and schedule.is_fixed):
            yield Decoder(windows, schedule, sampler, policy, cache), pattern
    for windows, cache, pattern in PLACES:
        yield Decoder(windows, Linear(2), Greedy(), POLICIES["leftmost"], cache, end_id=5), pattern


EVERY = list(decoders())
FEW = EVERY[::7] + EVERY[-len(PLACES) :]


def name(value: object) -> str | None:
    if isinstance(value, Decoder):
        return "-".join(type(part).__name__ for part in vars(value).values() if part is not None)
    return None


def tokens_of(decoder: Decoder, model: LanguageModel, requests: list[Request]) -> list[list[int]]:
    return [completion.tokens for completion in decoder.decode(model, requests)]


@pytest.mark.parametrize(("decoder", "pattern"), EVERY, ids=name)
def test_a_row_decodes_the_same_alone_and_in_any_batch(decoder: Decoder, pattern: AttentionPattern) -> None:
    model = TableModel(pattern)
    requests = ragged_requests(5, seed=1, block=4)
    together = tokens_of(decoder, model, requests)
    assert together == [tokens_of(decoder, model, [request])[0] for request in requests]
    backwards = tokens_of(decoder, model, requests[::-1])
    assert together == backwards[::-1]


@pytest.mark.parametrize(("decoder", "pattern"), EVERY, ids=name)
def test_it_ends_keeps_what_was_given_and_never_writes_the_mask(decoder: Decoder, pattern: AttentionPattern) -> None:
    requests = ragged_requests(4, seed=2, block=4)
    for request, completion in zip(requests, decoder.decode(TableModel(pattern, 3), requests), strict=True):
        assert len(completion.tokens) == len(request.tokens)
        assert decoder.end_id in completion.completion or MASK_ID not in completion.tokens
        assert all(0 <= token < VOCAB_SIZE for token in completion.tokens)
        given = [(a, b) for a, b in zip(request.tokens, completion.tokens, strict=True) if a != MASK_ID]
        assert all(a == b for a, b in given)
        stop = request.start + len(completion.completion)
        assert completion.completion == completion.tokens[request.start : stop]
        assert MASK_ID not in completion.completion
        assert decoder.end_id is not None or stop == len(request.tokens)


@pytest.mark.parametrize(("decoder", "pattern"), EVERY, ids=name)
def test_every_step_commits_eligible_positions_within_the_quota(decoder: Decoder, pattern: AttentionPattern) -> None:
    requests = ragged_requests(4, seed=4, block=4)
    decoding = decoder.begin(TableModel(pattern, 1), requests)
    masked = {row: tokens.clone() for row, tokens in enumerate(decoding.whole.masked_BS)}
    at_start, window_index = None, -1
    for step in decoder.stream(decoding):
        before = torch.stack([masked[row] for row in step.rows])
        eligible = before.gather(1, step.window.query_BQ)
        if step.window.index != window_index:
            at_start, window_index = eligible.sum(1), step.window.index
        assert at_start is not None
        quota = decoder.schedule.quota(at_start, eligible.sum(1), torch.tensor(step.index))
        assert not (step.edit.commit_BQ & ~eligible).any()
        count = step.edit.commit_BQ.sum(1)
        assert (quota.at_least_B <= count).all()
        assert (count <= quota.at_most_B).all()
        masked |= {row: tokens.clone() for row, tokens in zip(step.rows, step.canvas.masked_BS, strict=True)}


@pytest.mark.parametrize(("decoder", "pattern"), FEW, ids=name)
def test_a_seed_reproduces_and_another_one_differs_only_if_something_is_drawn(
        decoder: Decoder, pattern: AttentionPattern) -> None:
    model = TableModel(pattern)
    requests = [Request.completing([1, 2, 3, 4], 12, mask_id=MASK_ID, seed=seed) for seed in range(8)]
    once, again = tokens_of(decoder, model, requests), tokens_of(decoder, model, requests)
    assert once == again
    draws = isinstance(decoder.sampler, Categorical)
    random_order = type(decoder.policy).__name__ == "RandomOrder" and decoder.windows != Blocks(1)
    if draws:
        assert len({tuple(row) for row in once}) > 1
    elif not random_order:
        assert len({tuple(row) for row in once}) == 1


# The interpreter is slow: a few combinations, which reach every place, both samplers and both heads.
@pytest.mark.parametrize(("decoder", "pattern"), FEW[::11], ids=name)
def test_the_triton_path_decodes_the_same_tokens(decoder: Decoder, pattern: AttentionPattern) -> None:
    head = SeparateHead() if isinstance(decoder.sampler, Categorical) else FusedHead()
    requests = [Request.completing([1, 2, 3, 4], 4, mask_id=MASK_ID), ragged_requests(1, seed=7, block=4)[0]]
    expected = tokens_of(decoder, random_model(pattern), requests)
    with using(Implementation.TRITON), recording() as ran:
        found = tokens_of(decoder, replace(random_model(pattern), head=head), requests)
    assert {implementation for _, implementation in ran} == {Implementation.TRITON}
    assert found == expected


@functools.cache
def fake_model(pattern: AttentionPattern) -> tuple[FakeTensorMode, DecodableTransformer]:
    with FakeTensorMode() as mode:
        return mode, random_model(pattern)


@pytest.mark.parametrize(("decoder", "pattern"), FEW, ids=name)
def test_a_step_of_the_triton_path_reads_nothing_back_either(decoder: Decoder, pattern: AttentionPattern) -> None:
    with using(Implementation.TRITON):
        test_a_step_has_fixed_shapes_and_reads_nothing_back(decoder, pattern)


@pytest.mark.parametrize(("decoder", "pattern"), EVERY, ids=name)
def test_a_step_has_fixed_shapes_and_reads_nothing_back(decoder: Decoder, pattern: AttentionPattern) -> None:
    """FakeTensorMode has no values, so a host read or a data-dependent shape raises."""
    requests = ragged_requests(3, seed=5, block=4)
    mode, model = fake_model(pattern)
    real = decoder.begin(TableModel(pattern), requests)
    decoding = decoder.begin(TableModel(pattern), requests)
    decoding.model = model
    for holder in ("whole", "live"):
        canvas = getattr(decoding, holder)
        fake = type(canvas)(*(mode.from_tensor(tensor) for tensor in vars(canvas).values()))
        setattr(decoding, holder, fake)
    with mode:
        decoding.store = None if real.store is None else model.new_store(len(requests), real.live.length)
        decoding.grid = type(decoding.grid)(mode.from_tensor(decoding.grid.first_BQ),
                                            mode.from_tensor(decoding.grid.stop_B),
                                            *list(vars(decoding.grid).values())[2:])
        for index in range(2 if decoder.windows != Whole() else 1):
            window = decoding.grid.window(index)
            decoder.enter(decoding, window)
            masked = decoding.live.masked_BS.gather(1, window.query_BQ).sum(1)
            step = torch.zeros((), dtype=torch.int64)
            proposal, edit, state = decoder.step(decoding, window, masked, step)
            assert proposal.token_BQ.shape == edit.commit_BQ.shape == window.query_BQ.shape
            assert state.shape == ()


@pytest.mark.parametrize(("decoder", "pattern"), FEW, ids=name)
def test_waste_and_work_are_counted(decoder: Decoder, pattern: AttentionPattern) -> None:
    requests = ragged_requests(4, seed=6, block=4)
    decoding = decoder.begin(TableModel(pattern), requests)
    steps = [(step.window.index, len(step.rows)) for step in decoder.stream(decoding)]
    decoder.completions(decoding)
    counted = decoding.accounting
    assert counted.forwards["denoise"] == len(steps)
    assert counted.row_steps == sum(rows for _, rows in steps)
    wanted = sum(token == MASK_ID for request in requests for token in request.tokens[request.start :])
    if decoder.end_id is None:
        assert counted.tokens_committed == counted.tokens_useful == wanted
    assert counted.tokens_useful <= counted.tokens_committed <= wanted
    assert 0 <= counted.idle_row_steps < counted.row_steps
    stores = decoder.cache == BlockCausalCache()
    assert (counted.forwards["store"] > 0) == stores
    assert torch.is_inference_mode_enabled() is False


@pytest.mark.parametrize(("windows", "cache", "reason"), [
    (Whole(), Append(), "needs blocks of 1"), (Blocks(4), Append(), "needs blocks of 1"),
    (Whole(), BlockCausalCache(), "needs grid blocks"), (Blocks(4), BlockCausalCache(), "needs grid blocks")], ids=str)
def test_a_combination_that_cannot_work_is_refused_with_its_reason(
        windows: Windows, cache: Cache, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Decoder(windows, Linear(1), Greedy(), POLICIES["leftmost"], cache)


def test_a_threshold_under_a_fixed_quota_is_refused() -> None:
    with pytest.raises(ValueError, match="a fixed quota leaves the policy nothing to decide"):
        Decoder(Whole(), Linear(2), Greedy(), POLICIES["threshold"], Recompute())


@pytest.mark.parametrize(("windows", "cache", "pattern", "reason"), [
    (Blocks(1), Append(), Bidirectional(), "needs a causal next-token model"),
    (GridBlocks(4), BlockCausalCache(), BlockCausal(2), "same block size"),
    (GridBlocks(4), BlockCausalCache(), Bidirectional(), "needs a block-causal model")], ids=str)
def test_a_cache_that_would_be_wrong_for_the_model_is_refused(
        windows: Windows, cache: Cache, pattern: AttentionPattern, reason: str) -> None:
    decoder = Decoder(windows, Linear(1), Greedy(), POLICIES["leftmost"], cache)
    with pytest.raises(ValueError, match=reason):
        decoder.decode(TableModel(pattern), [Request.completing([1, 2, 3, 4], 4, mask_id=MASK_ID)])
