"""The measurement of one decoder setting on one task: tokens per second and quality of the same outputs, interleaved
with the timing of an autoregressive reference in the same process."""

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...decoders import Decoder, Request
from ...decoders.capture import Replays
from ...kernels.batch_invariance import batch_invariant
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, recording, using
from ...models import Head
from ..harness.devices import peak_memory_bytes, reset_peak_memory
from ..harness.execution import execution
from ..harness.locks import machine_alone
from ..harness.records import ADDED_LATER, Json
from ..training.evaluator import Evaluator, TimedBatch, batches, canvases
from ..training.recipe import TrainingPoint
from .checks import capture_field
from .runner import Runner

# Rounds of decodes interleaved with the reference's: so many, unless that leaves a round fewer batches than two.
_NUM_ROUNDS = 8
_LEAST_BATCHES = 2
# Decodes by which all steps of a batch shape are captured, at the latest.
_MOST_CAPTURING_DECODES = 4


@dataclass(frozen=True)
class DecodePoint:
    """One decoder setting on one task at one batch size, with the autoregressive reference it is timed against. `kind`
    is the study's name for it in records, by which the report finds its points."""

    name: str
    model: TrainingPoint
    decoder: Decoder
    family: str
    order: str
    steps: int | None
    sampler: str
    batch_size: int
    num_items: int
    threads: int
    device: str
    kernels: str
    head: Head
    reference: TrainingPoint
    reference_decoder: Decoder
    batch_invariant: bool = False
    kind: str = "DecodePoint"
    dtype: str = field(default="float32", metadata=ADDED_LATER)
    capture: str = field(default="none", metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_integer("batch_size", self.batch_size)
        check_integer("num_items", self.num_items)
        capture_field(self)


def measure(point: DecodePoint, runner: Runner) -> Json:
    """Decode and time one point, holding the machine lock exclusively."""
    torch.set_num_threads(point.threads)
    model, reference_model = (runner.model_in(of, point.device, point.dtype) for of in (point.model, point.reference))
    evaluator = point.model.evaluator(model, point.decoder, point.head, capture=point.capture)
    reference = point.reference.evaluator(reference_model, point.reference_decoder, point.head, capture=point.capture)
    with (machine_alone(), using(Implementation.named(point.kernels)), batch_invariant(point.batch_invariant),
          recording() as ran):
        result = _measured(point, evaluator, reference)
    return result | execution(evaluator.model, ran) | _steps(evaluator, reference)


def _measured(point: DecodePoint, evaluator: Evaluator, reference: Evaluator) -> Json:
    task, seed = point.model.task, point.model.seed
    problems = task.test_problems(point.num_items)
    work = list(batches(evaluator.requests(task, problems, seed), point.batch_size))
    reference_work = list(batches(reference.requests(task, problems, seed), point.batch_size))
    # Compiling takes seconds, so that no batch may be the first of its shape when it is timed.
    num_warmed = len(work) if point.capture == "compile" else 1
    _warm_up(evaluator, work[:num_warmed])
    _warm_up(reference, reference_work[:num_warmed])
    reset_peak_memory(evaluator.model.spec.device)
    size = max(_LEAST_BATCHES, math.ceil(len(work) / _NUM_ROUNDS))
    timed: list[TimedBatch] = []
    speed_ups = []
    for number, begin in enumerate(range(0, len(work), size)):
        # The order alternates from round to round, so that neither side gains by it.
        if number % 2:
            of_reference = reference.decode(reference_work[begin])
            in_round = [evaluator.decode(batch) for batch in work[begin : begin + size]]
        else:
            in_round = [evaluator.decode(batch) for batch in work[begin : begin + size]]
            of_reference = reference.decode(reference_work[begin])
        timed += in_round
        speed_ups.append(_seconds_per_item([of_reference]) / _seconds_per_item(in_round))
    completions = [completion for batch in timed for completion in batch.completions]
    answer = evaluator.format.answer(task, problems, canvases(completions))
    right = task.grade(problems, answer)
    seconds = [batch.seconds for batch in timed]
    num_answer_tokens = task.count_answer_tokens(problems, answer)
    return {
        "num_items": point.num_items, "num_right": int(right.sum()),
        "right": "".join("01"[int(mark)] for mark in right),
        "answers_sha256": hashlib.sha256(np.ascontiguousarray(answer).tobytes()).hexdigest(),
        "text": task.describe_answers(problems, answer),
        "answer_tokens": num_answer_tokens, "tokens_per_second": num_answer_tokens / sum(seconds),
        "seconds": sum(seconds),
        "first_step_seconds_p50": _quantile([batch.first_step_seconds for batch in timed], 0.5),
        "latency_seconds_p50": _quantile(seconds, 0.5), "latency_seconds_p95": _quantile(seconds, 0.95),
        "speed_up": statistics.median(speed_ups), "speed_up_p20": _quantile(speed_ups, 0.2),
        "speed_up_p80": _quantile(speed_ups, 0.8), "peak_memory_bytes": peak_memory_bytes(evaluator.model.spec.device),
        "accounting": _total([batch.accounting.to_json(evaluator.model) for batch in timed])}


def _warm_up(evaluator: Evaluator, work: Sequence[Sequence[Request]]) -> None:
    """Decode the batches; again until nothing more of them is captured, and then count the steps anew."""
    for batch in work:
        evaluator.decode(batch)
    if evaluator.captured is None:
        return
    for _ in range(_MOST_CAPTURING_DECODES):
        before = evaluator.captured.replays.captured
        for batch in work:
            evaluator.decode(batch)
        if evaluator.captured.replays.captured == before:
            break
    evaluator.captured.replays = Replays()


def _steps(evaluator: Evaluator, reference: Evaluator) -> Json:
    """How the steps of both were taken in the timed decodes, where they were to be captured."""
    if evaluator.captured is None or reference.captured is None:
        return {}
    return {"steps": evaluator.captured.replays.to_json(), "reference_steps": reference.captured.replays.to_json()}


def _seconds_per_item(decoded: Sequence[TimedBatch]) -> float:
    return sum(batch.seconds for batch in decoded) / sum(len(batch.completions) for batch in decoded)


def _total(accounts: list[Json]) -> Json:
    """Sums over batches; for the KV cache size, the maximum."""
    total: Json = {"forwards": {}}
    for account in accounts:
        for kind, count in account["forwards"].items():
            total["forwards"][kind] = total["forwards"].get(kind, 0) + count
        for name, value in account.items():
            if name == "kv_store_bytes":
                total[name] = max(total.get(name, 0), value)
            elif name != "forwards":
                total[name] = total.get(name, 0) + value
    return total


def _quantile(values: Sequence[float], share: float) -> float:
    """Nearest-rank percentile: the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
