"""The decoders experiment: every preset on every task, compared with autoregression at equal quality.

    python -m quicksilver.experiments experiment=decoders [experiment.presets=[llada,fast_dllm_dual]] [task=sudoku6]

A preset with a block size uses the task's; one with a number of steps runs at each of the experiment's; other knobs
are as published. Presets for block-causal models decode a block-causal model of the same task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...decoders import Decoder, Greedy, presets
from ...models import BlockCausal, Head, SeparateHead
from ..harness.devices import check_dtype
from ..harness.records import ADDED_LATER, kind_of
from ..report.page import related_records, report_name, write_report
from ..study.checks import (
    capture_field,
    check_batches,
    check_counts,
    check_different,
    check_invariance,
    check_machine,
    check_tasks,
    finish,
    measure_missing,
)
from ..study.decode_point import DecodePoint, measure
from ..study.runner import Runner
from ..study.setup import TaskSetup, family_for
from ..training.recipe import TrainingPoint
from .section import KIND


@dataclass(frozen=True)
class Decoders:
    """The given presets (None: all) at each of `steps` steps per window. `num_items` pairs with `batch_sizes`: items
    decoded at each. `device` is cpu or cuda, `kernels` auto, reference, cpu or triton."""

    tasks: Mapping[str, TaskSetup]
    seeds: Sequence[int]
    steps: Sequence[int]
    batch_sizes: Sequence[int]
    num_items: Sequence[int]
    threads: int
    device: str = "cpu"
    kernels: str = "auto"
    head: Head = field(default_factory=SeparateHead)
    batch_invariant: bool = False
    dtype: str = field(default="float32", metadata=ADDED_LATER)
    capture: str = field(default="none", metadata=ADDED_LATER)
    presets: Sequence[str] | None = None
    models_at_once: int = 1

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads, self.models_at_once)
        check_invariance(self.batch_invariant, self.device)
        check_dtype(self.dtype, self.device)
        capture_field(self)
        check_tasks(self.tasks, self.seeds)
        check_batches(self.batch_sizes, self.num_items)
        check_counts("steps", self.steps)
        if not self.names:
            raise ValueError("presets=[]: needs at least one")
        for name in self.names:
            presets.knobs(name)  # ValueError if there is none
        check_different("presets", self.names)

    @property
    def names(self) -> Sequence[str]:
        """The presets that are decoded."""
        return sorted(presets.PRESETS) if self.presets is None else self.presets

    def points(self) -> Iterator[DecodePoint]:
        """Autoregression and every preset, for each task, seed and batch size."""
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                for batch_size, num_items in zip(self.batch_sizes, self.num_items, strict=True):
                    yield from self._points(name, setup, seed, (batch_size, num_items))

    def _points(self, name: str, setup: TaskSetup, seed: int, amount: tuple[int, int]) -> Iterator[DecodePoint]:
        reference = TrainingPoint(name, setup.task, setup.autoregressive, seed)
        reference_decoder = presets.autoregressive()

        def point(model: TrainingPoint, decoder: Decoder, family: str, order: str, steps: int | None) -> DecodePoint:
            sampler = "greedy" if isinstance(decoder.sampler, Greedy) else kind_of(type(decoder.sampler)).lower()
            return DecodePoint(name, model, decoder, family, order, steps, sampler, *amount, self.threads, self.device,
                               self.kernels, self.head, reference, reference_decoder, self.batch_invariant, KIND,
                               self.dtype, self.capture)

        yield point(reference, reference_decoder, "autoregressive", "autoregressive", None)
        for preset in self.names:
            family = family_for(presets.PRESETS[preset]())
            if family == "autoregressive":
                continue  # the reference
            recipe = setup.recipe(family)
            attention, block = recipe.objective.attention, setup.block_size
            if family == "block_diffusion" and isinstance(attention, BlockCausal):
                block = attention.block
            model = TrainingPoint(name, setup.task, recipe, seed)
            for steps, decoder in self._settings(preset, block):
                yield point(model, decoder, "diffusion", preset, steps)

    def _settings(self, preset: str, block: int) -> Iterator[tuple[int | None, Decoder]]:
        """The preset with this block size, if it has one, at each number of steps (None if it takes no steps)."""
        make, knobs = presets.PRESETS[preset], presets.knobs(preset)
        blocks = {"block": block} if "block" in knobs else {}
        if "steps" in knobs:
            yield from ((steps, make(**blocks, steps=steps)) for steps in self.steps)
        else:
            yield None, make(**blocks)

    def check(self) -> None:
        """ValueError with the reason if a preset cannot be decoded, before anything is trained."""
        for point in self.points():
            point.model.check(point.decoder, point.head)

    def run(self, folder: Path) -> int:
        """Train and measure what is missing in `folder`, write the report, print the table. Returns the number of
        points that failed."""
        runner, points = Runner(folder, self.models_at_once), list(self.points())
        models = list(dict.fromkeys(model for point in points for model in (point.reference, point.model)))
        runner.train_ahead(models)
        training = [runner.train(point) for point in models]
        measured = measure_missing(
            runner, points, lambda point: f"{point.name}, {point.order}, batch {point.batch_size}", measure)
        name = report_name("decoders-", self.tasks, self.seeds, self)
        related = related_records(runner.records.folder, training, but=("DecodePoint", KIND))
        report = write_report(folder / name, training, [*measured, *related])
        return finish(report, [*training, *measured])
