"""Caches for bidirectional models, whose stored keys and values go stale as later positions are committed: approximate,
with an error that experiment=cache_error measures. The first step of a window feeds the whole canvas; later steps feed

    prefix     the window and all later positions                                (Fast-dLLM, arXiv 2505.22618)
    dual       the window alone                                                  (Fast-dLLM)
    vicinity   the window and `radius` positions on either side; the whole canvas in the first `warm_up` steps of the
               first window and every `refresh_every` steps                      (dInfer, arXiv 2510.08666)
    delayed    all masked positions and those that the last step committed; the whole canvas every `refresh_every`
               steps                                                             (dKV-Cache, arXiv 2505.15781)
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from ...kernels.checks import integer_field
from ...models.adapter import LanguageModel, Plan
from ...models.attention import Bidirectional
from ..step_state import StepState
from ..windows import Windows
from .base import Cache, Layout
from .exact import full_forward


class _ForBidirectional(Cache, Protocol):
    """Checks that the caches share."""

    is_exact: ClassVar[bool] = False

    def check_windows(self, windows: Windows) -> None:
        if windows.num_revised:
            raise ValueError(f"cache {self} with {windows}: finished windows are not fed again, so they cannot be "
                             "revised")

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        if not isinstance(model.spec.pattern, Bidirectional):
            raise ValueError(f"cache {self} with attention {model.spec.pattern}: needs a bidirectional model; others "
                             "have exact caches, append and block_causal")


def _stored_forward(state: StepState) -> Plan:
    """A forward of the whole canvas whose keys and values are stored."""
    return full_forward(state.window, state.canvas.length, context=state.canvas.length)


def _extent(state: StepState, before: int, after: int) -> tuple[int, int]:
    """How many positions before the window the first fed one is, and how many are fed: `before` and `after` positions
    around the window, clipped to the canvas, and those from which a shifted model predicts the window's first ones."""
    window, length = state.window, state.canvas.length
    before, after = min(max(before, state.shift), length), min(after, length)
    if window.padded:
        return before, min(before + window.query_BQ.shape[1] + after, before + length - window.earliest)
    before = min(before, window.begin)
    return before, before + min(window.reach + after, length) - window.begin


def neighbourhood(state: StepState, before: int, after: int) -> Plan:
    """A forward of the window with `before` and `after` positions around it (`_extent`). It reads the whole canvas from
    the store."""
    window, length = state.window, state.canvas.length
    before, width = _extent(state, before, after)
    feed_BF = window.query_BQ[:, :1] + torch.arange(-before, width - before, device=window.query_BQ.device)
    if not window.padded:
        return Plan(feed_BF, window.query_BQ, context=length)
    exists_BF = (feed_BF >= 0) & (feed_BF < window.stop_B[:, None])
    feed_BF = torch.where(exists_BF, feed_BF, length).sort(dim=1).values
    return Plan(feed_BF, window.query_BQ, context=length, stop_B=window.stop_B)


def _layout(state: StepState, before: int, after: int, *, is_whole: bool) -> Layout:
    """The layout of a forward of the whole canvas, or of a neighbourhood."""
    return Layout(() if is_whole else _extent(state, before, after), state.canvas.length)


@dataclass(frozen=True)
class Prefix(_ForBidirectional):
    def plan(self, state: StepState) -> Plan:
        return neighbourhood(state, 0, state.canvas.length) if state.index else _stored_forward(state)

    def layout(self, state: StepState) -> Layout:
        return _layout(state, 0, state.canvas.length, is_whole=not state.index)


@dataclass(frozen=True)
class Dual(_ForBidirectional):
    def plan(self, state: StepState) -> Plan:
        return neighbourhood(state, 0, 0) if state.index else _stored_forward(state)

    def layout(self, state: StepState) -> Layout:
        return _layout(state, 0, 0, is_whole=not state.index)


@dataclass(frozen=True)
class Vicinity(_ForBidirectional):
    """Steps are counted per window. The published code counts them over the whole run, and after a full forward always
    takes one step of the window before it checks the count again."""

    radius: int = 16
    warm_up: int = 4
    refresh_every: int = 16

    def __post_init__(self) -> None:
        integer_field(self, "radius", at_least=0)
        integer_field(self, "warm_up", at_least=0)
        integer_field(self, "refresh_every")

    def plan(self, state: StepState) -> Plan:
        return _stored_forward(state) if self._refreshes(state) else neighbourhood(state, self.radius, self.radius)

    def layout(self, state: StepState) -> Layout:
        return _layout(state, self.radius, self.radius, is_whole=self._refreshes(state))

    def _refreshes(self, state: StepState) -> bool:
        is_warming = state.window.index == 0 and state.index < self.warm_up
        return is_warming or state.index % self.refresh_every == 0


@dataclass(frozen=True)
class Delayed(_ForBidirectional):
    """The published code also runs a full forward at the second step of a window, where the step before the last is
    unknown."""

    refresh_every: int = 8
    recomputes_committed: ClassVar[bool] = False

    def __post_init__(self) -> None:
        integer_field(self, "refresh_every")

    def check_model(self, model: LanguageModel, windows: Windows) -> None:
        super().check_model(model, windows)
        if model.spec.shift:
            raise ValueError(f"cache {self} with shift {model.spec.shift}: needs a model without shift, since a masked "
                             "position's answer would stand at one that is not fed")

    def plan(self, state: StepState) -> Plan:
        canvas, window = state.canvas, state.window
        if state.index % self.refresh_every == 0:
            return _stored_forward(state)
        in_window_BS = torch.zeros_like(canvas.masked_BS).scatter_(1, window.query_BQ, True)
        committed_last_BS = in_window_BS & ~canvas.given_BS & (canvas.step_BS == state.step_B[:, None] - 1)
        position_S = torch.arange(canvas.length + 1, device=window.query_BQ.device)
        stale_BS = torch.where(canvas.masked_BS | committed_last_BS, position_S, canvas.length)
        feed_BF = stale_BS.sort(dim=1).values[:, : min(state.max_masked_before, canvas.length)].contiguous()
        return Plan(feed_BF, window.query_BQ, context=canvas.length, stop_B=window.stop_B)

    def layout(self, state: StepState) -> Layout:
        is_whole = state.index % self.refresh_every == 0
        return Layout(() if is_whole else (state.max_masked_before,), state.canvas.length)
