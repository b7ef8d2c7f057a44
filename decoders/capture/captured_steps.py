"""Steps that are captured once and then replayed: without the Python of a step and, on a GPU, without its launches.

A decode runs in memory that stays in place (frame.py). What a step does there depends on its layout alone: on the
shapes of the window's state, on what the cache decides on the host, and on the number of positions queried. The first
step of a layout is taken as ever, the second one is captured, all others replay it.

Contexts and numbers of queries are rounded up (`ROUNDING`), so that few layouts serve a whole decode. What a decode
counts is what its steps need, as without capturing.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...kernels.batch_invariance import is_batch_invariant
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, Ran, note, recording, requested
from ...models.adapter import HoldsConstants
from ..decode_run import BlockState, DecodeRun
from ..decoder import Decoder
from ..step import Step
from ..step_state import Rounding
from .frame import Frame
from .recorders import Recorded, Recorder, recorder_for

ROUNDING = Rounding(query_parts=4, slots=64)
_MOST_FRAMES = 4
_NO_LAYOUT = "the cache does not tell its layouts"


class _Layout(NamedTuple):
    """What a captured step depends on: its memory, the shapes of the window's state, what the cache decided, the number
    of positions queried, and the settings that choose among operators."""

    frame: int
    window: Hashable
    cache: tuple[int, ...]
    width: int
    kernels: Implementation | None
    batch_invariant: bool
    autocast: bool


@dataclass(frozen=True)
class _Captured:
    """A recorded step, and what ran in it."""

    recorded: Recorded
    ran: Ran


@dataclass
class Replays:
    """How the steps of a runner were taken; `reasons` says why some were not replayed, besides the first of a
    layout."""

    replayed: int = 0
    captured: int = 0
    taken: int = 0
    reasons: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        return {"steps_replayed": self.replayed, "steps_captured": self.captured, "steps_launched": self.taken,
                "reasons": sorted(self.reasons)}


class CapturedSteps:
    """A `StepRunner` for decodes with one decoder and models that tell their constants; with others it takes the steps
    as ever. It holds the memory of up to four batch shapes, KV stores included, and at most `max_programs` steps;
    further layouts are not captured. Models may be trained, moved or exchanged between decodes."""

    def __init__(self, decoder: Decoder, *, max_programs: int = 256, recorder: Recorder | None = None) -> None:
        check_integer("max_programs", max_programs, at_least=0)
        self.decoder = decoder
        self.replays = Replays()
        self._max_programs = max_programs
        self._recorder = recorder
        self._frames: list[Frame] = []
        self._constants: Sequence[Tensor] = ()
        self._versions: Hashable = None
        self._programs: dict[_Layout, _Captured | None] = {}  # None: taken once

    def begin_block(self, run: DecodeRun, number: int) -> BlockState:
        frame = self._frame_for(run)
        state = self.decoder.begin_block(run, number)
        if frame is not None:
            state = run.block = frame.block(state)
        return state

    def step(self, run: DecodeRun, block: BlockState, index: int) -> Step:
        frame = self._frame_of(run)
        state = run.state(self.decoder.schedule, block, index)
        layout = self.decoder.cache.layout(state)
        if frame is None or layout is None:
            self.replays.reasons.update(() if frame is None else (_NO_LAYOUT,))
            return self._taken(run, block, index)
        num_queried = self.decoder.num_queried(block, state)
        width = state.rounding.queries(num_queried, state.query_BQ.shape[1])
        key = _Layout(id(frame), frame.window, layout.key, width, requested(), is_batch_invariant(),
                      torch.is_autocast_enabled(run.spec.device.type))
        step = self._replayed(key, run, block, index)
        plan = replace(step.plan, context=layout.context, spare=0, reads_BQ=step.plan.query_BQ[:, :num_queried])
        return replace(step, index=index, window=block.window, rows=tuple(run.rows), plan=plan)

    def end(self, run: DecodeRun) -> None:
        frame = self._frame_of(run)
        if frame is not None:
            frame.take_back()

    def _taken(self, run: DecodeRun, block: BlockState, index: int) -> Step:
        self.replays.taken += 1
        return self.decoder.step(run, block, index)

    def _replayed(self, key: _Layout, run: DecodeRun, block: BlockState, index: int) -> Step:
        """A step of this layout: replayed, captured or taken."""
        if key not in self._programs:
            if len(self._programs) < self._max_programs:
                self._programs[key] = None
            else:
                self.replays.reasons.add(f"more than {self._max_programs} layouts")
            return self._taken(run, block, index)
        captured = self._programs[key]
        if captured is None:
            with recording() as ran:
                recorded = self._recorder_for(run).record(lambda: self.decoder.step(run, block, index), self._constants)
            captured = self._programs[key] = _Captured(recorded, ran)
            self.replays.captured += 1
        elif captured.recorded.replay is None:
            self.replays.reasons.add(str(captured.recorded.reason))
            return self._taken(run, block, index)
        else:
            captured.recorded.replay()
            self.replays.replayed += 1
        for name, what in captured.ran:
            note(name, what)
        return captured.recorded.step

    def _recorder_for(self, run: DecodeRun) -> Recorder:
        if self._recorder is None:
            self._recorder = recorder_for(run.spec.device)
        return self._recorder

    def _frame_of(self, run: DecodeRun) -> Frame | None:
        return next((frame for frame in self._frames if frame.decode is run), None)

    def _frame_for(self, run: DecodeRun) -> Frame | None:
        """The frame that holds the run's rows as they now are; None where its model cannot be captured."""
        frame = self._frame_of(run)
        if frame is not None and run.active is frame.canvas:
            return frame
        if not isinstance(run.model, HoldsConstants):
            self.replays.reasons.add(f"{type(run.model).__name__} does not tell its constants")
            return None
        if frame is not None:  # rows have left the batch
            frame.take_back()
        else:
            self._forget_what_changed(run.model)
        shape = Frame.shape_of(run)
        frame = next((idle for idle in self._frames if idle.decode is None and idle.shape == shape), None)
        if frame is None:
            frame = Frame(run)
            self._frames.append(frame)
            self._drop_idle()
        else:
            self._frames.append(self._frames.pop(self._frames.index(frame)))
        frame.lend(run)
        run.rounding = ROUNDING
        return frame

    def _forget_what_changed(self, model: HoldsConstants) -> None:
        """Drop what was captured, if the constants are others now, or elsewhere."""
        constants = model.constants()
        versions = tuple((tensor.data_ptr(), None if tensor.is_inference() else tensor._version)
                         for tensor in constants)
        if versions != self._versions:
            self._programs.clear()
            self._constants, self._versions = constants, versions

    def _drop_idle(self) -> None:
        """Drop the frames that were not used for longest, beyond those that are kept, with what was captured there."""
        idle = [frame for frame in self._frames[:-1] if frame.decode is None]
        for frame in idle[: max(len(self._frames) - _MOST_FRAMES, 0)]:
            self._frames.remove(frame)
            self._programs = {key: value for key, value in self._programs.items() if key.frame != id(frame)}
