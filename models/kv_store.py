"""The KV cache: keys and values of all layers, kept between forwards."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..kernels.rotate_and_store import KVSlots


@dataclass(frozen=True)
class KVStore:
    """Keys and values, each float [N, B, L + 1, K, D]: one slot per canvas position, and a spare slot L for writes that
    are to be discarded. The tensors are written in place."""

    keys_NBLKD: Tensor
    values_NBLKD: Tensor

    @classmethod
    def empty(cls, *, num_layers: int, num_rows: int, length: int, num_kv_heads: int, head_width: int,
              like: Tensor) -> "KVStore":
        """A store of zeros with `like`'s dtype and device."""
        size = (num_layers, num_rows, length + 1, num_kv_heads, head_width)
        return cls(like.new_zeros(size), like.new_zeros(size))

    @property
    def num_bytes(self) -> int:
        return 2 * self.keys_NBLKD.numel() * self.keys_NBLKD.element_size()

    def rows(self, index_B: Tensor) -> "KVStore":
        """The store of the rows at index_B."""
        return KVStore(self.keys_NBLKD[:, index_B], self.values_NBLKD[:, index_B])

    def write(self, slots_BF: Tensor, context: int) -> "KVWrite":
        """A write of the fed positions to slots_BF (int64). Queries then read the first `context` slots."""
        if len(slots_BF) == 1:
            return KVWrite(self, slots_BF[0].contiguous(), context)
        rows_B1 = torch.arange(slots_BF.shape[0], device=slots_BF.device)[:, None]
        return KVWrite(self, (rows_B1 * self.keys_NBLKD.shape[2] + slots_BF).flatten(), context)


@dataclass(frozen=True)
class KVWrite:
    """One forward's write to a store."""

    store: KVStore
    flat_slots_T: Tensor
    context: int

    def put(self, layer: int, k_BFKD: Tensor, v_BFKD: Tensor) -> tuple[Tensor, Tensor]:
        """Write one layer's keys and values of the fed positions; return those of the context, [B, C, K, D]."""
        slots = self.slots(layer)
        slots.keys_SKD.index_copy_(0, self.flat_slots_T, k_BFKD.flatten(0, 1))
        slots.values_SKD.index_copy_(0, self.flat_slots_T, v_BFKD.flatten(0, 1))
        return self.context_of(layer)

    def slots(self, layer: int) -> KVSlots:
        """One layer's slots, and which of them the fed positions are written to."""
        keys_NSKD, values_NSKD = self._slots
        return KVSlots(keys_NSKD[layer], values_NSKD[layer], self.flat_slots_T)

    def context_of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the context in one layer, each [B, C, K, D]."""
        keys_NBCKD, values_NBCKD = self._context
        return keys_NBCKD[layer], values_NBCKD[layer]

    @cached_property
    def _slots(self) -> tuple[Tensor, Tensor]:
        """The slots of all layers, [N, S, K, D]."""
        return self.store.keys_NBLKD.flatten(1, 2), self.store.values_NBLKD.flatten(1, 2)

    @cached_property
    def _context(self) -> tuple[Tensor, Tensor]:
        return self.store.keys_NBLKD[:, :, : self.context], self.store.values_NBLKD[:, :, : self.context]
