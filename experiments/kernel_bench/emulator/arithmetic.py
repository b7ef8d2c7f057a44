"""Instructions on the registers of each lane alone."""

from collections.abc import Callable

import numpy as np

from .number_types import ROUNDED, UNSIGNED, Array, is_float, num_bits
from .ptx import Fault, Instruction, members
from .warp import LANES, Lanes, Warp

Operation = Callable[..., Array]


def _divided(x: Array, y: Array) -> Array:
    """Integers are divided towards zero."""
    if np.issubdtype(x.dtype, np.floating):
        return x / y
    if np.issubdtype(x.dtype, np.unsignedinteger):
        return x // np.maximum(y, 1)
    quotient = np.abs(x.astype(np.int64)) // np.maximum(np.abs(y.astype(np.int64)), 1)
    return np.where((x < 0) != (y < 0), -quotient, quotient).astype(x.dtype)


def _shifted(x: Array, count: Array, *, left: bool) -> Array:
    """A shift by the width or more leaves zeros, or the sign."""
    width, is_signed = x.dtype.itemsize * 8, np.issubdtype(x.dtype, np.signedinteger)
    within = np.minimum(count, width - 1).astype(x.dtype)
    shifted = x << within if left else x >> within
    return shifted if is_signed and not left else np.where(count >= width, 0, shifted).astype(x.dtype)


def _largest(x: Array, y: Array) -> Array:
    return np.fmax(x, y) if np.issubdtype(x.dtype, np.floating) else np.maximum(x, y)


def _smallest(x: Array, y: Array) -> Array:
    return np.fmin(x, y) if np.issubdtype(x.dtype, np.floating) else np.minimum(x, y)


