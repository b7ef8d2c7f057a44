"""Who sees whom: the attention pattern is a value of the model's configuration, and a mask is a function of positions.

Each pattern answers `visible(query_BQ, key_BC)`: a bool tensor [B, Q, C] (B may be 1), or None where every query sees
every key. Positions count from the row's first token; they need not be contiguous, so one definition serves training,
recomputation and a cache.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..kernels.checks import check_integer


class AttentionPattern(Protocol):
    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor | None: ...


@dataclass(frozen=True)
class Causal:
    """A position sees itself and what stands before it."""

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        return key_BC[:, None, :] <= query_BQ[:, :, None]


@dataclass(frozen=True)
class Bidirectional:
    """Every position sees every position."""

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> None:
        return None


@dataclass(frozen=True)
class BlockCausal:
    """A position sees its own block of `block` positions and all earlier blocks (BD3-LM, SDAR, LLaDA2)."""

    block: int

    def __post_init__(self) -> None:
        check_integer("block", self.block)

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        return (key_BC // self.block)[:, None, :] <= (query_BQ // self.block)[:, :, None]


@dataclass(frozen=True)
class NoisyClean:
    """BD3-LM's training mask over [noisy | clean] (arXiv 2503.09573): a noisy position sees its own noisy block and
    the clean blocks before it; a clean position sees the clean blocks up to its own. Positions of the clean half are
    given as position + `length`."""

    block: int
    length: int

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        query_clean_BQ1, key_clean_B1C = (query_BQ >= self.length)[:, :, None], (key_BC >= self.length)[:, None, :]
        query_block_BQ1 = (query_BQ % self.length // self.block)[:, :, None]
        key_block_B1C = (key_BC % self.length // self.block)[:, None, :]
        same = (query_clean_BQ1 == key_clean_B1C) & (query_block_BQ1 == key_block_B1C)
        return same | (key_clean_B1C & (key_block_B1C < query_block_BQ1))
