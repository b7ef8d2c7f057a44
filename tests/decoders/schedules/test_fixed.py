"""Quotas against their formulas."""

import math

import pytest
from quicksilver.decoders import Cosine, Dream, DreamUntruncated, Even, Linear, LinearRemainderLast, Schedule

from .conftest import Run, state


@pytest.mark.parametrize(("masks", "steps", "commits"), [
    (22, 4, [6, 6, 5, 5]), (8, 8, [1] * 8), (8, 1, [8]), (3, 8, [1, 1, 1]), (7, 3, [3, 2, 2])])
def test_linear_shares_equally_and_gives_the_remainder_first(run: Run, masks: int, steps: int, commits: list[int]
                                                             ) -> None:
    assert run(Linear(steps), masks) == commits
    late = run(LinearRemainderLast(steps), masks)
    assert late == ([0] * (steps - masks) if steps > masks else []) + commits[::-1]


@pytest.mark.parametrize(("size", "masks", "steps", "commits"), [
    (4, 4, 4, [1, 1, 1, 1]), (4, 2, 2, [2]), (4, 3, 2, [2, 1]), (8, 5, 3, [3, 2]), (8, 8, 3, [3, 3, 2])])
def test_even_steps_do_not_shrink_where_part_is_given(run: Run, size: int, masks: int, steps: int, commits: list[int]
                                                      ) -> None:
    assert run(Even(steps), masks, size=size) == commits


@pytest.mark.parametrize(("masks", "steps"), [(22, 8), (100, 10), (5, 20), (1, 1)])
def test_cosine_leaves_the_cosine_of_the_time_gone(run: Run, masks: int, steps: int) -> None:
    commits = run(Cosine(steps), masks)
    assert len(commits) <= steps
    left = masks
    for step, count in enumerate(commits):
        target = 0 if step + 1 == steps else int(masks * math.cos(math.pi / 2 * (step + 1) / steps) + 1e-9)
        assert count == max(1, left - target)
        left -= count
    assert commits[0] <= commits[-1]


def test_dream_rounds_each_step_down_and_dumps_the_rest(run: Run) -> None:
    """Of 256 steps for 256 masks the first commits nothing and the last one two; of 512, 257 commit nothing."""
    commits = run(Dream(256), 256)
    assert (commits[0], commits[-1], commits.count(0), len(commits)) == (0, 2, 1, 256)
    assert run(Dream(512), 256).count(0) == 257
    assert run(Dream(1), 7) == [7]


def test_dream_untruncated_wastes_no_step(run: Run) -> None:
    assert run(DreamUntruncated(256), 256) == [1] * 256
    assert run(DreamUntruncated(4), 22) == [6, 5, 6, 5]


FIXED = [Linear(1), Linear(8), LinearRemainderLast(3), Even(2), Cosine(8), Dream(4), DreamUntruncated(4)]


@pytest.mark.parametrize("schedule", FIXED, ids=str)
def test_time_falls_from_one_to_zero(schedule: Schedule) -> None:
    steps = schedule.steps  # pyright: ignore[reportAttributeAccessIssue]
    times = [schedule.times(state(8, 8, step)) for step in range(steps)]
    assert all(time is not None for time in times)
    before, after = ([float(time[place]) for time in times if time is not None] for place in (0, 1))
    assert before[0] == 1
    assert after[-1] == 0
    assert before[1:] == pytest.approx(after[:-1])
    assert all(a > b for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("steps", [*range(1, 130), 161, 1000])
def test_the_last_time_is_exactly_zero(steps: int) -> None:
    """What goes by the time ends when it is 0: 49 times a 49th falls short of 1."""
    for schedule in (Linear(steps), Cosine(steps), Dream(steps)):
        assert float(schedule.times(state(8, 8, steps - 1)).after) == 0


@pytest.mark.parametrize("kind", [Linear, LinearRemainderLast, Even, Cosine, Dream, DreamUntruncated])
@pytest.mark.parametrize("steps", [0, -1, 2.5, "8"])
def test_bad_steps_are_refused(kind: type, steps: object) -> None:
    with pytest.raises(ValueError, match="steps="):
        kind(steps)


@pytest.mark.parametrize("kind", [Dream, DreamUntruncated])
@pytest.mark.parametrize("eps", [0, 0.6, "small"])
def test_a_bad_eps_is_refused(kind: type, eps: object) -> None:
    with pytest.raises(ValueError, match="eps="):
        kind(4, eps)
