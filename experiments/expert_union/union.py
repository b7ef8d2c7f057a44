"""Experts that a forward of a given width touches, and its time, on the canvases of a decode.

Each canvas of a decode is run through the model once more in a full forward that records routing. A step that feeds a
block of W positions in each of B rows touches, per layer, the union of the experts that these positions choose. Blocks
start at multiples of W and count while one of their positions is masked. An autoregressive step feeds the position
before the one that it commits.
"""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...decoders import (
    Decoder,
    Greedy,
    Linear,
    Recompute,
    Request,
    TopProbability,
    TraceStep,
    Whole,
    presets,
)
from ...kernels.checks import check_integer
from ...kernels.dispatch import Implementation, recording, using
from ...kernels.token_statistics import StatisticsRequest
from ...models import Causal, DecodableTransformer, KVStore, Plan, RouterRecorder, SeparateHead, Transformer
from ..harness.devices import wait_for
from ..harness.execution import execution
from ..harness.locks import machine_alone
from ..harness.records import Json
from ..study.runner import Runner
from ..training.evaluator import Evaluator, batches
from ..training.recipe import TrainingPoint
from ..training.trainer import initialized

_LEAST_ROUNDS = 25
_STEPS = 8


@dataclass(frozen=True)
class UnionPoint:
    """A model at each of `widths` and `batch_sizes`. `state` is the share of the recipe's updates with which it was
    trained to the end (0: untrained); `router` names its experts. If timed, it alternates with forwards of one position
    of the `reference`."""

    name: str
    model: TrainingPoint
    reference: TrainingPoint
    router: str
    state: float
    is_timed: bool
    widths: Sequence[int]
    batch_sizes: Sequence[int]
    num_items: int
    threads: int
    device: str
    kernels: str


@dataclass(frozen=True)
class Seen:
    """A canvas of a decode: its tokens [B, L]; the positions that a step would feed for (bool [B, L]: the masked ones;
    for an autoregressive model those before them); and the experts of every position, int32 [N, B, L, A] over the
    layers with experts."""

    tokens_BL: Tensor
    counted_BL: Tensor
    expert_NBLA: Tensor


def followed(evaluator: Evaluator, requests: Sequence[Request]) -> Iterator[Seen]:
    """The canvases of a decode of one batch of requests of one length: the last one of an autoregressive model, else
    the one before each step. ValueError if a row ends before the others."""
    model, decoder = evaluator.model, evaluator.decoder
    assert isinstance(model, DecodableTransformer)
    canvas, is_causal = [list(request.tokens) for request in requests], isinstance(model.spec.pattern, Causal)
    tokens_BL = given_BL = torch.tensor(canvas, device=model.spec.device)
    for step in decoder.stream(decoder.begin(model, requests)):
        if len(step.rows) < len(requests):
            raise ValueError(f"{len(requests) - len(step.rows)} rows ended early: give requests of one length")
        if not is_causal:
            yield _seen(model, tokens_BL, tokens_BL == model.spec.mask_id)
        TraceStep.of(step).apply(canvas, model.spec.mask_id)
        tokens_BL = torch.tensor(canvas, device=model.spec.device)
    if is_causal:
        yield _seen(model, tokens_BL, F.pad(given_BL[:, 1:] == model.spec.mask_id, (0, 1)))


@torch.inference_mode()
def _seen(model: DecodableTransformer, tokens_BL: Tensor, counted_BL: Tensor) -> Seen:
    with RouterRecorder(model.transformer) as recorder:
        model.transformer.sequence_hidden(tokens_BL)
    layers = [routed.expert_BFA for (routed,) in recorder.results]
    return Seen(tokens_BL, counted_BL, torch.stack(layers) if layers else tokens_BL.new_empty((0, *tokens_BL.shape, 0)))


def unions(seen: Seen, num_experts: int, width: int, batch_size: int) -> Tensor:
    """Distinct experts of every block of `width` positions of every `batch_size` consecutive rows, if one of these
    positions counts: int64 [N, U]. Positions and rows that do not fill a block are left out."""
    check_integer("width", width, at_most=seen.tokens_BL.shape[1])
    check_integer("batch_size", batch_size, at_most=seen.tokens_BL.shape[0])
    num_groups, num_blocks = seen.tokens_BL.shape[0] // batch_size, seen.tokens_BL.shape[1] // width
    rows, positions = num_groups * batch_size, num_blocks * width
    chosen_NBLX = F.one_hot(seen.expert_NBLA[:, :rows, :positions].long(), num_experts).sum(3) > 0
    united_NGKX = chosen_NBLX.unflatten(2, (num_blocks, width)).any(3).unflatten(1, (num_groups, batch_size)).any(2)
    counted_GK = seen.counted_BL[:rows, :positions].unflatten(1, (num_blocks, width)).any(2).unflatten(
        0, (num_groups, batch_size)).any(1)
    return united_NGKX.sum(-1)[:, counted_GK]


