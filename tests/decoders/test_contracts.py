"""Contracts that every combination of policy, cache, windows and sampler keeps; parts join by their YAML."""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
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
    Greedy,
    GridBlocks,
    Linear,
    Policy,
    Progress,
    Recompute,
    Request,
    Sampler,
    Schedule,
    Step,
    Vicinity,
    Whole,
    Windows,
)
from quicksilver.kernels import counter_rng
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

from tests.conftest import MASK_ID, PATTERNS, VOCAB_SIZE, TableModel, ragged_requests, random_model

CONF = Path(__file__).resolve().parents[2] / "conf"


def options(group: str) -> dict[str, Any]:
    return {path.stem: instantiate(OmegaConf.load(path)) for path in sorted((CONF / group).glob("*.yaml"))}


POLICIES: dict[str, Policy] = options("policy")
# Fewer steps than the shipped ones, so that they end on short canvases too; and what a longer canvas would need.
SCHEDULES: Mapping[str, Schedule] = options("schedule") | {"linear 3": Linear(3)}
CACHES: dict[str, Cache] = options("cache") | {"vicinity": Vicinity(1, 1, 3), "delayed": Delayed(3)}
WINDOWS: dict[str, Windows] = options("windows")
SAMPLERS: Mapping[str, Sampler] = options("sampler") | {"cut": Categorical(temperature=0.8, top_k=5, top_p=0.9)}


@dataclass(frozen=True)
class Combination:
    name: str
    decoder: Decoder
    pattern: AttentionPattern

    def __str__(self) -> str:
        return self.name


REFUSALS: set[str] = set()


def works(decoder: Decoder, pattern: AttentionPattern) -> bool:
    """Whether the parts accept the model. They refuse with ValueError alone."""
    try:
        decoder.check(TableModel(pattern), Request.completing([1, 2, 3, 4], 12, mask_id=MASK_ID))
    except ValueError as error:
        REFUSALS.add(str(error))
        return False
    return True


def combinations() -> Iterator[Combination]:
    """Every policy, cache, windows and sampler that work together, on every pattern of attention that they accept; the
    schedules that a policy accepts take turns."""
    turn = itertools.count()
    for (policy_name, policy), (cache_name, cache), (windows_name, windows), (sampler_name, sampler) in (
            itertools.product(POLICIES.items(), CACHES.items(), WINDOWS.items(), SAMPLERS.items())):
        decoders: dict[str, Decoder] = {}
        for name, schedule in SCHEDULES.items():
            try:
                decoders[name] = Decoder(windows, schedule, sampler, policy, cache)
            except ValueError as error:
                REFUSALS.add(str(error))
        for pattern_name, pattern in PATTERNS.items() if decoders else ():
            schedule_name, decoder = list(decoders.items())[next(turn) % len(decoders)]
            if works(decoder, pattern):
                yield Combination("-".join((policy_name, cache_name, windows_name, sampler_name, pattern_name,
                                            schedule_name)), decoder, pattern)


EVERY = list(combinations())
ENDING = [Combination(f"ends-{cache}-{windows}",
                      Decoder(windows, Linear(2), Greedy(), POLICIES["leftmost"], cache, end_id=5), pattern)
          for windows, cache, pattern in [
              (Whole(), Recompute(), Bidirectional()), (Blocks(4), Recompute(), Bidirectional()),
              (GridBlocks(4), Recompute(), BlockCausal(4)), (GridBlocks(4), BlockCausalCache(), BlockCausal(4)),
              (GridBlocks(4), BlockCausalCacheApart(), BlockCausal(4)), (Blocks(1), Recompute(), Causal()),
              (Blocks(1), Append(), Causal())]]
FEW = [*EVERY[::17], *ENDING]
GUIDED = Combination("guided", Decoder(Blocks(4), Linear(2), Greedy(), POLICIES["top_probability"], Recompute(),
                                       guidance=ClassifierFree(0.7)), Bidirectional())


def tokens_of(decoder: Decoder, model: LanguageModel, requests: list[Request]) -> list[list[int]]:
    return [completion.tokens for completion in decoder.decode(model, requests)]


def test_every_part_takes_part() -> None:
    assert len(EVERY) > 1000
    assert all(": " in refusal for refusal in REFUSALS), "a refusal gives its reason"
    for group in (POLICIES, CACHES, WINDOWS, SAMPLERS, SCHEDULES):
        used = {part for combination in EVERY for part in combination.name.split("-")}
        assert not set(group) - used


