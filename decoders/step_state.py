"""The input of every part of a decoder: the state before a step.

Host integers determine shapes; tensors are on the device, so that a CUDA graph of the step can be replayed. B rows of
the batch, Q positions of the window, S columns of the canvas (its length and a spare one).
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .canvas import Canvas
from .windows import Window

if TYPE_CHECKING:
    from .schedules.base import Quota, Schedule, Times


@dataclass(frozen=True)
class Rounding:
    """By how much a step may exceed what it needs, so that few shapes serve many steps: queries are rounded up to a
    multiple of a `query_parts`-th of the window, slots of the store to a multiple of `slots`. By default neither is."""

    query_parts: int | None = None
    slots: int = 1

    def queries(self, num_queried: int, num_positions: int) -> int:
        """Number of positions to query where `num_queried` of a window's must be."""
        if self.query_parts is None:
            return num_queried
        part = -(-num_positions // self.query_parts)
        return min(-(-num_queried // part) * part, num_positions)

    def spare(self, context: int, length: int) -> int:
        """Number of slots to read beyond the first `context` of a store of `length`."""
        return min(-(-context // self.slots) * self.slots, length) - context


EXACT = Rounding()


@dataclass
class StepState:
    """Properties are computed when a part first reads them and describe the state before the step; a state built by
    hand may assign them instead.

    index                   number of the step in its window, from 0, on the host
    step_B                  the same on the device, int64 [B]; keys the random draws
    window                  the slice of each row that is decoded now
    canvas                  all tokens, and which of them are masked
    schedule                gives the quota and times of the step
    num_masked_at_start_B   masks of the window at its start, int64 [B]
    unfinished_B            rows that need this step, bool [B]
    memory                  the policy's `Edit.memory` of the previous step, or its memory at the window's start
    shift                   the model's: 1 if it predicts the next token
    max_masked              most masks that a row may have in the window now, on the host
    max_masked_before       most masks that a row may have had in this and later windows before the last step, on host
    rounding                of the step's shapes
    couples_positions       the model's: whether which positions are queried changes their answers
    """

    index: int
    step_B: Tensor
    window: Window
    canvas: Canvas
    schedule: "Schedule"
    num_masked_at_start_B: Tensor
    unfinished_B: Tensor
    memory: Tensor | None = None
    shift: int = 0
    max_masked: int = 0
    max_masked_before: int = 0
    rounding: Rounding = EXACT
    couples_positions: bool = False

    @classmethod
    def of_counts(cls, schedule: "Schedule", num_masked_at_start_B: Tensor, *, size: int, size_B: Tensor | None = None,
                  seed_B: Tensor | None = None) -> "StepState":
        """The first step of a window of `size` positions, built from counts alone, which is all that a schedule reads.
        size_B (int64 [B]) is for rows with fewer positions, seed_B (int64 [B]) for schedules that draw."""
        none_B0 = num_masked_at_start_B.new_zeros(len(num_masked_at_start_B), 0)
        zero_B = torch.zeros_like(num_masked_at_start_B)
        window = Window(0, none_B0, size, size_B, None, zero_B, earliest=0, begin=0, reach=size, padded=False)
        canvas = Canvas(none_B0, none_B0.bool(), none_B0.bool(), none_B0.float(), none_B0, zero_B,
                        zero_B if seed_B is None else seed_B, zero_B)
        state = cls(0, zero_B, window, canvas, schedule, num_masked_at_start_B, num_masked_at_start_B > 0)
        state.num_masked_B = num_masked_at_start_B
        return state

    def at_step(self, index: int, num_masked_B: Tensor) -> "StepState":
        """Another step of the same window, with `num_masked_B` masks left (int64 [B])."""
        state = replace(self, index=index, step_B=torch.full_like(self.step_B, index))
        state.num_masked_B = num_masked_B
        return state

    @property
    def query_BQ(self) -> Tensor:
        """Absolute positions of the window, int64 [B, Q]; the canvas's length where a row has none."""
        return self.window.query_BQ

    @property
    def is_exact(self) -> bool:
        """Whether the step's shapes are just what it needs."""
        return self.rounding == EXACT

    def spare(self, context: int) -> int:
        """Slots to read beyond the first `context` of the store."""
        return self.rounding.spare(context, self.canvas.length)

    @property
    def seed_B(self) -> Tensor:
        """Seeds of the requests, int64 [B]; they key the random draws."""
        return self.canvas.seed_B

    @cached_property
    def masked_BQ(self) -> Tensor:
        """Which positions are masked, bool [B, Q]."""
        return self.canvas.masked_BS.gather(1, self.window.query_BQ)

    @cached_property
    def num_masked_B(self) -> Tensor:
        """Number of masked positions, int64 [B]."""
        return self.masked_BQ.sum(1)

    @cached_property
    def revisable_BQ(self) -> Tensor:
        """Positions that a revising policy may overwrite or remask, bool [B, Q]: the committed ones of unfinished
        rows."""
        return self.canvas.revisable(self.window.query_BQ) & self.unfinished_B[:, None]

    @cached_property
    def canvas_token_BQ(self) -> Tensor:
        """Tokens on the canvas, int64 [B, Q]; the mask id where masked."""
        return self.canvas.tokens_BS.gather(1, self.window.query_BQ)

    @cached_property
    def commit_log_prob_BQ(self) -> Tensor:
        """Log-probability in nats of each committed token at its commit, float32 [B, Q]; 0 where none was committed,
        or the policy does not declare "log_prob"."""
        return self.canvas.log_prob_BS.gather(1, self.window.query_BQ)

    @cached_property
    def quota(self) -> "Quota":
        """How many positions the step must and may commit, two int64 [B]."""
        return self.schedule.quota(self)

    @cached_property
    def times(self) -> "Times":
        """Diffusion times before and after the step, two floats [B] from 1 to 0. ValueError if the schedule has none:
        a policy that reads them declares `needs_times`."""
        times = self.schedule.times(self)
        if times is None:
            raise ValueError(f"schedule {self.schedule}: has no diffusion times; a policy that reads them must declare "
                             "needs_times")
        return times
