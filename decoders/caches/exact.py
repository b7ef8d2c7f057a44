"""Exact caches: each step equals a full recompute, up to rounding. Fed at a step are

    recompute             all positions; nothing is stored
    append                the positions committed since the last forward; for causal models in blocks of one
    block-causal          the current block, and in its first forward also the finished block before it, to store it;
                          for block-causal models
    block-causal, apart   the current block; a separate forward stores the finished block
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from ...models.adapter import LanguageModel, Plan
from ...models.attention import BlockCausal, Causal
from ..step_state import StepState
from ..windows import Blocks, GridBlocks, Window, Windows
from .base import Cache, Layout


@dataclass(frozen=True)
class Recompute(Cache):
    is_exact: ClassVar[bool] = True
    stores: ClassVar[bool] = False

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        if isinstance(model.spec.pattern, Causal) and windows != Blocks(1):
            raise ValueError(f"attention {model.spec.pattern} with {windows}: a causal model decides from left to "
                             "right, in blocks of 1")

    def plan(self, state: StepState) -> Plan:
        return full_forward(state.window, state.canvas.length)

    def layout(self, state: StepState) -> Layout:
        return Layout()


def full_forward(window: Window, length: int, context: int | None = None) -> Plan:
    """A forward of all positions of every row of a canvas, stored if a context is given."""
    position_L = torch.arange(length, device=window.query_BQ.device)
    if not window.padded:
        return Plan(position_L.expand(len(window.query_BQ), -1).contiguous(), window.query_BQ, context)
    feed_BL = torch.where(position_L < window.stop_B[:, None], position_L, length)
    return Plan(feed_BL, window.query_BQ, context, stop_B=window.stop_B)


@dataclass(frozen=True)
class Append(Cache):
    is_exact: ClassVar[bool] = True

    def check_windows(self, windows: Windows) -> None:
        if windows != Blocks(1):
            raise ValueError(f"cache {self} with {windows}: needs blocks of 1, since it feeds committed positions only")

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        if not isinstance(model.spec.pattern, Causal) or model.spec.shift != 1:
            raise ValueError(f"cache {self} with attention {model.spec.pattern} and shift {model.spec.shift}: needs a "
                             "causal next-token model, whose past never changes")

    def plan(self, state: StepState) -> Plan:
        window = state.window
        assert window.before_BP is not None, "a next-token model has a prompt"
        follows = window.before_BP.shape[1] == 1 and not window.padded
        return Plan(window.before_BP, window.query_BQ, context=window.begin, no_mask=follows and state.is_exact,
                    spare=state.spare(window.begin))

    def layout(self, state: StepState) -> Layout:
        begin = state.window.begin
        return Layout((begin + state.spare(begin),), begin)


class _ForBlockCausal(Cache, Protocol):
    """Checks that the two block-causal caches share."""

    is_exact: ClassVar[bool] = True

    def check_windows(self, windows: Windows) -> None:
        if not isinstance(windows, GridBlocks):
            raise ValueError(f"cache {self} with {windows}: needs grid blocks, on which the model was trained")

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        assert isinstance(windows, GridBlocks)
        if model.spec.pattern != BlockCausal(windows.size) or model.spec.shift:
            raise ValueError(f"cache {self} with {windows} and attention {model.spec.pattern}: needs a block-causal "
                             "model of the same block size without shift")


def block_forward(state: StepState) -> Plan:
    """A forward of the window alone; earlier positions are read from the store."""
    window = state.window
    is_one = window.query_BQ.shape[1] == window.reach - window.begin
    return Plan(window.query_BQ, context=window.reach, no_mask=is_one and not window.padded and state.is_exact,
                spare=state.spare(window.reach))


def block_layout(state: StepState, phase: int = 0) -> Layout:
    reach = state.window.reach
    return Layout((phase, reach + state.spare(reach)), reach)


@dataclass(frozen=True)
class BlockCausalCache(_ForBlockCausal):
    def plan(self, state: StepState) -> Plan:
        window = state.window
        if state.index or window.before_BP is None:
            return block_forward(state)
        feed_BF = torch.cat((window.before_BP, window.query_BQ), dim=1)
        if window.padded:
            feed_BF = feed_BF.sort(dim=1).values
        return Plan(feed_BF, window.query_BQ, context=window.reach, spare=state.spare(window.reach))

    def layout(self, state: StepState) -> Layout:
        return block_layout(state, phase=min(state.index, 1))


@dataclass(frozen=True)
class BlockCausalCacheApart(_ForBlockCausal):
    def entry_plan(self, window: Window) -> Plan | None:
        if window.before_BP is None:
            return None
        return Plan(window.before_BP, window.before_BP[:, :0], context=window.begin)

    def plan(self, state: StepState) -> Plan:
        return block_forward(state)

    def layout(self, state: StepState) -> Layout:
        return block_layout(state)
