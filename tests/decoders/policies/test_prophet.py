"""Everything is committed once the answer is clear."""

import math
from collections.abc import Sequence

import pytest
import torch
from quicksilver.decoders import Linear, Prophet

from tests.decoders.policies.conftest import (
    MakeInputs,
    check_rows_have_times_of_their_own,
    committed,
    inputs_of,
    rows,
)
from tests.decoders.schedules.conftest import state

LOG_PROB = [math.log(p) for p in (0.5, 0.9, 0.7, 0.8)]


@pytest.mark.parametrize(("gaps", "after", "expected"), [
    ([7.5] * 4, 0.8, [0, 1, 2, 3]),  # equality is enough
    ([7.5, 7.5, 7.5, 7.4], 0.8, [1]),
    ([5.0, 7.0, 3.0, 5.0], 0.5, [0, 1, 2, 3]),  # the mean counts
    ([5.0, 7.0, 3.0, 5.0], 0.8, [1]),
    ([5.0, 7.0, 3.0, 4.9], 0.5, [1]),
    ([2.5] * 4, 0.2, [0, 1, 2, 3]),
    ([2.4] * 4, 0.2, [1]),
    ([0.0, 0.0, 0.0, math.inf], 0.8, [0, 1, 2, 3]),  # a position that allows one token
])
def test_a_case_worked_by_hand(make: MakeInputs, gaps: Sequence[float], after: float, expected: list[int]) -> None:
    edit = Prophet().select(*make(log_prob=LOG_PROB, logit_gap=gaps, masked=[True] * 4, at_least=1, at_most=4,
                                    times=(1.0, after)))
    assert committed(edit) == expected


def test_decided_positions_do_not_count(make: MakeInputs) -> None:
    for gap, expected in ((8.0, [0, 2]), (7.0, [2])):
        edit = Prophet().select(*make(log_prob=LOG_PROB, logit_gap=[gap, 0.0, gap, 99.0], at_most=2,
                                        masked=[True, False, True, False], times=(1.0, 0.9)))
        assert committed(edit) == expected


@pytest.mark.parametrize(("at_least", "expected"), [(0, []), (2, [1, 3]), (4, [0, 1, 2, 3])])
def test_until_then_the_least_of_the_quota_is_committed(make: MakeInputs, at_least: int, expected: list[int]) -> None:
    edit = Prophet().select(*make(log_prob=LOG_PROB, logit_gap=[1.0] * 4, masked=[True] * 4, at_least=at_least,
                                    at_most=4, times=(1.0, 0.9)))
    assert committed(edit) == expected


def test_a_row_without_masks_commits_nothing(make: MakeInputs) -> None:
    edit = Prophet(late=0).select(*make(log_prob=LOG_PROB, logit_gap=[9.0] * 4, masked=[False] * 4, at_least=0,
                                          at_most=0, times=(0.5, 0.0)))
    assert committed(edit) == []


def test_the_phase_is_that_of_the_published_code() -> None:
    """Progress is the number of the step, from 1, by the number of steps."""
    for steps in (1, 2, 3, 7, 8, 32, 64, 100, 128, 200, 256, 300):
        near = {round(share * steps) + offset for share in (0.33, 0.67) for offset in (-2, -1, 0, 1)}
        for step in near & set(range(steps)):
            done = (step + 1) / steps
            phase = 0 if done < 0.33 else 1 if done < 0.67 else 2
            times = Linear(steps).times(state(steps, steps - step, step))
            for gap, enough_from in ((7.0, 1), (3.0, 2), (2.0, 3), (8.0, 0)):
                at = inputs_of(log_prob=[-1.0] * 2, logit_gap=[gap] * 2, masked=[True] * 2, at_most=2,
                               times=(times.before.item(), times.after.item()))
                assert len(committed(Prophet().select(*at))) == (2 if phase >= enough_from else 1)


def test_it_is_the_published_rule_over_the_windows_masks() -> None:
    generator = torch.Generator().manual_seed(0)
    for row in rows(150):
        gaps = (torch.randint(0, 40, (len(row.masked),), generator=generator) / 4).tolist()
        after = torch.randint(0, 9, (), generator=generator).item() / 8
        mean = sum(gaps[i] for i in row.masks) / max(len(row.masks), 1)
        enough = mean >= (7.5 if 1 - after < 0.33 else 5.0 if 1 - after < 0.67 else 2.5)
        best_first = sorted(row.masks, key=lambda i: (-row.probability[i], i))
        edit = Prophet().select(*row.inputs(logit_gap=gaps, times=(1.0, after)))
        assert committed(edit) == sorted(best_first[: row.at_most if enough else row.at_least])


def test_each_row_has_a_phase_of_its_own() -> None:
    check_rows_have_times_of_their_own(Prophet(), *(
        inputs_of(log_prob=LOG_PROB, logit_gap=[5.5] * 4, masked=[True] * 4, at_most=4, times=(1.0, after))
        for after in (0.9, 0.5, 0.1)))


@pytest.mark.parametrize("name", ["early", "middle", "late"])
@pytest.mark.parametrize("value", [-0.1, None, math.inf])
def test_a_bad_gap_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}=.*: must be a number at least 0"):
        Prophet(**{name: value})
