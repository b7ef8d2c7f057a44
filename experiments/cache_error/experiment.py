"""The cache_error experiment: the error of each cache, against a full recompute of the same canvases.

    python -m quicksilver.experiments experiment=cache_error [task=[sudoku6]] [family=block_diffusion]

The trained models are those of the sweep in the same folder. A task is decoded in blocks of its own size (the model's
if it is block-causal), at each number of steps per block; the oracle (`compare.py`) compares every step. Caches that
cannot serve a task's model are left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...decoders import Blocks, Cache, Decoder, Greedy, GridBlocks, Linear, Policy, Recompute, Whole, Windows
from ...kernels.batch_invariance import batch_invariant
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, recording, using
from ...models import BlockCausal, Causal, SeparateHead
from ..harness.execution import execution
from ..harness.locks import machine_shared
from ..harness.records import ADDED_LATER, Json
from ..report.page import report_name, write_report
from ..study.checks import check_counts, check_invariance, check_machine, check_tasks, finish, measure_missing
from ..study.runner import Runner
from ..study.setup import TaskSetup
from ..training.evaluator import batches, canvases
from ..training.recipe import TrainingPoint
from .compare import Comparison, StepError, compare_with_recompute


@dataclass(frozen=True)
class CacheErrorPoint:
    """One cache on one task, at `steps` steps per window."""

    name: str
    model: TrainingPoint
    cache: str
    decoder: Decoder
    steps: int
    num_items: int
    batch_size: int
    threads: int
    device: str
    kernels: str
    batch_invariant: bool = field(default=False, metadata=ADDED_LATER)


@dataclass(frozen=True)
class CacheError:
    """Every cache at each of `steps` steps per window, capped at its positions; `num_items` items of each task are
    decoded."""

    tasks: Mapping[str, TaskSetup]
    family: str
    seeds: Sequence[int]
    caches: Mapping[str, Cache]
    policy: Policy
    steps: Sequence[int]
    num_items: int
    batch_size: int
    threads: int
    device: str = "cpu"
    kernels: str = "auto"
    batch_invariant: bool = field(default=False, metadata=ADDED_LATER)
    models_at_once: int = 1

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads, self.models_at_once)
        check_invariance(self.batch_invariant, self.device)
        check_tasks(self.tasks, self.seeds)
        check_counts("steps", self.steps)
        if not self.caches:
            raise ValueError("caches={}: needs at least one")
        check_integer("num_items", self.num_items)
        check_integer("batch_size", self.batch_size)

    def training_points(self) -> Iterator[TrainingPoint]:
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                yield TrainingPoint(name, setup.task, setup.recipe(self.family), seed)

    def points(self) -> Iterator[CacheErrorPoint]:
        for model in self.training_points():
            windows, size = self._windows(model)
            for title in self._served(model):
                for steps in sorted({min(steps, size) for steps in self.steps}):
                    decoder = Decoder(windows, Linear(steps), Greedy(), self.policy, self.caches[title])
                    yield CacheErrorPoint(model.name, model, title, decoder, steps, self.num_items, self.batch_size,
                                          self.threads, self.device, self.kernels, self.batch_invariant)

    def _windows(self, model: TrainingPoint) -> tuple[Windows, int]:
        """The model's windows, and the most positions that one has."""
        attention, setup = model.recipe.objective.attention, self.tasks[model.name]
        if isinstance(attention, Causal):
            return Blocks(1), 1
        if isinstance(attention, BlockCausal):
            return GridBlocks(attention.block), attention.block
        if setup.block_size > 1:
            return Blocks(setup.block_size), setup.block_size
        return Whole(), model.config().max_length

    def _served(self, model: TrainingPoint) -> list[str]:
        """The caches that can serve the model."""
        windows, _ = self._windows(model)
        model.check(Decoder(windows, Linear(1), Greedy(), self.policy, Recompute()), SeparateHead())
        served = []
        for title, cache in self.caches.items():
            try:
                model.check(Decoder(windows, Linear(1), Greedy(), self.policy, cache), SeparateHead())
            except ValueError:
                continue
            served.append(title)
        if not served:
            raise ValueError(f"caches={list(self.caches)}: none of them can serve {model.name} in {windows} with "
                             f"attention {model.recipe.objective.attention}")
        return served

    def check(self) -> None:
        """ValueError with the reason if a task cannot be decoded, before anything is trained."""
        for model in self.training_points():
            self._served(model)

    def run(self, folder: Path) -> int:
        """Train and measure what is missing in `folder`, write the report, print the table. Returns the number of
        points that failed."""
        runner, models = Runner(folder, self.models_at_once), list(self.training_points())
        runner.train_ahead(models)
        training = [runner.train(point) for point in models]
        measured = measure_missing(runner, list(self.points()),
                                   lambda point: f"{point.name}, {point.cache}, {point.steps} steps", _measure)
        name = report_name("cache_error-", self.tasks, self.seeds, self)
        return finish(write_report(folder / name, training, measured), [*training, *measured])


