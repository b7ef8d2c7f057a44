"""Random numbers of commits and random times, against their distributions."""

import math

import numpy as np
import pytest
import torch
from quicksilver.decoders import Binomial, FirstHitting, StepState

from .conftest import Run, quota_of, state


def test_each_mask_is_decided_by_itself() -> None:
    """At step 1 of 4 the time goes from 3/4 to 1/2: of 6 masks Binomial(6, 1/3) are decided, for 4,000 seeds."""
    num, masks = 4000, 6
    start = StepState.of_counts(Binomial(4), torch.full((num,), 8), size=8, seed_B=torch.arange(num))
    at = start.at_step(1, torch.full((num,), masks))
    counts = np.bincount(Binomial(4).quota(at).at_most_B.numpy(), minlength=masks + 1)
    expected = num * np.array([math.comb(masks, k) * (1 / 3) ** k * (2 / 3) ** (masks - k) for k in range(masks + 1)])
    assert ((counts - expected) ** 2 / expected).sum() < 22.5  # 6 degrees of freedom, p = 0.001


def test_the_last_step_decides_the_rest(run: Run) -> None:
    for seed in range(20):
        commits = run(Binomial(5), 7, seed=seed)
        assert sum(commits) == 7
        assert len(commits) <= 5
    assert run(Binomial(1), 3) == [3]


def test_counts_change_with_seed_and_step() -> None:
    by_seed = {int(quota_of(Binomial(4), state(16, 16, 0, seed=seed)).at_most_B) for seed in range(20)}
    by_step = {int(quota_of(Binomial(64), state(64, 64, step)).at_most_B) for step in range(40)}
    assert len(by_seed) > 3
    assert len(by_step) > 2


def test_first_hitting_times_are_order_statistics() -> None:
    """The times at which n masks are decided are n uniforms, from the largest: time k is Beta(n - k, k + 1)."""
    num, masks = 3000, 5
    seeds, at_start = torch.arange(num), torch.full((num,), masks)
    start = StepState.of_counts(FirstHitting(), at_start, size=8, seed_B=seeds)
    times = [start.at_step(step, at_start - step).times for step in range(masks)]
    assert torch.equal(times[0].before, torch.ones(num))
    for step in range(masks):
        mean = (masks - step) / (masks + 1)
        deviation = math.sqrt(mean * (1 - mean) / (masks + 2))
        assert abs(float(times[step].after.mean()) - mean) < 4 * deviation / math.sqrt(num)
        assert (times[step].after < times[step].before).all()
        if step:
            assert torch.equal(times[step].before, times[step - 1].after)


def test_first_hitting_decides_one_at_a_time(run: Run) -> None:
    assert run(FirstHitting(), 6, size=9) == [1] * 6


@pytest.mark.parametrize("steps", [0, 1.5, "all"])
def test_bad_steps_are_refused(steps: object) -> None:
    with pytest.raises(ValueError, match="steps="):
        Binomial(steps)  # pyright: ignore[reportArgumentType]
