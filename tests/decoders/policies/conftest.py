"""A situation built by hand."""

from collections.abc import Callable, Sequence

import pytest
import torch
from quicksilver.decoders import Canvas, Policy, Quota, Request, Situation, Times
from quicksilver.kernels.token_statistics import TokenStatistics
from quicksilver.models import Bidirectional
from torch import Tensor

from tests.conftest import MASK_ID, TableModel

Situate = Callable[..., Situation]


def situation(*, eligible: list[bool], at_least: int = 1, at_most: int = 1, seed: int = 0, step: int = 0,
              times: tuple[float, float] | None = None, tokens: Sequence[int] | None = None,
              given: Sequence[bool] | None = None, proposed: Sequence[int] | None = None, policy: Policy | None = None,
              **statistics: list[float]) -> Situation:
    """One row, from lists of what the proposal holds: log_prob=..., margin=..., entropy=... Positions that are not
    eligible were decided, unless they are given, and hold `tokens`; `policy` begins its state."""
    num = len(eligible)
    held = [MASK_ID if masked else token for masked, token in zip(eligible, tokens or [0] * num, strict=True)]
    canvas = Canvas.of([Request(held, seed=seed)], TableModel(Bidirectional()))
    canvas.given_BS[0, :num] = torch.tensor(given or [False] * num)
    query_BQ, eligible_BQ = torch.arange(num)[None], torch.tensor([eligible])

    def row(values: list[float] | None) -> Tensor | None:
        return None if values is None else torch.tensor([values])

    proposal = TokenStatistics(torch.tensor([proposed or [0] * num]),
                               **{f"{name}_BQ": row(values) for name, values in statistics.items()})
    quota = Quota(torch.tensor([at_least]), torch.tensor([at_most]))
    return Situation(proposal, eligible_BQ, query_BQ, quota, canvas, torch.tensor(step),
                     None if times is None else Times(*(torch.tensor(time) for time in times)),
                     canvas.revisable(query_BQ), None if policy is None else policy.begin(query_BQ))


@pytest.fixture
def situate() -> Situate:
    return situation
