"""Samplers check their ranges and rank by the distribution they are told to; credit is dInfer's."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from quicksilver.decoders import Categorical, Credited, Greedy, RelativeThreshold
from quicksilver.kernels.token_statistics import Statistic, token_statistics

from tests.decoders.policies.conftest import committed, inputs_of, under_seeds

LOGITS = torch.tensor([[[2.0, 1.0, 0.0, -torch.inf]]])
ONE_MASK = inputs_of(masked=[True])


@pytest.mark.parametrize("field", [{"temperature": 0}, {"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"top_p": 1.2},
                                   {"statistics_temperature": 0}, {"temperature": "hot"}], ids=str)
def test_bad_ranges_are_refused(field: dict) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(field))}="):
        Categorical(**field)


def test_confidence_can_be_tempered_or_not() -> None:
    wanted: frozenset[Statistic] = frozenset({"log_prob"})
    state = ONE_MASK.state
    plain, sharp = (token_statistics(LOGITS, sampler.question(wanted, state, state.query_BQ, None)).log_prob_BQ
                    for sampler in (Greedy(), Greedy(statistics_temperature=0.5)))
    assert plain is not None
    assert sharp is not None
    assert plain.item() == pytest.approx(LOGITS.log_softmax(-1)[0, 0, 0].item())
    assert sharp.item() == pytest.approx((LOGITS / 0.5).log_softmax(-1)[0, 0, 0].item())


def test_a_banned_token_is_never_drawn() -> None:
    state = under_seeds(ONE_MASK, 500).state
    question = Categorical(temperature=5.0).question(frozenset(), state, state.query_BQ, None)
    found = token_statistics(LOGITS.expand(500, 1, 4), question)
    assert set(found.token_BQ.flatten().tolist()) == {0, 1, 2}


def naive_credit_step(logits: np.ndarray, credit: np.ndarray, masks: set[int]) -> tuple[list[int], list[float]]:
    """A step of dInfer's credit with its default strengths, position by position: the tokens that it proposes and their
    probabilities. `credit` is updated in place."""
    token, probability = [], []
    for position, row in enumerate(logits):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        credit[position] *= 0.8
        if position in masks:
            credit[position, p.argmax()] += p.max() ** 0.2
        fused = row + 0.7 * np.log(1 + credit[position])
        q = np.exp(fused - fused.max()) / np.exp(fused - fused.max()).sum()
        token.append(int(fused.argmax()))
        probability.append(float(q.max()))
    return token, probability


def test_credit_decoding_is_dinfers_over_many_steps() -> None:
    rng, num_favoured = np.random.default_rng(0), 0
    for _ in range(20):
        length, vocab_size, tau = int(rng.integers(2, 9)), 12, float(rng.choice([0.3, 0.6, 0.95]))
        sampler, masks, credit = Credited(), set(range(length)), np.zeros((length, vocab_size))
        memory = sampler.begin(torch.Size((1, length, vocab_size)), torch.device("cpu"))
        base, step = rng.normal(size=(length, vocab_size)), 0
        while masks:
            logits = 2 * (base + 0.5 * rng.normal(size=base.shape)).astype(np.float32).astype(np.float64)
            token, probability = naive_credit_step(logits, credit, masks)
            enough = min(tau, max(probability[i] for i in masks) - 1e-5)
            wanted = [i for i in sorted(masks) if probability[i] >= enough]
            masked = [i in masks for i in range(length)]
            state = inputs_of(masked=masked, step=step).state
            found = token_statistics(torch.tensor(logits)[None].float(),
                                     sampler.question(frozenset({"log_prob"}), state, state.query_BQ, memory))
            assert found.log_prob_BQ is not None
            edit = RelativeThreshold(tau).select(*inputs_of(masked=masked, at_most=len(masks),
                                                           log_prob=found.log_prob_BQ[0].tolist()))
            assert found.token_BQ[0].tolist() == token
            np.testing.assert_allclose(found.log_prob_BQ[0].exp(), probability, rtol=1e-5)
            assert committed(edit) == wanted
            num_favoured += sum(int(row.argmax()) != best for row, best in zip(logits, token, strict=True))
            masks -= set(wanted)
            step += 1
        np.testing.assert_allclose(memory[0], credit, rtol=1e-5, atol=1e-7)
    assert num_favoured > 10, "credit changes tokens"


def test_credit_is_given_before_the_base_draws() -> None:
    """One mask, whose best token has no credit yet: it draws from softmax(logits + alpha log(1 + p ** gamma))."""
    num, sampler = 20_000, Credited(Categorical(temperature=2.0), alpha=2.0, beta=0.5, gamma=1.0)
    state = under_seeds(ONE_MASK, num).state
    memory = sampler.begin(torch.Size((num, 1, 4)), torch.device("cpu"))
    question = sampler.question(frozenset(), state, state.query_BQ, memory)
    token_BQ = token_statistics(LOGITS.expand(num, 1, 4), question).token_BQ
    fused = LOGITS[0, 0].double().numpy().copy()
    fused[0] += 2 * math.log(1 + math.exp(2) / (math.exp(2) + math.e + 1))
    wanted = np.exp(fused / 2) / np.exp(fused / 2).sum()
    share = np.bincount(token_BQ.flatten().numpy(), minlength=4) / num
    np.testing.assert_allclose(share, wanted, atol=4.5 * np.sqrt(0.25 / num))


def test_credit_starts_at_nothing_and_needs_all_logits() -> None:
    memory = Credited().begin(torch.Size((2, 3, 5)), torch.device("cpu"))
    assert torch.equal(memory, torch.zeros(2, 3, 5))
    assert Credited().needs_logits


@pytest.mark.parametrize(("field", "allowed"), [
    ({"alpha": -0.1}, "alpha=-0.1: must be a number at least 0"),
    ({"alpha": 1e300}, r"alpha=1e\+300: must be a number at least 0 and at most 1e\+30"),
    ({"gamma": None}, "gamma=None: must be a number"),
    ({"beta": 1.1}, "beta=1.1: must be a number at least 0 and at most 1"),
    ({"base": Credited()}, "base=Credited.*: credit is given once; the base must draw from the logits alone")])
def test_bad_credit_is_refused(field: dict[str, Any], allowed: str) -> None:
    with pytest.raises(ValueError, match=allowed):
        Credited(**field)