def _measure(point: CacheErrorPoint, runner: Runner) -> Json:
    torch.set_num_threads(point.threads)
    evaluator = point.model.evaluator(runner.model(point.model).to(point.device), point.decoder, SeparateHead())
    task = point.model.task
    problems = task.test_problems(point.num_items)
    requests = evaluator.requests(task, problems, point.model.seed)
    with (machine_shared(), using(Implementation.named(point.kernels)), batch_invariant(point.batch_invariant),
          recording() as ran):
        compared = [compare_with_recompute(evaluator.decoder, evaluator.model, batch)
                    for batch in batches(requests, point.batch_size)]

    cached, exact = (evaluator.format.answer(task, problems, canvases(completions)) for completions in (
        [completion for batch in compared for completion in batch.completions],
        [completion for batch in compared for completion in batch.exact_completions]))
    return {
        "num_items": point.num_items, "right": _marks(task.grade(problems, cached)),
        "exact_right": _marks(task.grade(problems, exact)), "differs": _marks((cached != exact).any(1)),
        "steps": _pooled(compared)} | execution(evaluator.model, ran)


def _marks(values: np.ndarray) -> str:
    """Bools as ones and zeros."""
    return "".join("01"[int(value)] for value in values)


def _pooled(compared: Sequence[Comparison]) -> list[Json]:
    """Each step of each window, summed over batches: sums over masked positions, one per layer, and counts."""
    found: dict[tuple[int, int], Json] = {}
    for error in (error for batch in compared for error in batch.steps):
        sums, key = _sums(error), (error.window, error.index)
        found[key] = _added(found[key], sums) if key in found else sums
    return [{"window": window, "index": index} | _rounded(found[window, index]) for window, index in sorted(found)]


def _sums(error: StepError) -> Json:
    def by_layer(values_NBQ: Tensor) -> list[float]:
        return (values_NBQ * error.masked_BQ).flatten(1).double().sum(1).tolist()

    return {"num_eligible": int(error.masked_BQ.sum()), "kl": by_layer(error.kl_NBQ),
            "flips": by_layer(error.flipped_NBQ), "relative_error": by_layer(error.relative_error_NBQ),
            "num_committed": int(error.commit_BQ.sum()),
            "num_edited_otherwise": int(error.edited_otherwise_BQ.sum()),
            "num_tokens_differ": int(error.token_differs_BQ.sum()),
            "positions_computed": error.positions_computed, "positions_whole": error.positions_whole}


def _added(one: Json, other: Json) -> Json:
    return {name: [a + b for a, b in zip(value, other[name], strict=True)] if isinstance(value, list)
            else value + other[name] for name, value in one.items()}


def _rounded(sums: Json) -> Json:
    """Sums to six significant digits, which exceeds float32 precision of such sums."""
    return {name: [float(f"{item:.6g}") for item in value] if isinstance(value, list) else value
            for name, value in sums.items()}
