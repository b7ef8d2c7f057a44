"""Samplers: one pass over the vocabulary at the queried positions proposes tokens; no other part sees the vocabulary.

statistics_temperature sets the distribution from which a policy's confidence is computed: 1 is the model's own (LLaDA,
Fast-dLLM), the sampling temperature the tempered one (Dream, LLaDA2).
"""

from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.checks import LARGEST_FACTOR, integer_field, real_field
from ..kernels.distribution_state import TokenCredit
from ..kernels.token_statistics import SamplingParams, Statistic, StatisticsRequest
from .step_state import StepState


class Sampler(Protocol):
    @property
    def needs_logits(self) -> bool:
        """Whether it needs all logits of a position at once."""
        ...

    def begin(self, shape: torch.Size, device: torch.device) -> Tensor | None:
        """Its memory at the start of a window of `shape` [B, Q, V], written in place; None if it has none."""
        ...

    def question(self, wanted: frozenset[Statistic], state: StepState, query_BQ: Tensor, memory: Tensor | None
                 ) -> StatisticsRequest:
        """The request to the head at positions query_BQ (int64 [B, Q]) of the window, all of them where there is a
        memory: a token and the wanted statistics."""
        ...


@dataclass(frozen=True)
class Greedy:
    """The most probable token; the lowest id on ties."""

    statistics_temperature: float = 1.0

    def __post_init__(self) -> None:
        real_field(self, "statistics_temperature", above=0)

    @property
    def needs_logits(self) -> bool:
        return False

    def begin(self, shape: torch.Size, device: torch.device) -> None:
        return None

    def question(self, wanted: frozenset[Statistic], state: StepState, query_BQ: Tensor, memory: Tensor | None
                 ) -> StatisticsRequest:
        return StatisticsRequest(wanted, None, self.statistics_temperature)


@dataclass(frozen=True)
class Categorical:
    """A draw from softmax(logits / temperature), cut to the top_k most probable tokens or the top_p nucleus. It is
    keyed by the request's seed, the position, the step and the token."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    statistics_temperature: float = 1.0

    def __post_init__(self) -> None:
        real_field(self, "temperature", above=0)
        real_field(self, "statistics_temperature", above=0)
        if self.top_k is not None:
            integer_field(self, "top_k")
        if self.top_p is not None:
            real_field(self, "top_p", above=0, at_most=1)

    @property
    def needs_logits(self) -> bool:
        return self.top_k is not None or self.top_p is not None

    def begin(self, shape: torch.Size, device: torch.device) -> None:
        return None

    def question(self, wanted: frozenset[Statistic], state: StepState, query_BQ: Tensor, memory: Tensor | None
                 ) -> StatisticsRequest:
        draw = SamplingParams(self.temperature, state.seed_B, query_BQ, state.step_B, self.top_k, self.top_p)
        return StatisticsRequest(wanted, draw, self.statistics_temperature)


@dataclass(frozen=True)
class Credited:
    """Runs the base sampler on logits + alpha log(1 + credit). The most probable token of a masked position earns
    credit: credit = beta credit + (its probability)^gamma (dInfer, arXiv 2510.08666). This changes the distribution,
    confidences included. The memory is the credit, float32 [B, Q, V]."""

    base: Sampler = field(default_factory=Greedy)
    alpha: float = 0.7
    beta: float = 0.8
    gamma: float = 0.2

    def __post_init__(self) -> None:
        if isinstance(self.base, Credited):
            raise ValueError(f"base={self.base}: credit is given once; the base must draw from the logits alone")
        real_field(self, "alpha", at_least=0, at_most=LARGEST_FACTOR)
        real_field(self, "beta", at_least=0, at_most=1)
        real_field(self, "gamma", at_least=0)

    @property
    def needs_logits(self) -> bool:
        return True

    def begin(self, shape: torch.Size, device: torch.device) -> Tensor:
        return torch.zeros(shape, device=device)

    def question(self, wanted: frozenset[Statistic], state: StepState, query_BQ: Tensor, memory: Tensor | None
                 ) -> StatisticsRequest:
        assert memory is not None
        credit = TokenCredit(memory, state.masked_BQ, self.alpha, self.beta, self.gamma)
        return replace(self.base.question(wanted, state, query_BQ, None), credit=credit)
