"""The KV cache: keys and values of all layers, kept between forwards."""

from collections.abc import Sequence
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
class KVStoreOfTwo(KVStore):
    """Layers of other heads than the first have a store of their own, `others`. `places` says of each layer whether it
    is there, and its place there or here."""

    others: KVStore
    places: tuple[tuple[bool, int], ...]

    @property
    def num_bytes(self) -> int:
        return super().num_bytes + self.others.num_bytes

    def rows(self, index_B: Tensor) -> "KVStoreOfTwo":
        """As KVStore's."""
        own = super().rows(index_B)
        return KVStoreOfTwo(own.keys_NBLKD, own.values_NBLKD, self.others.rows(index_B), self.places)


def store_of_heads(heads_N: Sequence[tuple[int, int]], *, num_rows: int, length: int, like: Tensor) -> KVStore:
    """A store of zeros for layers of so many heads of keys and values, of such a width each, with `like`'s dtype and
    device. ValueError for more than two kinds of them."""
    stores = [KVStore.empty(num_layers=heads_N.count(kind), num_rows=num_rows, length=length, num_kv_heads=kind[0],
                            head_width=kind[1], like=like) for kind in dict.fromkeys(heads_N)]
    if len(stores) == 1:
        return stores[0]
    if len(stores) > 2:
        raise ValueError(f"heads_N={list(heads_N)}: must be of at most two kinds")
    first, others = stores
    places = tuple((heads != heads_N[0], heads_N[:layer].count(heads)) for layer, heads in enumerate(heads_N))
    return KVStoreOfTwo(first.keys_NBLKD, first.values_NBLKD, others, places)


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
        among_others, place = self._place(layer)
        if among_others is not None:
            return among_others.slots(place)
        keys_NSKD, values_NSKD = self._slots
        return KVSlots(keys_NSKD[place], values_NSKD[place], self.flat_slots_T)

    def context_of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the context in one layer, each [B, C, K, D]."""
        among_others, place = self._place(layer)
        if among_others is not None:
            return among_others.context_of(place)
        keys_NBCKD, values_NBCKD = self._context
        return keys_NBCKD[place], values_NBCKD[place]

    def _place(self, layer: int) -> tuple["KVWrite | None", int]:
        """A layer's place, and the write to the store of the others if it is there."""
        if not isinstance(self.store, KVStoreOfTwo):
            return None, layer
        is_other, place = self.store.places[layer]
        return self._others if is_other else None, place

    @cached_property
    def _others(self) -> "KVWrite":
        assert isinstance(self.store, KVStoreOfTwo)
        return KVWrite(self.store.others, self.flat_slots_T, self.context)

    @cached_property
    def _slots(self) -> tuple[Tensor, Tensor]:
        """The slots of all layers, [N, S, K, D]."""
        return self.store.keys_NBLKD.flatten(1, 2), self.store.values_NBLKD.flatten(1, 2)

    @cached_property
    def _context(self) -> tuple[Tensor, Tensor]:
        return self.store.keys_NBLKD[:, :, : self.context], self.store.values_NBLKD[:, :, : self.context]