# All operands are of the instruction's type; floats are computed in float64 and rounded once.
_OPERATIONS: dict[str, Operation] = {
    "add": lambda x, y: x + y, "sub": lambda x, y: x - y, "mul": lambda x, y: x * y, "mad": lambda x, y, z: x * y + z,
    "fma": lambda x, y, z: x * y + z, "min": _smallest, "max": _largest, "div": _divided,
    "rem": lambda x, y: x - _divided(x, y) * y, "and": lambda x, y: x & y, "or": lambda x, y: x | y,
    "xor": lambda x, y: x ^ y, "not": lambda x: ~x, "neg": lambda x: -x, "abs": np.abs, "mov": lambda x: x,
    "ex2": np.exp2, "lg2": np.log2, "sqrt": np.sqrt, "rsqrt": lambda x: 1 / np.sqrt(x), "rcp": lambda x: 1 / x,
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh}
_COMPARISONS: dict[str, Operation] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal}
_COMBINED: dict[str, Operation] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def compute(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """`op.type d, a, b, c`, every operand of the type."""
    name, kind = instruction.parts[0], instruction.kind
    target, *sources = instruction.operands
    values = [warp.read(source, kind) for source in sources]
    if name in ("div", "rem") and not is_float(kind) and (values[1][active_L] == 0).any():
        raise Fault("divides an integer by zero")
    if is_float(kind) and name in _OPERATIONS and kind != "f64":
        values = [value.astype(np.float64) for value in values]
    warp.write(target, _OPERATIONS[name](*values), kind, active_L)


def multiply(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """mul and mad of integers: the low half of the product, the high half, or all of it (wide)."""
    kind = instruction.kind
    if is_float(kind) or not {"wide", "hi"} & set(instruction.parts):
        compute(warp, instruction, active_L)
        return
    target, *sources = instruction.operands
    width = num_bits(kind)
    double = kind[0] + str(2 * width)
    if width == 64:
        x, y = ([int(value) for value in warp.read(source, kind)] for source in sources[:2])
        high = np.array([(one * other) >> 64 & (1 << 64) - 1 for one, other in zip(x, y, strict=True)], np.uint64)
        warp.write(target, high, "u64", active_L)
        return
    x, y = (warp.read(source, kind).astype(np.int64 if kind[0] == "s" else np.uint64) for source in sources[:2])
    product = x * y
    if "hi" in instruction.parts:
        warp.write(target, product >> product.dtype.type(width), kind, active_L)
        return
    if len(sources) == 3:
        product = product + warp.read(sources[2], double).astype(product.dtype)
    warp.write(target, product, double, active_L)


def shift(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    target, source, count = instruction.operands
    shifted = _shifted(warp.read(source, instruction.kind), warp.read(count, "u32"), left=instruction.parts[0] == "shl")
    warp.write(target, shifted, instruction.kind.replace("b", "u"), active_L)


def move(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """A value, or one joined of several registers, or one split into them."""
    kind, (target, source) = instruction.kind, instruction.operands
    whole = None if source.startswith("{") else warp.read(source, kind)
    if target.startswith("{"):
        assert whole is not None
        pieces = members(target)
        width = num_bits(kind) // len(pieces)
        for place, register in enumerate(pieces):
            warp.write(register, whole >> whole.dtype.type(width * place), f"b{width}", active_L)
        return
    if whole is None:
        pieces = members(source)
        width = num_bits(kind) // len(pieces)
        whole = np.zeros(LANES, UNSIGNED[num_bits(kind)])
        for place, register in enumerate(pieces):
            whole |= warp.read(register, f"b{width}").astype(whole.dtype) << whole.dtype.type(width * place)
    warp.write(target, whole, kind, active_L)


def compare(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """setp.COMPARISON[.COMBINED].type p, a, b[, q]; with a u behind a float's comparison NaN counts as true."""
    _, comparison, *rest = instruction.parts
    target, *sources = instruction.operands
    x, y = (warp.read(source, instruction.kind) for source in sources[:2])
    if is_float(instruction.kind) and comparison.endswith("u") and comparison[:-1] in _COMPARISONS:
        found = _COMPARISONS[comparison[:-1]](x, y) | np.isnan(x) | np.isnan(y)
    elif comparison in ("nan", "num"):
        found = (np.isnan(x) | np.isnan(y)) == (comparison == "nan")
    else:
        found = _COMPARISONS[comparison](x, y)
        if comparison == "ne" and is_float(instruction.kind):
            found &= ~(np.isnan(x) | np.isnan(y))
    if len(sources) == 3:
        found = _COMBINED[rest[0]](found, warp.read(sources[2], "pred"))
    warp.write(target, found, "pred", active_L)


def select(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    target, *sources, condition = instruction.operands
    chosen, other = (warp.read(source, instruction.kind) for source in sources)
    is_chosen = warp.read(condition, "pred").reshape(-1, *[1] * (chosen.ndim - 1))
    warp.write(target, np.where(is_chosen, chosen, other), instruction.kind, active_L)


def convert(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """cvt.[ROUNDING.]to.from d, a; of two floats to a pair: cvt.to.from d, high, low."""
    to, source_kind = instruction.parts[-2:]
    target, *sources = instruction.operands
    values = [warp.read(source, source_kind) for source in sources]
    value = np.stack(values[::-1], -1) if len(values) == 2 else values[0]
    rounding = next((part for part in instruction.parts if part in ROUNDED), None)
    if rounding is not None:
        value = ROUNDED[rounding](value)
        if not is_float(to):
            limits = np.iinfo(np.dtype(f"{'i' if to[0] == 's' else 'u'}{num_bits(to) // 8}"))
            value = np.clip(np.nan_to_num(value.astype(np.float64)), limits.min, limits.max)
    warp.write(target, value, to, active_L)


def count_bits(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """popc and clz."""
    target, source = instruction.operands
    numbers = [int(value) for value in warp.read(source, instruction.kind)]
    width = num_bits(instruction.kind)
    counted = [value.bit_count() if instruction.parts[0] == "popc" else width - value.bit_length() for value in numbers]
    warp.write(target, np.array(counted, np.uint32), "u32", active_L)


def extract_bits(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """bfe: so many bits from a place on, extended by sign or zeros."""
    target, source, *where = instruction.operands
    value = warp.read(source, instruction.kind).astype(np.int64)
    begin, number = (warp.read(operand, "u32").astype(np.int64) for operand in where)
    piece = value >> begin & (1 << number) - 1
    if instruction.kind[0] == "s":
        piece = np.where(piece >> np.maximum(number - 1, 0) & 1, piece - (1 << number), piece)
    warp.write(target, piece, instruction.kind, active_L)


def permute_bytes(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """prmt.b32: four bytes of two registers, chosen by four bits each (the highest: the byte's sign, replicated)."""
    target, low, high, selector = instruction.operands
    eight = np.stack((warp.read(low, "b32"), warp.read(high, "b32")), 1).view(np.uint8)
    nibbles = warp.read(selector, "b32")[:, None] >> np.arange(0, 16, 4, dtype=np.uint32) & np.uint32(15)
    chosen = np.take_along_axis(eight, (nibbles & 7).astype(np.int64), 1)
    signs = np.where(chosen >> 7, 0xFF, 0).astype(np.uint8)
    four = np.ascontiguousarray(np.where(nibbles & 8, signs, chosen).astype(np.uint8))
    warp.write(target, four.view(np.uint32)[:, 0], "b32", active_L)
