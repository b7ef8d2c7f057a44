"""Quotas against their formulas."""

import math

import pytest
import torch
from quicksilver.decoders import Cosine, Linear, Schedule, Unbounded


def run(schedule: Schedule, masks: int) -> list[int]:
    """Commits a step when a policy always takes the most it may."""
    left, commits = masks, []
    while left:
        quota = schedule.quota(torch.tensor([masks]), torch.tensor([left]), torch.tensor(len(commits)))
        assert quota.at_least_B <= quota.at_most_B <= left
        commits.append(int(quota.at_most_B))
        left -= commits[-1]
        assert len(commits) <= masks
    return commits


@pytest.mark.parametrize(("masks", "steps", "commits"), [
    (22, 4, [6, 6, 5, 5]), (8, 8, [1] * 8), (8, 1, [8]), (3, 8, [1, 1, 1]), (7, 3, [3, 2, 2])])
def test_linear_shares_equally_and_gives_the_remainder_first(masks: int, steps: int, commits: list[int]) -> None:
    assert run(Linear(steps), masks) == commits


@pytest.mark.parametrize(("masks", "steps"), [(22, 8), (100, 10), (5, 20), (1, 1)])
def test_cosine_leaves_the_cosine_of_the_time_gone(masks: int, steps: int) -> None:
    commits = run(Cosine(steps), masks)
    assert len(commits) <= steps
    left = masks
    for step, count in enumerate(commits):
        target = 0 if step + 1 == steps else int(masks * math.cos(math.pi / 2 * (step + 1) / steps))
        assert count == max(1, left - target)
        left -= count
    assert commits[0] <= commits[-1]


@pytest.mark.parametrize("schedule", [Linear(1), Linear(8), Cosine(8), Unbounded()], ids=str)
@pytest.mark.parametrize("masks", [1, 5, 22])
def test_no_window_ends_before_its_least_steps(schedule: Schedule, masks: int) -> None:
    assert 1 <= schedule.least_steps(masks) <= len(run(schedule, masks))


def test_unbounded_allows_one_to_all() -> None:
    quota = Unbounded().quota(torch.tensor([9, 9]), torch.tensor([5, 0]), torch.tensor(3))
    assert quota.at_least_B.tolist() == [1, 0]
    assert quota.at_most_B.tolist() == [5, 0]


@pytest.mark.parametrize("kind", [Linear, Cosine])
@pytest.mark.parametrize("steps", [0, -1, 2.5, "8"])
def test_bad_steps_are_refused(kind: type, steps: object) -> None:
    with pytest.raises(ValueError, match="steps="):
        kind(steps)
