"""The frontier experiment: tokens per second and quality, for every decoder setting of each task.

For each task and seed it trains the matched pair if a checkpoint is missing (the first task's pair alone, then the
others in parallel, seed by seed), then decodes the same test items with

    autoregressive          with a KV cache
    orders x steps          a fixed number of steps per window: all the task's `steps` in the first order (confident),
                            `ablation_steps` in the others (margin, random), and at the largest batch alone: quality
                            does not depend on it
    thresholds              commit all tokens above a confidence threshold, at least one

at each batch size. Every timed point also times its autoregressive reference, interleaved in the same process, so a
speed-up is a ratio within one record.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path

from ...decoders import Decoder, Linear, Policy, Threshold, Unbounded, presets
from ...models import Head, SeparateHead
from ..harness.devices import check_dtype
from ..harness.latest_link import link_latest
from ..harness.progress import console
from ..harness.records import ADDED_LATER
from ..report.page import related_records, report_name, write_report
from ..study.checks import (
    capture_field,
    check_batches,
    check_different,
    check_invariance,
    check_machine,
    check_tasks,
    finish,
    measure_missing,
)
from ..study.decode_point import DecodePoint, measure
from ..study.runner import Runner
from ..study.setup import TaskSetup
from ..training.recipe import TrainingPoint
from .section import KINDS


@dataclass(frozen=True)
class Frontier:
    """`num_items` and `batch_sizes` are parallel lists: how many test items are decoded at each batch size. `device` is
    cpu or cuda; `kernels` names the implementation of the kernels (auto, reference, cpu or triton)."""

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
    batch_invariant: bool = False
    dtype: str = field(default="float32", metadata=ADDED_LATER)
    capture: str = field(default="none", metadata=ADDED_LATER)
    models_at_once: int = 1

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads, self.models_at_once)
        check_invariance(self.batch_invariant, self.device)
        check_dtype(self.dtype, self.device)
        capture_field(self)
        check_tasks(self.tasks, self.seeds)
        check_batches(self.batch_sizes, self.num_items)
        check_different("thresholds", self.thresholds)
        for tau in self.thresholds:
            Threshold(tau)

    def training_points(self) -> Iterator[TrainingPoint]:
        for seed in self.seeds:
            for name in self.tasks:
                yield from self._pair(name, seed)

    def points(self) -> Iterator[DecodePoint]:
        for seed in self.seeds:
            for name in self.tasks:
                yield from self._points(name, seed)

    def _pair(self, name: str, seed: int) -> tuple[TrainingPoint, TrainingPoint]:
        """The task's diffusion and autoregressive models."""
        setup = self.tasks[name]
        return (TrainingPoint(name, setup.task, setup.diffusion, seed),
                TrainingPoint(name, setup.task, setup.autoregressive, seed))

    def _points(self, name: str, seed: int) -> Iterator[DecodePoint]:
        setup, (diffusion, autoregressive) = self.tasks[name], self._pair(name, seed)
        for batch_size, num_items in zip(self.batch_sizes, self.num_items, strict=True):
            ablation_steps = setup.ablation_steps if batch_size == max(self.batch_sizes) else ()
            for sampler_name, sampler in setup.samplers.items():
                reference = presets.autoregressive(sampler)
                point = partial(
                    DecodePoint, name=name, sampler=sampler_name, batch_size=batch_size, num_items=num_items,
                    threads=self.threads, device=self.device, kernels=self.kernels, head=self.head,
                    reference=autoregressive, reference_decoder=reference, batch_invariant=self.batch_invariant,
                    dtype=self.dtype, capture=self.capture)
                yield point(model=autoregressive, decoder=reference, family="autoregressive", order="left to right",
                            steps=None)
                of_diffusion = partial(point, model=diffusion, family="diffusion")
                for number, (order, policy) in enumerate(self.orders.items()):
                    for steps in ablation_steps if number else setup.steps:
                        decoder = Decoder(setup.windows, Linear(steps), sampler, policy, setup.cache)
                        yield of_diffusion(decoder=decoder, order=order, steps=steps)
                for tau in self.thresholds:
                    decoder = Decoder(setup.windows, Unbounded(), sampler, Threshold(tau), setup.cache)
                    yield of_diffusion(decoder=decoder, order=f"threshold {tau:g}", steps=None)

    def check(self) -> None:
        """ValueError with the reason if a decoder does not fit its model and task. Trains nothing."""
        for point in self.points():
            point.model.check(point.decoder, point.head)

    def stages(self) -> Iterator[list[tuple[int, str]]]:
        """Groups of (seed, task) whose models are trained in parallel, in order: the first one alone, for an early
        report, then the others of each seed."""
        for number, seed in enumerate(self.seeds):
            pairs = [(seed, name) for name in self.tasks]
            if number == 0:
                yield pairs[:1]
                pairs = pairs[1:]
            yield pairs

    def run(self, folder: Path) -> int:
        """Train and measure what is missing in `folder`, task by task. The report is rewritten after each; the tables
        are printed at the end. Returns the number of points that failed."""
        runner, training, measured = Runner(folder, self.models_at_once), [], []
        report = folder / report_name("", self.tasks, self.seeds, self)
        to_come = [f"{name}, seed {seed}" if len(self.seeds) > 1 else name
                   for seed, name in product(self.seeds, self.tasks)]
        num_pairs = len(to_come)
        for pairs in self.stages():
            runner.train_ahead([point for seed, name in pairs for point in self._pair(name, seed)])
            for seed, name in pairs:
                training += [runner.train(point) for point in self._pair(name, seed)]
                measured += measure_missing(
                    runner, list(self._points(name, seed)),
                    lambda point: f"{point.name}, {point.order}, batch {point.batch_size}", measure)
                to_come.pop(0)
                others = related_records(runner.records.folder, training, but=KINDS)
                page = write_report(report, training, [*measured, *others], to_come)
                link_latest(report)
                if to_come:
                    console.print(f"report of {num_pairs - len(to_come)} of {num_pairs}: {page}", markup=False)
        return finish(report / "report.html", [*training, *measured])