@pytest.mark.parametrize("combination", [*EVERY, *ENDING, GUIDED], ids=str)
def test_contracts(combination: Combination) -> None:
    """A row decodes the same alone and in any batch, and again; what was given is kept; the mask is never written;
    every step commits within the quota; what is done is counted."""
    decoder, model = combination.decoder, TableModel(combination.pattern)
    requests = ragged_requests(3, seed=1, block=4)
    decoding = decoder.begin(model, requests)
    checked = Checked(decoder, requests)
    num_steps = 0
    for step in decoder.stream(decoding):
        checked(step)
        num_steps += 1
    completions = decoder.completions(decoding)
    together = [completion.tokens for completion in completions]
    assert together == [tokens_of(decoder, model, [request])[0] for request in requests]
    assert together == tokens_of(decoder, model, requests[::-1])[::-1]

    for request, completion in zip(requests, completions, strict=True):
        stop = request.start + len(completion.completion)
        assert completion.completion == completion.tokens[request.start : stop]
        assert MASK_ID not in completion.completion
        assert all(0 <= token < VOCAB_SIZE for token in completion.tokens)
        if decoder.end_id is None:
            assert stop == len(request.tokens)
            assert MASK_ID not in completion.tokens
        assert len(completion.tokens) == len(request.tokens)
        assert all(a == b for a, b in zip(request.tokens, completion.tokens, strict=True) if a != MASK_ID)

    counted = decoding.accounting
    wanted = sum(token == MASK_ID for request in requests for token in request.tokens)
    assert counted.forwards["denoise"] + counted.forwards["guided"] == num_steps
    assert counted.row_steps == checked.row_steps
    assert counted.idle_row_steps == checked.idle_row_steps
    assert counted.barren_row_steps == checked.barren_row_steps
    assert counted.tokens_committed == checked.num_commits
    assert counted.tokens_remasked == checked.num_remasked
    assert counted.tokens_useful <= wanted
    if decoder.end_id is None:
        assert counted.tokens_useful == wanted
        assert counted.tokens_committed - counted.tokens_remasked >= wanted
        if not decoder.policy.revises:
            assert (counted.tokens_committed, counted.tokens_remasked) == (wanted, 0)
    assert torch.is_inference_mode_enabled() is False


class Checked:
    """Looks at every step of a decode: what it changes is allowed, and what is not said to change stays."""

    def __init__(self, decoder: Decoder, requests: list[Request]) -> None:
        self.decoder, self.requests = decoder, requests
        self.before: dict[int, list[int]] = {row: list(request.tokens) for row, request in enumerate(requests)}
        self.at_start: torch.Tensor | None = None
        self.window_index, self.finished = -1, set[int]()
        self.row_steps = self.idle_row_steps = self.barren_row_steps = self.num_commits = self.num_remasked = 0

    def __call__(self, step: Step) -> None:
        query = step.window.query_BQ
        length = step.canvas.length
        before = torch.tensor([self.before[row] + [0] * (length + 1 - len(self.before[row])) for row in step.rows])
        masked = (before == MASK_ID).gather(1, query)
        if step.window.index != self.window_index:
            self.at_start, self.window_index = masked.sum(1), step.window.index
            self.finished = {row for row, count in zip(step.rows, self.at_start.tolist(), strict=True) if count == 0}
        assert self.at_start is not None
        eligible, edit = masked, step.edit
        quota = self.decoder.schedule.quota(Progress(self.at_start, eligible.sum(1), torch.tensor(step.index),
                                                     step.canvas.seed_B, step.window.size, step.window.size_B))
        count = (edit.commit_BQ & eligible).sum(1)
        assert (quota.at_least_B <= count).all()
        assert (count <= quota.at_most_B).all()
        given = step.canvas.given_BS.gather(1, query)
        changed = edit.commit_BQ if edit.remask_BQ is None else edit.commit_BQ | edit.remask_BQ
        assert not (changed & given).any()
        assert not (changed & (query == length)).any()
        if self.decoder.policy.revises:
            assert edit.remask_BQ is None or not (edit.remask_BQ & (eligible | edit.commit_BQ)).any()
        else:
            assert edit.remask_BQ is None
            assert not (edit.commit_BQ & ~eligible).any()

        after = step.canvas.tokens_BS
        unchanged = torch.ones_like(after, dtype=torch.bool).scatter(1, torch.where(changed, query, length), False)
        unchanged[:, length] = False
        assert torch.equal(after[unchanged], before[unchanged])
        assert torch.equal(after.gather(1, query)[edit.commit_BQ], step.proposal.token_BQ[edit.commit_BQ])
        assert torch.equal((after == MASK_ID)[:, :length], step.canvas.masked_BS[:, :length])

        self.row_steps += len(step.rows)
        self.num_commits += int(edit.commit_BQ.sum())
        self.num_remasked += 0 if edit.remask_BQ is None else int(edit.remask_BQ.sum())
        left = ((after == MASK_ID).gather(1, query) & (query < length)).any(1)
        goes_on = left if edit.unfinished_B is None else left | edit.unfinished_B
        for place, row in enumerate(step.rows):
            if row in self.finished:
                self.idle_row_steps += 1
                assert not changed[place].any(), "a finished row waits for the others unchanged"
            else:
                self.barren_row_steps += int(not changed[place].any())
                if not goes_on[place]:
                    self.finished.add(row)
            self.before[row] = after[place].tolist()[: len(self.requests[row].tokens)]


