"""Ratios of rounds against hand-made ones, and their interval's coverage against the binomial law."""

import random
from itertools import count
from math import comb

import pytest
from quicksilver.experiments.harness import paired
from quicksilver.experiments.harness.paired import interleaved, paired_ratio


def test_a_ratio_is_of_the_same_round_and_its_interval_by_order_statistics() -> None:
    found = paired_ratio([2.0, 4.0, 9.0, 8.0, 10.0, 12.0], [2.0] * 6)
    assert (found.median, found.low, found.high) == (4.25, 1.0, 6.0)
    assert not found.is_different
    drifting = [float(2**number) for number in range(20)]
    assert paired_ratio([1.5 * time for time in drifting], drifting) == paired.PairedRatio(1.5, 1.5, 1.5)
    assert paired_ratio([0.5 * time for time in drifting], drifting).is_different


@pytest.mark.parametrize("num_rounds", [6, 7, 8, 9, 25, 60, 61])
def test_the_interval_is_the_shortest_that_covers_95_percent(num_rounds: int) -> None:
    def coverage(place: int) -> float:
        return 1 - 2 * sum(comb(num_rounds, below) for below in range(place + 1)) / 2**num_rounds

    place = paired._place(num_rounds)
    assert coverage(place) >= 0.95 > coverage(place + 1)


def test_the_interval_holds_the_true_ratio_as_often_as_it_says() -> None:
    draw, held, num_runs = random.Random(0), 0, 400
    for _ in range(num_runs):
        base = [draw.lognormvariate(0, 0.3) for _ in range(25)]
        found = paired_ratio([1.2 * time * draw.lognormvariate(0, 0.1) for time in base], base)
        held += found.low <= 1.2 <= found.high
    assert held >= 0.95 * num_runs - 2 * (0.05 * 0.95 * num_runs) ** 0.5


@pytest.mark.parametrize(("times", "base"), [([1.0] * 5, [1.0] * 5), ([1.0] * 7, [1.0] * 6)])
def test_too_few_rounds_or_unequal_ones_are_refused(times: list[float], base: list[float]) -> None:
    with pytest.raises(ValueError, match=f"{len(times)} and {len(base)} rounds"):
        paired_ratio(times, base)


def test_turns_go_forwards_and_backwards() -> None:
    clock = count()
    assert interleaved([lambda: next(clock)] * 3, 3) == [[0, 5, 6], [1, 4, 7], [2, 3, 8]]


def test_after_its_seconds_a_measurement_has_been_forwards_and_backwards_all_the_same() -> None:
    assert [len(times) for times in interleaved([lambda: 1.0] * 2, 60, seconds=0)] == [2, 2]
