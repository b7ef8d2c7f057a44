"""The train experiment: the matched pairs of the chosen tasks and seeds, in as many runs as they take.

A run stops when its seconds are used up, with the state of the model in training saved; the same command goes on from
there. It measures nothing: with the same options experiment=frontier takes these models and does.
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
    """`seconds` is how long one run trains, looks included; the last update and its save end a little later."""

    tasks: Mapping[str, TaskSetup]
    seeds: Sequence[int]
    seconds: float
    models_at_once: int = 1

    def __post_init__(self) -> None:
        check_tasks(self.tasks, self.seeds)
        check_real("seconds", self.seconds, above=0)
        check_integer("models_at_once", self.models_at_once)

    def points(self) -> Iterator[TrainingPoint]:
        """The models, in the order in which they are trained."""
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                for recipe in (setup.diffusion, setup.autoregressive):
                    yield TrainingPoint(name, setup.task, recipe, seed)

    def check(self) -> None:
        """ValueError with the reason if a model could not be looked at on the way; before anything is trained."""
        for point in self.points():
            point.check(point.recipe.curve_decoder, SeparateHead())

    def run(self, folder: Path) -> int:
        """Train what is missing in `folder` while there is time, and print what is finished and what is left, when
        interrupted too. Returns the number of models that failed: none where time alone ran out."""
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
