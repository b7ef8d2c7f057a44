"""Numbers and their bits, against torch's."""

import numpy as np
import pytest
import torch
from quicksilver.experiments.kernel_bench.emulator.number_types import ROUNDED, decoded, encoded, is_float, num_bits

SPECIAL = [0.0, -0.0, 1.0, -2.5, 3.0e38, 1e-40, float("inf"), float("-inf"), 1.00390625, 1.01171875, 65519.0, 65520.0]


@pytest.mark.parametrize(("kind", "dtype"), [("bf16", torch.bfloat16), ("f16", torch.float16), ("f32", torch.float32)])
def test_floats_are_rounded_as_torch_rounds_them(kind: str, dtype: torch.dtype) -> None:
    numbers = torch.cat((torch.tensor(SPECIAL), torch.randn(2000) * 10 ** torch.randint(-6, 6, (2000,))))
    expected = numbers.to(dtype)
    with np.errstate(over="ignore"):
        bits = encoded(numbers.numpy(), kind)
    size = dtype.itemsize
    assert np.array_equal(bits.view(f"i{size}"), expected.view({2: torch.int16, 4: torch.int32}[size]).numpy())
    assert np.array_equal(decoded(bits, kind), expected.float().numpy())


def test_nan_stays_nan() -> None:
    for kind in ("bf16", "f16", "f32", "f64"):
        assert np.isnan(decoded(encoded(np.array([np.nan]), kind), kind)).all()


def test_integers_wrap_and_keep_their_sign() -> None:
    assert decoded(encoded(np.array([-1, 300]), "s8"), "s8").tolist() == [-1, 44]
    assert encoded(np.array([-1]), "u16").tolist() == [0xFFFF]
    assert decoded(np.array([0xFFFFFFFF], np.uint32), "s32").tolist() == [-1]
    assert decoded(np.array([0xFFFFFFFF], np.uint32), "b32").tolist() == [0xFFFFFFFF]
    assert decoded(np.array([0, 2]), "pred").tolist() == [False, True]


def test_a_pair_holds_its_first_number_in_the_low_half() -> None:
    bits = encoded(np.array([[1.0, -2.0]]), "bf16x2")
    assert bits.tolist() == [0xC0003F80]
    assert decoded(bits, "bf16x2").tolist() == [[1, -2]]


def test_widths_and_roundings() -> None:
    assert [num_bits(kind) for kind in ("pred", "b8", "bf16", "s32", "f16x2", "u64")] == [1, 8, 16, 32, 32, 64]
    assert [is_float(kind) for kind in ("bf16", "f32", "f16x2", "s32", "b32")] == [True, True, True, False, False]
    numbers = np.array([-1.5, 0.5, 1.5])
    assert {name: rounded(numbers).tolist() for name, rounded in ROUNDED.items()} == {
        "rzi": [-1, 0, 1], "rmi": [-2, 0, 1], "rpi": [-1, 1, 2], "rni": [-2, 0, 2]}
