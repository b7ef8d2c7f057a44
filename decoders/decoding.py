"""What a decode is made of while it runs, and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..kernels.distribution_state import PreviousDistribution
from ..kernels.token_statistics import TokenStatistics
from ..models.adapter import LanguageModel
from ..models.kv_store import KVStore
from .accounting import Accounting
from .canvas import Canvas, Request
from .policies.base import Edit
from .windows import Span, Window, WindowGrid


@dataclass(frozen=True)
class Step:
    """One step of a decode; its tensors are valid until the next one. `rows` maps the batch to the requests. What the
    proposal says of positions that were not masked is meant for policies that revise."""

    index: int
    window: Window
    proposal: TokenStatistics
    edit: Edit
    canvas: Canvas
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Completion:
    """A decoded request: its whole canvas, and the completion from `start` up to and with the first end token."""

    tokens: list[int]
    completion: list[int]


class Logged(NamedTuple):
    """What is counted of a step when the decode is over: which rows it found unfinished, bool [B] or their masks int64
    [B], and what it changed."""

    unfinished_B: Tensor
    edit: Edit


@dataclass
class Decoding:
    """The state of one decode: the batch that is still being decoded, and the canvas of all requests. `masked_from`
    holds, for each request and window, the masks that it began with from that window on; `visit` is the current
    window's."""

    model: LanguageModel
    requests: Sequence[Request]
    whole: Canvas
    live: Canvas
    spans: Sequence[Span]
    grid: WindowGrid
    store: KVStore | None
    rows: list[int]
    masked_from: list[list[int]]
    visit: "Visit | None" = None
    log: list[Logged] = field(default_factory=list)
    accounting: Accounting = field(default_factory=Accounting)

    def masked_in(self, window: int) -> int:
        """Masks that a live row starts the window with, at most."""
        return max(self.masked_from[row][window] - self.masked_from[row][window + 1] for row in self.rows)

    def masked_after(self, window: int) -> int:
        """Masks of a live row in later windows, at most."""
        return max(self.masked_from[row][window + 1] for row in self.rows)

    def count_steps(self) -> None:
        """Fill in what the accounting counts in row steps and commits."""
        counts = torch.zeros(4, dtype=torch.int64, device=self.live.tokens_BS.device)
        for unfinished_B, edit in self.log:
            is_active_B = unfinished_B > 0
            changed_B = edit.commit_BQ.any(1)
            num_remasked = torch.zeros_like(counts[0])
            if edit.remask_BQ is not None:
                changed_B |= edit.remask_BQ.any(1)
                num_remasked = edit.remask_BQ.sum()
            counts += torch.stack(((~is_active_B).sum(), (is_active_B & ~changed_B).sum(), edit.commit_BQ.sum(),
                                   num_remasked))
        self.accounting.row_steps = sum(len(logged.unfinished_B) for logged in self.log)
        (self.accounting.idle_row_steps, self.accounting.barren_row_steps, self.accounting.tokens_committed,
         self.accounting.tokens_remasked) = counts.tolist()

    def check_finite(self) -> None:
        """FloatingPointError where logits that the current window was decided by were not finite."""
        if self.visit is None or not self.visit.nonfinite_BQ.any():
            return
        index, place = self.visit.nonfinite_BQ.nonzero()[0].tolist()
        position = int(self.visit.window.query_BQ[index, place])
        raise FloatingPointError(f"non-finite logits at position {position} of request {self.rows[index]}: one is NaN "
                                 "or infinite, or every token is banned")

    def gather(self) -> None:
        """Copy the rows that are still being decoded back to the canvas of all requests."""
        if self.live is not self.whole and self.rows:
            self.whole.put_rows(torch.tensor(self.rows), self.live)

    def drop(self, ended: Sequence[bool], next_window: int) -> None:
        """Take the rows out of the batch that ended or have no window left."""
        kept = [row for row, count in enumerate(self.grid.counts) if count > next_window and not ended[row]]
        self.gather()
        if not kept:
            self.rows = []
            return
        index_B = torch.tensor(kept, device=self.live.tokens_BS.device)
        self.live = self.live.rows(index_B)
        self.grid = self.grid.rows(index_B, kept)
        self.store = None if self.store is None else self.store.rows(index_B)
        self.rows = [self.rows[row] for row in kept]


@dataclass(frozen=True)
class Visit:
    """The state of a decode in one window, written in place: masks at its start, int64 [B]; rows that are not finished,
    bool [B]; where logits were not finite at a position to be decided, bool [B, Q]; what the policy and the sampler
    remember, and the distributions of the step before."""

    window: Window
    masked_at_start_B: Tensor
    active_B: Tensor
    nonfinite_BQ: Tensor
    policy_state: Tensor | None
    sampler_memory: Tensor | None
    previous: PreviousDistribution | None
    most_masked: int
    masked_after: int
