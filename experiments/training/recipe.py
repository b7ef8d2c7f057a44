"""How one model is trained: its recipe, and the training point of a study."""

import math
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import torch

from ...decoders import CapturedSteps, Decoder
from ...kernels.checks import check_integer, check_real
from ...models import (
    Balancing,
    DecodableTransformer,
    Head,
    NoBalancing,
    Objective,
    Shape,
    Transformer,
    TransformerConfig,
)
from ..harness.devices import check_device
from ..tasks.base import Format, Task
from .evaluator import Evaluator

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Recipe:
    """How one model is trained. Every field changes its weights or its evaluation in training.

    With precision bfloat16, matrix products (Muon's included) run in bfloat16; weights, norms and softmax stay float32.
    Which precision is faster depends on the processor."""

    objective: Objective
    format: Format
    curve_decoder: Decoder
    shape: Shape
    updates: int
    batch_size: int
    threads: int
    precision: str
    device: str = "cpu"
    balancing: Balancing = field(default_factory=NoBalancing)
    muon_lr: float = 0.02
    adamw_lr: float = 2e-3
    warmup_updates: int = 20
    num_curve_points: int = 4
    num_curve_items: int = 128

    def __post_init__(self) -> None:
        for name in ("updates", "batch_size", "threads", "num_curve_points", "num_curve_items"):
            check_integer(name, getattr(self, name))
        check_integer("warmup_updates", self.warmup_updates, at_least=0)
        check_device(self.device)
        check_real("muon_lr", self.muon_lr, above=0)
        check_real("adamw_lr", self.adamw_lr, above=0)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: must be one of {', '.join(PRECISIONS)}")
        self.balancing.check(self.shape)

    def learning_rate_factor(self, update: int) -> float:
        warmup = min(1.0, (update + 1) / (self.warmup_updates + 1))
        return warmup * 0.5 * (1 + math.cos(math.pi * update / self.updates))


@dataclass(frozen=True)
class TrainingPoint:
    """One model to be trained."""

    name: str
    task: Task
    recipe: Recipe
    seed: int

    def __post_init__(self) -> None:
        check_integer("seed", self.seed, at_least=0, at_most=LARGEST_SEED)

    def config(self) -> TransformerConfig:
        encoded = self.recipe.format.encode(self.task, self.task.test_problems(1))
        return TransformerConfig(self.task.vocab_size, encoded.tokens.shape[1], self.recipe.objective.attention,
                                 self.recipe.shape)

    def check(self, decoder: Decoder, head: Head) -> None:
        """ValueError with the reason if the decoder does not fit this model and task. Trains nothing."""
        transformer, problems = _untrained(self)
        evaluator = self.evaluator(transformer, decoder, head)
        decoder.check(evaluator.model, evaluator.requests(self.task, problems, self.seed)[0])

    def evaluator(self, transformer: Transformer, decoder: Decoder, head: Head, *, capture: str = "none"
                  ) -> Evaluator:
        """The model with this decoder, which stops at the task's end token. `capture`: steps are taken (none), or
        captured and replayed (graph), or also compiled (compile)."""
        model = DecodableTransformer(transformer.eval(), self.task.vocab_size - 1, self.recipe.objective.shift, head)
        decoder = replace(decoder, end_id=self.task.end_id)
        return Evaluator(model, decoder, self.recipe.format, CapturedSteps.named(capture, decoder))


@lru_cache(maxsize=64)
def _untrained(point: TrainingPoint) -> tuple[Transformer, np.ndarray]:
    """A model on the meta device and one problem, shared by the checks of all its decoders."""
    with torch.device("meta"):
        return Transformer(point.config()), point.task.test_problems(1)
