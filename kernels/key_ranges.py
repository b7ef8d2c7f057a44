"""Which keys each query of attention sees: any mask, or intervals and lists of tiles, which the Triton kernel reads."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .tensor_checks import check_shape

KEY_TILE = 64
"""Keys in a tile of a list of tiles."""


class VisibleKeys(Protocol):
    """What F queries see of C keys, in each form that an implementation of attention reads."""

    @property
    def visible_BKFC(self) -> Tensor | None:
        """Which keys each query sees, bool; B and K, the key/value heads, may be 1. None: all."""
        ...

    @property
    def is_causal(self) -> bool:
        """Whether query f sees the keys up to f."""
        ...

    @property
    def ranges(self) -> "KeyRanges":
        """The same in intervals and lists. ValueError where they cannot say it."""
        ...

    def check(self, batch: int, num_queries: int, num_keys: int, num_kv_heads: int) -> None:
        """ValueError unless this is about so many."""
        ...


@dataclass(frozen=True)
class KeyRanges(VisibleKeys):
    """Each query sees the keys first_BF <= j < stop_BF (int64; None: 0 and C; B may be 1). tiles_BKN (int32), whose
    first num_tiles_BK (int32) entries count, lists the tiles of KEY_TILE keys that a row's key/value head reads, each
    at most once; None: all."""

    num_keys: int
    first_BF: Tensor | None = None
    stop_BF: Tensor | None = None
    tiles_BKN: Tensor | None = None
    num_tiles_BK: Tensor | None = None

    @property
    def is_causal(self) -> bool:
        return False

    @property
    def ranges(self) -> "KeyRanges":
        return self

    @property
    def visible_BKFC(self) -> Tensor | None:
        parts = []
        if self.first_BF is not None:
            parts.append((self._keys(self.first_BF) >= self.first_BF[..., None])[:, None])
        if self.stop_BF is not None:
            parts.append((self._keys(self.stop_BF) < self.stop_BF[..., None])[:, None])
        if self.tiles_BKN is not None and self.num_tiles_BK is not None:
            parts.append(self._listed(self.tiles_BKN, self.num_tiles_BK)[:, :, None])
        mask = None
        for part in parts:
            mask = part if mask is None else mask & part
        return mask

    def _keys(self, like: Tensor) -> Tensor:
        return torch.arange(self.num_keys, device=like.device)

    def _listed(self, tiles_BKN: Tensor, num_tiles_BK: Tensor) -> Tensor:
        """The keys in listed tiles, bool [B, K, C]."""
        counts_BKN = torch.arange(tiles_BKN.shape[-1], device=tiles_BKN.device) < num_tiles_BK[..., None]
        num_tiles = -(-self.num_keys // KEY_TILE)
        # Entries past the count go to a spare tile.
        listed = torch.zeros(*num_tiles_BK.shape, num_tiles + 1, dtype=torch.bool, device=tiles_BKN.device)
        listed.scatter_(2, tiles_BKN.long().where(counts_BKN, num_tiles), True)
        return listed[:, :, self._keys(tiles_BKN) // KEY_TILE]

    def check(self, batch: int, num_queries: int, num_keys: int, num_kv_heads: int) -> None:
        if num_keys != self.num_keys:
            raise ValueError(f"num_keys={self.num_keys} with {num_keys} keys: must be the same")
        for name, bound_BF in (("first_BF", self.first_BF), ("stop_BF", self.stop_BF)):
            if bound_BF is not None and bound_BF.shape not in ((batch, num_queries), (1, num_queries)):
                raise ValueError(f"{name} {[*bound_BF.shape]}: must be {[batch, num_queries]} or {[1, num_queries]}")
        if self.tiles_BKN is not None and self.num_tiles_BK is not None:
            check_shape("tiles_BKN", self.tiles_BKN, batch, num_kv_heads, self.tiles_BKN.shape[-1])
            check_shape("num_tiles_BK", self.num_tiles_BK, batch, num_kv_heads)
        elif self.tiles_BKN is not self.num_tiles_BK:
            raise ValueError("tiles_BKN and num_tiles_BK: must come both or not at all")


def mask_of_heads(visible: VisibleKeys, num_heads: int) -> Tensor | None:
    """The mask of each query head, bool [B, 1 or H, F, C]."""
    visible_BKFC = visible.visible_BKFC
    if visible_BKFC is None or visible_BKFC.shape[1] == 1:
        return visible_BKFC
    return visible_BKFC.repeat_interleave(num_heads // visible_BKFC.shape[1], dim=1)
