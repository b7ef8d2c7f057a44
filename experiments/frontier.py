"""The frontier experiment: tokens per second and quality of the same outputs, for every decoder setting of each task.

For each task and seed it trains the matched pair where a checkpoint is missing, then decodes the same test items with

    autoregressive          greedy, KV cache
    orders x steps          confident, margin, random order; a fixed number of steps a window
    thresholds              commit what is sure enough

at each batch size. Every timed point also times its autoregressive reference, in turns and in the same process, so a
speed-up is a ratio inside one record.
"""

import hashlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ..decoders import (
    Append,
    Blocks,
    Cache,
    Decoder,
    Greedy,
    Leftmost,
    Linear,
    Policy,
    Recompute,
    Sampler,
    Threshold,
    Unbounded,
    Whole,
    Windows,
)
from ..kernels.checks import check_instance, check_integer
from ..kernels.dispatch import Implementation, recording, using
from ..models import Head, SeparateHead
from .decoding import Contestant, TimedBatch, batches, canvases
from .devices import check_device, peak_memory_bytes, reset_peak_memory
from .locks import machine_alone
from .progress import bar, console
from .records import Json, key_of
from .report import write_report
from .runner import Runner
from .tasks.base import Task
from .training import LARGEST_SEED, Recipe, TrainingPoint

_NUM_ROUNDS = 8


@dataclass(frozen=True)
class TaskSetup:
    """A task with the recipes of its matched pair and the settings at which it is decoded: the first order at all
    `steps`, the others at `contrast_steps`."""

    task: Task
    diffusion: Recipe
    autoregressive: Recipe
    steps: Sequence[int]
    contrast_steps: Sequence[int]
    windows: Windows = field(default_factory=Whole)
    cache: Cache = field(default_factory=Recompute)
    samplers: Mapping[str, Sampler] = field(default_factory=lambda: {"greedy": Greedy()})

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("steps=[]: needs at least one number of steps")
        for name in ("steps", "contrast_steps"):
            values = getattr(self, name)
            for steps in values:
                check_integer(name, steps)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: must all be different")


@dataclass(frozen=True)
class DecodePoint:
    """One decoder setting of one task at one batch size, with the autoregressive reference it is timed against."""

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

    def __post_init__(self) -> None:
        check_integer("batch_size", self.batch_size)
        check_integer("num_items", self.num_items)


