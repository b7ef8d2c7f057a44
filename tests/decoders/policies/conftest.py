"""Situations built by hand, and what is read off an edit."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from quicksilver.decoders import Canvas, Edit, Policy, Quota, Request, Situation, Times
from quicksilver.kernels.token_statistics import TokenStatistics
from quicksilver.models import Bidirectional
from torch import Tensor

from tests.conftest import MASK_ID, MAX_LENGTH, TableModel

Situate = Callable[..., Situation]


def situation(*, eligible: Sequence[bool], at_least: int = 1, at_most: int = 1, seed: int = 0, step: int = 0,
              times: tuple[float, float] | None = None, tokens: Sequence[int] | None = None,
              given: Sequence[bool] | None = None, proposed: Sequence[int] | None = None, policy: Policy | None = None,
              **statistics: Sequence[float]) -> Situation:
    """One row, from lists of what the proposal holds: log_prob=..., margin=..., entropy=... Positions that are not
    eligible were decided, unless they are given, and hold `tokens`; `policy` begins its state."""
    num = len(eligible)
    held = [MASK_ID if masked else token for masked, token in zip(eligible, tokens or [0] * num, strict=True)]
    canvas = Canvas.of([Request(held, seed=seed)], TableModel(Bidirectional(), max_length=max(num, MAX_LENGTH)))
    canvas.given_BS[0, :num] = torch.tensor(given or [False] * num)
    query_BQ, eligible_BQ = torch.arange(num)[None], torch.tensor([list(eligible)])
    proposal = TokenStatistics(torch.tensor([list(proposed or [0] * num)]),
                               **{f"{name}_BQ": torch.tensor([list(values)]) for name, values in statistics.items()})
    quota = Quota(torch.tensor([at_least]), torch.tensor([at_most]))
    return Situation(proposal, eligible_BQ, query_BQ, quota, canvas, torch.tensor(step),
                     None if times is None else Times(*(torch.tensor(time, dtype=torch.float64) for time in times)),
                     canvas.revisable(query_BQ), None if policy is None else policy.begin(query_BQ))


@pytest.fixture
def situate() -> Situate:
    return situation


def under_seeds(row: Situation, num: int) -> Situation:
    """A situation of one row as the rows of a batch whose seeds are 0 to num - 1."""
    repeated = {name: getattr(row, name).expand(num, -1) for name in ("eligible_BQ", "query_BQ", "revisable_BQ")}
    proposal, quota = ({name: value.expand(num, *value.shape[1:]) for name, value in vars(part).items()
                        if value is not None} for part in (row.proposal, row.quota))
    canvas = replace(row.canvas.rows(torch.zeros(num, dtype=torch.int64)), seed_B=torch.arange(num))
    return replace(row, proposal=TokenStatistics(**proposal), quota=Quota(**quota), canvas=canvas, **repeated)


def together(*rows: Situation) -> Situation:
    """Situations of one row and one step as the rows of a batch, each with times of its own."""
    def of(name: str) -> list:
        return [getattr(row, name) for row in rows]

    def joined(parts: list) -> Any:
        """What the parts hold, tensor by tensor."""
        names = [name for name, value in vars(parts[0]).items() if value is not None]
        return type(parts[0])(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    times = Times(*(torch.stack(parts) for parts in zip(*of("times"), strict=True)))
    wide = {name: torch.cat(of(name)) for name in ("eligible_BQ", "query_BQ", "revisable_BQ")}
    return replace(rows[0], times=times, **{name: joined(of(name)) for name in ("proposal", "quota", "canvas")}, **wide)


def check_rows_have_times_of_their_own(policy: Policy, *rows: Situation) -> None:
    """A batch whose rows are at different times gives each what it gives it alone."""
    batch = policy.select(together(*rows))
    for number, row in enumerate(rows):
        alone = policy.select(row)
        for name in ("commit_BQ", "remask_BQ", "unfinished_B"):
            mine, theirs = getattr(alone, name), getattr(batch, name)
            assert theirs is mine is None or torch.equal(mine[0], theirs[number])


def places(chosen_BQ: Tensor | None) -> list[int]:
    """Which positions of the first row are chosen."""
    assert chosen_BQ is not None
    return chosen_BQ[0].nonzero().flatten().tolist()


def committed(edit: Edit) -> list[int]:
    return places(edit.commit_BQ)


@dataclass(frozen=True)
class Row:
    """A row to choose from: the probabilities of the proposals, which of them are eligible, and a quota."""

    probability: list[float]
    eligible: list[bool]
    at_least: int
    at_most: int

    @property
    def log_prob(self) -> list[float]:
        return [math.log(p) for p in self.probability]

    @property
    def masks(self) -> list[int]:
        return [i for i, masked in enumerate(self.eligible) if masked]

    def situation(self, **more: Any) -> Situation:
        return situation(eligible=self.eligible, at_least=self.at_least, at_most=self.at_most, log_prob=self.log_prob,
                         **more)

    def first(self, best_first: Sequence[int], num: int) -> list[int]:
        """The first `num` of the positions, or as many as the quota allows, in their order on the canvas."""
        return sorted(best_first[: min(max(num, self.at_least), self.at_most)])

    def preferring(self, passing: Sequence[int]) -> list[int]:
        """The masks that pass, within the quota: the most probable of them, then the most probable others."""
        best_first = sorted(self.masks, key=lambda i: (i not in passing, -self.probability[i], i))
        return self.first(best_first, len(set(passing) & set(self.masks)))


def rows(num: int) -> Iterator[Row]:
    """Random rows of up to 12 positions, with ties and sure tokens."""
    rng = np.random.default_rng(0)
    for _ in range(num):
        length = int(rng.integers(1, 13))
        eligible = rng.random(length) < 0.7
        at_most = int(rng.integers(0, eligible.sum() + 1))
        yield Row((rng.integers(1, 33, length) / 32).tolist(), eligible.tolist(), int(rng.integers(0, at_most + 1)),
                  at_most)
