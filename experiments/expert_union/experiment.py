"""The expert_union experiment: how wider steps lose the advantage of sparse activation, and what recovers it.

    python -m quicksilver.experiments experiment=expert_union [task=[sudoku6]] [seeds=[0,1,2]]

For each router it trains the autoregressive and the masked model, and measures

    unions       distinct experts, bytes and time of a forward at each width and batch size, of the untrained, the
                 partly and the fully trained model, and of the dense pair
    mitigations  how much routing rules and an order of commits save, and their cost in right answers
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...decoders import Blocks, Decoder, Delayed, Dual, Even, Greedy, TopProbability
from ...kernels.checks import check_instance, check_integer, check_real
from ...models import (
    Balancing,
    ExpertShape,
    NoBalancing,
    RoutingRule,
    SeparateHead,
    TokenChoice,
    Transformer,
)
from ..harness.records import Json
from ..report.page import report_name, write_report
from ..study.checks import check_counts, check_different, check_machine, check_tasks, finish, measure_missing
from ..study.runner import Runner
from ..study.setup import TaskSetup
from ..training.recipe import Recipe, TrainingPoint
from .expert_affinity import ExpertAffinity
from .expert_aware import ExpertAware
from .mitigation import MitigationPoint, measure_mitigation
from .union import UnionPoint, measure_union

DENSE = "dense"
_USUAL_RULE, _USUAL_ORDER = "own choice", "usual order"


@dataclass(frozen=True)
class RouterSetup:
    """Experts that replace a recipe's feed-forward networks, and their load balancing."""

    experts: ExpertShape
    balancing: Balancing

    def recipe(self, recipe: Recipe) -> Recipe:
        return replace(recipe, shape=replace(recipe.shape, experts=self.experts), balancing=self.balancing)


