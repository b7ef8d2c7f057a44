"""What is kept of whole distributions, against loops over tokens."""

import itertools
import math

import numpy as np
import pytest
import torch
from quicksilver.kernels.distribution_state import PreviousDistribution, TokenCredit
from torch import Tensor

CPU = torch.device("cpu")


def naive_divergence(now: list[float], before: list[float]) -> float:
    """KL(now || before) of two lists of probabilities."""
    return sum(p * math.log(p / q) for p, q in zip(now, before, strict=True) if p > 0)


def probabilities(logits: Tensor) -> list[float]:
    return logits.double().softmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_divergence_is_that_of_each_step_from_the_one_before(dtype: torch.dtype, temperature: float) -> None:
    steps = (torch.randn(4, 2, 3, 50) * 3).to(dtype)
    steps[..., 11] = -torch.inf
    previous = PreviousDistribution.empty(steps[0].shape, CPU)
    assert (previous.divergence(steps[0], temperature) == torch.inf).all()
    for before, now in itertools.pairwise(steps):
        found_BQ = previous.divergence(now, temperature)
        assert found_BQ.dtype == torch.float32
        wanted = [[naive_divergence(probabilities(now[b, q].double() / temperature),
                                    probabilities(before[b, q].double() / temperature))
                   for q in range(3)] for b in range(2)]
        np.testing.assert_allclose(found_BQ, wanted, rtol=1e-5)


def test_what_does_not_move_does_not_diverge() -> None:
    logits = torch.randn(1, 5, 5000) * 4
    previous = PreviousDistribution.empty(logits.shape, CPU)
    previous.divergence(logits, 1.0)
    assert torch.equal(previous.divergence(logits, 1.0), torch.zeros(1, 5))
    assert previous.divergence(logits + 3.0, 1.0).abs().max() < 1e-5  # the same distribution


def test_a_token_that_was_impossible_makes_it_infinite_and_one_that_is_now_does_not() -> None:
    first, second = torch.tensor([[[0.0, 0.0, -torch.inf]]]), torch.tensor([[[0.0, -torch.inf, 0.0]]])
    previous = PreviousDistribution.empty(first.shape, CPU)
    previous.divergence(torch.zeros(1, 1, 3), 1.0)
    assert previous.divergence(first, 1.0).item() == pytest.approx(math.log(3 / 2))
    assert previous.divergence(second, 1.0).item() == torch.inf


def test_rows_that_allow_nothing_leave_no_nan_behind() -> None:
    nothing, something = torch.full((1, 2, 4), -torch.inf), torch.randn(1, 2, 4)
    previous = PreviousDistribution.empty(nothing.shape, CPU)
    assert previous.divergence(nothing, 1.0).tolist() == [[0, 0]]
    assert (previous.divergence(something, 1.0) == torch.inf).all()
    assert torch.equal(previous.divergence(something, 1.0), torch.zeros(1, 2))
    credit = TokenCredit(torch.zeros(1, 2, 4), torch.tensor([[True, False]]), 0.7, 0.8, 0.2)
    assert torch.equal(credit.fused(nothing), nothing)
    assert torch.equal(credit.credit_BQV, torch.zeros(1, 2, 4))


@pytest.mark.parametrize(("alpha", "beta", "gamma"), [
    (0.7, 0.8, 0.2), (2.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 0.5, 2.0)])
def test_credit_is_earned_by_the_most_probable_decays_and_favours(alpha: float, beta: float, gamma: float) -> None:
    memory = torch.zeros(2, 3, 6)
    wanted = np.zeros((2, 3, 6))
    for _ in range(5):
        logits, masked = torch.randn(2, 3, 6) * 2, torch.rand(2, 3) < 0.6
        logits[..., 4] = -torch.inf
        found = TokenCredit(memory, masked, alpha, beta, gamma).fused(logits)
        for b, q in np.ndindex(2, 3):
            p = probabilities(logits[b, q])
            wanted[b, q] *= beta
            if masked[b, q]:
                wanted[b, q, int(np.argmax(p))] += max(p) ** gamma
        np.testing.assert_allclose(memory, wanted, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found, logits.double().numpy() + alpha * np.log(1 + wanted), rtol=1e-5, atol=1e-5)


def test_narrow_logits_keep_the_credit_in_full() -> None:
    logits = torch.tensor([[[256.0, 0.0]]], dtype=torch.bfloat16)
    found = TokenCredit(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), 0.7, 0.8, 0.2).fused(logits)
    assert found[0, 0, 0].item() == pytest.approx(256 + 0.7 * math.log(2), abs=1e-4)
