"""Memory that faults where values would be uncertain, or lost."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from quicksilver.experiments.kernel_bench.emulator.memory import GlobalMemory, SharedMemory
from quicksilver.experiments.kernel_bench.emulator.ptx import Fault


def at(*places: int) -> NDArray[np.int64]:
    return np.array(places, np.int64)


def words(*values: int) -> NDArray[np.uint8]:
    """A row of four bytes each."""
    return np.array(values, np.uint32).view(np.uint8).reshape(-1, 4)


def test_global_memory_is_that_of_the_tensors() -> None:
    one, other = torch.arange(4, dtype=torch.int32), torch.zeros(2, dtype=torch.int32)
    memory = GlobalMemory([one, other, one[2:]])
    loaded = memory.load(at(one.data_ptr() + 4, other.data_ptr()), 4, 0)
    assert loaded.view(np.int32).tolist() == [[1], [0]]
    memory.store(at(other.data_ptr() + 4), words(7), 0)
    assert other.tolist() == [0, 7]


@pytest.mark.parametrize(("place", "size", "message"), [
    (16, 4, "outside of every tensor"), (-4, 4, "outside of every tensor"), (8, 16, "misaligned"),
    (12, 8, "misaligned")])
def test_accesses_beside_a_tensor_or_across_are_faults(place: int, size: int, message: str) -> None:
    tensor = torch.zeros(64, dtype=torch.int32)[:4].clone()
    start = tensor.data_ptr()
    with pytest.raises(Fault, match=message):
        GlobalMemory([tensor]).load(at(start + place), size, 0)


def test_thread_blocks_may_share_what_they_read_and_nothing_else() -> None:
    tensor = torch.zeros(4, dtype=torch.int32)
    start = tensor.data_ptr()
    memory = GlobalMemory([tensor])
    memory.load(at(start), 4, 0)
    memory.load(at(start), 4, 1)
    memory.store(at(start + 8), words(1), 0)
    memory.store(at(start + 8), words(2), 0)
    with pytest.raises(Fault, match="writes what another read"):
        memory.store(at(start), words(1), 1)
    with pytest.raises(Fault, match="two thread blocks write one byte"):
        memory.store(at(start + 8), words(2), 1)
    with pytest.raises(Fault, match="reads what another wrote"):
        memory.load(at(start + 8), 4, 1)


def test_threads_that_store_to_one_place_store_one_value() -> None:
    tensor = torch.zeros(4, dtype=torch.int32)
    memory, shared = GlobalMemory([tensor]), SharedMemory(16)
    twice = at(tensor.data_ptr(), tensor.data_ptr())
    memory.store(twice, words(3, 3), 0)
    shared.store(at(0, 0), words(3, 3), 0)
    with pytest.raises(Fault, match="different values to one place"):
        memory.store(twice, words(3, 4), 0)
    with pytest.raises(Fault, match="different values to one place"):
        shared.store(at(4, 4), words(3, 4), 0)


@pytest.fixture
def shared() -> SharedMemory:
    """Warp 0 has written 1 and 2 to the first two words."""
    memory = SharedMemory(32)
    memory.store(at(0, 4), words(1, 2), 0)
    return memory


def test_a_warp_sees_what_it_wrote_and_others_after_a_barrier(shared: SharedMemory) -> None:
    assert shared.load(at(4), 4, 0).view(np.uint32).tolist() == [[2]]
    shared.barrier()
    assert shared.load(at(4), 4, 1).view(np.uint32).tolist() == [[2]]


Step = Callable[[SharedMemory], object]


@pytest.mark.parametrize(("steps", "message"), [
    ([lambda memory: memory.load(at(8), 4, 0)], "that nobody wrote"),
    ([lambda memory: memory.load(at(32), 4, 0)], "outside of shared memory"),
    ([lambda memory: memory.load(at(4), 8, 0)], "misaligned"),
    ([lambda memory: memory.load(at(0), 4, 1)], "reads what another warp wrote"),
    ([lambda memory: memory.store(at(0), words(9), 1)], "changes what another warp wrote"),
    ([lambda memory: memory.barrier(), lambda memory: memory.load(at(0), 4, 1),
      lambda memory: memory.store(at(0), words(9), 0)], "changes what another warp read"),
    ([lambda memory: memory.begin_copy(at(8), 4, 0), lambda memory: memory.load(at(4), 4, 0),
      lambda memory: memory.end_copy(at(8), words(5), 0), lambda memory: memory.load(at(8), 4, 1)],
     "reads what another warp wrote"),
    ([lambda memory: memory.begin_copy(at(0), 4, 0), lambda memory: memory.load(at(0), 4, 0)],
     "reads what a copy under way will write"),
    ([lambda memory: memory.begin_copy(at(0), 4, 1)], "changes what another warp wrote"),
    ([lambda memory: memory.begin_product(at(0), 4), lambda memory: memory.store(at(0), words(1), 0)],
     "changes what a product under way reads"),
    ([lambda memory: memory.add(at(0), np.array([1], np.uint32), 1)], "an atomic on what another warp wrote"),
    ([lambda memory: memory.add(at(8), np.array([1], np.uint32), 0)], "an atomic on shared memory that nobody wrote")])
def test_what_shared_memory_refuses(shared: SharedMemory, steps: list[Step], message: str) -> None:
    *before, last = steps
    for step in before:
        step(shared)
    with pytest.raises(Fault, match=message):
        last(shared)


def test_the_same_value_again_is_no_race(shared: SharedMemory) -> None:
    shared.store(at(0), words(1), 1)
    shared.load(at(0), 4, 1)


def test_a_product_that_has_ended_frees_what_it_read(shared: SharedMemory) -> None:
    shared.begin_product(at(0), 4)
    shared.end_product(at(0), 4)
    shared.store(at(0), words(3), 0)


def test_atomics_of_several_warps_add_up_in_order(shared: SharedMemory) -> None:
    shared.barrier()
    ones = np.array([1, 1], np.uint32)
    assert shared.add(at(0, 0), ones, 0).tolist() == [1, 2]
    assert shared.add(at(0, 0), ones, 1).tolist() == [3, 4]
    shared.barrier()
    assert shared.load(at(0), 4, 1).view(np.uint32).tolist() == [[5]]
