"""States and proposals built by hand, and what is read off an edit."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from quicksilver.decoders import Canvas, Edit, Policy, Proposal, Quota, Request, StepState, Times, Unbounded, Window
from quicksilver.kernels.token_statistics import TokenStatistics
from quicksilver.models import Bidirectional
from torch import Tensor

from tests.conftest import MASK_ID, MAX_LENGTH, TableModel


class Inputs(NamedTuple):
    """What a policy selects by."""

    state: StepState
    proposal: Proposal


MakeInputs = Callable[..., Inputs]


def state_of(canvas: Canvas, num: int, *, step: int = 0, memory: Tensor | None = None) -> StepState:
    """The state of a canvas's first `num` positions, none of which was committed before the window."""
    query_BQ = torch.arange(num).expand(len(canvas.tokens_BS), -1)
    window = Window(0, query_BQ, num, None, None, canvas.stop_B, earliest=0, begin=0, reach=num, padded=False)
    num_masked_B = canvas.masked_BS.gather(1, query_BQ).sum(1)
    return StepState(step, torch.full_like(canvas.seed_B, step), window, canvas, Unbounded(), num_masked_B,
                     torch.ones_like(canvas.seed_B, dtype=torch.bool), memory)


def inputs_of(*, masked: Sequence[bool], at_least: int = 1, at_most: int = 1, seed: int = 0, step: int = 0,
              times: tuple[float, float] | None = None, tokens: Sequence[int] | None = None,
              given: Sequence[bool] | None = None, proposed: Sequence[int] | None = None, policy: Policy | None = None,
              memory: Tensor | None = None, **statistics: Sequence[float]) -> Inputs:
    """One row, from lists of what the proposal holds: log_prob=..., margin=..., entropy=... Positions that are not
    masked were committed, unless they are given, and hold `tokens`; `policy` begins its memory, where none is given."""
    num = len(masked)
    held = [MASK_ID if is_masked else token for is_masked, token in zip(masked, tokens or [0] * num, strict=True)]
    canvas = Canvas.of([Request(held, seed=seed)], TableModel(Bidirectional(), max_length=max(num, MAX_LENGTH)))
    canvas.given_BS[0, :num] = torch.tensor(given or [False] * num)
    state = state_of(canvas, num, step=step, memory=memory)
    if policy is not None and memory is None:
        state.memory = policy.begin(state.query_BQ)
    state.quota = Quota(torch.tensor([at_least]), torch.tensor([at_most]))
    if times is not None:
        state.times = Times(*(torch.tensor([time], dtype=torch.float64) for time in times))
    return Inputs(state, Proposal(TokenStatistics(
        torch.tensor([list(proposed or [0] * num)]),
        **{f"{name}_BQ": torch.tensor([list(values)]) for name, values in statistics.items()})))


@pytest.fixture
def make() -> MakeInputs:
    return inputs_of


def _joined(parts: Sequence[Any]) -> Any:
    """Dataclasses or tuples of tensors, row after row."""
    if isinstance(parts[0], tuple):
        return type(parts[0])(*map(torch.cat, zip(*parts, strict=True)))
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return type(parts[0])(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def together(*rows: Inputs) -> Inputs:
    """Rows at one step as a batch, each with a quota, times and a memory of its own."""
    states = [row.state for row in rows]
    memory = None if states[0].memory is None else torch.cat([state.memory for state in states
                                                              if state.memory is not None])
    state = state_of(_joined([state.canvas for state in states]), states[0].query_BQ.shape[1], step=states[0].index,
                     memory=memory)
    state.quota = _joined([one.quota for one in states])
    if "times" in vars(states[0]):
        state.times = _joined([one.times for one in states])
    return Inputs(state, Proposal(_joined([row.proposal.found for row in rows])))


def under_seeds(row: Inputs, num: int) -> Inputs:
    """A row as the rows of a batch whose seeds are 0 to num - 1."""
    batch = together(*[row] * num)
    batch.state.canvas = replace(batch.state.canvas, seed_B=torch.arange(num))
    return batch


def check_rows_have_times_of_their_own(policy: Policy, *rows: Inputs) -> None:
    """A batch whose rows are at different times gives each what it gives it alone."""
    batch = policy.select(*together(*rows))
    for number, row in enumerate(rows):
        alone = policy.select(*row)
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
    """A row to choose from: the probabilities of the proposals, which of them are masked, and a quota."""

    probability: list[float]
    masked: list[bool]
    at_least: int
    at_most: int

    @property
    def log_prob(self) -> list[float]:
        return [math.log(p) for p in self.probability]

    @property
    def masks(self) -> list[int]:
        return [i for i, is_masked in enumerate(self.masked) if is_masked]

    def inputs(self, **more: Any) -> Inputs:
        return inputs_of(masked=self.masked, at_least=self.at_least, at_most=self.at_most, log_prob=self.log_prob,
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
        masked = rng.random(length) < 0.7
        at_most = int(rng.integers(0, masked.sum() + 1))
        yield Row((rng.integers(1, 33, length) / 32).tolist(), masked.tolist(), int(rng.integers(0, at_most + 1)),
                  at_most)