class TimedForward:
    """A forward of a block of `width` positions in all rows of a canvas, and the statistics of these positions; the
    whole canvas is stored first. An autoregressive model's block reads only earlier positions, as with the append
    cache. Blocks without a counted position are left out."""

    @torch.inference_mode()
    def __init__(self, model: DecodableTransformer, tokens_BL: Tensor, counted_BL: Tensor, width: int) -> None:
        num_rows, length = tokens_BL.shape
        whole_BL = torch.arange(length, device=tokens_BL.device).expand(num_rows, -1).contiguous()
        self.model, self.tokens_BS = model, F.pad(tokens_BL, (0, 1))
        self.store: KVStore = model.new_store(num_rows, length)
        model.hidden(self.tokens_BS, Plan(whole_BL, context=length), self.store)
        is_causal = isinstance(model.spec.pattern, Causal)
        self.plans = []
        for begin in range(0, length - width + 1, width):
            if counted_BL[:, begin : begin + width].any():
                block_BF = whole_BL[:, begin : begin + width].contiguous()
                context = begin + width if is_causal else length
                self.plans.append(Plan(block_BF, context=context, no_mask=is_causal and width == 1))

    @torch.inference_mode()
    def seconds(self, number: int) -> float:
        """Seconds of one forward, of block `number` modulo the number of blocks."""
        plan = self.plans[number % len(self.plans)]
        wait_for(self.model.spec.device)
        began = time.perf_counter()
        hidden_BQE = self.model.hidden(self.tokens_BS, plan, self.store)
        self.model.statistics(hidden_BQE, StatisticsRequest(frozenset({"log_prob"})))
        wait_for(self.model.spec.device)
        return time.perf_counter() - began


def measure_union(point: UnionPoint, runner: Runner) -> Json:
    """Distinct experts, bytes and, if timed, times of a forward."""
    torch.set_num_threads(point.threads)
    transformer = initialized(point.model) if point.state == 0 else runner.model(point.model)
    evaluator = _evaluator(point.model, transformer.to(point.device))
    model, most_rows = evaluator.model, max(point.batch_sizes)
    assert isinstance(model, DecodableTransformer)
    task = point.model.task
    requests = evaluator.requests(task, task.test_problems(point.num_items), point.model.seed)
    with using(Implementation.named(point.kernels)), recording() as ran:
        seen = [canvas for batch in batches(requests, most_rows) if len(batch) == most_rows
                for canvas in followed(evaluator, batch)]
        cells = [_cell(model, seen, width, batch_size) for width in point.widths for batch_size in point.batch_sizes]
        if point.is_timed:
            reference = _evaluator(point.reference, runner.model(point.reference).to(point.device))
            requests = reference.requests(task, task.test_problems(most_rows), point.reference.seed)
            assert isinstance(reference.model, DecodableTransformer)
            with machine_alone():
                _time(cells, model, _timed(seen), reference.model, next(followed(reference, requests)))
    return {"cells": cells, "num_canvases": len(seen)} | execution(model, ran)


def _evaluator(point: TrainingPoint, transformer: Transformer) -> Evaluator:
    decoder = Decoder(Whole(), Linear(_STEPS), Greedy(), TopProbability(), Recompute())
    if isinstance(transformer.config.attention, Causal):
        decoder = presets.autoregressive()
    return point.evaluator(transformer, decoder, SeparateHead())


def _cell(model: DecodableTransformer, seen: Sequence[Seen], width: int, batch_size: int) -> Json:
    experts, num_fed = model.config.shape.experts, width * batch_size
    cell: Json = {"width": width, "batch_size": batch_size}
    mean = None
    if experts is not None:
        distinct_NU = torch.cat([unions(canvas, experts.num_experts, width, batch_size) for canvas in seen], 1)
        by_layer = distinct_NU.double().mean(1).tolist()
        mean = statistics.fmean(by_layer)
        cell |= {"distinct": by_layer, "num_unions": distinct_NU.shape[1],
                 "uniform": experts.expected_distinct(num_fed)}
    stored = round(batch_size * _stored(model, seen, width))
    return cell | {"stored_positions": stored,
                   "bytes": model.config.forward_bytes(num_fed, stored, num_fed, num_distinct_experts=mean)}


def _stored(model: DecodableTransformer, seen: Sequence[Seen], width: int) -> float:
    """Stored positions of a row that a step reads: all outside the block; for an autoregressive model the mean number
    before the position that it feeds."""
    if not isinstance(model.spec.pattern, Causal):
        return seen[0].tokens_BL.shape[1] - width
    return torch.cat([canvas.counted_BL.nonzero()[:, 1] for canvas in seen]).double().mean().item()


def _timed(seen: Sequence[Seen]) -> Seen:
    """A canvas half-way through a decode; for an autoregressive model its only one."""
    return seen[min(len(seen) - 1, _STEPS // 2)]


def _time(cells: Sequence[Json], model: DecodableTransformer, canvas: Seen, reference: DecodableTransformer,
          decided: Seen) -> None:
    """Add the seconds of a cell's forward and their ratio to the reference's next token at the same batch size (median,
    p20, p80), timed alternating."""
    ones: dict[int, TimedForward] = {}
    for cell in cells:
        size = cell["batch_size"]
        if size not in ones:
            ones[size] = TimedForward(reference, decided.tokens_BL[:size], decided.counted_BL[:size], 1)
        forward = TimedForward(model, canvas.tokens_BL[:size], canvas.counted_BL[:size], cell["width"])
        num_rounds = max(_LEAST_ROUNDS, len(ones[size].plans))
        pairs = [(forward.seconds(number), ones[size].seconds(number)) for number in range(num_rounds + 2)][2:]
        for name, values in (("seconds", [ours for ours, _ in pairs]),
                             ("times_next_token", [ours / theirs for ours, theirs in pairs])):
            p20, *_, p80 = statistics.quantiles(values, n=5)
            cell |= {name: statistics.median(values), f"{name}_p20": p20, f"{name}_p80": p80}
