"""The decode experiment: one decoder, built from options, on one task. Prints its steps and its accuracy.

For inspection only: nothing is recorded, and the timing does not hold the machine lock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..decoders import Decoder, Request
from ..kernels.batch_invariance import batch_invariant
from ..kernels.checks import check_integer
from ..kernels.dispatch import Implementation, using
from ..models import Head, load_checkpoint
from .harness.devices import check_dtype
from .harness.progress import console
from .study.checks import capture_field, check_invariance, check_machine, check_tasks
from .study.runner import cast
from .study.setup import TaskSetup, family_for
from .training.evaluator import Evaluator, batches, canvases
from .training.recipe import TrainingPoint
from .training.trainer import load_or_train


@dataclass(frozen=True)
class Decode:
    """`checkpoint` is a file of weights to load instead of training; its configuration must be the task's. `family`
    names the task's model (None: the one that fits the decoder's cache)."""

    tasks: Mapping[str, TaskSetup]
    decoder: Decoder
    seeds: Sequence[int]
    num_items: int
    batch_size: int
    threads: int
    device: str
    kernels: str
    head: Head
    batch_invariant: bool = False
    dtype: str = "float32"
    capture: str = "none"
    checkpoint: str | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads)
        check_invariance(self.batch_invariant, self.device)
        check_dtype(self.dtype, self.device)
        capture_field(self)
        check_tasks(self.tasks, self.seeds)
        for name, values in (("task", list(self.tasks)), ("seeds", list(self.seeds))):
            if len(values) != 1:
                raise ValueError(f"{name}={values}: experiment=decode takes exactly one")
        for name in ("num_items", "batch_size"):
            check_integer(name, getattr(self, name))

    def check(self) -> None:
        """ValueError with the reason if the decoder or the checkpoint does not fit. Trains nothing."""
        _, point = self._setup_and_point()
        point.check(self.decoder, self.head)
        if self.checkpoint is not None:
            load_checkpoint(Path(self.checkpoint), expect=point.config())

    def _setup_and_point(self) -> tuple[TaskSetup, TrainingPoint]:
        ((name, setup),) = self.tasks.items()
        recipe = setup.recipe(self.family or family_for(self.decoder))
        return setup, TrainingPoint(name, setup.task, recipe, self.seeds[0])

    def run(self, folder: Path) -> int:
        """Print the steps of the first item, the number of right answers, and steps and time per item. Returns 0: no
        point can fail on its own."""
        setup, point = self._setup_and_point()
        if self.checkpoint is None:
            transformer, _ = load_or_train(point, folder)
        else:
            transformer = load_checkpoint(Path(self.checkpoint), expect=point.config())
        torch.set_num_threads(self.threads)
        evaluator = point.evaluator(cast(transformer, self.device, self.dtype), self.decoder, self.head,
                                    capture=self.capture)
        problems = setup.task.test_problems(self.num_items)
        requests = evaluator.requests(setup.task, problems, self.seeds[0])
        with using(Implementation.named(self.kernels)), batch_invariant(self.batch_invariant):
            _trace(evaluator, requests[0])
            decoded = [evaluator.decode(batch) for batch in batches(requests, self.batch_size)]
        completions = [completion for batch in decoded for completion in batch.completions]
        right = setup.task.grade(problems, evaluator.format.answer(setup.task, problems, canvases(completions)))
        steps = sum(batch.accounting.row_steps for batch in decoded) / self.num_items
        seconds = sum(batch.seconds for batch in decoded)
        console.print(f"{point.name}: {int(right.sum())} of {self.num_items} right, {steps:.1f} steps an item, "
                      f"{1e3 * seconds / self.num_items:.2f} ms an item at batch {self.batch_size}", markup=False)
        return 0


def _trace(evaluator: Evaluator, request: Request) -> None:
    """Print the completion of one request after each step, with a dot at each masked position."""
    decoding = evaluator.decoder.begin(evaluator.model, [request])
    for number, step in enumerate(evaluator.decoder.stream(decoding), start=1):
        marks = zip(step.canvas.tokens_BS[0, request.start : -1].tolist(),
                    step.canvas.masked_BS[0, request.start : -1].tolist(), strict=True)
        console.print(f"step {number:3}  " + " ".join("\u00b7" if masked else str(token) for token, masked in marks),
                      markup=False)