@dataclass(frozen=True)
class ExpertUnion:
    """Each of `routers` in each of `states` (0: as initialised; else trained to the end with this share of the
    updates). Only the first router is timed and mitigated. Mitigations decode the masked model in blocks of the task's
    size: routing `rules` with the dual cache, which feeds a block, and orders of commits by `affinity` (weights) with
    the delayed cache, which no longer feeds committed positions. A step commits `tokens_per_step` tokens; `num_decoded`
    items are decoded."""

    tasks: Mapping[str, TaskSetup]
    seeds: Sequence[int]
    routers: Mapping[str, RouterSetup]
    states: Sequence[float]
    widths: Sequence[int]
    batch_sizes: Sequence[int]
    num_items: int
    rules: Mapping[str, RoutingRule]
    affinity: Sequence[float]
    refresh_every: int
    tokens_per_step: int
    num_decoded: int
    decoded_batch_size: int
    threads: int
    device: str = "cpu"
    kernels: str = "auto"
    models_at_once: int = 1

    def __post_init__(self) -> None:
        check_machine(self.device, self.kernels, self.threads, self.models_at_once)
        check_tasks(self.tasks, self.seeds)
        check_counts("widths", self.widths)
        check_counts("batch_sizes", self.batch_sizes)
        check_different("states", self.states)
        check_different("affinity", self.affinity)
        for state in self.states:
            check_real("states", state, at_least=0, at_most=1)
        if not self.routers or DENSE in self.routers:
            raise ValueError(f"routers={list(self.routers)}: needs at least one, none of them called {DENSE}")
        for name, router in self.routers.items():
            check_instance(f"routers.{name}", router, RouterSetup)
        check_integer("num_items", self.num_items, at_least=max(self.batch_sizes))
        for name in ("refresh_every", "tokens_per_step", "num_decoded", "decoded_batch_size"):
            check_integer(name, getattr(self, name))
        if _USUAL_RULE in self.rules:
            raise ValueError(f"rules={list(self.rules)}: {_USUAL_RULE} is the one that they are changes of")
        if self.decoded_batch_size not in self.batch_sizes:
            raise ValueError(f"decoded_batch_size={self.decoded_batch_size}: must be one of batch_sizes="
                             f"{list(self.batch_sizes)}, of which next tokens are known")
        if self.num_items % max(self.batch_sizes):
            raise ValueError(f"num_items={self.num_items}: must be a multiple of the largest batch size, "
                             f"{max(self.batch_sizes)}")
        if self.num_decoded % self.decoded_batch_size:
            raise ValueError(f"num_decoded={self.num_decoded}: must be a multiple of decoded_batch_size="
                             f"{self.decoded_batch_size}")
        for name, setup in self.tasks.items():
            if setup.block_size % self.tokens_per_step:
                raise ValueError(f"tokens_per_step={self.tokens_per_step}: must divide {name}'s blocks of "
                                 f"{setup.block_size}")

    def union_points(self) -> Iterator[UnionPoint]:
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                yield from self._dense(name, setup, seed)
                for router in self.routers:
                    for state in self.states:
                        yield from self._pair(name, setup, seed, router, state)

    def _dense(self, name: str, setup: TaskSetup, seed: int) -> Iterator[UnionPoint]:
        """The dense pair, for its bytes and times alone."""
        diffusion, autoregressive = (TrainingPoint(name, setup.task, replace(
            recipe, shape=replace(recipe.shape, experts=None), balancing=NoBalancing()), seed)
            for recipe in (setup.diffusion, setup.autoregressive))
        yield self._union(autoregressive, autoregressive, DENSE, 1.0, (1,))
        yield self._union(diffusion, autoregressive, DENSE, 1.0, self.widths)

    def _pair(self, name: str, setup: TaskSetup, seed: int, router: str, state: float) -> Iterator[UnionPoint]:
        def point(recipe: Recipe) -> TrainingPoint:
            with_experts = self.routers[router].recipe(recipe)
            updates = max(1, round(recipe.updates * (state or 1)))
            return TrainingPoint(name, setup.task, replace(with_experts, updates=updates), seed)

        autoregressive = point(setup.autoregressive)
        yield self._union(autoregressive, autoregressive, router, state, (1,))
        yield self._union(point(setup.diffusion), autoregressive, router, state, self.widths)

    def _union(self, model: TrainingPoint, reference: TrainingPoint, router: str, state: float,
               widths: Sequence[int]) -> UnionPoint:
        is_timed = state == 1 and router in (DENSE, next(iter(self.routers)))
        return UnionPoint(model.name, model, reference, router, state, is_timed, tuple(widths),
                          tuple(self.batch_sizes), self.num_items, self.threads, self.device, self.kernels)

    def mitigation_points(self) -> Iterator[MitigationPoint]:
        first = next(iter(self.routers.values()))
        for seed in self.seeds:
            for name, setup in self.tasks.items():
                model = TrainingPoint(name, setup.task, first.recipe(setup.diffusion), seed)
                steps = setup.block_size // self.tokens_per_step
                usual = Decoder(Blocks(setup.block_size), Even(steps), Greedy(), TopProbability(), Dual())
                for title, rule in {_USUAL_RULE: TokenChoice(), **self.rules}.items():
                    yield self._mitigation(model, title, rule, usual, usual)
                usual = replace(usual, cache=Delayed(self.refresh_every))
                yield self._mitigation(model, _USUAL_ORDER, TokenChoice(), usual, usual)
                for weight in self.affinity:
                    decoder = replace(usual, policy=ExpertAffinity(weight))
                    yield self._mitigation(model, f"affinity {weight:g}", TokenChoice(), decoder, usual)

    def _mitigation(self, model: TrainingPoint, title: str, rule: RoutingRule, decoder: Decoder,
                    usual: Decoder) -> MitigationPoint:
        return MitigationPoint(model.name, model, title, rule, decoder, usual, self.decoded_batch_size,
                               self.num_decoded, self.threads, self.device, self.kernels)

    def training_points(self) -> list[TrainingPoint]:
        """The models to train, each once; references come before the models timed against them."""
        needed = [model for point in self.union_points() if point.state > 0 for model in (point.reference, point.model)]
        return list(dict.fromkeys([*needed, *(point.model for point in self.mitigation_points())]))

    def check(self) -> None:
        """ValueError with the reason if a setting cannot be measured, before anything is trained."""
        for point in self.union_points():
            length = point.model.config().max_length
            for width in point.widths:
                check_integer("widths", width, at_most=length)
        for point in self.mitigation_points():
            point.model.check(point.decoder, SeparateHead())
            experts = point.model.recipe.shape.experts
            assert experts is not None
            if self.affinity:
                with torch.device("meta"):
                    ExpertAware(Transformer(point.model.config()), point.model.task.vocab_size - 1)
            point.rule.check(experts.routing, experts.num_experts)

    def run(self, folder: Path) -> int:
        """Train and measure what is missing in `folder`, write the report, print the table. Returns the number of
        points that failed."""
        runner, models = Runner(folder, self.models_at_once), list(self.training_points())
        runner.train_ahead(models)
        training = [runner.train(point) for point in models]
        measured: list[Json] = measure_missing(
            runner, list(self.union_points()),
            lambda point: f"{point.name}, {point.router}, {100 * point.state:.0f} % trained", measure_union)
        measured += measure_missing(runner, list(self.mitigation_points()),
                                    lambda point: f"{point.name}, {point.mitigation}", measure_mitigation)
        name = report_name("expert_union-", self.tasks, self.seeds, self)
        return finish(write_report(folder / name, training, measured), [*training, *measured])
