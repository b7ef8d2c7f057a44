"""Every position is decided anew and the surest are kept."""

import numpy as np
import pytest
from quicksilver.decoders import Redecide

from tests.decoders.policies.conftest import (
    MakeInputs,
    check_rows_have_times_of_their_own,
    committed,
    inputs_of,
    places,
    under_seeds,
)

MASKS = [True, False, True, False]
LOG_PROB = [-0.5, -1.0, -2.0, -3.0]


@pytest.mark.parametrize(("after", "kept", "returned"), [
    (0.75, [0], [1, 3]), (0.5, [0, 1], [3]), (0.25, [0, 1, 2], [3]), (0.0, [0, 1, 2, 3], []), (0.6, [0, 1], [3]),
    (1.0, [], [1, 3])])
def test_a_case_worked_by_hand(make: MakeInputs, after: float, kept: list[int], returned: list[int]) -> None:
    """Kept ones take the token that is proposed now, those that were decided too."""
    edit = Redecide().select(*make(masked=MASKS, log_prob=LOG_PROB, at_least=0, times=(1.0, after)))
    assert committed(edit) == kept
    assert places(edit.remask_BQ) == returned
    assert edit.unfinished_B is not None
    assert bool(edit.unfinished_B) == (after > 0)


def test_given_tokens_neither_rank_nor_change(make: MakeInputs) -> None:
    edit = Redecide().select(*make(masked=MASKS, given=[False, True, False, False], log_prob=LOG_PROB,
                                     times=(1.0, 0.4)))
    assert committed(edit) == [0, 2]  # one of three returns
    assert places(edit.remask_BQ) == [3]


def test_ties_go_to_the_lowest_position(make: MakeInputs) -> None:
    edit = Redecide().select(*make(masked=MASKS, log_prob=[-1.0] * 4, times=(1.0, 0.5)))
    assert committed(edit) == [0, 1]


def test_it_is_the_published_rule() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        num, steps = int(rng.integers(1, 12)), int(rng.integers(1, 9))
        t = int(rng.integers(0, steps))  # steps that remain
        fixed = rng.random(num) < 0.2
        masked = ~fixed & (rng.random(num) < 0.5)
        score = -rng.exponential(size=num)
        edit = Redecide().select(*inputs_of(masked=masked.tolist(), given=fixed.tolist(), log_prob=score.tolist(),
                                           times=((t + 1) / steps, t / steps)))
        num_masked = int((~fixed).sum()) * t // steps
        lowest = set(np.argsort(np.where(fixed, 1000.0, score))[:num_masked].tolist())
        free = set(np.flatnonzero(~fixed).tolist())
        assert set(committed(edit)) == free - lowest
        assert set(places(edit.remask_BQ)) == lowest & set(np.flatnonzero(~masked).tolist())


@pytest.mark.parametrize(("noise", "after", "hopeless"), [(1.0, 0.5, 0), (0.8, 0.75, 2), (3.0, 0.9, 8)])
def test_the_noise_is_gumbels_times_the_time_that_remains(noise: float, after: float, hopeless: int) -> None:
    """One of two whose scores differ by d is kept: the better one with probability 1 / (1 + exp(-d / scale))."""
    num, difference = 20_000, 0.6
    row = inputs_of(masked=[True] * (2 + hopeless), log_prob=[-1 - difference, -1.0] + [-90.0] * hopeless,
                    times=(1.0, after))
    kept_BQ = Redecide(noise).select(*under_seeds(row, num)).commit_BQ
    assert (kept_BQ.sum(1) == 1).all()
    assert not kept_BQ[:, 2:].any()
    expected = 1 / (1 + np.exp(-difference / (noise * after)))
    assert abs(kept_BQ[:, 1].double().mean().item() - expected) < 4.5 * np.sqrt(expected * (1 - expected) / num)


def test_noise_fades_with_the_time(make: MakeInputs) -> None:
    edit = Redecide(5.0).select(*make(masked=MASKS, log_prob=LOG_PROB, times=(0.25, 0.0)))
    assert committed(edit) == [0, 1, 2, 3]


def test_each_row_has_a_time_of_its_own() -> None:
    check_rows_have_times_of_their_own(Redecide(0.5), *(
        inputs_of(masked=MASKS, log_prob=LOG_PROB, seed=seed, times=(1.0, after))
        for seed, after in enumerate((0.75, 0.5, 0.0))))


@pytest.mark.parametrize("noise", [-0.1, None, "abc", 1e31])
def test_bad_noise_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match="noise=.*: must be a number at least 0"):
        Redecide(noise)
