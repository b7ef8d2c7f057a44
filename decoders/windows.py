"""Where: the slices of a completion that are finished in order. Blocks of one are autoregression.

A row's windows are `count` slices of `size` positions from `first` on; positions and block grids count from the row's
first token, so a row's windows do not depend on its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.checks import check_integer


@dataclass(frozen=True)
class Span:
    """One row's windows: [first, first + size), [first + size, first + 2 size), ... `count` of them."""

    first: int
    size: int
    count: int

    def count_in_windows(self, tokens: Sequence[int], token: int) -> list[int]:
        """How often a token stands in each of the row's windows."""
        starts = range(self.first, self.first + self.size * self.count, self.size)
        return [list(tokens[start : start + self.size]).count(token) for start in starts]


class Windows(Protocol):
    def span(self, start: int, stop: int) -> Span:
        """The windows of a completion that occupies positions start to stop (exclusive)."""
        ...


@dataclass(frozen=True)
class Whole:
    """One window: the whole completion."""

    def span(self, start: int, stop: int) -> Span:
        return Span(start, stop - start, 1)


@dataclass(frozen=True)
class Blocks:
    """Blocks of `size` counted from the start of the completion (LLaDA, Fast-dLLM)."""

    size: int

    def __post_init__(self) -> None:
        check_integer("size", self.size)

    def span(self, start: int, stop: int) -> Span:
        return _divided(start, stop, self.size)


@dataclass(frozen=True)
class GridBlocks:
    """Blocks of `size` counted from the row's first token, as block-causal models are trained (SDAR, LLaDA2). The
    first window may begin inside the prompt."""

    size: int

    def __post_init__(self) -> None:
        check_integer("size", self.size)

    def span(self, start: int, stop: int) -> Span:
        return _divided(start // self.size * self.size, stop, self.size)


def _divided(first: int, stop: int, size: int) -> Span:
    if (stop - first) % size:
        raise ValueError(f"size={size}: blocks must divide the {stop - first} positions from {first} to {stop}")
    return Span(first, size, (stop - first) // size)


@dataclass(frozen=True)
class Window:
    """The current window of every row: the positions in it, int64 [B, Q], L where a row has none.

    previous_BQ is the window before (None at the first), first_B1 where each row's first window begins, stop_B where
    the row ends. `begin` and `reach` bound the windows' first positions and ends over all rows; `padded` says that rows
    differ."""

    index: int
    first_B1: Tensor
    stop_B: Tensor
    query_BQ: Tensor
    previous_BQ: Tensor | None
    begin: int
    reach: int
    padded: bool


@dataclass(frozen=True)
class WindowGrid:
    """The windows of all rows: positions of the first one, [B, size], where each row ends, and how many windows it has.
    Rows may begin at different positions and have different numbers of windows."""

    first_BQ: Tensor
    stop_B: Tensor
    counts: tuple[int, ...]
    largest_first: int
    length: int
    ragged: bool

    @classmethod
    def of(cls, spans: Sequence[Span], stop_B: Tensor, length: int) -> "WindowGrid":
        firsts = [span.first for span in spans]
        ends = {span.first + span.size * span.count for span in spans}
        offset_Q = torch.arange(max(span.size for span in spans), device=stop_B.device)
        return cls(torch.tensor(firsts, device=stop_B.device)[:, None] + offset_Q, stop_B,
                   tuple(span.count for span in spans), max(firsts), length,
                   ragged=len(set(firsts)) > 1 or ends != {length})

    def rows(self, index_B: Tensor, kept: Sequence[int]) -> "WindowGrid":
        """The windows of the rows that `index_B`, in the host's words `kept`, names."""
        return replace(self, first_BQ=self.first_BQ[index_B], stop_B=self.stop_B[index_B],
                       counts=tuple(self.counts[row] for row in kept))

    def window(self, index: int) -> Window:
        size = self.first_BQ.shape[1]
        query_BQ = self.first_BQ + index * size
        previous_BQ = self.first_BQ + (index - 1) * size if index else None
        if self.ragged:
            query_BQ = torch.where(query_BQ < self.stop_B[:, None], query_BQ, self.length)
        # The row that begins last may be finished already, so its windows only bound those of the others.
        begin, reach = (min(self.largest_first + position * size, self.length) for position in (index, index + 1))
        return Window(index, self.first_BQ[:, :1], self.stop_B, query_BQ, previous_BQ, begin, reach, self.ragged)
