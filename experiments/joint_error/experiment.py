"""The joint_error experiment: the loss of parallel commits and the share of right answers, at every number of steps.

    python -m quicksilver.experiments experiment=joint_error [task=[sudoku6]] [experiment.policy=...]

Trained models, windows, caches and numbers of steps are those of the sweep in the same folder: it shows at how many
steps the quality of the sweep's first policy breaks, and whether inconsistent tokens explain it. `measure.py` measures
every commit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from ...decoders import Decoder, Linear, Policy, Sampler
from ...kernels.batch_invariance import batch_invariant
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, recording, using
from ...models import SeparateHead
from ..harness.execution import execution
from ..harness.locks import machine_shared
from ..harness.records import ADDED_LATER, Json
from ..report.page import report_name, write_report
from ..study.checks import check_invariance, check_machine, check_tasks, finish, measure_missing
from ..study.runner import Runner
from ..study.setup import TaskSetup
from ..training.evaluator import batches, canvases
from ..training.recipe import TrainingPoint
from .measure import joint_errors


@dataclass(frozen=True)
class JointErrorPoint:
    """One task at `steps` steps per window."""

    name: str
    model: TrainingPoint
    decoder: Decoder
    steps: int
    num_items: int
    batch_size: int
    threads: int
    device: str
    kernels: str
    batch_invariant: bool = field(default=False, metadata=ADDED_LATER)


@dataclass(frozen=True)
class JointError:
    """Each task at each of its numbers of steps; `num_items` items are decoded."""

    tasks: Mapping[str, TaskSetup]
    family: str
    seeds: Sequence[int]
    sampler: Sampler
    policy: Policy
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
        check_integer("num_items", self.num_items)
        check_integer("batch_size", self.batch_size)

    def training_points(self) -> Iterator[TrainingPoint]:
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                yield TrainingPoint(name, setup.task, setup.recipe(self.family), seed)

    def points(self) -> Iterator[JointErrorPoint]:
        for model in self.training_points():
            setup = self.tasks[model.name]
            for steps in setup.steps:
                decoder = Decoder(setup.windows, Linear(steps), self.sampler, self.policy, setup.cache)
                yield JointErrorPoint(model.name, model, decoder, steps, self.num_items, self.batch_size, self.threads,
                                      self.device, self.kernels, self.batch_invariant)

    def check(self) -> None:
        """ValueError with the reason if a task cannot be decoded, before anything is trained."""
        for point in self.points():
            point.model.check(point.decoder, SeparateHead())

    def run(self, folder: Path) -> int:
        """Train and measure what is missing in `folder`, write the report, print the table. Returns the number of
        points that failed."""
        runner, models = Runner(folder, self.models_at_once), list(self.training_points())
        runner.train_ahead(models)
        training = [runner.train(point) for point in models]
        measured = measure_missing(runner, list(self.points()),
                                   lambda point: f"{point.name}, {point.steps} steps", _measure)
        name = report_name("joint_error-", self.tasks, self.seeds, self)
        return finish(write_report(folder / name, training, measured), [*training, *measured])


def _measure(point: JointErrorPoint, runner: Runner) -> Json:
    torch.set_num_threads(point.threads)
    evaluator = point.model.evaluator(runner.model(point.model).to(point.device), point.decoder, SeparateHead())
    task = point.model.task
    problems = task.test_problems(point.num_items)
    requests = evaluator.requests(task, problems, point.model.seed)
    completions, totals = [], np.zeros((3, point.num_items))
    num_commits = num_tokens = 0
    with (machine_shared(), using(Implementation.named(point.kernels)), batch_invariant(point.batch_invariant),
          recording() as ran):
        for number, batch in enumerate(batches(requests, point.batch_size)):
            measured = joint_errors(evaluator.decoder, evaluator.model, batch)
            completions += measured.completions
            for commit in measured.commits:
                item = number * point.batch_size + commit.request
                totals[:, item] += commit.bound, commit.product, commit.joint
                num_commits += 1
                num_tokens += commit.num_tokens
    right = task.grade(problems, evaluator.format.answer(task, problems, canvases(completions)))
    bound, product, joint = np.round(totals, 6).tolist()
    return {"num_items": point.num_items, "right": "".join("01"[int(mark)] for mark in right), "bound": bound,
            "product": product, "joint": joint, "num_commits": num_commits,
            "num_tokens": num_tokens} | execution(evaluator.model, ran)
