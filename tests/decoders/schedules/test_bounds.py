"""Bounds hold for every pace a policy may take, and are met by the slowest and the fastest."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from quicksilver.decoders import (
    Binomial,
    Cosine,
    Dream,
    DreamUntruncated,
    Even,
    FirstHitting,
    Floor,
    Free,
    Linear,
    LinearRemainderLast,
    Quota,
    Schedule,
    StepState,
    Times,
    Unbounded,
)
from quicksilver.decoders.schedules.bounds import bounds

SCHEDULES = [Linear(1), Linear(8), LinearRemainderLast(3), LinearRemainderLast(40), Even(2), Even(5), Cosine(8),
             Dream(4), Dream(40), DreamUntruncated(4), DreamUntruncated(40), Binomial(4), FirstHitting(), Unbounded(),
             Floor(Linear(4)), Floor(Binomial(4)), Floor(Cosine(9)), Free(Linear(4)), Free(Cosine(5)),
             Free(Binomial(4))]
SIZE = 24


def left_of(schedule: Schedule, rng: np.random.Generator, size_B: torch.Tensor | None) -> list[list[int]]:
    """Masks of every row before each step, from 1 to SIZE at the start, when a policy takes any number of its quota."""
    num_B = torch.arange(1, SIZE + 1)
    start = StepState.of_counts(schedule, num_B, size=SIZE, size_B=size_B, seed_B=num_B + int(rng.integers(1000)))
    left_B, pace, found = num_B, rng.choice(["least", "most", "any"]), [num_B.tolist()]
    while left_B.any():
        quota = start.at_step(len(found) - 1, left_B).quota
        least, most = quota.at_least_B.numpy(), quota.at_most_B.numpy()
        taken = {"least": least, "most": most, "any": rng.integers(least, most + 1)}[pace]
        left_B = left_B - torch.tensor(taken)
        found.append(left_B.tolist())
    return found


@pytest.mark.parametrize("is_ragged", [False, True])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_no_row_has_more_masks_left_nor_ends_earlier_than_the_bounds_say(schedule: Schedule, is_ragged: bool) -> None:
    """Also where rows have fewer positions than the window: any from their masks on."""
    rng = np.random.default_rng(0)
    size_B = torch.tensor([rng.integers(num, SIZE + 1) for num in range(1, SIZE + 1)]) if is_ragged else None
    of = [bounds(schedule, num, SIZE, is_ragged) for num in range(SIZE + 1)]
    for _ in range(12):
        found = left_of(schedule, rng, size_B)
        for row in range(SIZE):
            for most in range(row + 1, SIZE + 1):
                assert all(left[row] <= of[most].max_remaining(step) for step, left in enumerate(found))
            num_steps = next(step for step, left in enumerate(found) if not left[row])
            assert of[row + 1].min_steps <= num_steps


@pytest.mark.parametrize(("schedule", "remaining", "min_steps"), [
    (Linear(4), (8, 6, 4, 2, 0), 4), (Linear(3), (8, 5, 2, 0), 3), (LinearRemainderLast(3), (8, 6, 3, 0), 3),
    (Unbounded(), (8, 7, 6, 5, 4, 3, 2, 1, 0), 1), (Floor(Linear(4)), (8, 6, 4, 2, 0), 1),
    (Free(Linear(3)), (8, 8, 8, 0), 1), (FirstHitting(), (8, 7, 6, 5, 4, 3, 2, 1, 0), 8), (Cosine(2), (8, 5, 0), 2),
    (Dream(2), (8, 5, 0), 2), (Binomial(3), (8,), 1), (Floor(Binomial(3)), (8,), 1)], ids=str)
def test_a_case_worked_by_hand(schedule: Schedule, remaining: tuple[int, ...], min_steps: int) -> None:
    found = bounds(schedule, 8, 8)
    assert (found.remaining, found.min_steps) == (remaining, min_steps)
    assert [found.max_remaining(step) for step in range(len(remaining) + 2)] == [*remaining, *2 * [remaining[-1]]]


def test_even_steps_are_bounded_by_the_window_where_all_rows_have_it_and_by_the_masks_where_not() -> None:
    """Of 16 positions 4 go at each step; a row of 8 takes them 2 by 2."""
    assert bounds(Even(4), 8, 16).remaining == (8, 4, 0)
    assert bounds(Even(4), 8, 16, is_ragged=True).remaining == (8, 6, 4, 2, 0)
    assert bounds(Even(4), 8, 16).min_steps == bounds(Even(4), 8, 16, is_ragged=True).min_steps == 2


def test_a_window_without_masks_takes_its_one_step() -> None:
    assert bounds(Linear(4), 0, 8).remaining == (0,)


@dataclass(frozen=True)
class Never(Schedule):
    """A schedule that leaves everything to the policy, for ever."""

    def quota(self, state: StepState) -> Quota:
        return Quota(torch.zeros_like(state.num_masked_B), state.num_masked_B)

    def times(self, state: StepState) -> Times | None:
        return None


def test_a_schedule_that_never_asks_for_a_commit_is_bounded_by_all_masks() -> None:
    found = bounds(Never(), 5, 8)
    assert set(found.remaining) == {5}
    assert found.max_remaining(10**6) == 5
