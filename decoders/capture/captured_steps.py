"""Steps that are captured once and then replayed: without the Python of a step and, on a GPU, without its launches.

A decode runs in memory that stays in place (frame.py). What a step does there depends on its layout alone: on the
shapes of the window's state, on what the cache decides on the host, and on the number of positions queried. The first
step of a layout is taken as ever, the second one is captured, all others replay it.

Contexts and numbers of queries are rounded up (`ROUNDING`), so that few layouts serve a whole decode; the longer sums
may round a logit otherwise. What a decode counts is what its steps need, as without capturing.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ...kernels.autocast import float32_precision
from ...kernels.batch_invariance import is_batch_invariant, refuse_if_batch_invariant
from ...kernels.dispatch import note, requested
from ...models.adapter import Replayable
from ..caches import Cache
from ..decode_run import BlockState, DecodeRun
from ..decoder import Decoder
from ..step import Step
from ..step_state import EXACT, Rounding
from .frame import Frame
from .recorders import Recorder, recorder_for

ROUNDING = Rounding(query_parts=4, slots=64)
_MOST_FRAMES = 4


@dataclass
class Replays:
    """How the steps of a runner were taken, and how many of those replayed by compiled programs; `reasons` says why
    some were not captured, besides the first of each layout, or not compiled."""

    replayed: int = 0
    captured: int = 0
    taken: int = 0
    by_program: int = 0
    reasons: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        return {"steps_replayed": self.replayed, "steps_captured": self.captured, "steps_taken": self.taken,
                "steps_by_compiled_program": self.by_program, "reasons": sorted(self.reasons)}


class CapturedSteps:
    """A `StepRunner` for decodes with one decoder. Models that are `Replayable` have their steps captured and may be
    trained, packed, moved or exchanged between decodes; others' steps are taken as ever. Forward hooks do not run in a
    replay. It holds the memory of up to four batch shapes, KV stores included, beside that of the decode.

    `compiles`: on a CPU a captured step is compiled to one program, in some ten seconds; a later process finds it on
    disk. What the program fuses may round a logit otherwise. Where that cannot be done, operators are replayed."""

    def __init__(self, decoder: Decoder, *, compiles: bool = False, recorder: Recorder | None = None) -> None:
        self.decoder = decoder
        self._compiles = compiles
        self.replays = Replays()
        self._recorder = recorder
        self._recorders: dict[torch.device, Recorder] = {}
        self._frames: list[Frame] = []  # that used last at the end

    @classmethod
    def named(cls, capture: str, decoder: Decoder) -> "CapturedSteps | None":
        """The runner of a setting: none for "none", one that replays for "graph", that compiles for "compile"."""
        return None if capture == "none" else cls(decoder, compiles=capture == "compile")

    def begin_block(self, run: DecodeRun, number: int) -> BlockState:
        frame = self._frame_for(run)
        state = self.decoder.begin_block(run, number)
        if frame is not None:
            state = run.block = frame.block(state)
        return state

    def step(self, run: DecodeRun, block: BlockState, index: int) -> Step:
        frame = self._frame_of(run)
        if frame is None:
            return self._taken(run, block, index)
        state = run.state(self.decoder.schedule, block, index)
        layout = self.decoder.cache.layout(state)
        if layout is None:
            run.rounding = EXACT
            step = self._taken(run, block, index, "the cache does not tell this step's layout")
            self._round(run, frame)
            return step
        num_queried = self.decoder.num_queried(block, state)
        width = state.rounding.queries(num_queried, state.query_BQ.shape[1])
        key = (layout.key, width, requested(), is_batch_invariant(), *float32_precision().values(),
               torch.get_num_threads())
        step = self._replayed(frame, key, run, block, index)
        plan = replace(step.plan, context=layout.context, spare=0, reads_BQ=step.plan.query_BQ[:, :num_queried])
        return replace(step, index=index, window=block.window, rows=tuple(run.rows), plan=plan)

    def end(self, run: DecodeRun) -> None:
        frame = self._frame_of(run)
        if frame is not None:
            frame.take_back()
            run.rounding = EXACT
            if len(self._frames) > _MOST_FRAMES:
                self._frames.remove(frame)

    def _taken(self, run: DecodeRun, block: BlockState, index: int, reason: str | None = None) -> Step:
        if reason is not None:
            self.replays.reasons.add(reason)
        self.replays.taken += 1
        return self.decoder.step(run, block, index)

    def _replayed(self, frame: Frame, key: Hashable, run: DecodeRun, block: BlockState, index: int) -> Step:
        """A step of this layout: replayed, captured or taken."""
        if torch.is_autocast_enabled(run.spec.device.type):
            return self._taken(run, block, index, "autocast chooses types from call to call")
        assert frame.window is not None
        captured = frame.window.captured
        if key not in captured:
            captured[key] = None
            return self._taken(run, block, index)
        recorded = captured[key]
        if recorded is None:
            recorder = self._recorder_for(run.spec.device)
            recorded = captured[key] = recorder.record(lambda: self.decoder.step(run, block, index))
            if recorded.reason is not None:
                self.replays.reasons.add(recorded.reason)
            if recorded.replay is None:
                self.replays.taken += 1
            else:
                self.replays.captured += 1
        elif recorded.replay is None:
            return self._taken(run, block, index)
        else:
            recorded.replay()
            self.replays.replayed += 1
            self.replays.by_program += recorded.is_compiled
        for name, what in recorded.ran:
            note(name, what)
        return recorded.step

    def _recorder_for(self, device: torch.device) -> Recorder:
        if self._recorder is not None:
            return self._recorder
        if device not in self._recorders:
            self._recorders[device] = recorder_for(device, compiles=self._compiles)
        return self._recorders[device]

    def _frame_of(self, run: DecodeRun) -> Frame | None:
        return next((frame for frame in self._frames if frame.decode is run), None)

    def _frame_for(self, run: DecodeRun) -> Frame | None:
        """The frame that holds the run's rows as they now are; None where its steps are not to be captured."""
        frame = self._frame_of(run)
        if frame is not None and run.active is frame.canvas:
            return frame
        has_shrunk = frame is not None or run.active is not run.full
        if frame is not None:
            frame.take_back()
        if not self._can_capture(run):
            return None
        frame = self._free_frame(run, may_drop=not has_shrunk)
        if frame is None:
            self.replays.reasons.add("rows have left the batch")
        self._round(run, frame)
        return frame

    def _round(self, run: DecodeRun, frame: Frame | None) -> None:
        """Round the shapes of the run's steps in a frame. Where positions choose experts together, those that are
        queried in excess would choose too."""
        run.rounding = EXACT if frame is None else ROUNDING
        if frame is not None and run.spec.couples_positions:
            run.rounding = replace(ROUNDING, query_parts=None)

    def _can_capture(self, run: DecodeRun) -> bool:
        if self._compiles:
            refuse_if_batch_invariant("compiled steps", "a program's loops follow the size of the batch; must be taken "
                                      "or replayed (capture=none or graph)")
        if not isinstance(run.model, Replayable):
            self.replays.reasons.add(f"{type(run.model).__name__} is not replayable")
            return False
        if type(self.decoder.cache).layout is Cache.layout:
            self.replays.reasons.add("the cache does not tell its layouts")
            return False
        return True

    def _free_frame(self, run: DecodeRun, *, may_drop: bool) -> Frame | None:
        """A frame lent to the run. A new one may take the place of the idle one that was not used for longest; without
        `may_drop`, which keeps batches that shrink from dropping one another's, there may be none."""
        assert isinstance(run.model, Replayable)
        shape, weights = Frame.shape_of(run), run.model.weights_version()
        idle = [frame for frame in self._frames if frame.decode is None]
        frame = next((frame for frame in idle if frame.shape == shape and frame.model == run.model), None)
        if frame is not None:
            self._frames.remove(frame)
        else:
            if len(self._frames) >= _MOST_FRAMES and not may_drop:
                return None
            while len(self._frames) >= _MOST_FRAMES and idle:
                self._frames.remove(idle.pop(0))
            frame = Frame(run, weights)
        self._frames.append(frame)
        frame.lend(run, weights)
        return frame