@pytest.mark.parametrize("combination", FEW, ids=str)
def test_a_seed_reproduces_and_another_one_differs_only_if_something_is_drawn(
        combination: Combination, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, model, num_draws = combination.decoder, TableModel(combination.pattern), 0
    philox = counter_rng.philox4x32

    def counting(*words: Any) -> Any:
        nonlocal num_draws
        num_draws += 1
        return philox(*words)

    monkeypatch.setattr(counter_rng, "philox4x32", counting)
    requests = [Request.completing([1, 2, 3, 4], 12, mask_id=MASK_ID, seed=seed) for seed in range(8)]
    once, again = tokens_of(decoder, model, requests), tokens_of(decoder, model, requests)
    assert once == again
    if isinstance(decoder.sampler, Categorical):
        assert len({tuple(row) for row in once}) > 1
    elif not num_draws:
        assert len({tuple(row) for row in once}) == 1


# The interpreter is slow: a few combinations, which reach every place, both samplers and both heads.
@pytest.mark.parametrize("combination", [
    *(pytest.param(combination, marks=[pytest.mark.slow] if combination.decoder.policy.revises or combination.decoder.
                   sampler.needs_logits else []) for combination in EVERY[::450]), *ENDING[-4::3]], ids=str)
def test_the_triton_path_decodes_the_same_tokens(combination: Combination) -> None:
    decoder, pattern = combination.decoder, combination.pattern
    needs_logits = decoder.sampler.needs_logits or "divergence" in decoder.policy.statistics
    head = SeparateHead() if needs_logits else FusedHead()
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


@pytest.mark.parametrize("combination", FEW, ids=str)
def test_a_step_of_the_triton_path_reads_nothing_back_either(combination: Combination) -> None:
    with using(Implementation.TRITON):
        test_a_step_has_fixed_shapes_and_reads_nothing_back(combination)


@pytest.mark.parametrize("combination", [
    *(pytest.param(combination, marks=[pytest.mark.slow] if number % 6 else []) for number, combination in
      enumerate(EVERY)), GUIDED], ids=str)
def test_a_step_has_fixed_shapes_and_reads_nothing_back(combination: Combination) -> None:
    """FakeTensorMode has no values, so a host read or a data-dependent shape raises."""
    decoder, pattern = combination.decoder, combination.pattern
    requests = [Request.completing([1] * start, 8, mask_id=MASK_ID, seed=start) for start in (4, 8, 4)]
    mode, model = fake_model(pattern)
    decoding = decoder.begin(TableModel(pattern), requests)
    decoding.model = model
    fake = type(decoding.live)(*(mode.from_tensor(tensor) for tensor in vars(decoding.live).values()))
    decoding.whole = decoding.live = fake
    decoding.grid = replace(decoding.grid, first_BQ=mode.from_tensor(decoding.grid.first_BQ),
                            stop_B=mode.from_tensor(decoding.grid.stop_B))
    with mode:
        decoding.store = None if decoding.store is None else model.new_store(len(requests), decoding.live.length)
        for number in range(2 if decoder.windows != Whole() else 1):
            visit = decoder.enter(decoding, number)
            # Number 0 of the first window, 1 of the second: caches treat first steps differently.
            proposal, edit, state = decoder.step(decoding, visit, number, torch.full((), number))
            assert proposal.token_BQ.shape == edit.commit_BQ.shape == visit.window.query_BQ.shape
            assert state.shape == ()


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
