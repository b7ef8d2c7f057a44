"""Memory that stays in place: the canvas, the store and the windows' state of one batch shape, lent to one decode at a
time, so that what was captured for it serves all decodes of that shape."""

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from ...kernels.case import tensors_of, with_tensors
from ..canvas import Canvas
from ..decode_run import BlockState, DecodeRun


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """Where in a dataclass its tensors are, and what is missing."""
    for field in fields(value):
        part, name = getattr(value, field.name), path + field.name
        if part is None or isinstance(part, Tensor):
            yield name
        elif is_dataclass(part):
            yield from _leaves(part, f"{name}.")


def _signature(tensors: Iterable[Tensor | None]) -> Hashable:
    return tuple([None if tensor is None else (tensor.shape, tensor.dtype) for tensor in tensors])


def _copy(sources: Iterable[Tensor | None], places: Iterable[Tensor | None]) -> None:
    for source, place in zip(sources, places, strict=True):
        if source is not None and place is not None and place is not source:
            place.copy_(source)


class Frame:
    """The memory of a batch shape. `decode` is the run that has it now, `window` the signature of its window's
    state: shapes, dtypes, and what is missing."""

    def __init__(self, run: DecodeRun) -> None:
        self.shape = self.shape_of(run)
        self.canvas: Canvas = with_tensors(run.active, torch.clone)
        self.store = run.store
        self.decode: DecodeRun | None = None
        self.window: Hashable = None
        self._tensors: Callable[[BlockState], tuple[Tensor | None, ...]] | None = None
        self._blocks: dict[Hashable, BlockState] = {}

    @staticmethod
    def shape_of(run: DecodeRun) -> Hashable:
        return _signature(tensors_of((run.active, run.store)))

    def lend(self, run: DecodeRun) -> None:
        """Make the frame's memory that of the run's active rows."""
        self.decode = run
        _copy(tensors_of((run.active, run.store)), tensors_of((self.canvas, self.store)))
        run.active, run.store = self.canvas, self.store

    def take_back(self) -> None:
        """Leave the run a copy of its canvas. Its store is not needed any more."""
        if self.decode is not None and self.decode.active is self.canvas:
            self.decode.active = with_tensors(self.canvas, torch.clone)
        self.decode = None

    def block(self, state: BlockState) -> BlockState:
        """A window's state, its tensors copied to the frame's memory."""
        if self._tensors is None:
            self._tensors = attrgetter(*_leaves(state))
        tensors = self._tensors(state)
        self.window = _signature(tensors)
        memory = self._blocks.get(self.window)
        if memory is None:
            memory = self._blocks[self.window] = with_tensors(state, torch.clone)
        _copy(tensors, self._tensors(memory))
        here = memory.window
        window = replace(state.window, query_BQ=here.query_BQ, size_B=here.size_B, before_BP=here.before_BP,
                         stop_B=here.stop_B)
        return replace(memory, window=window, bounds=state.bounds, max_masked_after=state.max_masked_after)

    @property
    def tensors(self) -> list[Tensor]:
        """All of its memory."""
        return list(tensors_of((self.canvas, self.store, *self._blocks.values())))
