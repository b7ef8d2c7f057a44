"""Windows: the slices of a completion, decoded in order. Blocks of one are autoregression.

A row's windows are `count` slices of `size` positions from `first` on; positions and block grids count from the row's
first token, so a row's windows do not depend on its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.checks import integer_field


@dataclass(frozen=True)
class Span:
    """One row's windows: [first, first + size), [first + size, first + 2 size), ... `count` of them."""

    first: int
    size: int
    count: int

    def count_from(self, tokens: Sequence[int], token: int) -> list[int]:
        """Occurrences of a token in each of the row's windows and all later ones; then a 0."""
        starts = range(self.first, self.first + self.size * self.count, self.size)
        counts = [list(tokens[start : start + self.size]).count(token) for start in starts]
        return list(accumulate(reversed(counts), initial=0))[::-1]


class Windows(Protocol):
    @property
    def num_revised(self) -> int:
        """Number of windows before the current one that are still open to revision."""
        ...

    def span(self, start: int, stop: int) -> Span:
        """The windows of a completion that occupies positions start to stop (exclusive)."""
        ...

    def edge(self, stop: int) -> int:
        """Where the windows of a completion that is wanted as far as `stop` (exclusive) can end, at the earliest: on a
        grid, where prompts of several lengths share a number of new tokens, the next block's edge."""
        ...


@dataclass(frozen=True)
class Whole:
    """One window: the whole completion."""

    @property
    def num_revised(self) -> int:
        return 0

    def span(self, start: int, stop: int) -> Span:
        return Span(start, stop - start, 1)

    def edge(self, stop: int) -> int:
        return stop


@dataclass(frozen=True)
class Blocks:
    """Blocks of `size` counted from the start of the completion (LLaDA, Fast-dLLM)."""

    size: int

    def __post_init__(self) -> None:
        integer_field(self, "size")

    @property
    def num_revised(self) -> int:
        return 0

    def span(self, start: int, stop: int) -> Span:
        return _divided(start, stop, self.size)

    def edge(self, stop: int) -> int:
        return stop


@dataclass(frozen=True)
class GridBlocks:
    """Blocks of `size` counted from the row's first token, as block-causal models are trained (SDAR, LLaDA2). The
    first window may begin inside the prompt. A revising policy may also revise the last `num_revised` finished blocks
    (LLaDA2.1's multi-block editing)."""

    size: int
    num_revised: int = 0

    def __post_init__(self) -> None:
        integer_field(self, "size")
        integer_field(self, "num_revised", at_least=0)

    def span(self, start: int, stop: int) -> Span:
        return _divided(start // self.size * self.size, stop, self.size)

    def edge(self, stop: int) -> int:
        return -(-stop // self.size) * self.size


def _divided(first: int, stop: int, size: int) -> Span:
    if (stop - first) % size:
        raise ValueError(f"size={size}: blocks must divide the {stop - first} positions from {first} to {stop}")
    return Span(first, size, (stop - first) // size)


@dataclass(frozen=True)
class Window:
    """The current window of every row. query_BQ: positions that may be committed or revised, int64 [B, Q], L where a
    row has none; they include earlier windows still open to revision. Without those the window has `size` positions,
    size_B of them in each row (int64 [B]; None if rows do not differ).

    before_BP: positions that have closed since the previous window: the prompt at the first window, then the window
    that has just closed; None if there are none. stop_B: the end of each row. Over all rows, windows begin between
    `earliest` and `begin` and end by `reach`; `padded` says whether rows differ."""

    index: int
    query_BQ: Tensor
    size: int
    size_B: Tensor | None
    before_BP: Tensor | None
    stop_B: Tensor
    earliest: int
    begin: int
    reach: int
    padded: bool


@dataclass(frozen=True)
class WindowGrid:
    """The windows of all rows: positions of the first one, [B, size], and each row's end and number of windows. Rows
    may begin at different positions and have different numbers of windows."""

    first_BQ: Tensor
    stop_B: Tensor
    counts: tuple[int, ...]
    smallest_first: int
    largest_first: int
    length: int
    ragged: bool
    num_revised: int

    @classmethod
    def of(cls, spans: Sequence[Span], stop_B: Tensor, length: int, num_revised: int) -> "WindowGrid":
        firsts = [span.first for span in spans]
        ends = {span.first + span.size * span.count for span in spans}
        offset_Q = torch.arange(max(span.size for span in spans), device=stop_B.device)
        return cls(torch.tensor(firsts, device=stop_B.device)[:, None] + offset_Q, stop_B,
                   tuple(span.count for span in spans), min(firsts), max(firsts), length,
                   ragged=len(set(firsts)) > 1 or ends != {length}, num_revised=num_revised)

    def rows(self, index_B: Tensor, kept: Sequence[int]) -> "WindowGrid":
        """The windows of the rows `index_B`; `kept` are the same row numbers on the host."""
        return replace(self, first_BQ=self.first_BQ[index_B], stop_B=self.stop_B[index_B],
                       counts=tuple(self.counts[row] for row in kept))

    def window(self, index: int) -> Window:
        first_open = max(index - self.num_revised, 0)
        open_ones = [self._positions(number) for number in range(first_open, index + 1)]
        before_BP = None
        if first_open:
            before_BP = self._positions(first_open - 1)
        elif index == 0 and self.largest_first:
            position_P = torch.arange(self.largest_first, device=self.stop_B.device)
            before_BP = torch.where(position_P < self.first_BQ[:, :1], position_P, self.length)
        # The row that begins last may have finished already, so `begin` and `reach` are only upper bounds.
        size = self.first_BQ.shape[1]
        begin, reach = (min(self.largest_first + number * size, self.length) for number in (index, index + 1))
        size_B = (open_ones[-1] < self.length).sum(1) if self.ragged else None
        query_BQ = open_ones[0] if len(open_ones) == 1 else torch.cat(open_ones, dim=1)
        return Window(index, query_BQ, size, size_B, before_BP, self.stop_B,
                      self.smallest_first + index * size, begin, reach, self.ragged)

    def _positions(self, index: int) -> Tensor:
        position_BQ = self.first_BQ + index * self.first_BQ.shape[1]
        return torch.where(position_BQ < self.stop_B[:, None], position_BQ, self.length) if self.ragged else position_BQ
