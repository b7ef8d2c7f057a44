"""What is sure and no longer changes is committed."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from quicksilver.decoders import Blocks, Decoder, Greedy, Klass, Recompute, Request, Unbounded
from quicksilver.models import Bidirectional, DecodableTransformer
from torch import Tensor

from tests.conftest import MASK_ID, random_model
from tests.decoders.policies.conftest import MakeInputs, committed, inputs_of, together

SURE = math.log(0.95)


def run(policy: Klass, log_prob: list[float], divergences: list[list[float]], *, at_least: int = 0) -> list[list[int]]:
    """What is committed at each of several steps; nothing leaves the canvas."""
    found = []
    memory: Tensor | None = policy.begin(torch.arange(len(log_prob))[None])
    for step, divergence in enumerate(divergences):
        at = inputs_of(masked=[True] * len(log_prob), at_least=at_least, at_most=len(log_prob), step=step,
                       log_prob=log_prob, divergence=divergence, memory=memory)
        edit = policy.select(*at)
        found.append(committed(edit))
        memory = edit.memory
    return found


def test_a_position_is_ready_after_so_many_stable_steps_in_a_row() -> None:
    inf = math.inf
    divergences = [[inf, inf, inf], [0.0, 0.0, 0.5], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.0]]
    assert run(Klass(0.9, 0.01), [SURE] * 3, divergences) == [[], [], [0], [0, 2], [1, 2]]
    assert run(Klass(0.9, 0.01, history=1), [SURE] * 3, divergences) == [[], [0, 1], [0, 2], [0, 1, 2], [1, 2]]
    assert run(Klass(0.9, 0.01, history=3), [SURE] * 3, divergences) == [[], [], [], [0], [2]]


def test_each_row_goes_by_its_own_memory() -> None:
    """The first row diverged a step later than the second, and is ready a step later."""
    policy, found = Klass(0.9, 0.01, history=2), []
    memory: Tensor | None = policy.begin(torch.zeros(2, 1, dtype=torch.int64))
    for step, divergences in enumerate([(0.5, 0.0), (0.0, 0.0), (0.0, 0.0)]):
        rows = [inputs_of(masked=[True], at_least=0, at_most=1, step=step, log_prob=[SURE], divergence=[divergence])
                for divergence in divergences]
        batch = together(*rows)
        batch.state.memory = memory
        edit = policy.select(*batch)
        found.append(edit.commit_BQ[:, 0].tolist())
        memory = edit.memory
    assert found == [[False, False], [False, True], [True, True]]


def test_it_must_be_sure_too() -> None:
    assert run(Klass(0.9, 0.01, history=1), [SURE, math.log(0.85)], [[0.0, 0.0]]) == [[0]]


def test_equality_passes_neither_bound() -> None:
    assert run(Klass(0.5, 0.25, history=1), [math.log(0.5), math.log(0.75)], [[0.0, 0.0]]) == [[1]]
    assert run(Klass(0.9, 0.25, history=1), [SURE, SURE], [[0.25, 0.2499]]) == [[1]]


def test_where_nothing_is_ready_the_most_probable_are_committed() -> None:
    log_prob = [math.log(p) for p in (0.5, 0.7, 0.6)]
    assert run(Klass(0.9, 0.01), log_prob, [[math.inf] * 3], at_least=1) == [[1]]
    assert run(Klass(0.9, 0.01), log_prob, [[math.inf] * 3], at_least=2) == [[1, 2]]


def test_what_is_ready_comes_first_within_the_quota(make: MakeInputs) -> None:
    policy = Klass(0.5, 0.01, history=1)
    log_prob, divergence = [math.log(p) for p in (0.6, 0.9, 0.7, 0.8)], [0.0, 1.0, 0.0, 0.0]
    for at_least, at_most, expected in ((1, 4, [0, 2, 3]), (1, 2, [2, 3]), (4, 4, [0, 1, 2, 3])):
        edit = policy.select(*make(masked=[True] * 4, at_least=at_least, at_most=at_most, log_prob=log_prob,
                                     divergence=divergence, policy=policy))
        assert committed(edit) == expected


def test_it_is_the_published_rule_over_many_steps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        history, length = int(rng.integers(1, 4)), int(rng.integers(1, 8))
        policy, masks, past = Klass(0.6, 0.1, history), set(range(length)), []
        memory: Tensor | None = policy.begin(torch.arange(length)[None])
        for step in range(length):
            p = rng.integers(1, 33, length) / 32
            past.append(rng.choice([0.01, 0.3], length) if step else np.full(length, math.inf))
            stable = [i for i in range(length) if step >= history and all(kl[i] < 0.1 for kl in past[-history:])]
            ready = [i for i in sorted(masks) if i in stable and p[i] > 0.6]
            surest = sorted(masks, key=lambda i: (-p[i], i))[:1]
            at = inputs_of(masked=[i in masks for i in range(length)], at_least=len(surest), at_most=len(masks),
                           log_prob=np.log(p).tolist(), divergence=past[-1].tolist(), memory=memory)
            edit = policy.select(*at)
            memory = edit.memory
            assert committed(edit) == (ready or surest)
            masks -= set(committed(edit))


@torch.no_grad()
def naive(model: DecodableTransformer, tokens: list[int], block: int, policy: Klass) -> tuple[list[int], int]:
    """KLASS with blocks, without memory of what came before a block; the tokens and the number of steps."""
    tokens, num_steps = list(tokens), 0
    first = tokens.index(MASK_ID)
    for begin in range(first, len(tokens), block):
        past: list[Tensor] = []
        before_LV = None
        while masks := [i for i in range(begin, begin + block) if tokens[i] == MASK_ID]:
            logits_LV = model.logits(model.transformer.sequence_hidden(torch.tensor([tokens])))[0].double()
            logits_LV[:, MASK_ID] = -torch.inf
            p_LV = logits_LV.softmax(-1)
            if before_LV is not None:
                past.append(torch.special.xlogy(p_LV, p_LV / before_LV.clamp(min=1e-300)).nan_to_num(0).sum(-1))
            before_LV = p_LV
            ready = [i for i in masks if len(past) >= policy.history and p_LV[i].max() > policy.tau
                     and all(kl[i] < policy.epsilon for kl in past[-policy.history :])]
            for i in ready or [max(masks, key=lambda i: p_LV[i].max().item())]:
                tokens[i] = int(p_LV[i].argmax())
            num_steps += 1
    return tokens, num_steps


def test_a_whole_decode_is_that_of_a_naive_loop() -> None:
    saved = 0
    for seed in range(6):
        model, policy = random_model(Bidirectional(), seed), Klass(0.7, 0.05, history=1 + seed % 2)
        decoder = Decoder(Blocks(8), Unbounded(), Greedy(), policy, Recompute())
        request = Request.completing([1, 2, 3], 16, mask_id=MASK_ID)
        decoding = decoder.begin(model, [request])
        num_steps = sum(1 for _ in decoder.stream(decoding))
        tokens = decoder.completions(decoding)[0].tokens
        assert (tokens, num_steps) == naive(model, list(request.tokens), 8, policy)
        saved += 16 - num_steps
    assert saved > 0


@pytest.mark.parametrize(("field", "allowed"), [
    ({"tau": 0}, "tau=0: must be a number above 0 and at most 1"), ({"tau": 1.01}, "tau=1.01"),
    ({"epsilon": 0}, "epsilon=0: must be a number above 0"), ({"epsilon": None}, "epsilon=None"),
    ({"history": 0}, "history=0: must be an integer of at least 1"), ({"history": 1.0}, "history=1.0")])
def test_bad_ranges_are_refused(field: dict[str, Any], allowed: str) -> None:
    defaults: dict[str, Any] = {"tau": 0.9, "epsilon": 0.01}
    with pytest.raises(ValueError, match=allowed):
        Klass(**defaults | field)
