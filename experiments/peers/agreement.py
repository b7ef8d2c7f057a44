"""Tools to compare two engines on the same weights: random models with few near-ties, a count of near-ties, and
interleaved timing."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...decoders import Decoder, Policy, Proposal, Request, Sampler, StepState, Threshold
from ...kernels.token_statistics import Statistic, StatisticsRequest
from ...models import AttentionPattern, DecodableTransformer, Shape, Transformer, TransformerConfig
from ..harness.locks import machine_alone
from ..harness.records import Json

CLOSE = 1e-5
_HEAD_SCALE = 6.0
_GAP: frozenset[Statistic] = frozenset({"logit_gap"})


def random_transformer(shape: Shape, vocab_size: int, length: int, attention: AttentionPattern, seed: int
                       ) -> Transformer:
    """A transformer in which every matrix is random and the head is scaled."""
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(vocab_size, length, attention, shape)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    model.head.weight.data *= _HEAD_SCALE
    return model


@dataclass(frozen=True)
class _WithLogitGap:
    """A sampler that also requests the gap between the two best logits."""

    base: Sampler

    @property
    def needs_logits(self) -> bool:
        return self.base.needs_logits

    def begin(self, shape: torch.Size, device: torch.device) -> Tensor | None:
        return self.base.begin(shape, device)

    def question(self, wanted: frozenset[Statistic], state: StepState, query_BQ: Tensor, memory: Tensor | None
                 ) -> StatisticsRequest:
        return self.base.question(wanted | _GAP, state, query_BQ, memory)


@torch.inference_mode()
def close_decisions(decoder: Decoder, model: DecodableTransformer, request: Request) -> int:
    """The number of near-ties of a decode, closer than CLOSE: between the two best logits of a masked position of the
    window, between scores on the two sides of a commit's cut, or between a probability and the policy's threshold."""
    gauged = replace(decoder, sampler=_WithLogitGap(decoder.sampler))
    num_close = 0
    for step in gauged.stream(gauged.begin(model, [request])):
        (one,) = step.by_request()
        num_close += int((step.proposal.logit_gap_BQ[0][one.masked_Q] < CLOSE).sum())
        num_close += _close_ranks(decoder.policy, step.proposal, one.masked_Q & one.commit_Q,
                                  one.masked_Q & ~one.commit_Q)
    return num_close


def _close_ranks(policy: Policy, proposal: Proposal, taken_Q: Tensor, left_Q: Tensor) -> int:
    """Near-ties of committed and uncommitted positions, and with the threshold, for each statistic of the policy."""
    num_close = 0
    for rank_BQ in (proposal.found.log_prob_BQ, proposal.found.margin_BQ, proposal.found.entropy_BQ):
        if rank_BQ is None:
            continue
        rank_Q = rank_BQ[0]
        if taken_Q.any() and left_Q.any():
            num_close += int((rank_Q[taken_Q][:, None] - rank_Q[left_Q]).abs().min() < CLOSE)
        if isinstance(policy, Threshold):
            num_close += int(((rank_Q[taken_Q | left_Q] - math.log(policy.tau)).abs() < CLOSE).sum())
    return num_close


@dataclass(frozen=True)
class Turns:
    """Seconds of two interleaved runs, per round."""

    ours: list[float]
    theirs: list[float]

    @property
    def own(self) -> float:
        """Our median."""
        return statistics.median(self.ours)

    @property
    def peer(self) -> float:
        """Their median."""
        return statistics.median(self.theirs)

    @property
    def ratio(self) -> float:
        """The median over rounds of theirs / ours."""
        return statistics.median(theirs / ours for ours, theirs in zip(self.ours, self.theirs, strict=True))

    def to_json(self) -> Json:
        return {"ours_seconds": self.ours, "theirs_seconds": self.theirs, "ratio": self.ratio}


def interleaved(ours: Callable[[], object], theirs: Callable[[], object], rounds: int = 9) -> Turns:
    """Time both in each round, after one warm-up round, with the machine to itself."""
    seconds: tuple[list[float], list[float]] = [], []
    with machine_alone():
        for _ in range(rounds + 1):
            for run, times in zip((ours, theirs), seconds, strict=True):
                began = time.perf_counter()
                run()
                times.append(time.perf_counter() - began)
    return Turns(seconds[0][1:], seconds[1][1:])
