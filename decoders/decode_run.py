"""State of a running decode, of the whole run and of its current window, and what may take its steps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor

from ..kernels.distribution_state import PreviousDistribution
from ..models.adapter import LanguageModel, ModelSpec
from ..models.kv_store import KVStore
from .accounting import Accounting
from .canvas import Canvas, Request
from .policies.base import Edit
from .schedules import Schedule
from .schedules.bounds import Bounds
from .step import Step
from .step_state import Rounding, StepState
from .windows import Span, Window, WindowGrid

if TYPE_CHECKING:
    from .decoder import Decoder


@dataclass(frozen=True)
class Completion:
    """A decoded request: its whole canvas, and the completion from `start` up to and including the first end token."""

    tokens: list[int]
    completion: list[int]


class StepCounts(NamedTuple):
    """One step, to be counted after the decode: rows unfinished before it, bool [B]; positions committed and remasked,
    bool [B, Q] (None: none)."""

    unfinished_B: Tensor
    commit_BQ: Tensor
    remask_BQ: Tensor | None


@dataclass(frozen=True)
class BlockState:
    """State of a decode in one window. Its tensors are written in place, so that a captured step keeps their addresses.

    num_masked_at_start_B   masks of the window at its start, int64 [B]
    unfinished_B            rows that need another step, bool [B]
    has_end_B               rows that committed an end token in the window, bool [B]
    nonfinite_BQ            positions open to commits that had non-finite logits, bool [B, Q]
    step_B                  number of the next step, int64 [B]
    policy_memory           memory of the policy
    sampler_memory          memory of the sampler
    previous                distributions of the previous step
    bounds                  bounds on the masks and steps of a row, on the host
    max_masked_after        most masks of a row in later windows, on the host
    """

    window: Window
    num_masked_at_start_B: Tensor
    unfinished_B: Tensor
    has_end_B: Tensor
    nonfinite_BQ: Tensor
    step_B: Tensor
    policy_memory: Tensor | None
    sampler_memory: Tensor | None
    previous: PreviousDistribution | None
    bounds: Bounds
    max_masked_after: int

    def update(self, edit: Edit, num_masked_B: Tensor) -> None:
        """Update unfinished rows and policy memory after an edit that leaves `num_masked_B` positions masked."""
        wants_more_B = None if edit.unfinished_B is None else edit.unfinished_B & self.unfinished_B
        torch.gt(num_masked_B, 0, out=self.unfinished_B)
        if wants_more_B is not None:
            self.unfinished_B.logical_or_(wants_more_B)
        if self.policy_memory is not None and edit.memory is not None:
            self.policy_memory.copy_(edit.memory)


@dataclass
class DecodeRun:
    """State of one decode. `full` is the canvas of all requests, `active` that of the rows still decoded: its row r is
    request rows[r]. `masked_from` counts, per request and window, the initial masks from that window on; `ban_level_V`
    is the level of each token that is banned somewhere, int32 [V]. `block` is the state of the current window,
    `rounding` that of its steps' shapes, `spec` the model's. A consumer ends rows by what it reads in them: `ended`
    are the requests whose rows stop after the current window, with the position at which the completion is cut."""

    model: LanguageModel
    requests: Sequence[Request]
    full: Canvas
    active: Canvas
    spans: Sequence[Span]
    grid: WindowGrid
    store: KVStore | None
    rows: list[int]
    masked_from: list[list[int]]
    ban_level_V: Tensor | None = None
    ended: dict[int, int] = field(default_factory=dict)
    block: BlockState | None = None
    log: list[StepCounts] = field(default_factory=list)
    accounting: Accounting = field(default_factory=Accounting)
    rounding: Rounding = field(default_factory=Rounding)
    spec: ModelSpec = field(init=False)

    def __post_init__(self) -> None:
        self.spec = self.model.spec

    def max_masked_in(self, window: int) -> int:
        """Most masks with which an active row starts the window."""
        return max(self.masked_from[row][window] - self.masked_from[row][window + 1] for row in self.rows)

    def max_masked_after(self, window: int) -> int:
        """Most masks of an active row in later windows."""
        return max(self.masked_from[row][window + 1] for row in self.rows)

    def state(self, schedule: Schedule, block: BlockState, index: int) -> StepState:
        """The state before step number `index` of the window."""
        before = block.max_masked_after + block.bounds.max_remaining(max(index - 1, 0))
        return StepState(index, block.step_B, block.window, self.active, schedule, block.num_masked_at_start_B,
                         block.unfinished_B, block.policy_memory, self.spec.shift,
                         block.bounds.max_remaining(index), before, self.rounding, self.spec.couples_positions)

    def count_steps(self) -> None:
        """Fill in the accounting's row steps and commits."""
        counts = torch.zeros(4, dtype=torch.int64, device=self.active.tokens_BS.device)
        for _, steps in groupby(self.log, lambda step: (step.commit_BQ.shape, step.remask_BQ is None)):
            unfinished, commits, remasks = zip(*steps, strict=True)
            unfinished_TB, commit_TBQ = torch.stack(unfinished), torch.stack(commits)
            changed_TB, num_remasked = commit_TBQ.any(2), torch.zeros_like(counts[0])
            if remasks[0] is not None:
                remask_TBQ = torch.stack(remasks)
                changed_TB |= remask_TBQ.any(2)
                num_remasked = remask_TBQ.sum()
            counts += torch.stack(((~unfinished_TB).sum(), (unfinished_TB & ~changed_TB).sum(), commit_TBQ.sum(),
                                   num_remasked))
        self.accounting.row_steps = sum(len(step.unfinished_B) for step in self.log)
        (self.accounting.finished_row_steps, self.accounting.empty_row_steps, self.accounting.tokens_committed,
         self.accounting.tokens_remasked) = counts.tolist()

    def check_finite(self) -> None:
        """FloatingPointError if the current window met non-finite logits."""
        if self.block is None or not self.block.nonfinite_BQ.any():
            return
        row, place = self.block.nonfinite_BQ.nonzero()[0].tolist()
        position = int(self.block.window.query_BQ[row, place])
        raise FloatingPointError(f"non-finite logits at position {position} of request {self.rows[row]}: one is NaN "
                                 "or infinite, or every token is banned")

    def scatter_back(self) -> None:
        """Copy the active rows back to the canvas of all requests."""
        if self.active is not self.full and self.rows:
            self.full.put_rows(torch.tensor(self.rows), self.active)

    @property
    def has_ended_rows(self) -> bool:
        """Whether the consumer has ended rows of the batch."""
        return not self.ended.keys().isdisjoint(self.rows)

    def compact(self, has_end: Sequence[bool], next_window: int) -> None:
        """Remove rows from the batch that have an end token, were ended by the consumer or have no window left."""
        kept = [row for row, count in enumerate(self.grid.counts)
                if count > next_window and not has_end[row] and self.rows[row] not in self.ended]
        self.scatter_back()
        if not kept:
            self.rows = []
            return
        index_B = torch.tensor(kept, device=self.active.tokens_BS.device)
        self.active = self.active.rows(index_B)
        self.grid = self.grid.rows(index_B, kept)
        self.store = None if self.store is None else self.store.rows(index_B)
        self.rows = [self.rows[row] for row in kept]


class StepRunner(Protocol):
    """What takes the steps of a decoder's decodes in its place, such as `CapturedSteps`, which replays them."""

    @property
    def decoder(self) -> "Decoder": ...

    def begin_block(self, run: DecodeRun, number: int) -> BlockState:
        """The state of window number `number` before its first step."""
        ...

    def step(self, run: DecodeRun, block: BlockState, index: int) -> Step:
        """Take step number `index` of a window. The next one may overwrite the result."""
        ...

    def end(self, run: DecodeRun) -> None:
        """Called when no further step is taken, whatever the reason."""
        ...
