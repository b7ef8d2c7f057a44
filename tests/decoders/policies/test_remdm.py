"""Decided tokens return to mask at the rate that is asked for, and the marginals stay right."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from quicksilver.decoders import ByConfidence, Capped, Rate, Remdm, Rescaled

from tests.decoders.policies.conftest import (
    MakeInputs,
    check_rows_have_times_of_their_own,
    committed,
    inputs_of,
    places,
    under_seeds,
)

NUM = 20_000
RATES: dict[str, tuple[Rate, Callable[[float], float]]] = {
    "cap 0": (Capped(0.0), lambda largest: 0.0),
    "cap 0.02": (Capped(0.02), lambda largest: min(0.02, largest)),
    "cap 0.4": (Capped(0.4), lambda largest: min(0.4, largest)),
    "cap 1": (Capped(1.0), lambda largest: largest),
    "rescale 0": (Rescaled(0.0), lambda largest: 0.0),
    "rescale 0.3": (Rescaled(0.3), lambda largest: 0.3 * largest),
    "rescale 1": (Rescaled(1.0), lambda largest: largest),
}


def close(count: int, num: int, probability: float) -> bool:
    """Whether so many of `num` draws fit the probability, to five standard deviations."""
    return abs(count - num * probability) <= 5 * math.sqrt(num * probability * (1 - probability)) + 1e-6 * num


@pytest.mark.parametrize(("rate", "sigma_of"), RATES.values(), ids=RATES)
def test_every_step_is_the_published_one_and_leaves_the_right_share_masked(
        rate: Rate, sigma_of: Callable[[float], float]) -> None:
    steps, masked = 6, np.ones(NUM, dtype=bool)
    for step in range(steps):
        t, s = 1 - step / steps, 1 - (step + 1) / steps
        alpha_t, alpha_s = 1 - t, 1 - s
        sigma = sigma_of(min(1.0, (1 - alpha_s) / alpha_t) if alpha_t > 0 else 1.0)
        decided_share = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
        edit = Remdm(rate).select(*inputs_of(masked=masked.tolist(), step=step, times=(t, s), at_least=0))
        decided, returned = committed(edit), places(edit.remask_BQ)
        num_masked = int(masked.sum())
        assert masked[decided].all()
        assert not masked[returned].any()
        assert close(len(decided), num_masked, min(decided_share, 1))
        assert close(len(returned), NUM - num_masked, sigma)
        assert bool(edit.unfinished_B) == (step < steps - 1)
        masked[decided], masked[returned] = False, True
        assert close(int(masked.sum()), NUM, 1 - alpha_s)
    assert not masked.any()


def test_confidence_spreads_the_largest_rate_over_decided_positions(make: MakeInputs) -> None:
    at = make(masked=[True, False, False, False, True, False], given=[False, False, True, False, False, False],
                 times=(0.5, 0.4))
    p = [0.0, 0.9, 0.1, 0.2, 0.0, 0.5]
    at.state.canvas.log_prob_BS[0, :6] = torch.tensor(p).log()
    weight = {i: math.exp(-p[i]) for i in (1, 3, 5)}  # 2 is given
    wanted = [0.8 * weight.get(i, 0) / sum(weight.values()) for i in range(6)]
    sigma_BQ = ByConfidence().sigma(torch.tensor([[0.8]]).double(), at.state)
    np.testing.assert_allclose(sigma_BQ[0], wanted, rtol=1e-6)


def test_confidence_decides_masks_as_if_none_returned() -> None:
    masked = np.arange(NUM) % 2 == 0
    edit = Remdm(ByConfidence()).select(*inputs_of(masked=masked.tolist(), times=(0.5, 0.4), at_least=0))
    assert close(len(committed(edit)), NUM // 2, 0.2)  # (0.6 - 0.5) / 0.5
    # The rates of all decided positions sum to the largest one, 0.4 / 0.5.
    assert len(places(edit.remask_BQ)) <= 6


def test_doubtful_tokens_return_more_often() -> None:
    at = inputs_of(masked=[True, False, False], times=(0.5, 0.4), at_least=0)
    at.state.canvas.log_prob_BS[0, :3] = torch.tensor([0.0, math.log(0.95), math.log(0.05)])
    edit = Remdm(ByConfidence()).select(*under_seeds(at, NUM))
    assert edit.remask_BQ is not None
    masked, sure, doubtful = edit.remask_BQ.sum(0).tolist()
    assert masked == 0
    assert close(sure, NUM, 0.8 / (1 + math.exp(0.9)))
    assert close(doubtful, NUM, 0.8 / (1 + math.exp(-0.9)))


@pytest.mark.parametrize("rate", [Capped(0.5), Rescaled(1.0), ByConfidence()], ids=str)
def test_nothing_returns_where_nothing_is_decided_and_at_the_end(make: MakeInputs, rate: Rate) -> None:
    first = Remdm(rate).select(*make(masked=[True] * 50, times=(1.0, 0.5), at_least=0))
    assert places(first.remask_BQ) == []
    for times in ((0.5, 0.0), (0.0, 0.0), (1.0, 0.0)):
        last = Remdm(rate).select(*make(masked=[True, False] * 25, times=times, at_least=0))
        assert committed(last) == list(range(0, 50, 2))
        assert places(last.remask_BQ) == []
        assert not bool(last.unfinished_B)


def test_given_tokens_never_return(make: MakeInputs) -> None:
    edit = Remdm(Rescaled(1.0)).select(*make(masked=[False] * 50, given=[True] * 50, times=(0.5, 0.49)))
    assert places(edit.remask_BQ) == []


@pytest.mark.parametrize("rate", [Capped(0.5), Rescaled(1.0), ByConfidence()], ids=str)
def test_each_row_has_a_time_of_its_own(rate: Rate) -> None:
    check_rows_have_times_of_their_own(Remdm(rate), *(
        inputs_of(masked=[True, False] * 20, seed=seed, times=times, at_least=0)
        for seed, times in enumerate([(1.0, 0.7), (0.6, 0.5), (0.2, 0.0)])))


@pytest.mark.parametrize("rate", [Capped, Rescaled])
@pytest.mark.parametrize("eta", [-0.1, 1.1, None])
def test_a_bad_rate_is_refused(rate: type[Capped] | type[Rescaled], eta: float) -> None:
    with pytest.raises(ValueError, match="eta=.*: must be a number at least 0 and at most 1"):
        rate(eta)
