"""Contracts that every combination of policy, cache, windows and sampler keeps; parts join by their YAML."""

import functools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from quicksilver.decoders import (
    Append,
    BlockCausalCache,
    Blocks,
    Cache,
    Categorical,
    Decoder,
    Greedy,
    GridBlocks,
    Leftmost,
    Linear,
    Recompute,
    Request,
    Threshold,
    Whole,
    Windows,
)
from quicksilver.kernels import counter_rng
from quicksilver.kernels.dispatch import Implementation, recording, using
from quicksilver.models import (
    AttentionPattern,
    Bidirectional,
    BlockCausal,
    DecodableTransformer,
    KVStore,
    LanguageModel,
    Plan,
)
from quicksilver.models.heads import FusedHead, SeparateHead
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.conftest import MASK_ID, VOCAB_SIZE, TableModel, ragged_requests, random_model
from tests.decoders.combinations import (
    CONF,
    ENDING,
    GROUPS,
    GUIDED,
    PAIRS,
    REFUSALS,
    SINGLES,
    WORKING,
    Checked,
    Combination,
    cover,
    held,
    options,
    working,
)

# The default run covers every option, the slow tests every pair of options.
FURTHER_PAIRS = [pytest.param(combination, marks=pytest.mark.slow) for combination in PAIRS
                 if str(combination) not in map(str, SINGLES)]


def tokens_of(decoder: Decoder, model: LanguageModel, requests: list[Request]) -> list[list[int]]:
    return [completion.tokens for completion in decoder.decode(model, requests)]


def alone(decoder: Decoder, model: LanguageModel, request: Request) -> tuple[list[int], int]:
    """A request's tokens and how many steps it takes until it is finished, in a batch of its own."""
    run = decoder.begin(model, [request])
    for _ in decoder.stream(run):
        pass
    (completion,) = decoder.completions(run)
    return completion.tokens, run.accounting.row_steps - run.accounting.finished_row_steps


def test_every_option_works_with_some_and_a_refusal_gives_its_reason() -> None:
    shipped = options(CONF)
    assert set[Any]().union(*(held(combination, 1) for combination in SINGLES)) == {
        ((group, name),) for group in GROUPS for name in shipped[group]}
    assert all(": " in refusal for refusal in REFUSALS)


def test_every_two_options_that_work_together_are_tested_together() -> None:
    pairs, working_pairs = (set[Any]().union(*(held(combination, 2) for combination in combinations))
                            for combinations in (PAIRS, WORKING))
    assert pairs == working_pairs
    assert len(PAIRS) < len(pairs) / 3


def test_a_policy_added_by_its_yaml_changes_no_other_combination_and_a_cache_after_it_neither(tmp_path: Path) -> None:
    conf = tmp_path / "conf"
    shutil.copytree(CONF, conf)
    before = PAIRS
    for new, shipped in ((("policy", "a_new_one"), "leftmost"), (("cache", "a_new_one"), "dual")):
        group, name = new
        shutil.copy(conf / group / f"{shipped}.yaml", conf / group / f"{name}.yaml")
        combinations = list(working(options(conf)))
        after = cover(combinations, 2)
        assert [str(combination) for combination in after if new not in combination.chosen] == list(map(str, before))
        pairs, working_pairs = ({pair for combination in some for pair in held(combination, 2) if new in pair}
                                for some in (after, combinations))
        assert pairs == working_pairs
        assert len(pairs) > 20
        before = after


