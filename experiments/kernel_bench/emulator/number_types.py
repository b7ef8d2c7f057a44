"""Values of PTX types as numpy arrays, and their bits."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
UNSIGNED: dict[int, type[np.unsignedinteger]] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_SIGNED: dict[int, type[np.signedinteger]] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
_FLOAT = {"f16": np.float16, "f32": np.float32, "f64": np.float64}


@cache
def num_bits(kind: str) -> int:
    """The width of a type: 32 of s32, f32 and bf16x2, 1 of pred."""
    if kind == "pred":
        return 1
    if kind.endswith("x2"):
        return 2 * num_bits(kind[:-2])
    return int(kind.lstrip("bfsu"))


def decoded(bits: Array, kind: str) -> Array:
    """Unsigned bits of the type's width as numbers: f16 and bf16 in float32, a pair (x2) in a last dimension."""
    if kind == "pred":
        return bits.astype(bool)
    if kind.endswith("x2"):
        half = bits.dtype.itemsize * 4
        pair = np.stack((bits & bits.dtype.type((1 << half) - 1), bits >> bits.dtype.type(half)), -1)
        return decoded(pair.astype(UNSIGNED[half]), kind[:-2])
    if kind == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if kind == "f16":
        return bits.view(np.float16).astype(np.float32)
    if kind[0] == "s":
        return bits.view(_SIGNED[num_bits(kind)])
    return bits.view(_FLOAT[kind]) if kind in _FLOAT else bits


def encoded(values: Array, kind: str) -> Array:
    """The bits of numbers, rounded to the type: the inverse of `decoded`."""
    if kind == "pred":
        return values.astype(bool)
    if kind.endswith("x2"):
        half = num_bits(kind) // 2
        low, high = (encoded(np.ascontiguousarray(values[..., place]), kind[:-2]).astype(UNSIGNED[2 * half])
                     for place in (0, 1))
        return low | (high << UNSIGNED[2 * half](half))
    if kind == "bf16":
        return _bfloat16_bits(values.astype(np.float32))
    if kind in _FLOAT:
        return values.astype(_FLOAT[kind]).view(UNSIGNED[num_bits(kind)])
    return values.astype((_SIGNED if kind[0] == "s" else UNSIGNED)[num_bits(kind)]).view(UNSIGNED[num_bits(kind)])


def _bfloat16_bits(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    rounded = ((bits + np.uint32(0x7FFF) + even) >> np.uint32(16)).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FFF), rounded).astype(np.uint16)


def is_float(kind: str) -> bool:
    return "f" in kind


ROUNDED: dict[str, Callable[[Array], Array]] = {
    "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil, "rni": np.rint}
"""How conversions to integers, or to floats with integer values, round."""
