"""The train experiment: trains the matched pairs of the selected tasks and seeds, over several runs if needed.

A run stops at its time limit and saves the training state; the same command resumes from it. Nothing is measured:
experiment=frontier with the same options loads these models and measures them.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..kernels.checks import check_integer, check_real
from ..models import SeparateHead
from .harness.progress import console
from .harness.records import Json
from .study.checks import check_tasks
from .study.runner import Runner
from .study.setup import TaskSetup
from .training.recipe import TrainingPoint
from .training.trainer import TrainingPaused


@dataclass(frozen=True)
class Train:
    """`seconds` is the time limit of one run, evaluation included; the last update and its save end a little later."""

    tasks: Mapping[str, TaskSetup]
    seeds: Sequence[int]
    seconds: float
    models_at_once: int = 1

    def __post_init__(self) -> None:
        check_tasks(self.tasks, self.seeds)
        check_real("seconds", self.seconds, above=0)
        check_integer("models_at_once", self.models_at_once)

    def points(self) -> Iterator[TrainingPoint]:
        """The models, in order of seed, task and recipe."""
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                for recipe in (setup.diffusion, setup.autoregressive):
                    yield TrainingPoint(name, setup.task, recipe, seed)

    def check(self) -> None:
        """ValueError with the reason if a learning curve's decoder does not fit its model. Trains nothing."""
        for point in self.points():
            point.check(point.recipe.curve_decoder, SeparateHead())

    def run(self, folder: Path) -> int:
        """Train the models that are missing in `folder` until the time limit, and print how many are finished and left,
        also after an interrupt. Returns the number of models that failed; a paused model is not one of them."""
        stop_at = time.perf_counter() + self.seconds
        runner = Runner(folder, self.models_at_once)
        points, num_finished, num_failed = list(self.points()), 0, 0
        try:
            runner.train_ahead(points, stop_at)
            for point in points:
                title = f"{point.name} {type(point.recipe.objective).__name__} seed {point.seed}"
                try:
                    result = runner.train(point, stop_at)["result"]
                except TrainingPaused as stopped:
                    console.print(f"{title}: left at {stopped}", markup=False)
                else:
                    has_failed = "failed" in result
                    num_failed, num_finished = num_failed + has_failed, num_finished + (not has_failed)
                    console.print(f"{title}: {_outcome(point, result)}", markup=False)
        finally:
            num_left = len(points) - num_finished - num_failed
            console.print(f"{num_finished} of {len(points)} models finished, {num_left} left, {num_failed} failed; "
                          f"{_next(num_left, num_failed)}", markup=False)
        return num_failed


def _outcome(point: TrainingPoint, result: Json) -> str:
    if "failed" in result:
        return f"failed: {result['failed']}"
    last = result["curve"][-1]
    return (f"finished, {result['updates']:,} updates in {result['seconds']:.0f} s, {100 * last['right']:.1f} % of "
            f"{point.recipe.num_curve_items} test items right")


def _next(num_left: int, num_failed: int) -> str:
    if num_left or num_failed:
        return "the same command goes on"
    return "experiment=frontier with the same options measures them"
