"""Each instruction on lanes alone, against numpy and torch."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from quicksilver.experiments.kernel_bench.emulator import Fault

from .programs import LANES, calculated

RANDOM = np.random.default_rng(0)
INTEGERS = RANDOM.integers(-2**31, 2**31, (3, LANES)).astype(np.int32)
INTEGERS[:, :4] = [[0, -1, 2**31 - 1, -2**31], [1, -1, 1, 3], [5, 6, 7, 8]]
FLOATS = RANDOM.standard_normal((3, LANES)).astype(np.float32)
SMALL = np.arange(LANES, dtype=np.int32)
Expected = Callable[..., Any]


def low(values: Iterable[Any]) -> list[int]:
    """The low 32 bits."""
    return [int(value) & 0xFFFFFFFF for value in values]


@pytest.mark.parametrize(("statement", "expected"), [
    ("add.s32", lambda x, y, z: x + y), ("sub.s32", lambda x, y, z: x - y), ("mul.lo.s32", lambda x, y, z: x * y),
    ("and.b32", lambda x, y, z: x & y), ("or.b32", lambda x, y, z: x | y), ("xor.b32", lambda x, y, z: x ^ y),
    ("min.s32", lambda x, y, z: min(x, y)), ("max.s32", lambda x, y, z: max(x, y)),
    ("min.u32", lambda x, y, z: min(x % 2**32, y % 2**32)),
    ("mul.hi.u32", lambda x, y, z: x % 2**32 * (y % 2**32) >> 32),
    ("mul.hi.s32", lambda x, y, z: x * y >> 32), ("mad.lo.s32", lambda x, y, z: x * y + z),
    ("div.s32", lambda x, y, z: int(x / y)), ("rem.s32", lambda x, y, z: x - int(x / y) * y),
    ("div.u32", lambda x, y, z: x % 2**32 // (y % 2**32)), ("not.b32", lambda x, y, z: ~x),
    ("neg.s32", lambda x, y, z: -x), ("abs.s32", lambda x, y, z: abs(x)),
    ("popc.b32", lambda x, y, z: (x % 2**32).bit_count()), ("clz.b32", lambda x, y, z: 32 - (x % 2**32).bit_length())])
def test_integers(statement: str, expected: Expected) -> None:
    number = {"not": 1, "neg": 1, "abs": 1, "popc": 1, "clz": 1, "mad": 3}.get(statement.partition(".")[0], 2)
    operands = ", ".join(f"%r{10 + place}" for place in range(number))
    found = calculated(f"{statement} %r30, {operands};", *INTEGERS[:number])
    rows = zip(*(map(int, row) for row in INTEGERS), strict=True)
    assert low(found) == low([expected(*row) for row in rows])


def test_wide_products_and_sums() -> None:
    x, y = (row.astype(np.int64) for row in INTEGERS[:2])
    assert calculated("mul.wide.s32 %rd30, %r10, %r11;", *INTEGERS[:2], bits=64).tolist() == (x * y).tolist()
    assert calculated("mad.wide.s32 %rd30, %r10, 2, %rd11;", INTEGERS[0], y, bits=64).tolist() == (2 * x + y).tolist()
    assert calculated("mul.hi.u64 %rd30, %rd10, %rd11;", x, y, bits=64).view(np.uint64).tolist() == [
        (int(one) % 2**64) * (int(other) % 2**64) >> 64 for one, other in zip(x, y, strict=True)]


def test_shifts_by_the_width_and_more() -> None:
    counts = np.array([0, 1, 31, 32, 40, 255, *range(26)], np.int32)
    unsigned = INTEGERS[0].view(np.uint32).astype(np.uint64)
    for statement, expected in (
            ("shl.b32", [int(value) << int(count) for value, count in zip(unsigned, counts, strict=True)]),
            ("shr.u32", [int(value) >> int(count) for value, count in zip(unsigned, counts, strict=True)]),
            ("shr.s32", [int(value) >> int(count) for value, count in zip(INTEGERS[0], counts, strict=True)])):
        assert low(calculated(f"{statement} %r30, %r10, %r11;", INTEGERS[0], counts)) == low(expected)


@pytest.mark.parametrize(("statement", "expected"), [
    ("add.f32 %r30, %r10, %r11;", lambda x, y, z: x + y), ("mul.f32 %r30, %r10, %r11;", lambda x, y, z: x * y),
    ("sub.f32 %r30, %r10, %r11;", lambda x, y, z: x - y), ("div.full.f32 %r30, %r10, %r11;", lambda x, y, z: x / y),
    ("fma.rn.f32 %r30, %r10, %r11, %r12;", lambda x, y, z: (x.double() * y.double() + z.double()).float()),
    ("max.f32 %r30, %r10, %r11;", lambda x, y, z: x.fmax(y)), ("neg.f32 %r30, %r10;", lambda x, y, z: -x),
    ("abs.f32 %r30, %r10;", lambda x, y, z: x.abs()), ("ex2.approx.f32 %r30, %r10;", lambda x, y, z: x.exp2()),
    ("lg2.approx.f32 %r30, %r10;", lambda x, y, z: x.log2()), ("sqrt.rn.f32 %r30, %r10;", lambda x, y, z: x.sqrt()),
    ("rsqrt.approx.f32 %r30, %r10;", lambda x, y, z: x.rsqrt())])
def test_floats(statement: str, expected: Expected) -> None:
    found = torch.from_numpy(calculated(statement, *FLOATS).view(np.float32))
    torch.testing.assert_close(found, expected(*map(torch.from_numpy, FLOATS)), equal_nan=True)


@pytest.mark.parametrize(("kind", "dtype"), [("bf16x2", torch.bfloat16), ("f16x2", torch.float16)])
def test_pairs_of_halves(kind: str, dtype: torch.dtype) -> None:
    pairs = torch.randn(3, LANES, 2).to(dtype)
    inputs = [pair.view(torch.int32)[:, 0].numpy() for pair in pairs]
    found = torch.from_numpy(calculated(f"fma.rn.{kind} %r30, %r10, %r11, %r12;", *inputs)).view(dtype).view(LANES, 2)
    x, y, z = pairs.double()
    torch.testing.assert_close(found, (x * y + z).to(dtype))


def test_registers_are_joined_and_split() -> None:
    joined = "mov.b32 {%rs1, %rs2}, %r10; mov.b32 %r30, {%rs2, %rs1};"
    words = INTEGERS[0].view(np.uint16).reshape(-1, 2)
    assert calculated(joined, INTEGERS[0]).view(np.uint16).reshape(-1, 2).tolist() == words[:, ::-1].tolist()
    assert calculated("mov.b64 {%r30, _}, %rd10;", INTEGERS[0].astype(np.int64)).tolist() == INTEGERS[0].tolist()


@pytest.mark.parametrize(("comparison", "expected"), [
    ("lt.s32", lambda x, y: x < y), ("ge.u32", lambda x, y: x.view(np.uint32) >= y.view(np.uint32)),
    ("eq.b32", lambda x, y: x == y), ("ne.b32", lambda x, y: x != y)])
def test_comparisons_of_integers(comparison: str, expected: Expected) -> None:
    found = calculated(f"setp.{comparison} %p1, %r10, %r11; selp.b32 %r30, 1, 0, %p1;", *INTEGERS[:2])
    assert found.tolist() == expected(*INTEGERS[:2]).astype(int).tolist()


def test_comparisons_of_floats_with_nan() -> None:
    x, y = FLOATS[:2].copy()
    x[:8] = np.nan
    y[4:12] = np.nan
    is_nan = np.isnan(x) | np.isnan(y)
    for comparison, expected in (("lt", (x < y) & ~is_nan), ("ltu", (x < y) | is_nan), ("ne", (x != y) & ~is_nan),
                                 ("neu", (x != y) | is_nan), ("nan", is_nan), ("num", ~is_nan)):
        found = calculated(f"setp.{comparison}.f32 %p1, %r10, %r11; selp.b32 %r30, 1, 0, %p1;", x, y)
        assert found.tolist() == expected.astype(int).tolist(), comparison


def test_a_comparison_is_combined_with_a_predicate() -> None:
    body = "setp.lt.s32 %p1, %r10, 20; setp.ge.and.s32 %p2, %r10, 10, %p1; selp.b32 %r30, 1, 0, %p2;"
    assert calculated(body, SMALL).tolist() == [int(10 <= value < 20) for value in SMALL]


def test_conversions() -> None:
    numbers = np.array([-2.5, -0.5, 0.5, 1.5, 2.5, 3e9, -3e9, np.nan] * 4, np.float32)
    for rounding, expected in (("rzi", [-2, 0, 0, 1, 2]), ("rni", [-2, 0, 0, 2, 2]), ("rmi", [-3, -1, 0, 1, 2])):
        found = calculated(f"cvt.{rounding}.s32.f32 %r30, %r10;", numbers)
        assert found[:8].tolist() == [*expected, 2**31 - 1, -2**31, 0]
    assert calculated("cvt.rn.f32.s32 %r30, %r10;", SMALL).view(np.float32).tolist() == SMALL.tolist()
    assert calculated("cvt.s64.s32 %rd30, %r10;", INTEGERS[0], bits=64).tolist() == INTEGERS[0].tolist()
    pair = torch.from_numpy(calculated("cvt.rn.bf16x2.f32 %r30, %r10, %r11;", *FLOATS[:2])).view(torch.bfloat16)
    assert torch.equal(pair.view(LANES, 2), torch.from_numpy(FLOATS[1::-1].copy()).T.bfloat16())


def test_bits_and_bytes_are_picked() -> None:
    value = np.full(LANES, 0x8123_45F6 - 2**32, np.int32)
    assert calculated("bfe.u32 %r30, %r10, 4, 8;", value)[0] == 0x5F
    assert calculated("bfe.s32 %r30, %r10, 4, 4;", value)[0] == -1
    assert low(calculated("prmt.b32 %r30, %r10, %r11, 0x5410;", value, SMALL))[3] == 0x0003_45F6
    assert low(calculated("prmt.b32 %r30, %r10, 0, 0x8888;", value))[0] == 0xFFFFFFFF


def test_division_by_zero_is_a_fault() -> None:
    with pytest.raises(Fault, match=r"div\.s32 %r30, %r10, %r11: divides an integer by zero"):
        calculated("div.s32 %r30, %r10, %r11;", SMALL, SMALL)
