"""Memory that faults where a GPU would, and where a GPU would be free to answer in two ways.

Global memory: every byte remembers which thread blocks of the launch touched it. If two of them touch a byte and one
writes it, its value is not certain.

Shared memory: every byte remembers, since the last barrier, which warps read it and which wrote it. What another warp
wrote since must not be read, what another read or wrote must not be changed, and what a copy under way will write or an
asynchronous product still reads must not be touched.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .ptx import Fault

Bytes = NDArray[np.uint8]
Addresses = NDArray[np.int64]
_NOBODY, _SEVERAL = -1, -2


class GlobalMemory:
    """The storages of a launch's tensors, in place. `block` is the number of the thread block that accesses it."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
        held = sorted((pointer, size) for pointer, size in sizes.items() if size)
        self._starts = np.array([pointer for pointer, _ in held], np.int64)
        self._sizes = np.array([size for _, size in held], np.int64)
        # One numbering of the bytes of all storages.
        self._offsets = np.concatenate(([0], np.cumsum(self._sizes)))
        self._storages = [np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(pointer))
                          for pointer, size in held]
        self._writer = np.full(self._offsets[-1], _NOBODY, np.int32)
        self._reader = np.full(self._offsets[-1], _NOBODY, np.int32)

    def load(self, address_N: Addresses, size: int, block: int) -> Bytes:
        """`size` bytes at each address, [N, size]."""
        storage_N, place_NS = self._places(address_N, size, "load")
        number_NS = self._offsets[storage_N][:, None] + place_NS
        writer_NS = self._writer[number_NS]
        if ((writer_NS != _NOBODY) & (writer_NS != block)).any():
            raise Fault("global race: a thread block reads what another wrote in this launch")
        reader_NS = self._reader[number_NS]
        self._reader[number_NS] = np.where((reader_NS == _NOBODY) | (reader_NS == block), block, _SEVERAL)
        found_NS = np.empty(place_NS.shape, np.uint8)
        for storage in np.unique(storage_N):
            here_N = storage_N == storage
            found_NS[here_N] = self._storages[storage][place_NS[here_N]]
        return found_NS

    def store(self, address_N: Addresses, data_NS: Bytes, block: int) -> None:
        storage_N, place_NS = self._places(address_N, data_NS.shape[1], "store")
        number_NS = self._offsets[storage_N][:, None] + place_NS
        writer_NS, reader_NS = self._writer[number_NS], self._reader[number_NS]
        if ((writer_NS != _NOBODY) & (writer_NS != block)).any():
            raise Fault("global race: two thread blocks write one byte")
        if ((reader_NS != _NOBODY) & (reader_NS != block)).any():
            raise Fault("global race: a thread block writes what another read in this launch")
        _refuse_conflicts(number_NS, data_NS)
        self._writer[number_NS] = block
        for storage in np.unique(storage_N):
            here_N = storage_N == storage
            self._storages[storage][place_NS[here_N]] = data_NS[here_N]

    def _places(self, address_N: Addresses, size: int, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The storage of each address, and the places of its bytes there."""
        if (address_N % size).any():
            raise Fault(f"misaligned {what} of {size} bytes")
        storage_N = np.searchsorted(self._starts, address_N, side="right") - 1
        place_N = address_N - self._starts[storage_N]
        if (storage_N < 0).any() or (place_N + size > self._sizes[storage_N]).any():
            raise Fault(f"{what} of {size} bytes outside of every tensor")
        return storage_N, place_N[:, None] + np.arange(size)


class SharedMemory:
    """The shared memory of one thread block."""

    def __init__(self, num_bytes: int) -> None:
        self._bytes = np.zeros(num_bytes, np.uint8)
        self._is_written = np.zeros(num_bytes, bool)
        # A bit for each warp, since the last barrier.
        self._readers = np.zeros(num_bytes, np.int64)
        self._writers = np.zeros(num_bytes, np.int64)
        self._by_atomics = np.zeros(num_bytes, bool)
        self._copies_under_way = np.zeros(num_bytes, np.int32)
        self._products_under_way = np.zeros(num_bytes, np.int32)

    def barrier(self) -> None:
        """All warps have come to it: what was done before is seen by all."""
        self._readers[:] = self._writers[:] = 0
        self._by_atomics[:] = False

    def load(self, address_N: Addresses, size: int, warp: int) -> Bytes:
        """`size` bytes at each address, [N, size]."""
        place_NS = self._places(address_N, size)
        if not self._is_written[place_NS].all():
            raise Fault("reads shared memory that nobody wrote")
        if self._copies_under_way[place_NS].any():
            raise Fault("shared race: reads what a copy under way will write")
        writers_NS = self._writers[place_NS]
        if ((writers_NS != 0) & (writers_NS & (1 << warp) == 0)).any():
            raise Fault("shared race: reads what another warp wrote, without a barrier")
        self._readers[place_NS] |= 1 << warp
        return self._bytes[place_NS]

    def store(self, address_N: Addresses, data_NS: Bytes, warp: int) -> None:
        """Several warps may write the same value, as Triton's replicated layouts do."""
        place_NS = self._places(address_N, data_NS.shape[1])
        changed_NS = (self._bytes[place_NS] != data_NS) | ~self._is_written[place_NS]
        self._refuse_races(place_NS, changed_NS, warp)
        _refuse_conflicts(place_NS, data_NS)
        self._bytes[place_NS] = data_NS
        self._is_written[place_NS] = True
        self._writers[place_NS] |= 1 << warp

    def add(self, address_N: Addresses, values_N: NDArray[np.uint32], warp: int) -> NDArray[np.uint32]:
        """Atomic additions one after another; the values before each."""
        place_NS = self._places(address_N, 4)
        if not self._is_written[place_NS].all():
            raise Fault("an atomic on shared memory that nobody wrote")
        others_NS = (self._writers[place_NS] & ~(1 << warp)) != 0
        if (others_NS & ~self._by_atomics[place_NS]).any():
            raise Fault("shared race: an atomic on what another warp wrote, without a barrier")
        before_N = np.empty_like(values_N)
        for number, place_S in enumerate(place_NS):
            before_N[number] = self._bytes[place_S].view(np.uint32)[0]
            self._bytes[place_S] = (before_N[number : number + 1] + values_N[number]).view(np.uint8)
        self._writers[place_NS] |= 1 << warp
        self._by_atomics[place_NS] = True
        return before_N

    def begin_copy(self, address_N: Addresses, size: int, warp: int) -> None:
        """An asynchronous copy may write from now on."""
        place_NS = self._places(address_N, size)
        self._refuse_races(place_NS, np.ones(place_NS.shape, bool), warp)
        np.add.at(self._copies_under_way, place_NS, 1)

    def end_copy(self, address_N: Addresses, data_NS: Bytes, warp: int) -> None:
        """The copy has written."""
        np.subtract.at(self._copies_under_way, self._places(address_N, data_NS.shape[1]), 1)
        self.store(address_N, data_NS, warp)

    def begin_product(self, address_N: Addresses, size: int) -> None:
        """An asynchronous product reads from now on."""
        np.add.at(self._products_under_way, self._places(address_N, size), 1)

    def end_product(self, address_N: Addresses, size: int) -> None:
        np.subtract.at(self._products_under_way, self._places(address_N, size), 1)

    def _refuse_races(self, place_NS: NDArray[np.int64], changed_NS: NDArray[np.bool_], warp: int) -> None:
        others = ~(1 << warp)
        if (changed_NS & (self._writers[place_NS] & others != 0)).any():
            raise Fault("shared race: changes what another warp wrote, without a barrier")
        if (changed_NS & (self._readers[place_NS] & others != 0)).any():
            raise Fault("shared race: changes what another warp read, without a barrier")
        if self._products_under_way[place_NS].any():
            raise Fault("shared race: changes what a product under way reads")

    def _places(self, address_N: Addresses, size: int) -> NDArray[np.int64]:
        if (address_N % size).any():
            raise Fault(f"misaligned access to {size} bytes of shared memory")
        if (address_N < 0).any() or (address_N + size > len(self._bytes)).any():
            raise Fault(f"access to {size} bytes outside of shared memory")
        return address_N[:, None] + np.arange(size)


def _refuse_conflicts(place_NS: NDArray[np.int64], data_NS: Bytes) -> None:
    """Threads that store to one place at once must store one value."""
    place, first, inverse = np.unique(place_NS, return_index=True, return_inverse=True)
    if len(place) < place_NS.size and (data_NS.reshape(-1)[first][inverse.reshape(-1)] != data_NS.reshape(-1)).any():
        raise Fault("threads store different values to one place at once")
