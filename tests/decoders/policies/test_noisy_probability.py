"""Positions drawn without replacement, against the enumerated law."""

import itertools
import math
from collections import Counter

import pytest
from quicksilver.decoders.policies.noisy_probability import NoisyProbability

from tests.decoders.policies.conftest import MakeInputs, under_seeds

P, TEMPERATURE, NUM = [0.9, 0.7, 0.3, 0.8], 0.4, 1500
MASKED = [True, True, False, True]


def law(num_drawn: int) -> dict[tuple[int, ...], float]:
    """Probability of each set of positions, drawn one after the other."""
    weight = {q: math.exp(p / TEMPERATURE) for q, p in enumerate(P) if MASKED[q]}
    found: dict[tuple[int, ...], float] = {}
    for order in itertools.permutations(weight, num_drawn):
        left, probability = sum(weight.values()), 1.0
        for q in order:
            probability *= weight[q] / left
            left -= weight[q]
        drawn = tuple(sorted(order))
        found[drawn] = found.get(drawn, 0) + probability
    return found


@pytest.mark.parametrize("temperature", [5e-324, 1e-39, 1e-38, 1e-30])
def test_at_the_coldest_the_surest_positions_are_drawn(make: MakeInputs, temperature: float) -> None:
    at = make(masked=[True] * 4, at_most=2, log_prob=[math.log(p) for p in (0.5, 0.9, 0.3, 0.8)])
    assert NoisyProbability(temperature).select(*at).commit_BQ[0].tolist() == [False, True, False, True]


def test_at_the_hottest_positions_are_drawn_evenly(make: MakeInputs) -> None:
    row = make(masked=[True] * 4, at_most=1, log_prob=[math.log(p) for p in (0.5, 0.9, 0.3, 0.8)])
    counts = NoisyProbability(1.7e308).select(*under_seeds(row, 400)).commit_BQ.sum(0).tolist()
    assert sum(counts) == 400
    assert all(70 < count < 130 for count in counts)


@pytest.mark.parametrize("num_drawn", [1, 2])
def test_positions_are_drawn_without_replacement(make: MakeInputs, num_drawn: int) -> None:
    row = make(masked=MASKED, at_most=num_drawn, log_prob=[math.log(p) for p in P])
    chosen_BQ = NoisyProbability(TEMPERATURE).select(*under_seeds(row, NUM)).commit_BQ
    counts = Counter(tuple(chosen_Q.nonzero().flatten().tolist()) for chosen_Q in chosen_BQ)
    expected = law(num_drawn)
    assert set(counts) <= set(expected)
    statistic = sum((counts[drawn] - NUM * p) ** 2 / (NUM * p) for drawn, p in expected.items())
    assert statistic < 13.8  # 2 degrees of freedom, p = 0.001


def test_a_low_temperature_takes_the_most_probable(make: MakeInputs) -> None:
    for seed in range(20):
        at = make(masked=[True] * 4, at_most=2, seed=seed, log_prob=[math.log(p) for p in P])
        assert NoisyProbability(1e-3).select(*at).commit_BQ[0].tolist() == [True, False, False, True]


@pytest.mark.parametrize("temperature", [0, -1, "warm"])
def test_a_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature="):
        NoisyProbability(temperature)
