"""Evaluation: decodes a task's problems in batches and times each batch."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...decoders import CapturedSteps, Completion, Decoder, Request
from ...decoders.accounting import Accounting
from ...models import LanguageModel
from ..harness.devices import wait_for
from ..tasks.base import Format, Task


@dataclass(frozen=True)
class Evaluator:
    """A model with its decoder, the format of its task, and what takes the steps in the decoder's place, if anything
    does."""

    model: LanguageModel
    decoder: Decoder
    format: Format
    captured: CapturedSteps | None = None

    def requests(self, task: Task, problems: Any, seed: int) -> list[Request]:
        """One request per problem, masked at the positions to decode. Its sampling seed combines `seed` and the item's
        index."""
        encoded = self.format.encode(task, problems)
        rows = np.where(encoded.decoded, self.model.spec.mask_id, encoded.tokens).tolist()
        return [Request(row, encoded.start, seed=(seed << 32) + item) for item, row in enumerate(rows)]

    def decode(self, requests: Sequence[Request]) -> "TimedBatch":
        """Decode one batch. Timing covers prefill and all steps, not the transfer of the result to the host."""
        device = self.model.spec.device
        wait_for(device)
        began = time.perf_counter()
        decoding = self.decoder.begin(self.model, requests)
        first = None
        for _ in self.decoder.stream(decoding, self.captured):
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
    """Completions, seconds from the requests to the end of the last and of the first step, and the accounting."""

    completions: list[Completion]
    seconds: float
    first_step_seconds: float
    accounting: Accounting


def batches(requests: Sequence[Request], size: int) -> Iterator[Sequence[Request]]:
    for begin in range(0, len(requests), size):
        yield requests[begin : begin + size]


def canvases(completions: Sequence[Completion]) -> np.ndarray:
    """The decoded token rows, int64 [n, L]."""
    return np.array([completion.tokens for completion in completions])


def accuracy(evaluator: Evaluator, task: Task, num_items: int, batch_size: int, seed: int = 0) -> float:
    """The share of right answers on the first `num_items` test problems."""
    problems = task.test_problems(num_items)
    completions = [completion for batch in batches(evaluator.requests(task, problems, seed), batch_size)
                   for completion in evaluator.decode(batch).completions]
    return float(task.grade(problems, evaluator.format.answer(task, problems, canvases(completions))).mean())