@pytest.mark.parametrize("combination", [*SINGLES, *ENDING, GUIDED, *FURTHER_PAIRS], ids=str)
def test_contracts(combination: Combination) -> None:
    """A row decodes the same alone and in any batch, in as many steps, and again; what was given is kept; the mask is
    never written; every step commits within the quota; what is done is counted."""
    decoder, model = combination.decoder, TableModel(combination.pattern)
    requests = ragged_requests(3, seed=1, block=4)
    run = decoder.begin(model, requests)
    checked = Checked(decoder, requests)
    num_steps = 0
    for step in decoder.stream(run):
        checked(step)
        num_steps += 1
    completions = decoder.completions(run)
    together = [completion.tokens for completion in completions]
    apart = [alone(decoder, model, request) for request in requests]
    assert together == [tokens for tokens, _ in apart]
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

    counted = run.accounting
    wanted = sum(token == MASK_ID for request in requests for token in request.tokens)
    assert counted.forwards["denoise"] + counted.forwards["guided"] == num_steps
    assert counted.row_steps == checked.row_steps
    assert counted.row_steps - counted.finished_row_steps == sum(num_steps for _, num_steps in apart)
    assert counted.finished_row_steps == checked.finished_row_steps
    assert counted.empty_row_steps == checked.empty_row_steps
    assert counted.tokens_committed == checked.num_commits
    assert counted.tokens_remasked == checked.num_remasked
    assert counted.tokens_useful <= wanted
    if decoder.end_id is None:
        assert counted.tokens_useful == wanted
        assert counted.tokens_committed - counted.tokens_remasked >= wanted
        if not decoder.policy.revises:
            assert (counted.tokens_committed, counted.tokens_remasked) == (wanted, 0)
    assert torch.is_inference_mode_enabled() is False


@pytest.mark.parametrize("combination", [*SINGLES, *ENDING], ids=str)
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


# The interpreter is slow: a few combinations of few steps, which reach every place, all samplers and both heads.
@pytest.mark.parametrize("combination", [
    *(pytest.param(combination, marks=marks) for name, marks in {
        "top_margin-prefix-whole-greedy-bidirectional-linear_3": pytest.mark.slow,
        "leftmost-block_causal-grid_blocks-categorical-block_causal-single": [],
        "threshold-block_causal_apart-revised_blocks-greedy-block_causal-even_floor": pytest.mark.slow,
        "low_entropy-delayed-whole-categorical-bidirectional-linear_3": pytest.mark.slow,
        "klass-dual-blocks-cut-bidirectional-even_floor": pytest.mark.slow,
        "remdm_cap-recompute-whole-credited-bidirectional-free": pytest.mark.slow}.items()
      for combination in WORKING if str(combination) == name), *ENDING[-4::3]], ids=str)
def test_the_triton_path_decodes_the_same_tokens(combination: Combination) -> None:
    decoder, pattern = combination.decoder, combination.pattern
    needs_logits = decoder.sampler.needs_logits or "divergence" in decoder.policy.statistics
    head = SeparateHead() if needs_logits else FusedHead()
    requests = [Request.completing([1] * 8, 4, mask_id=MASK_ID), ragged_requests(1, seed=6, block=4)[0]]
    expected = tokens_of(decoder, random_model(pattern), requests)
    with using(Implementation.TRITON), recording() as ran:
        found = tokens_of(decoder, replace(random_model(pattern), head=head), requests)
    assert {implementation for _, implementation in ran} == {Implementation.TRITON}
    assert found == expected


def layout(value: Any) -> Any:
    """All that a computation can depend on where tensors have no values."""
    if isinstance(value, Tensor):
        return type(value), value.shape, value.stride(), value.dtype
    if isinstance(value, tuple):
        return tuple(map(layout, value))
    if is_dataclass(value):
        return type(value), tuple(layout(getattr(value, field.name)) for field in fields(value))
    return value


def once_a_layout(found: dict[Any, Any], function: Callable[..., Any], *given: Any) -> Any:
    key = layout(given)
    if key not in found:
        found[key] = function(*given)
    return found[key]


@dataclass(frozen=True)
class FakeModel(DecodableTransformer):
    """Its forward runs once for each layout of what it is given."""

    forwards: dict[Any, Any] = field(default_factory=dict)
    draws: dict[Any, Any] = field(default_factory=dict)

    def hidden(self, tokens_BS: Tensor, plan: Plan, store: KVStore | None) -> Tensor:
        return once_a_layout(self.forwards, super().hidden, tokens_BS, plan, store)


