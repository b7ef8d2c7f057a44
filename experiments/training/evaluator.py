"""Decoding of a task's problems in batches, timed as it goes."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...decoders import Completion, Decoder, Request
from ...decoders.accounting import Accounting
from ...models import LanguageModel
from ..harness.devices import wait_for
from ..tasks.base import Format, Task


@dataclass(frozen=True)
class Contestant:
    """A model with the decoder that drives it and the format in which it sees a task."""

    model: LanguageModel
    decoder: Decoder
    format: Format

    def requests(self, task: Task, problems: Any, seed: int) -> list[Request]:
        """One request a problem, masked where it is decoded. A draw's seed is the item's number with the run's seed."""
        encoded = self.format.encode(task, problems)
        rows = np.where(encoded.decoded, self.model.mask_id, encoded.tokens).tolist()
        return [Request(row, encoded.start, seed=(seed << 32) + item) for item, row in enumerate(rows)]

    def decode(self, requests: Sequence[Request]) -> "TimedBatch":
        """Decode one batch. The clock runs from the requests to the last step; reading the result is not timed."""
        device = self.model.device
        wait_for(device)
        began = time.perf_counter()
        decoding = self.decoder.begin(self.model, requests)
        first = None
        for _ in self.decoder.stream(decoding):
            if first is None:
                wait_for(device)
                first = time.perf_counter()
        wait_for(device)
        ended = time.perf_counter()
        assert first is not None
        completions = self.decoder.completions(decoding)
        return TimedBatch(completions, ended - began, first - began, decoding.accounting)


@dataclass(frozen=True)
class TimedBatch:
    """Completions, seconds from the requests to the last and to the first step, and the decode's accounting."""

    completions: list[Completion]
    seconds: float
    first_step_seconds: float
    accounting: Accounting


def batches(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    for begin in range(0, len(requests), size):
        yield requests[begin : begin + size]


def canvases(completions: Sequence[Completion]) -> np.ndarray:
    """The decoded canvases as rows, int64 [n, L]."""
    return np.array([completion.tokens for completion in completions])


def share_right(contestant: Contestant, task: Task, num_items: int, batch_size: int, seed: int = 0) -> float:
    """Share of the first `num_items` test problems that the contestant gets right."""
    problems = task.test_problems(num_items)
    completions = [completion for batch in batches(contestant.requests(task, problems, seed), batch_size)
                   for completion in contestant.decode(batch).completions]
    return float(task.grade(problems, contestant.format.answer(task, problems, canvases(completions))).mean())
