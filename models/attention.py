"""Attention patterns and masks. A pattern is a field of the model's configuration; a mask is a function of positions.

`visible(query_BQ, key_BC)` is a bool tensor [B, Q, C] (B may be 1), or None where every query sees every key.
`stop(query_BQ)` is the first position that a query does not see, for patterns in which it sees all earlier ones.
Positions count from the row's first token and need not be contiguous: one definition serves training, recomputation and
KV caches.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from ..kernels.checks import integer_field
from ..kernels.key_ranges import KeyRanges, VisibleKeys


class AttentionPattern(Protocol):
    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor | None: ...

    def stop(self, query_BQ: Tensor) -> Tensor | None:
        """The first position that a query does not see, int64 [B, Q]; None where it sees every position."""
        ...


@dataclass(frozen=True)
class Causal:
    """A position sees itself and all earlier positions."""

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        return key_BC[:, None, :] <= query_BQ[:, :, None]

    def stop(self, query_BQ: Tensor) -> Tensor:
        return query_BQ + 1


@dataclass(frozen=True)
class Bidirectional:
    """Every position sees every position."""

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> None:
        return None

    def stop(self, query_BQ: Tensor) -> None:
        return None


@dataclass(frozen=True)
class BlockCausal:
    """A position sees its own block of `block` positions and all earlier blocks (BD3-LM, SDAR, LLaDA2)."""

    block: int

    def __post_init__(self) -> None:
        integer_field(self, "block")

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        return (key_BC // self.block)[:, None, :] <= (query_BQ // self.block)[:, :, None]

    def stop(self, query_BQ: Tensor) -> Tensor:
        return (query_BQ // self.block + 1) * self.block


@dataclass(frozen=True)
class SlidingWindow:
    """A position sees itself and what `inner`, which sees no later ones, lets it see of the window - 1 before it."""

    inner: AttentionPattern
    window: int

    def __post_init__(self) -> None:
        integer_field(self, "window")

    def first(self, query_BQ: Tensor) -> Tensor:
        """The first position that a query sees, int64 [B, Q], which may be negative."""
        return query_BQ - self.window + 1

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        near_BQC = key_BC[:, None, :] >= self.first(query_BQ)[:, :, None]
        visible_BQC = self.inner.visible(query_BQ, key_BC)
        return near_BQC if visible_BQC is None else visible_BQC & near_BQC

    def stop(self, query_BQ: Tensor) -> Tensor | None:
        return self.inner.stop(query_BQ)


@dataclass(frozen=True)
class CanvasWindow(SlidingWindow):
    """Every position of a canvas, which begins at `start`, sees all of it, and of what comes before the same last
    window - 1 (DiffusionGemma)."""

    start: int

    def first(self, query_BQ: Tensor) -> Tensor:
        """As SlidingWindow's, the same for all of the canvas."""
        return torch.full_like(query_BQ, self.start - self.window + 1)


@dataclass(frozen=True)
class BD3LMMask:
    """BD3-LM's training mask over [noisy | clean] (arXiv 2503.09573). A noisy position sees its own noisy block and the
    clean blocks before it; a clean position sees the clean blocks up to its own. Position p of the clean half is given
    as p + `length`."""

    block: int
    length: int

    def visible(self, query_BQ: Tensor, key_BC: Tensor) -> Tensor:
        query_clean_BQ1, key_clean_B1C = (query_BQ >= self.length)[:, :, None], (key_BC >= self.length)[:, None, :]
        query_block_BQ1 = (query_BQ % self.length // self.block)[:, :, None]
        key_block_B1C = (key_BC % self.length // self.block)[:, None, :]
        same = (query_clean_BQ1 == key_clean_B1C) & (query_block_BQ1 == key_block_B1C)
        return same | (key_clean_B1C & (key_block_B1C < query_block_BQ1))

    def stop(self, query_BQ: Tensor) -> Tensor:
        raise ValueError(f"{self}: what a noisy position sees has a gap, which no interval says; must run in "
                         "PyTorch")


@dataclass(frozen=True)
class AttentionMask(VisibleKeys):
    """What the queries of one forward see of its keys (`VisibleKeys`): worked out once for all layers, as a mask or as
    the number of keys seen, whichever the implementation of attention reads.

    Positions of queries [B, F] and keys [B, C] (int64; B may be 1); keys ascend in each row. Keys at `end` and after
    stand for nothing, where it is given."""

    pattern: AttentionPattern
    query_BF: Tensor
    key_BC: Tensor
    end: int | None = None

    @property
    def visible_BKFC(self) -> Tensor | None:
        """Which keys each query sees, bool [B, 1, F, C]; None: all."""
        return self._visible

    @cached_property
    def _visible(self) -> Tensor | None:
        visible_BFC = self.pattern.visible(self.query_BF, self.key_BC)
        if self.end is not None:
            exists_B1C = (self.key_BC < self.end)[:, None, :]
            visible_BFC = exists_B1C if visible_BFC is None else visible_BFC & exists_B1C
        return None if visible_BFC is None else visible_BFC.unsqueeze(1)

    @property
    def is_causal(self) -> bool:
        """Whether query i and key i are the same position and query i sees the first i + 1 keys."""
        return isinstance(self.pattern, Causal) and self.query_BF is self.key_BC and self.end is None

    @cached_property
    def stop_BF(self) -> Tensor | None:
        """The number of keys each query sees, the first ones, int64; None where it sees all."""
        stop_BF = self.pattern.stop(self.query_BF)
        if self.end is not None:
            end_BF = torch.full_like(self.query_BF, self.end)
            stop_BF = end_BF if stop_BF is None else stop_BF.clamp(max=self.end)
        return None if stop_BF is None else self._num_before(stop_BF)

    @cached_property
    def first_BF(self) -> Tensor | None:
        """The first key that each query sees, int64; None where it sees all that come before."""
        return self._num_before(self.pattern.first(self.query_BF)) if isinstance(self.pattern, SlidingWindow) else None

    def _num_before(self, position_BF: Tensor) -> Tensor:
        """How many keys stand before each of these positions."""
        key_BC = self.key_BC.expand(len(position_BF), -1).contiguous()
        return torch.searchsorted(key_BC, position_BF.expand(len(key_BC), -1).contiguous())

    @property
    def ranges(self) -> KeyRanges:
        return KeyRanges(self.key_BC.shape[1], self.first_BF, self.stop_BF)

    def within(self, window: int | None) -> "AttentionMask | None":
        """The same for layers that see the last `window` positions alone; None where there are none."""
        return None if window is None else replace(self, pattern=SlidingWindow(self.pattern, window))

    def check(self, batch: int, num_queries: int, num_keys: int, num_kv_heads: int) -> None:
        described = self.query_BF.shape[1], self.key_BC.shape[1]
        if described != (num_queries, num_keys):
            raise ValueError(f"a mask of {described} queries and keys with {(num_queries, num_keys)}: must be the same")

    def at(self, index_BQ: Tensor) -> "AttentionMask":
        """The view of the queries that index_BQ picks."""
        query_BF = self.query_BF.expand(len(index_BQ), -1).gather(1, index_BQ)
        return AttentionMask(self.pattern, query_BF, self.key_BC, self.end)
