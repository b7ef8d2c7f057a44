"""Mitigations: a routing rule or an order of commits that reads fewer experts, and its cost to a decode."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...decoders import Decoder, Request
from ...kernels.dispatch import Implementation, recording, using
from ...models import DecodableTransformer, RouterRecorder, RoutingRule, SeparateHead, with_routing_rule
from ..harness.execution import execution
from ..harness.locks import machine_alone
from ..harness.records import Json
from ..study.runner import Runner
from ..training.evaluator import Evaluator, batches, canvases
from ..training.recipe import TrainingPoint
from .expert_affinity import ExpertAffinity
from .expert_aware import ExpertAware


@dataclass(frozen=True)
class MitigationPoint:
    """One way to read fewer experts, named `mitigation`: a routing rule and a decoder. Its runs are timed alternating
    with `usual`, the unchanged decoder with token-choice routing."""

    name: str
    model: TrainingPoint
    mitigation: str
    rule: RoutingRule
    decoder: Decoder
    usual: Decoder
    batch_size: int
    num_items: int
    threads: int
    device: str
    kernels: str


def measure_mitigation(point: MitigationPoint, runner: Runner) -> Json:
    """Right answers, experts and positions per step, and the time relative to the usual decode."""
    torch.set_num_threads(point.threads)
    transformer = runner.model(point.model).to(point.device)
    evaluator = point.model.evaluator(with_routing_rule(transformer, point.rule), point.decoder, SeparateHead())
    if isinstance(point.decoder.policy, ExpertAffinity):
        evaluator = _aware(evaluator)  # which takes time
    usual = point.model.evaluator(transformer, point.usual, SeparateHead())
    task, config = point.model.task, transformer.config
    problems = task.test_problems(point.num_items)
    work = list(batches(evaluator.requests(task, problems, point.model.seed), point.batch_size))
    completions, ratios = [], []
    with using(Implementation.named(point.kernels)), recording() as ran, machine_alone():
        steps = [step for batch in work for step in _steps(evaluator, batch)]
        for number, batch in enumerate(work):
            if number % 2:
                theirs, ours = usual.decode(batch), evaluator.decode(batch)
            else:
                ours, theirs = evaluator.decode(batch), usual.decode(batch)
            completions += ours.completions
            ratios.append(ours.seconds / theirs.seconds)
    right = task.grade(problems, evaluator.format.answer(task, problems, canvases(completions)))
    distinct, positions = _touched(steps)
    num_tokens = sum(request.tokens.count(evaluator.model.spec.mask_id) for batch in work for request in batch)
    return {"num_items": point.num_items, "right": "".join("01"[int(mark)] for mark in right), "distinct": distinct,
            "positions": positions, "num_steps": len(steps),
            "tokens_per_step": num_tokens / (len(steps) * point.batch_size),
            "bytes": config.forward_bytes(
                round(positions), round(point.batch_size * config.max_length - positions), round(positions),
                num_distinct_experts=distinct),
            "seconds_ratio": statistics.median(ratios)} | execution(evaluator.model, ran)


def _aware(evaluator: Evaluator) -> Evaluator:
    model = evaluator.model
    assert isinstance(model, DecodableTransformer)
    return replace(evaluator, model=ExpertAware(model.transformer, model.mask_id, model.shift, model.head))


def _steps(evaluator: Evaluator, requests: Sequence[Request]) -> Iterator[list[Tensor]]:
    """For each step of a decode, the experts chosen by the fed positions in each layer, [B, F, A]."""
    model, decoder = evaluator.model, evaluator.decoder
    assert isinstance(model, DecodableTransformer)
    decoding = decoder.begin(model, requests)
    with RouterRecorder(model.transformer) as recorder:
        for _ in decoder.stream(decoding):
            yield [seen[-1].expert_BFA for seen in recorder.results]
            recorder.clear()


def _touched(steps: Sequence[Sequence[Tensor]]) -> tuple[float, float]:
    """Means over steps: distinct experts of a forward, averaged over the layers that always compute all fed positions
    (a last layer may compute only the queried ones), and positions fed."""
    whole = [layer for layer in range(len(steps[0]))
             if all(step[layer].shape[1] == step[0].shape[1] for step in steps)]
    distinct = statistics.fmean(len(step[layer].unique()) for step in steps for layer in whole)
    return distinct, statistics.fmean(step[0].shape[0] * step[0].shape[1] for step in steps)
