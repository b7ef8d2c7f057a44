"""Thread blocks, warps and their schedules."""

import pytest
import torch
from quicksilver.experiments.kernel_bench.emulator import Fault, scheduler

from .programs import LANES, run

OWN_PLACE = "mul.wide.u32 %rd10, %r0, 4; add.s64 %rd11, %rd0, %rd10;"


def test_lanes_that_part_meet_again_and_each_loops_as_long_as_it_wants() -> None:
    found = torch.zeros(LANES, dtype=torch.int32)
    run(f"""{OWN_PLACE} mov.b32 %r1, 0; mov.b32 %r2, 0;
$loop:
    add.s32 %r1, %r1, %r2; add.s32 %r2, %r2, 1; setp.le.s32 %p1, %r2, %r0;
    @%p1 bra $loop;
    setp.gt.s32 %p2, %r0, 9;
    @%p2 bra $end;
    st.global.b32 [%rd11], %r1;
$end:""", found)
    assert found.tolist() == [lane * (lane + 1) // 2 if lane < 10 else 0 for lane in range(LANES)]


def test_every_thread_block_runs_once_at_its_place() -> None:
    found = torch.zeros(2 * 3, dtype=torch.int32)
    run("mov.u32 %r1, %ctaid.x; mov.u32 %r2, %ctaid.y; mad.lo.s32 %r3, %r2, 2, %r1; mul.wide.u32 %rd10, %r3, 4; "
        "add.s64 %rd11, %rd0, %rd10; ld.global.b32 %r4, [%rd11]; add.s32 %r4, %r4, 1; add.s32 %r4, %r4, %r3; "
        "st.global.b32 [%rd11], %r4;", found, grid=(2, 3))
    assert found.tolist() == [1, 2, 3, 4, 5, 6]


MIRRORED = (f"{OWN_PLACE} shl.b32 %r1, %r0, 2; st.shared.b32 [%r1], %r0; BARRIER xor.b32 %r2, %r1, 508; "
            "ld.shared.b32 %r3, [%r2]; st.global.b32 [%rd11], %r3;")


@pytest.mark.parametrize("seed", range(5))
def test_a_barrier_is_needed_in_every_schedule(seed: int) -> None:
    found = torch.zeros(4 * LANES, dtype=torch.int32)
    run(MIRRORED.replace("BARRIER", "bar.sync 0;"), found, num_warps=4, shared_bytes=512, seed=seed)
    assert found.tolist() == list(range(4 * LANES))[::-1]
    with pytest.raises(Fault, match=r"made, thread block \(0, 0, 0\), warp \d: ld\.shared.*: (shared race|reads)"):
        run(MIRRORED.replace("BARRIER", ""), found, num_warps=4, shared_bytes=512, seed=seed)


def test_two_thread_blocks_that_write_one_byte_are_found() -> None:
    with pytest.raises(Fault, match="two thread blocks write one byte"):
        run(f"{OWN_PLACE} st.global.b32 [%rd11], %r0;", torch.zeros(LANES, dtype=torch.int32), grid=(2,))


def test_seeds_are_schedules_and_the_instructions_are_counted() -> None:
    counts = {run(MIRRORED.replace("BARRIER", "bar.sync 0;"), torch.zeros(128, dtype=torch.int32), num_warps=4,
                  shared_bytes=512, seed=seed) for seed in range(3)}
    # ld.param, mov, 2 of the place, shl, st, bar, xor, ld, st, ret: of four warps.
    assert counts == {4 * 11}


def test_a_program_that_does_not_end_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_MOST_INSTRUCTIONS", 1000)
    with pytest.raises(Fault, match="does not end"):
        run("$loop:\n bra $loop;")


def test_a_named_barrier_and_one_of_a_part_of_a_warp_are_faults() -> None:
    with pytest.raises(Fault, match="a barrier that is not modelled"):
        run("bar.sync 1, 64;")
    with pytest.raises(Fault, match="a part of a warp"):
        run("setp.lt.u32 %p1, %r0, 8; @%p1 bar.sync 0;")
