"""The frontier experiment: tokens per second and quality of the same outputs, for every decoder setting of each task.

For each task and seed it trains the matched pair where a checkpoint is missing, then decodes the same test items with

    autoregressive          greedy, KV cache
    orders x steps          confident, margin, random order; a fixed number of steps a window
    thresholds              commit what is sure enough

at each batch size. Every timed point also times its autoregressive reference, in turns and in the same process, so a
speed-up is a ratio inside one record.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from ..kernels.dispatch import Implementation, using
from ..models import Head, SeparateHead
from .decode_point import DecodePoint, measure
from .devices import check_device
from .progress import bar, console
from .report import recorded_beside, report_name, write_report
from .runner import Runner
from .tasks.base import Task
from .training import LARGEST_SEED, Recipe, TrainingPoint


@dataclass(frozen=True)
class TaskSetup:
    """A task with the recipes of its matched pair and the settings at which it is decoded: the first order at all
    `steps`, the others at `contrast_steps`. Presets in blocks take blocks of `block_size`; those of block-causal models
    decode the model of the recipe `block_diffusion`, in its own blocks."""

    task: Task
    diffusion: Recipe
    autoregressive: Recipe
    steps: Sequence[int]
    contrast_steps: Sequence[int]
    windows: Windows = field(default_factory=Whole)
    cache: Cache = field(default_factory=Recompute)
    block_diffusion: Recipe | None = None
    block_size: int = 1
    samplers: Mapping[str, Sampler] = field(default_factory=lambda: {"greedy": Greedy()})

    def __post_init__(self) -> None:
        check_integer("block_size", self.block_size)
        if not self.steps:
            raise ValueError("steps=[]: needs at least one number of steps")
        for name in ("steps", "contrast_steps"):
            values = getattr(self, name)
            for steps in values:
                check_integer(name, steps)
            if len(set(values)) < len(values):
                raise ValueError(f"{name}={list(values)}: must all be different")


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
                measured.append(runner.record(point, lambda point=point: measure(point, runner)))
        name = report_name("", self.tasks, self.seeds, self)
        report = write_report(folder / name, training, measured, recorded_beside(runner.records.folder, training))
        console.print(f"report: {report}", markup=False)
        return sum("failed" in record["result"] for record in (*training, *measured))