@functools.cache
def fake_model(pattern: AttentionPattern, implementation: Implementation | None) -> tuple[FakeTensorMode, FakeModel]:
    """For one implementation, whose forwards the model keeps."""
    with FakeTensorMode() as mode:
        model = random_model(pattern)
        return mode, FakeModel(model.transformer, model.spec.mask_id, model.spec.shift)


@pytest.mark.parametrize("combination", [*SINGLES, *ENDING], ids=str)
def test_a_step_of_the_triton_path_reads_nothing_back_either(combination: Combination) -> None:
    check_a_step(combination, Implementation.TRITON)


@pytest.mark.parametrize("combination", [*SINGLES, GUIDED, *FURTHER_PAIRS], ids=str)
def test_a_step_has_fixed_shapes_and_reads_nothing_back(combination: Combination) -> None:
    check_a_step(combination, None)


def check_a_step(combination: Combination, implementation: Implementation | None) -> None:
    """FakeTensorMode has no values, so a host read or a data-dependent shape raises."""
    decoder, pattern = combination.decoder, combination.pattern
    requests = [Request.completing([1] * start, 8, mask_id=MASK_ID, seed=start) for start in (4, 8, 4)]
    mode, model = fake_model(pattern, implementation)
    run = decoder.begin(TableModel(pattern), requests)
    numbers = range(2 if decoder.windows != Whole() else 1)
    for number in numbers:  # the schedule's bounds are worked out on the host, once
        decoder.begin_block(run, number)
    run.model = model
    run.full = run.active = type(run.active)(*(mode.from_tensor(tensor) for tensor in vars(run.active).values()))
    run.grid = replace(run.grid, first_BQ=mode.from_tensor(run.grid.first_BQ), stop_B=mode.from_tensor(run.grid.stop_B))
    draw = functools.partial(once_a_layout, model.draws, counter_rng.philox4x32)
    with mode, using(implementation), pytest.MonkeyPatch.context() as patch:
        patch.setattr(counter_rng, "philox4x32", draw)
        run.store = None if run.store is None else model.new_store(len(requests), run.active.length)
        for number in numbers:
            block = decoder.begin_block(run, number)
            decoder.prefill(run, block)
            # Number 0 of the first window, 1 of the second: caches treat first steps differently.
            block.step_B.add_(number)
            step = decoder.step(run, block, number)
            assert step.proposal.token_BQ.shape == step.edit.commit_BQ.shape == block.window.query_BQ.shape
            assert step.status_3.shape == (3,)
    assert not run.log
    assert not run.accounting.forwards["denoise"], "a step has no effect on the host: one that is replayed has none"


@pytest.mark.parametrize(("windows", "cache", "reason"), [
    (Whole(), Append(), "needs blocks of 1"), (Blocks(4), Append(), "needs blocks of 1"),
    (Whole(), BlockCausalCache(), "needs grid blocks"), (Blocks(4), BlockCausalCache(), "needs grid blocks")], ids=str)
def test_a_combination_that_cannot_work_is_refused_with_its_reason(
        windows: Windows, cache: Cache, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Decoder(windows, Linear(1), Greedy(), Leftmost(), cache)


def test_a_threshold_under_a_fixed_quota_is_refused() -> None:
    with pytest.raises(ValueError, match="a fixed quota leaves the policy nothing to decide"):
        Decoder(Whole(), Linear(2), Greedy(), Threshold(0.9), Recompute())


@pytest.mark.parametrize(("windows", "cache", "pattern", "reason"), [
    (Blocks(1), Append(), Bidirectional(), "needs a causal next-token model"),
    (GridBlocks(4), BlockCausalCache(), BlockCausal(2), "same block size"),
    (GridBlocks(4), BlockCausalCache(), Bidirectional(), "needs a block-causal model")], ids=str)
def test_a_cache_that_would_be_wrong_for_the_model_is_refused(
        windows: Windows, cache: Cache, pattern: AttentionPattern, reason: str) -> None:
    decoder = Decoder(windows, Linear(1), Greedy(), Leftmost(), cache)
    with pytest.raises(ValueError, match=reason):
        decoder.decode(TableModel(pattern), [Request.completing([1, 2, 3, 4], 4, mask_id=MASK_ID)])
