"""Exact caches: each step equals a full recompute, up to rounding. Fed at a step are

    recompute             all positions; nothing is stored
    append                the positions committed since the last forward; for causal models in blocks of one
    block-causal          the current block, and in its first forward also the finished block before it, to store it;
                          for block-causal models
    block-causal, apart   the current block; a separate forward stores the finished block

A model with shift 1 (Fast-dLLM v2) predicts a block's first token at the last position of the block before it, which is
finished, so that the answer there no longer changes: that position is fed again with every step of the current block.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

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
        if model.spec.pattern != BlockCausal(windows.size):
            raise ValueError(f"cache {self} with {windows} and attention {model.spec.pattern}: needs a block-causal "
                             "model of the same block size")


def _block_forward(state: StepState) -> Plan:
    """A forward of the window, after the position that predicts its first one where the model shifts; earlier positions
    are read from the store."""
    window = state.window
    if _feeds_predictor(state):
        first_B1 = window.query_BQ[:, :1]
        exists_B1 = (first_B1 > 0) & (first_B1 < state.canvas.length)
        feed_BF = torch.cat((torch.where(exists_B1, first_B1 - 1, state.canvas.length), window.query_BQ), dim=1)
        return _fed_with(state, feed_BF)
    is_one = window.query_BQ.shape[1] == window.reach - window.begin
    return Plan(window.query_BQ, context=window.reach, no_mask=is_one and not window.padded and state.is_exact,
                spare=state.spare(window.reach))


def _feeds_predictor(state: StepState) -> bool:
    """Whether the window's first position is predicted by one before it, in some row."""
    window = state.window
    return state.shift > 0 and window.begin > window.query_BQ.shape[1] - window.size


def _fed_with(state: StepState, feed_BF: Tensor) -> Plan:
    """A forward of the window and what else is fed."""
    window = state.window
    if window.padded:
        feed_BF = feed_BF.sort(dim=1).values
    return Plan(feed_BF, window.query_BQ, context=window.reach, spare=state.spare(window.reach))


def _block_layout(state: StepState, phase: int = 0) -> Layout:
    reach = state.window.reach
    return Layout((phase, int(_feeds_predictor(state)), reach + state.spare(reach)), reach)


@dataclass(frozen=True)
class BlockCausalCache(_ForBlockCausal):
    def plan(self, state: StepState) -> Plan:
        window = state.window
        if state.index or window.before_BP is None:
            return _block_forward(state)
        return _fed_with(state, torch.cat((window.before_BP, window.query_BQ), dim=1))

    def layout(self, state: StepState) -> Layout:
        return _block_layout(state, phase=min(state.index, 1))


@dataclass(frozen=True)
class BlockCausalCacheApart(_ForBlockCausal):
    def entry_plan(self, window: Window) -> Plan | None:
        if window.before_BP is None:
            return None
        return Plan(window.before_BP, window.before_BP[:, :0], context=window.begin)

    def plan(self, state: StepState) -> Plan:
        return _block_forward(state)

    def layout(self, state: StepState) -> Layout:
        return _block_layout(state)
