"""Rotary frequencies (Su et al., arXiv 2104.09864), and how published models stretch them over longer texts.

    f_i = theta^(-2i/R),   i < R/2

    LinearScaling   f / factor                                                   (position interpolation, 2306.15595)
    Llama3Scaling   f / factor for wavelengths above original / low, f below original / high, between them a mixture
    YarnScaling     the same between rotations, and cos and sin times 1 + ln(factor) / 10     (YaRN, 2309.00071)
    DividedScaling  f_i / divisor_i                                                       (LongRoPE, 2402.13753)
    ProportionalScaling  the first f_i / factor, 0 for the others                         (Gemma 4)
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.checks import check_instance, check_real, integer_field, real_field


class RopeScaling(Protocol):
    @property
    def amplitude(self) -> float:
        """What cos and sin are multiplied by."""
        ...

    def scaled(self, frequency_H: Tensor, theta: float) -> Tensor:
        """Other frequencies for these, float64 [R / 2]."""
        ...


@dataclass(frozen=True)
class LinearScaling:
    factor: float

    def __post_init__(self) -> None:
        real_field(self, "factor", above=0)

    @property
    def amplitude(self) -> float:
        return 1.0

    def scaled(self, frequency_H: Tensor, theta: float) -> Tensor:
        return frequency_H / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """`low` and `high` count the rotations over `original` positions between which frequencies are mixed."""

    factor: float
    low: float
    high: float
    original: int

    def __post_init__(self) -> None:
        real_field(self, "factor", above=0)
        real_field(self, "low", above=0)
        real_field(self, "high", above=self.low)
        integer_field(self, "original")

    @property
    def amplitude(self) -> float:
        return 1.0

    def scaled(self, frequency_H: Tensor, theta: float) -> Tensor:
        rotations_H = self.original * frequency_H / (2 * math.pi)
        kept_H = ((rotations_H - self.low) / (self.high - self.low)).clamp(0, 1)
        return frequency_H * (kept_H + (1 - kept_H) / self.factor)


@dataclass(frozen=True)
class YarnScaling:
    """Frequencies of more than `beta_fast` rotations over `original` positions stay, those of fewer than `beta_slow`
    are divided by `factor`; between the two the mixture is linear in the dimension, whose bounds are whole numbers
    where `truncate`. `attention_factor` (None: 1 + ln(factor) / 10) multiplies cos and sin."""

    factor: float
    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        real_field(self, "factor", above=0)
        integer_field(self, "original")
        real_field(self, "beta_slow", above=0)
        real_field(self, "beta_fast", above=self.beta_slow)
        if self.attention_factor is not None:
            real_field(self, "attention_factor", above=0)
        check_instance("truncate", self.truncate, bool)

    @property
    def amplitude(self) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def scaled(self, frequency_H: Tensor, theta: float) -> Tensor:
        half = len(frequency_H)
        low, high = (half * math.log(self.original / (rotations * 2 * math.pi)) / math.log(theta)
                     for rotations in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * half - 1)
        ramp_H = torch.arange(half, dtype=torch.float64)
        stretched_H = ((ramp_H - low) / (high - low if high > low else 1e-3)).clamp(0, 1)
        return frequency_H * (1 - stretched_H + stretched_H / self.factor)


@dataclass(frozen=True)
class DividedScaling:
    """Each frequency has its own divisor; cos and sin are multiplied by `amplitude`."""

    divisors: tuple[float, ...]
    amplitude: float = 1.0

    def __post_init__(self) -> None:
        divisors = tuple(check_real(f"divisors[{place}]", value, above=0) for place, value in enumerate(self.divisors))
        object.__setattr__(self, "divisors", divisors)
        real_field(self, "amplitude", above=0)

    def scaled(self, frequency_H: Tensor, theta: float) -> Tensor:
        if len(self.divisors) != len(frequency_H):
            raise ValueError(f"divisors: {len(self.divisors)} of them: must be {len(frequency_H)}, one a frequency")
        return frequency_H / torch.tensor(self.divisors, dtype=torch.float64)


@dataclass(frozen=True)
class ProportionalScaling:
    """Of the pairs of dimensions the first `fraction` turn, and the others not at all."""

    fraction: float
    factor: float = 1.0

    def __post_init__(self) -> None:
        real_field(self, "fraction", at_least=0, at_most=1)
        real_field(self, "factor", above=0)

    @property
    def amplitude(self) -> float:
        return 1.0

    def scaled(self, frequency_H: Tensor, theta: float) -> Tensor:
        turning = int(self.fraction * 2 * len(frequency_H) // 2)
        return torch.cat((frequency_H[:turning] / self.factor, torch.zeros_like(frequency_H[turning:])))


def frequencies(rope_width: int, theta: float, scaling: RopeScaling | None) -> Tensor:
    """The angle per position of each pair of dimensions, float64 [R / 2]."""
    half = rope_width // 2
    frequency_H = theta ** (-torch.arange(half, dtype=torch.float64) / max(half, 1))
    return frequency_H if scaling is None else scaling.scaled(frequency_H, theta)


def rotary_tables(num_positions: int, frequency_H: Tensor, amplitude: float = 1.0) -> tuple[Tensor, Tensor]:
    """cos and sin of every position's angles as `kernels.rotate_and_store.Rope` takes them, each float32 [L, R]."""
    angle_LH = torch.arange(num_positions)[:, None] * frequency_H
    cos_LH, sin_LH = (amplitude * angle_LH.cos()).float(), (amplitude * angle_LH.sin()).float()
    return torch.cat((cos_LH, cos_LH), -1), torch.cat((-sin_LH, sin_LH), -1)
