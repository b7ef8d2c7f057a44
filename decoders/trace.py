"""The trace of a decode: what every step changed, kept on the host, from which the canvas can be replayed.

    canvas of step n = canvas of step n - 1, with the committed tokens written, then the remasked positions masked
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import compress
from typing import Any

from .step import Step


@dataclass(frozen=True)
class Change:
    """What a step changed in one row: the committed positions, their tokens and log-probabilities in nats (None if the
    policy does not declare them), and the remasked positions."""

    row: int
    positions: tuple[int, ...]
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...] | None
    remasked: tuple[int, ...]


@dataclass(frozen=True)
class TraceStep:
    """Step number `index` in window number `window`: one change per row that it changed."""

    window: int
    index: int
    changes: tuple[Change, ...]

    @classmethod
    def of(cls, step: Step) -> "TraceStep":
        """A copy of a step's changes. Synchronizes with the device."""
        edit, proposal = step.edit, step.proposal
        position_BQ, token_BQ, commit_BQ = (
            value_BQ.tolist() for value_BQ in (step.window.query_BQ, proposal.token_BQ, edit.commit_BQ))
        log_prob_BQ = None if proposal.found.log_prob_BQ is None else proposal.found.log_prob_BQ.tolist()
        remask_BQ = None if edit.remask_BQ is None else edit.remask_BQ.tolist()
        changes: list[Change] = []
        for place, (row, positions, tokens, commits) in enumerate(
                zip(step.rows, position_BQ, token_BQ, commit_BQ, strict=True)):
            committed = tuple(compress(positions, commits))
            remasked = () if remask_BQ is None else tuple(compress(positions, remask_BQ[place]))
            if committed or remasked:
                log_probs = None if log_prob_BQ is None else tuple(compress(log_prob_BQ[place], commits))
                changes.append(Change(row, committed, tuple(compress(tokens, commits)), log_probs, remasked))
        return cls(step.window.index, step.index, tuple(changes))

    def apply(self, canvas: Sequence[list[int]], mask_id: int) -> None:
        """Apply the step's changes to the rows of a canvas."""
        for change in self.changes:
            row = canvas[change.row]
            for position, token in zip(change.positions, change.tokens, strict=True):
                row[position] = token
            for position in change.remasked:
                row[position] = mask_id


@dataclass(frozen=True)
class Trace:
    """The requests' tokens, mask ids included, and all steps."""

    mask_id: int
    given: tuple[tuple[int, ...], ...]
    steps: tuple[TraceStep, ...]

    def canvases(self) -> Iterator[list[list[int]]]:
        """The rows before the first step and after each one."""
        canvas = [list(row) for row in self.given]
        yield [list(row) for row in canvas]
        for step in self.steps:
            step.apply(canvas, self.mask_id)
            yield [list(row) for row in canvas]

    def replay(self) -> list[list[int]]:
        """The rows after the last step."""
        return deque(self.canvases(), maxlen=1).pop()

    def to_json(self) -> dict[str, Any]:
        """The trace as JSON values; `from_json` is its inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Trace":
        """ValueError if the values are not those of a trace."""
        try:
            steps = [TraceStep(step["window"], step["index"], tuple(_change(change) for change in step["changes"]))
                     for step in values["steps"]]
            return cls(values["mask_id"], tuple(tuple(row) for row in values["given"]), tuple(steps))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a trace: {type(error).__name__} {error}") from None


def _change(values: dict[str, Any]) -> Change:
    log_probs = values["log_probs"]
    return Change(values["row"], tuple(values["positions"]), tuple(values["tokens"]),
                  None if log_probs is None else tuple(log_probs), tuple(values["remasked"]))
