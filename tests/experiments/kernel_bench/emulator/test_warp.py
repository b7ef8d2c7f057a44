"""A warp's registers."""

import numpy as np
import pytest
from quicksilver.experiments.kernel_bench.emulator.memory import GlobalMemory, SharedMemory
from quicksilver.experiments.kernel_bench.emulator.ptx import Fault, parse
from quicksilver.experiments.kernel_bench.emulator.warp import LANES, Launch, Warp

from .programs import kernel

ALL = np.ones(LANES, bool)


@pytest.fixture
def warp() -> Warp:
    """Warp 1 of 4 in thread block (2, 1, 0) of a grid of 3 x 2, with two parameters."""
    launch = Launch(parse(kernel("", 2)), {"made_param_0": -1, "made_param_1": 0.5}, (3, 2, 1), 4, GlobalMemory([]))
    return Warp(launch, (2, 1, 0), 1, SharedMemory(64))


def test_active_lanes_alone_are_written(warp: Warp) -> None:
    warp.write("%r1", np.arange(LANES), "u32", ALL)
    warp.write("%r1", np.full(LANES, 99), "u32", np.arange(LANES) < 2)
    assert warp.read("%r1", "u32").tolist() == [99, 99, *range(2, LANES)]
    warp.write("_", np.zeros(LANES), "u32", ALL)


def test_a_wider_register_takes_signs_along_and_a_narrower_read_the_low_bits(warp: Warp) -> None:
    warp.write("%rd1", np.full(LANES, -2), "s32", ALL)
    warp.write("%rd2", np.full(LANES, 0xFFFFFFFE), "u32", ALL)
    assert warp.read("%rd1", "s64")[0] == -2
    assert warp.read("%rd2", "s64")[0] == 0xFFFFFFFE
    assert warp.read("%rd1", "b16")[0] == 0xFFFE


def test_constants_and_special_registers(warp: Warp) -> None:
    for operand, kind, expected in (
            ("-3", "s32", -3), ("0x10", "u32", 16), ("0f3F800000", "f32", 1), ("0dBFF0000000000000", "f64", -1),
            ("1", "pred", True), ("global_smem", "u32", 0), ("%ctaid.x", "u32", 2), ("%ctaid.y", "u32", 1),
            ("%nctaid.x", "u32", 3), ("%ntid.x", "u32", 128), ("%laneid", "u32", 0), ("%tid.x", "u32", 32)):
        assert warp.read(operand, kind)[0] == expected, operand
    assert warp.read("%tid.x", "u32").tolist() == list(range(32, 64))
    assert warp.block_number == 5


def test_parameters(warp: Warp) -> None:
    assert warp.parameter("made_param_0", "b32")[0] == 0xFFFFFFFF
    assert warp.parameter("made_param_0", "u64")[0] == 2**64 - 1
    assert warp.parameter("made_param_1", "f32").view(np.float32)[0] == 0.5


def test_addresses_are_those_of_active_lanes_with_their_offset(warp: Warp) -> None:
    warp.write("%rd3", 16 * np.arange(LANES), "u64", ALL)
    assert warp.addresses("[%rd3+8]", np.arange(LANES) < 2).tolist() == [8, 24]
    assert warp.addresses("[ %rd3 + -8 ]", np.arange(LANES) == 1).tolist() == [8]
    assert warp.addresses("[global_smem+32]", np.arange(LANES) == 1, "u32").tolist() == [32]
    with pytest.raises(Fault, match="cannot be read as an address"):
        warp.addresses("[%rd3 * 2]", ALL)


def test_registers_that_a_product_will_write_are_not_for_use(warp: Warp) -> None:
    warp.busy_registers = {"%r1", "%r2"}
    warp.refuse_busy(["%r3", "[%rd1]"])
    with pytest.raises(Fault, match="a product under way writes"):
        warp.refuse_busy(["%r3", "{%r1, %r4}"])


def test_a_register_that_is_not_declared_is_a_fault(warp: Warp) -> None:
    with pytest.raises(Fault, match="%q1: is not declared"):
        warp.read("%q1", "u32")
