"""Drafts are corrected while the window is open, and for some passes after its last mask."""

import math
from typing import Any

import pytest
import torch
from quicksilver.decoders import (
    Blocks,
    Decoder,
    Even,
    Floor,
    Greedy,
    Recompute,
    Request,
    Schedule,
    TokenEditing,
    Unbounded,
)
from quicksilver.models import Bidirectional, Plan

from tests.conftest import MASK_ID, TableModel
from tests.decoders.policies.conftest import MakeInputs, committed

POLICY = TokenEditing(draft_tau=0.5, edit_tau=0.75, num_passes=2)


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


@pytest.mark.parametrize(("at_least", "at_most", "expected"), [(0, 4, [1, 2]), (3, 4, [0, 1, 2]), (0, 1, [2])])
def test_sure_masks_are_drafted_within_the_quota(make: MakeInputs, at_least: int, at_most: int, expected: list[int]
                                                 ) -> None:
    edit = POLICY.select(*make(masked=[True] * 4, at_least=at_least, at_most=at_most, policy=POLICY,
                                 log_prob=logs(0.45, 0.6, 0.9, 0.4)))
    assert committed(edit) == expected


def test_decided_tokens_give_way_to_surer_others(make: MakeInputs) -> None:
    """Position 1 proposes the token it holds, 2 is not sure, 3 is given; edits do not use the quota up."""
    edit = POLICY.select(*make(masked=[False] * 4 + [True], tokens=[1, 2, 3, 4, 0], proposed=[5, 2, 5, 5, 5],
                                 given=[False, False, False, True, False], policy=POLICY, at_least=0, at_most=1,
                                 log_prob=logs(0.9, 0.9, 0.7, 0.9, 0.9)))
    assert committed(edit) == [0, 4]
    assert edit.remask_BQ is None


def test_equality_passes_neither_bound(make: MakeInputs) -> None:
    at = make(masked=[True, False], tokens=[0, 1], proposed=[2, 2], policy=POLICY, at_least=0,
                 log_prob=logs(0.5, 0.5))
    assert committed(TokenEditing(0.5, 0.5).select(*at)) == []
    assert committed(TokenEditing(0.4999, 0.4999).select(*at)) == [0, 1]


def test_a_threshold_of_zero_accepts_every_proposal(make: MakeInputs) -> None:
    policy = TokenEditing(draft_tau=0, edit_tau=0)
    edit = policy.select(*make(masked=[True, False, False], tokens=[0, 1, 2], proposed=[2, 2, 2], policy=policy,
                                 log_prob=logs(0.01, 0.01, 0.9)))
    assert committed(edit) == [0, 1]


def passes(make: MakeInputs, policy: TokenEditing, *steps: tuple[bool, bool]) -> list[bool]:
    """Whether the row wants another step, after steps that had a mask or not and edited something or not."""
    found, memory = [], None
    for had_mask, edits in steps:
        edit = policy.select(*make(masked=[had_mask, False], tokens=[0, 1], proposed=[0, 2 if edits else 1],
                                   log_prob=logs(0.9, 0.9), policy=policy, memory=memory))
        assert edit.unfinished_B is not None
        memory = edit.memory
        found.append(bool(edit.unfinished_B))
    return found


@pytest.mark.parametrize(("num_passes", "steps", "expected"), [
    (2, [(True, False), (False, False)], [True, False]),  # the first pass that changes nothing is the last
    (2, [(True, True), (True, False), (False, True), (False, True)], [True, True, True, False]),
    (3, [(True, False), (False, True), (False, True), (False, True)], [True, True, True, False]),
    (1, [(True, True), (False, True)], [True, False]),
    (0, [(True, True)], [False]),
])
def test_passes_follow_the_last_mask(make: MakeInputs, num_passes: int, steps: list[tuple[bool, bool]],
                                     expected: list[bool]) -> None:
    assert passes(make, TokenEditing(0.5, 0.75, num_passes), *steps) == expected


def naive(model: TableModel, request: Request, block: int, policy: TokenEditing, quota: int) -> tuple[list[int], int]:
    """LLaDA2.1's loop, written as its reference implementation goes: the tokens and the number of forwards."""
    tokens, num_forwards = list(request.tokens), 0
    given = [token != MASK_ID for token in tokens]
    for begin in range(request.start, len(tokens), block):
        positions = range(begin, begin + block)
        num_passes = 0
        while True:
            masks = [i for i in positions if tokens[i] == MASK_ID]
            num_passes += not masks
            if num_passes > policy.num_passes:
                break
            query = torch.tensor([list(positions)])
            logits_QV = model.hidden(torch.tensor([[*tokens, 0]]), Plan(query, query), None)[0].double()
            logits_QV[:, MASK_ID] = -torch.inf
            p_QV = logits_QV.softmax(-1)
            best = {i: (p_QV[i - begin].max().item(), int(p_QV[i - begin].argmax())) for i in positions}
            num_forwards += 1
            drafted = [i for i in masks if best[i][0] > policy.draft_tau]
            if len(drafted) < quota:
                drafted = sorted(masks, key=lambda i: -best[i][0])[:quota]
            edited = [i for i in positions if i not in masks and not given[i] and best[i][1] != tokens[i]
                      and best[i][0] > policy.edit_tau]
            for i in (*drafted, *edited):
                tokens[i] = best[i][1]
            if not masks and not edited:
                break
    return tokens, num_forwards


@pytest.mark.parametrize(("block", "schedule", "quota"), [(4, Unbounded(), 1), (8, Floor(Even(4)), 2)], ids=str)
def test_a_whole_decode_is_that_of_a_naive_loop(block: int, schedule: Schedule, quota: int) -> None:
    num_edits = 0
    for seed in range(8):
        policy = TokenEditing((0.3, 0.6, 0.9)[seed % 3], (0.5, 0.8)[seed % 2], num_passes=seed % 5)
        model, tokens = TableModel(Bidirectional(), seed), [1, 2, 3, 4] + [MASK_ID] * 16
        tokens[6] = 7
        request, decoder = Request(tokens, 4), Decoder(Blocks(block), schedule, Greedy(), policy, Recompute())
        decoding = decoder.begin(model, [request])
        num_forwards = sum(1 for _ in decoder.stream(decoding))
        found = decoder.completions(decoding)[0].tokens
        assert (found, num_forwards) == naive(model, request, block, policy, quota)
        num_edits += decoding.accounting.tokens_committed - tokens.count(MASK_ID)
    assert num_edits > 10


@pytest.mark.parametrize(("field", "allowed"), [
    ({"draft_tau": -0.1}, "draft_tau=-0.1: must be a number at least 0 and at most 1"),
    ({"draft_tau": 2}, "draft_tau=2: must be"),
    ({"edit_tau": 1.1}, "edit_tau=1.1: must be a number at least 0 and at most 1"),
    ({"edit_tau": None}, "edit_tau=None: must be"),
    ({"num_passes": -1}, "num_passes=-1: must be an integer of at least 0"), ({"num_passes": 1.5}, "num_passes=1.5")])
def test_bad_ranges_are_refused(field: dict[str, Any], allowed: str) -> None:
    defaults: dict[str, Any] = {"draft_tau": 0.7, "edit_tau": 0.9}
    with pytest.raises(ValueError, match=allowed):
        TokenEditing(**defaults | field)
