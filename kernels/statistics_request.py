"""What is asked of distributions over the vocabulary, and what is said of them.

`token_statistics` and `lm_head_statistics` take a request and give statistics; their definitions stand there.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .distribution_state import PreviousDistribution, TokenCredit
from .tensor_checks import check_dtype, check_shape

Statistic = Literal["log_prob", "canvas_log_prob", "margin", "logit_gap", "entropy", "divergence"]


def bounded(temperature: float) -> float:
    """The temperature as it counts: from 1e-30 to 1e30."""
    return min(max(temperature, 1e-30), 1e30)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn and with which numbers: seed_B, position_BQ and step_B (from 0) are int64."""

    temperature: float
    seed_B: Tensor
    position_BQ: Tensor
    step_B: Tensor
    top_k: int | None = None
    top_p: float | None = None


@dataclass(frozen=True)
class Bans:
    """Tokens that have no part in a distribution. A token has a level, int32 [V], and a position admits levels up to
    its own, int32 [B, Q]: those above hold -inf there."""

    level_V: Tensor
    admitted_BQ: Tensor

    def applied(self, logits_BQV: Tensor) -> Tensor:
        """The logits [B, Q, V] with -inf where a token is banned."""
        return logits_BQV.masked_fill(self.level_V > self.admitted_BQ[..., None], -torch.inf)


@dataclass(frozen=True)
class StatisticsRequest:
    """What to say of distributions over the vocabulary: a token, the most probable one without `sampling`, and the
    statistics wanted. The canvas's tokens, int64 [B, Q], are needed for canvas_log_prob alone, the previous
    distributions for divergence alone. Bans, then credit, change the logits before all else."""

    wanted: frozenset[Statistic] = field(default_factory=frozenset)
    sampling: SamplingParams | None = None
    statistics_temperature: float = 1.0
    canvas_token_BQ: Tensor | None = None
    previous: PreviousDistribution | None = None
    credit: TokenCredit | None = None
    bans: Bans | None = None

    @property
    def needs_logits(self) -> bool:
        """Whether all logits of a position must exist at once."""
        sampling = self.sampling
        cuts = sampling is not None and (sampling.top_k is not None or sampling.top_p is not None)
        return cuts or self.previous is not None or self.credit is not None

    @property
    def needs_normaliser(self) -> bool:
        """Whether a statistic takes the sum over the vocabulary."""
        return not self.wanted.isdisjoint(("log_prob", "canvas_log_prob", "margin", "entropy"))

    @property
    def needs_second(self) -> bool:
        """Whether a statistic takes the second largest logit."""
        return not self.wanted.isdisjoint(("margin", "logit_gap"))

    @property
    def inverse_temperature(self) -> float:
        return 1.0 if self.sampling is None else 1 / bounded(self.sampling.temperature)

    @property
    def inverse_statistics_temperature(self) -> float:
        return 1 / bounded(self.statistics_temperature)

    def check(self, num_rows: int, num_queried: int, vocab_size: int) -> None:
        """ValueError unless the request suits so many rows, positions and tokens."""
        if vocab_size < 1 + self.needs_second:
            raise ValueError(f"{vocab_size} tokens: must be at least {1 + self.needs_second} for what is wanted")
        if "canvas_log_prob" in self.wanted and self.canvas_token_BQ is None:
            raise ValueError("canvas_log_prob is wanted of canvas_token_BQ=None: give the canvas's tokens")
        check_shape("canvas_token_BQ", self.canvas_token_BQ, num_rows, num_queried)
        check_dtype("canvas_token_BQ", self.canvas_token_BQ, torch.int64)
        if self.bans is not None:
            check_shape("level_V", self.bans.level_V, vocab_size)
            check_shape("admitted_BQ", self.bans.admitted_BQ, num_rows, num_queried)
            check_dtype("level_V", self.bans.level_V, torch.int32)
            check_dtype("admitted_BQ", self.bans.admitted_BQ, torch.int32)
        if self.sampling is not None:
            seed_B, position_BQ, step_B = self.sampling.seed_B, self.sampling.position_BQ, self.sampling.step_B
            check_shape("seed_B", seed_B, num_rows)
            check_shape("position_BQ", position_BQ, num_rows, num_queried)
            check_shape("step_B", step_B, num_rows)
            for name, value in (("seed_B", seed_B), ("position_BQ", position_BQ), ("step_B", step_B)):
                check_dtype(name, value, torch.int64)


@dataclass(frozen=True)
class TokenStatistics:
    """Per queried position, [B, Q]: the token (int64) and the statistics wanted (float32; nats), else None. nonfinite
    (bool) marks logits of which nothing can be said: one is NaN or inf, or all are -inf; None says that nobody
    looked."""

    token_BQ: Tensor
    log_prob_BQ: Tensor | None = None
    canvas_log_prob_BQ: Tensor | None = None
    margin_BQ: Tensor | None = None
    logit_gap_BQ: Tensor | None = None
    entropy_BQ: Tensor | None = None
    divergence_BQ: Tensor | None = None
    nonfinite_BQ: Tensor | None = None

    @classmethod
    def empty(cls, request: StatisticsRequest, size: tuple[int, int], device: torch.device) -> "TokenStatistics":
        """Room for what the request wants of logits [B, Q, V], where size is (B, Q)."""

        def room(statistic: Statistic) -> Tensor | None:
            return torch.empty(size, dtype=torch.float32, device=device) if statistic in request.wanted else None

        return cls(torch.empty(size, dtype=torch.int64, device=device), room("log_prob"), room("canvas_log_prob"),
                   room("margin"), room("logit_gap"), room("entropy"),
                   nonfinite_BQ=torch.empty(size, dtype=torch.bool, device=device))
