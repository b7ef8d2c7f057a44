"""Instructions that move data."""

import pytest
import torch
from quicksilver.experiments.kernel_bench.emulator import Fault
from torch import Tensor

from .programs import LANES, run

PLACES = "mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd0, %rd10; add.s64 %rd12, %rd1, %rd10; shl.b32 %r9, %r0, 2;"
LOADED = f"{PLACES} ld.global.b32 %r1, [%rd11];"
STORED = "st.global.b32 [%rd12], %r2;"


def moved(body: str, given: Tensor, num_warps: int = 1, shared_bytes: int = 0) -> Tensor:
    """What a body leaves of the threads' numbers `given`, one in %r1, when it has written %r2."""
    found = torch.zeros_like(given)
    run(f"{LOADED} {body} {STORED}", given, found, num_warps=num_warps,
        shared_bytes=shared_bytes)
    return found


@pytest.fixture
def numbers() -> Tensor:
    return torch.arange(100, 100 + LANES, dtype=torch.int32)


def test_vectors_and_bytes(numbers: Tensor) -> None:
    found = torch.zeros_like(numbers)
    run("mul.wide.u32 %rd10, %r0, 16; add.s64 %rd11, %rd0, %rd10; add.s64 %rd12, %rd1, %rd10; setp.lt.u32 %p1, %r0, 8; "
        "@%p1 ld.global.v4.b32 {%r1, %r2, %r3, %r4}, [%rd11]; @%p1 st.global.v4.b32 [%rd12], {%r4, %r3, %r2, %r1};",
        numbers, found)
    assert found.view(8, 4).tolist() == numbers.view(8, 4).flip(1).tolist()
    signed = torch.tensor([-1] * LANES, dtype=torch.int8)
    wide = torch.zeros(LANES, dtype=torch.int32)
    run(f"{PLACES} cvt.u64.u32 %rd13, %r0; add.s64 %rd14, %rd0, %rd13; ld.global.s8 %r2, [%rd14]; {STORED}",
        signed, wide)
    assert wide.tolist() == [-1] * LANES


@pytest.mark.parametrize(("statement", "expected"), [
    ("shfl.sync.bfly.b32 %r2, %r1, 3, 31, -1;", [lane ^ 3 for lane in range(LANES)]),
    ("shfl.sync.idx.b32 %r2, %r1, 5, 31, -1;", [5] * LANES),
    ("shfl.sync.up.b32 %r2, %r1, 2, 0, -1;", [0, 1, *range(30)]),
    ("shfl.sync.down.b32 %r2, %r1, 2, 31, -1;", [*range(2, 32), 30, 31])])
def test_lanes_exchange(numbers: Tensor, statement: str, expected: list[int]) -> None:
    assert (moved(statement, numbers) - 100).tolist() == expected


def test_lanes_are_reduced_and_vote(numbers: Tensor) -> None:
    assert moved("redux.sync.add.s32 %r2, %r1, -1;", numbers).tolist() == [int(numbers.sum())] * LANES
    assert moved("redux.sync.max.s32 %r2, %r1, -1;", -numbers).tolist() == [-100] * LANES
    ballot = "setp.lt.s32 %p1, %r1, 104; vote.sync.ballot.b32 %r2, %p1, -1;"
    assert moved(ballot, numbers).tolist() == [0b1111] * LANES


def test_a_part_of_a_warp_cannot_do_what_takes_all_of_it(numbers: Tensor) -> None:
    with pytest.raises(Fault, match="a part of a warp"):
        moved("setp.lt.u32 %p1, %r0, 8; @%p1 redux.sync.add.s32 %r2, %r1, -1;", numbers)


def test_atomics_give_each_lane_what_was_before(numbers: Tensor) -> None:
    body = ("mov.b32 %r3, 0; mov.b32 %r4, 1; setp.eq.s32 %p1, %r0, 0; @%p1 st.shared.b32 [global_smem], %r3; "
            "bar.sync 0; atom.shared.add.u32 %r2, [global_smem], %r4;")
    assert moved(body, numbers, shared_bytes=16).tolist() == list(range(LANES))


COPY = "cp.async.ca.shared.global [%r9+0], [%rd11+0], 0x4; cp.async.commit_group;"


@pytest.mark.parametrize("taken", [4, 0])
def test_a_copy_is_there_when_its_group_was_waited_for(numbers: Tensor, taken: int) -> None:
    body = f"mov.b32 %r3, {taken}; {COPY.replace('0x4', '0x4, %r3')} cp.async.wait_group 0x0; ld.shared.b32 %r2, [%r9];"
    assert moved(body, numbers, shared_bytes=128).tolist() == (numbers if taken else 0 * numbers).tolist()


def test_a_wait_that_is_too_weak_is_a_fault(numbers: Tensor) -> None:
    with pytest.raises(Fault, match="that nobody wrote|a copy under way"):
        moved(f"{COPY} cp.async.wait_group 0x1; ld.shared.b32 %r2, [%r9];", numbers, shared_bytes=128)


def test_another_warp_s_copy_is_seen_after_a_barrier() -> None:
    numbers = torch.arange(2 * LANES, dtype=torch.int32)
    body = f"{COPY} cp.async.wait_group 0x0; BARRIER xor.b32 %r8, %r9, 128; ld.shared.b32 %r2, [%r8];"
    assert moved(body.replace("BARRIER", "bar.sync 0;"), numbers, shared_bytes=256, num_warps=2).tolist() == [
        *range(LANES, 2 * LANES), *range(LANES)]
    with pytest.raises(Fault, match="another warp wrote|that nobody wrote|a copy under way"):
        moved(body.replace("BARRIER", ""), numbers, shared_bytes=256, num_warps=2)


def test_what_is_not_modelled_is_a_fault(numbers: Tensor) -> None:
    for statement in ("atom.global.add.u32 %r2, [%rd11], %r1;", "vote.sync.any.pred %p1, %p2, -1;",
                      "nanosleep.u32 %r1;", "cvt.rn.satfinite.e4m3x2.f32 %rs1, %r1, %r1;", "setp.lo.u32 %p1, %r1, 4;"):
        with pytest.raises(Fault, match="not modelled"):
            moved(statement, numbers)
