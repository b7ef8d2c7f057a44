"""Running a schedule by hand."""

from collections.abc import Callable

import pytest
import torch
from quicksilver.decoders import Progress, Quota, Schedule

Run = Callable[..., list[int]]


def progress(masks: int, left: int, step: int, *, size: int | None = None, seed: int = 0) -> Progress:
    """One row's progress through a window of `size` positions (None: as many as masks)."""
    return Progress(torch.tensor([masks]), torch.tensor([left]), torch.tensor(step), torch.tensor([seed]),
                    size or masks)


def quota_of(schedule: Schedule, at: Progress) -> Quota:
    quota = schedule.quota(at)
    assert 0 <= quota.at_least_B <= quota.at_most_B <= at.masked_now_B
    return quota


def commits(schedule: Schedule, masks: int, *, size: int | None = None, seed: int = 0) -> list[int]:
    """Commits a step when a policy always takes the most it may."""
    left, taken = masks, []
    while left:
        taken.append(int(quota_of(schedule, progress(masks, left, len(taken), size=size, seed=seed)).at_most_B))
        left -= taken[-1]
        assert len(taken) < 1000
    return taken


@pytest.fixture
def run() -> Run:
    return commits
