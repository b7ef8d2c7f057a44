"""Memory that stays in place: the canvas, the store and the windows' state of one model and batch shape, lent to one
decode at a time, with what was captured in it, so that this serves all decodes of that shape."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ...kernels.case import tensors_of, with_tensors
from ..canvas import Canvas
from ..decode_run import BlockState, DecodeRun
from .recorders import Recorded

# Shapes of windows that a frame holds memory of: prompts of so many lengths, say.
_MOST_WINDOWS = 16


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """Where in a dataclass its tensors are, and what is missing."""
    for part in fields(value):
        inside, name = getattr(value, part.name), path + part.name
        if inside is None or isinstance(inside, Tensor):
            yield name
        elif is_dataclass(inside):
            yield from _leaves(inside, f"{name}.")


def _signature(tensors: Iterable[Tensor | None]) -> Hashable:
    return tuple([None if tensor is None else (tensor.shape, tensor.dtype, tensor.device) for tensor in tensors])


def _copy(sources: Iterable[Tensor | None], places: Iterable[Tensor | None]) -> None:
    for source, place in zip(sources, places, strict=True):
        if source is not None and place is not None:
            place.copy_(source)


@dataclass(eq=False)
class WindowMemory:
    """The state of the windows of some shapes, and the steps captured in it by what else they depend on; None: a step
    that was taken once."""

    block: BlockState
    captured: dict[Hashable, Recorded | None] = field(default_factory=dict)


class Frame:
    """The memory of a batch shape. `decode` is the run that has it now, `window` the memory of its current window;
    `weights` tells what the model held when steps were captured."""

    def __init__(self, run: DecodeRun, weights: Hashable) -> None:
        self.model, self.weights = run.model, weights
        self.shape = self.shape_of(run)
        self.canvas: Canvas = with_tensors(run.active, torch.clone)
        self.store = None if run.store is None else with_tensors(run.store, torch.empty_like)
        self.ban_level_V = None if run.ban_level_V is None else run.ban_level_V.clone()
        self.decode: DecodeRun | None = None
        self.window: WindowMemory | None = None
        self._tensors: Callable[[BlockState], tuple[Tensor | None, ...]] | None = None
        self._windows: dict[Hashable, WindowMemory] = {}

    @staticmethod
    def shape_of(run: DecodeRun) -> Hashable:
        return _signature((*tensors_of((run.active, run.store)), run.ban_level_V))

    def lend(self, run: DecodeRun, weights: Hashable) -> None:
        """Make the frame's memory that of the run's active rows. What was captured with other weights is dropped."""
        if weights != self.weights:
            self.weights = weights
            for window in self._windows.values():
                window.captured.clear()
        self.decode = run
        _copy((*tensors_of((run.active, run.store)), run.ban_level_V),
              (*tensors_of((self.canvas, self.store)), self.ban_level_V))
        run.active, run.store, run.ban_level_V = self.canvas, self.store, self.ban_level_V

    def take_back(self) -> None:
        """Leave the run what it still needs, in memory of its own."""
        run, self.decode = self.decode, None
        assert run is not None
        if run.block is not None:
            window = replace(run.block.window, query_BQ=run.block.window.query_BQ.clone())
            run.block = replace(run.block, window=window, nonfinite_BQ=run.block.nonfinite_BQ.clone())
        if run.rows and run.active is self.canvas:
            run.active, run.store = with_tensors((self.canvas, self.store), torch.clone)
        if run.ban_level_V is not None:
            run.ban_level_V = run.ban_level_V.clone()

    def block(self, state: BlockState) -> BlockState:
        """A window's state, its tensors copied to the frame's memory."""
        if self._tensors is None:
            self._tensors = attrgetter(*_leaves(state))
        tensors = self._tensors(state)
        key = _signature(tensors)
        memory = self.window = self._windows.pop(key, None) or WindowMemory(with_tensors(state, torch.clone))
        self._windows[key] = memory  # now the last
        if len(self._windows) > _MOST_WINDOWS:
            del self._windows[next(iter(self._windows))]
        _copy(tensors, self._tensors(memory.block))
        here = memory.block.window
        window = replace(state.window, query_BQ=here.query_BQ, size_B=here.size_B, before_BP=here.before_BP,
                         stop_B=here.stop_B)
        return replace(memory.block, window=window, bounds=state.bounds, max_masked_after=state.max_masked_after)

    @property
    def tensors(self) -> list[Tensor]:
        """All of its memory."""
        return list(tensors_of((self.canvas, self.store, self.ban_level_V,
                                *(window.block for window in self._windows.values()))))