@dataclass(frozen=True)
class Frontier:
    """`num_items` are decoded at each of `batch_sizes`, in their order, on `device` (cpu or cuda) with the
    implementation of the kernels that `kernels` names (auto, reference or triton)."""

    tasks: Mapping[str, TaskSetup]
    seeds: Sequence[int]
    orders: Mapping[str, Policy]
    thresholds: Sequence[float]
    batch_sizes: Sequence[int]
    num_items: Sequence[int]
    threads: int
    device: str = "cpu"
    kernels: str = "auto"
    head: Head = field(default_factory=SeparateHead)

    def __post_init__(self) -> None:
        check_device(self.device)
        with using(Implementation.named(self.kernels)):
            pass  # refused here if it could not run
        for name, setup in self.tasks.items():
            check_instance(f"task.{name}", setup, TaskSetup)
        if not self.tasks or not self.seeds:
            raise ValueError(f"tasks={list(self.tasks)}, seeds={list(self.seeds)}: needs at least one of each")
        check_integer("threads", self.threads)
        if len(self.batch_sizes) != len(self.num_items) or not self.batch_sizes:
            raise ValueError(f"batch_sizes={list(self.batch_sizes)}, num_items={list(self.num_items)}: must be as many "
                             "of one as of the other, at least one")
        for name in ("batch_sizes", "num_items"):
            for value in getattr(self, name):
                check_integer(name, value)
        for name, values in (("seeds", self.seeds), ("thresholds", self.thresholds),
                             ("batch_sizes", self.batch_sizes)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: must all be different")
        for seed in self.seeds:
            check_integer("seeds", seed, at_least=0, at_most=LARGEST_SEED)
        for tau in self.thresholds:
            Threshold(tau)

    def training_points(self) -> Iterator[TrainingPoint]:
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                yield TrainingPoint(name, setup.task, setup.diffusion, seed)
                yield TrainingPoint(name, setup.task, setup.autoregressive, seed)

    def points(self) -> Iterator[DecodePoint]:
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                yield from self._points(name, setup, seed)

    def _points(self, name: str, setup: TaskSetup, seed: int) -> Iterator[DecodePoint]:
        diffusion = TrainingPoint(name, setup.task, setup.diffusion, seed)
        autoregressive = TrainingPoint(name, setup.task, setup.autoregressive, seed)
        for batch_size, num_items in zip(self.batch_sizes, self.num_items, strict=True):
            for sampler_name, sampler in setup.samplers.items():
                reference = Decoder(Blocks(1), Linear(1), sampler, Leftmost(), Append())

                def point(model: TrainingPoint, decoder: Decoder, family: str, order: str, steps: int | None, *,
                          sampler_name: str = sampler_name, reference: Decoder = reference,
                          batch_size: int = batch_size, num_items: int = num_items) -> DecodePoint:
                    return DecodePoint(name, model, decoder, family, order, steps, sampler_name, batch_size, num_items,
                                       self.threads, self.device, self.kernels, self.head,
                                       autoregressive, reference)

                yield point(autoregressive, reference, "autoregressive", "left to right", None)
                for number, (order, policy) in enumerate(self.orders.items()):
                    for steps in setup.contrast_steps if number else setup.steps:
                        decoder = Decoder(setup.windows, Linear(steps), sampler, policy, setup.cache)
                        yield point(diffusion, decoder, "diffusion", order, steps)
                for tau in self.thresholds:
                    decoder = Decoder(setup.windows, Unbounded(), sampler, Threshold(tau), setup.cache)
                    yield point(diffusion, decoder, "diffusion", f"threshold {tau:g}", None)

    def check(self) -> None:
        """ValueError with the reason if a setting could not be decoded; before anything is trained."""
        for point in self.points():
            point.model.check(point.decoder, point.head)

    def run(self, folder: Path) -> int:
        """Train and measure what is missing in `folder`, write the report, print the table. Returns the number of
        points that failed."""
        runner = Runner(folder)
        training = [runner.train(point) for point in self.training_points()]
        points, measured = list(self.points()), []
        with bar("measure", len(points)) as shown:
            for number, point in enumerate(points):
                shown.update(number, f"{point.name}, {point.order}, batch {point.batch_size}")
                measured.append(runner.record(point, lambda point=point: _measure(point, runner)))
        report = write_report(folder / self._report_name(), training, measured)
        console.print(f"report: {report}", markup=False)
        return sum("failed" in record["result"] for record in (*training, *measured))

    def _report_name(self) -> str:
        """A folder of their own for the tasks, the seeds and all other settings."""
        seeds = "" if list(self.seeds) == [0] else "-seeds" + "+".join(map(str, self.seeds))
        return f"{'+'.join(self.tasks)}{seeds}-{key_of(self)[:6]}"


def _measure(point: DecodePoint, runner: Runner) -> Json:
    """Decode and time one point, with the machine to itself."""
    torch.set_num_threads(point.threads)
    contestant = point.model.contestant(runner.model(point.model).to(point.device), point.decoder, point.head)
    reference = point.reference.contestant(runner.model(point.reference).to(point.device), point.reference_decoder,
                                           point.head)
    with machine_alone(), using(Implementation.named(point.kernels)), recording() as ran:
        result = _measured(point, contestant, reference)
    return result | {"kernels": {name: implementation.value for name, implementation in sorted(
        ran, key=lambda pair: pair[0])}}


def _measured(point: DecodePoint, contestant: Contestant, reference: Contestant) -> Json:
    task, seed = point.model.task, point.model.seed
    problems = task.test_problems(point.num_items)
    work = list(batches(contestant.requests(task, problems, seed), point.batch_size))
    reference_work = list(batches(reference.requests(task, problems, seed), point.batch_size))
    contestant.decode(work[0])
    reference.decode(reference_work[0])
    reset_peak_memory(contestant.model.device)
    size = -(-len(work) // _NUM_ROUNDS)
    timed: list[TimedBatch] = []
    speed_ups = []
    for number, begin in enumerate(range(0, len(work), size)):
        # Who goes first changes from round to round, so that neither gains by it.
        if number % 2:
            of_reference = reference.decode(reference_work[begin])
            in_round = [contestant.decode(batch) for batch in work[begin : begin + size]]
        else:
            in_round = [contestant.decode(batch) for batch in work[begin : begin + size]]
            of_reference = reference.decode(reference_work[begin])
        timed += in_round
        speed_ups.append(_seconds_per_item([of_reference]) / _seconds_per_item(in_round))
    completions = [completion for batch in timed for completion in batch.completions]
    answer = contestant.format.answer(task, problems, canvases(completions))
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
        "speed_up_p80": _quantile(speed_ups, 0.8), "peak_memory_bytes": peak_memory_bytes(contestant.model.device),
        "accounting": _total([batch.accounting.to_json(contestant.model) for batch in timed])}


def _seconds_per_item(decoded: Sequence[TimedBatch]) -> float:
    return sum(batch.seconds for batch in decoded) / sum(len(batch.completions) for batch in decoded)


def _total(accounts: list[Json]) -> Json:
    """Sums over batches; the store's size is that of the largest."""
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
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]
