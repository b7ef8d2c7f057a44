"""The decoders experiment: every preset on every task, beside autoregression at equal quality.

    python -m quicksilver.experiments experiment=decoders [experiment.presets=[llada,fast_dllm_dual]] [task=sudoku6]

A preset's windows take the task's block size, and its schedule each of the experiment's numbers of steps where it has
one; everything else is as published. Presets of block-causal models decode such a model of the same task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from ...decoders import Append, Blocks, Decoder, Greedy, GridBlocks, Leftmost, Linear, Schedule
from ...models import BlockCausal, Head, SeparateHead
from ..report.page import recorded_beside, report_name, write_report
from ..study.checks import (
    check_batches,
    check_counts,
    check_invariance,
    check_machine,
    check_tasks,
    concluded,
    on_record,
)
from ..study.decode_point import DecodePoint, measure
from ..study.families import Autoregressive, Family
from ..study.runner import Runner
from ..study.setup import TaskSetup
from ..training.trainer import Recipe, TrainingPoint

_REFERENCE = Decoder(Blocks(1), Linear(1), Greedy(), Leftmost(), Append())


@dataclass(frozen=True)
class Preset:
    """A published decoder, and which of a task's models it drives."""

    decoder: Decoder
    family: Family

    def fitted(self, setup: TaskSetup) -> Decoder:
        """The decoder in blocks of the task's size."""
        windows, attention = self.decoder.windows, self.family.recipe(setup).objective.attention
        if isinstance(windows, GridBlocks):
            size = attention.block if isinstance(attention, BlockCausal) else setup.block_size
            return replace(self.decoder, windows=replace(windows, size=size))
        if isinstance(windows, Blocks) and windows.size > 1:
            return replace(self.decoder, windows=Blocks(setup.block_size))
        return self.decoder


@dataclass(frozen=True)
class PresetPoint(DecodePoint):
    """A setting of a preset, which `order` names."""


def in_steps(schedule: Schedule, steps: int) -> Schedule:
    """The schedule with another number of steps, its own or its base's; the same where it has none."""
    named = {field.name: getattr(schedule, field.name) for field in fields(schedule)}  # pyright: ignore[reportArgumentType]
    if "steps" in named:
        return replace(schedule, steps=steps)  # pyright: ignore[reportArgumentType, reportCallIssue]
    if "base" in named:
        return replace(schedule, base=in_steps(named["base"], steps))  # pyright: ignore[reportArgumentType, reportCallIssue]
    return schedule


@dataclass(frozen=True)
class Decoders:
    """Every preset at each of `steps` steps a window; `num_items` are decoded at each of `batch_sizes`, in their order,
    on `device` (cpu or cuda) with the kernels that `kernels` names (auto, reference, cpu or triton)."""

    tasks: Mapping[str, TaskSetup]
    seeds: Sequence[int]
    presets: Mapping[str, Preset]
    steps: Sequence[int]
    batch_sizes: Sequence[int]
    num_items: Sequence[int]
    threads: int
    device: str = "cpu"
    kernels: str = "auto"
    head: Head = field(default_factory=SeparateHead)
    batch_invariant: bool = False

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads)
        check_invariance(self.batch_invariant, self.device)
        check_tasks(self.tasks, self.seeds)
        check_batches(self.batch_sizes, self.num_items)
        check_counts("steps", self.steps)
        if not self.presets:
            raise ValueError("presets={}: needs at least one")

    def points(self) -> Iterator[PresetPoint]:
        """Autoregression and every preset, for each task, seed and batch size."""
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                for batch_size, num_items in zip(self.batch_sizes, self.num_items, strict=True):
                    yield from self._points(name, setup, seed, (batch_size, num_items))

    def _points(self, name: str, setup: TaskSetup, seed: int, amount: tuple[int, int]) -> Iterator[PresetPoint]:
        def trained_by(recipe: Recipe) -> TrainingPoint:
            return TrainingPoint(name, setup.task, recipe, seed)

        reference = trained_by(setup.autoregressive)

        def point(model: TrainingPoint, decoder: Decoder, family: str, order: str, steps: int | None) -> PresetPoint:
            sampler = "greedy" if isinstance(decoder.sampler, Greedy) else type(decoder.sampler).__name__.lower()
            return PresetPoint(name, model, decoder, family, order, steps, sampler, *amount, self.threads, self.device,
                               self.kernels, self.head, reference, _REFERENCE, self.batch_invariant)

        yield point(reference, _REFERENCE, "autoregressive", "autoregressive", None)
        for title, preset in self.presets.items():
            if isinstance(preset.family, Autoregressive):
                continue  # the reference
            model, decoder = trained_by(preset.family.recipe(setup)), preset.fitted(setup)
            if in_steps(decoder.schedule, 1) == in_steps(decoder.schedule, 2):  # it has none
                yield point(model, decoder, "diffusion", title, None)
                continue
            for steps in self.steps:
                in_time = replace(decoder, schedule=in_steps(decoder.schedule, steps))
                yield point(model, in_time, "diffusion", title, steps)

    def check(self) -> None:
        """ValueError with the reason if a preset could not be decoded; before anything is trained."""
        for point in self.points():
            point.model.check(point.decoder, point.head)

    def run(self, folder: Path) -> int:
        """Train and measure what is missing in `folder`, write the report, print the table. Returns the number of
        points that failed."""
        runner, points = Runner(folder), list(self.points())
        training = [runner.train(point) for point in dict.fromkeys(
            model for point in points for model in (point.reference, point.model))]
        measured = on_record(runner, points, lambda point: f"{point.name}, {point.order}, batch {point.batch_size}",
                             measure)
        name = report_name("decoders-", self.tasks, self.seeds, self)
        beside = [record for record in recorded_beside(runner.records.folder, training)
                  if record["point"]["kind"] != PresetPoint.__name__]
        report = write_report(folder / name, training, [], [*measured, *beside])
        return concluded(report, [*training, *measured])
