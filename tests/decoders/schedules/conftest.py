"""Running a schedule by hand."""

from collections.abc import Callable

import pytest
import torch
from quicksilver.decoders import Quota, Schedule, StepState, Unbounded

Run = Callable[..., list[int]]


def state(masks: int, left: int, step: int, *, size: int | None = None, seed: int = 0) -> StepState:
    """One row with `left` of its masks at a step of a window of `size` positions (None: as many as masks)."""
    start = StepState.of_counts(Unbounded(), torch.tensor([masks]), size=size or masks, seed_B=torch.tensor([seed]))
    return start.at_step(step, torch.tensor([left]))


def quota_of(schedule: Schedule, at: StepState) -> Quota:
    quota = schedule.quota(at)
    assert 0 <= quota.at_least_B <= quota.at_most_B <= at.num_masked_B
    return quota


def commits(schedule: Schedule, masks: int, *, size: int | None = None, seed: int = 0) -> list[int]:
    """Commits a step when a policy always takes the most it may."""
    left, taken = masks, []
    while left:
        taken.append(int(quota_of(schedule, state(masks, left, len(taken), size=size, seed=seed)).at_most_B))
        left -= taken[-1]
        assert len(taken) < 1000
    return taken


@pytest.fixture
def run() -> Run:
    return commits
