"""A situation built by hand."""

from collections.abc import Callable

import pytest
import torch
from quicksilver.decoders import Canvas, Quota, Request, Situation
from quicksilver.kernels.token_statistics import TokenStatistics
from quicksilver.models import Bidirectional
from torch import Tensor

from tests.conftest import MASK_ID, TableModel

Situate = Callable[..., Situation]


def situation(*, eligible: list[bool], at_least: int = 1, at_most: int = 1, seed: int = 0, step: int = 0,
              **statistics: list[float]) -> Situation:
    """One row, from lists of what the proposal holds: log_prob=..., margin=..., entropy=..."""
    num = len(eligible)
    canvas = Canvas.of([Request([MASK_ID] * num, seed=seed)], TableModel(Bidirectional()))

    def row(values: list[float] | None) -> Tensor | None:
        return None if values is None else torch.tensor([values])

    proposal = TokenStatistics(torch.zeros(1, num, dtype=torch.int64), log_prob_BQ=row(statistics.get("log_prob")),
                               margin_BQ=row(statistics.get("margin")), entropy_BQ=row(statistics.get("entropy")))
    return Situation(proposal, torch.tensor([eligible]), torch.arange(num)[None],
                     Quota(torch.tensor([at_least]), torch.tensor([at_most])), canvas, torch.tensor(step))


@pytest.fixture
def situate() -> Situate:
    return situation
