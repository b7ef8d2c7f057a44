"""What is left to the policy."""

import pytest
from quicksilver.decoders import FirstHitting, Floor, Free, Linear, Schedule, Unbounded

from .conftest import Run, quota_of, state


@pytest.mark.parametrize(("schedule", "least", "last_least"), [
    (Unbounded(), 1, 1), (Floor(Linear(4)), 2, 2), (Free(Linear(4)), 0, 5)], ids=str)
def test_all_that_are_left_may_go(schedule: Schedule, least: int, last_least: int) -> None:
    first, last = (quota_of(schedule, state(8, left, step)) for left, step in ((8, 0), (5, 3)))
    assert (int(first.at_least_B), int(first.at_most_B)) == (least, 8)
    assert (int(last.at_least_B), int(last.at_most_B)) == (last_least, 5)
    none = quota_of(schedule, state(8, 0, 2))
    assert (int(none.at_least_B), int(none.at_most_B)) == (0, 0)


def test_time_is_that_of_the_base() -> None:
    assert Unbounded().times(state(8, 8, 0)) is None
    assert not Floor(Unbounded()).is_timed
    for schedule in (Floor(Linear(4)), Free(Linear(4))):
        times = schedule.times(state(8, 8, 1))
        assert times is not None
        assert (float(times.before), float(times.after)) == (0.75, 0.5)


@pytest.mark.parametrize("base", [Unbounded(), FirstHitting(), Floor(FirstHitting())], ids=str)
def test_a_base_whose_time_never_ends_cannot_be_free(base: Schedule) -> None:
    with pytest.raises(ValueError, match="base=.*: must be a schedule whose time ends at 0"):
        Free(base)


def test_the_most_is_always_taken_at_once(run: Run) -> None:
    assert run(Unbounded(), 7) == run(Floor(Linear(3)), 7) == run(Free(Linear(3)), 7) == [7]
