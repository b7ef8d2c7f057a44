"""The KV cache: keys and values of all layers, kept between forwards."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count

import torch
from torch import Tensor

from ..kernels.rotate_and_store import KVSlots


@dataclass(frozen=True)
class KVStore:
    """Keys and values, each float [N, B, L + 1, K, D]: one slot per canvas position, and a spare slot L for writes that
    are to be discarded. The tensors are written in place.

    Layers with other heads than the first have a store of their own, `others`; `places` says where in it each layer is,
    None for those that are here, in their order."""

    keys_NBLKD: Tensor
    values_NBLKD: Tensor
    others: "KVStore | None" = None
    places: tuple[int | None, ...] = ()

    @classmethod
    def empty(cls, *, num_layers: int, num_rows: int, length: int, num_kv_heads: int, head_width: int,
              like: Tensor) -> "KVStore":
        """A store of zeros with `like`'s dtype and device."""
        size = (num_layers, num_rows, length + 1, num_kv_heads, head_width)
        return cls(like.new_zeros(size), like.new_zeros(size))

    @classmethod
    def of_heads(cls, heads_N: Sequence[tuple[int, int]], *, num_rows: int, length: int, like: Tensor) -> "KVStore":
        """The same for layers of so many heads of keys and values, of such a width each. ValueError for more than two
        kinds of them."""
        stores = [cls.empty(num_layers=heads_N.count(kind), num_rows=num_rows, length=length, num_kv_heads=kind[0],
                            head_width=kind[1], like=like) for kind in dict.fromkeys(heads_N)]
        if len(stores) == 1:
            return stores[0]
        if len(stores) > 2:
            raise ValueError(f"heads_N={list(heads_N)}: must be of at most two kinds")
        first, others = stores
        numbers = count()
        places = tuple(None if heads == heads_N[0] else next(numbers) for heads in heads_N)
        return cls(first.keys_NBLKD, first.values_NBLKD, others, places)

    @property
    def num_bytes(self) -> int:
        own = 2 * self.keys_NBLKD.numel() * self.keys_NBLKD.element_size()
        return own if self.others is None else own + self.others.num_bytes

    def rows(self, index_B: Tensor) -> "KVStore":
        """The store of the rows at index_B."""
        others = None if self.others is None else self.others.rows(index_B)
        return KVStore(self.keys_NBLKD[:, index_B], self.values_NBLKD[:, index_B], others, self.places)

    def place_of(self, layer: int) -> tuple[bool, int]:
        """Whether a layer is among the others, and its place there or here."""
        place = self.places[layer] if self.others is not None else None
        if place is not None:
            return True, place
        return False, layer - sum(before is not None for before in self.places[:layer])

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
        among_others, place = self.store.place_of(layer)
        if among_others:
            return self._others.slots(place)
        keys_NSKD, values_NSKD = self._slots
        return KVSlots(keys_NSKD[place], values_NSKD[place], self.flat_slots_T)

    def context_of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the context in one layer, each [B, C, K, D]."""
        among_others, place = self.store.place_of(layer)
        if among_others:
            return self._others.context_of(place)
        keys_NBCKD, values_NBCKD = self._context
        return keys_NBCKD[place], values_NBCKD[place]

    @cached_property
    def _others(self) -> "KVWrite":
        assert self.store.others is not None
        return KVWrite(self.store.others, self.flat_slots_T, self.context)

    @cached_property
    def _slots(self) -> tuple[Tensor, Tensor]:
        """The slots of all layers, [N, S, K, D]."""
        return self.store.keys_NBLKD.flatten(1, 2), self.store.values_NBLKD.flatten(1, 2)

    @cached_property
    def _context(self) -> tuple[Tensor, Tensor]:
        return self.store.keys_NBLKD[:, :, : self.context], self.store.values_NBLKD[:, :, : self.context]
