"""Instructions of a whole warp on matrices of 16-bit floats: ldmatrix, stmatrix, mma.sync and wgmma.

Fragments are those of the PTX ISA: lane l holds two neighbours in row l / 4 of each 8 x 8 matrix, at columns 2 (l % 4)
and one more. Products are summed in float64 and rounded once.
"""

import re

import numpy as np
from numpy.typing import NDArray

from .memory import Addresses
from .number_types import Array, decoded
from .ptx import Fault, Instruction, members
from .transfers import whole
from .warp import LANES, Lanes, Product, Warp

_ROW = np.arange(LANES) >> 2
_COLUMN = (np.arange(LANES) & 3) * 2
_SIDE = 8
_DEPTH = 16  # of a product, in numbers
# Bytes of a row, and the address bits that are mixed into the place of its 16-byte chunks, by swizzling mode.
_SWIZZLES = {1: (128, 0x70), 2: (64, 0x30), 3: (32, 0x10)}


def load_matrices(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """ldmatrix: 8 x 8 matrices whose rows of 16 bytes lie where lanes 8 m to 8 m + 7 say."""
    whole(active_L)
    address_L = warp.addresses(instruction.operands[1], active_L, "u32")
    for number, register in enumerate(members(instruction.operands[0])):
        rows = warp.shared.load(address_L[_SIDE * number : _SIDE * (number + 1)], 16, warp.number).view(np.uint16)
        matrix = rows.T if "trans" in instruction.parts else rows
        pair = np.ascontiguousarray(np.stack((matrix[_ROW, _COLUMN], matrix[_ROW, _COLUMN + 1]), -1))
        warp.write(register, pair.view(np.uint32)[:, 0], "b32", active_L)


def store_matrices(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """stmatrix, the inverse of ldmatrix."""
    whole(active_L)
    address_L = warp.addresses(instruction.operands[0], active_L, "u32")
    for number, register in enumerate(members(instruction.operands[1])):
        matrix = np.zeros((_SIDE, _SIDE), np.uint16)
        pair = np.ascontiguousarray(warp.read(register, "b32"))[:, None].view(np.uint16)
        matrix[_ROW, _COLUMN], matrix[_ROW, _COLUMN + 1] = pair.T
        rows = np.ascontiguousarray(matrix.T if "trans" in instruction.parts else matrix).view(np.uint8)
        warp.shared.store(address_L[_SIDE * number : _SIDE * (number + 1)], rows, warp.number)


def _fragment(warp: Warp, registers: list[str], kind: str, *, transposed: bool = False) -> NDArray[np.float64]:
    """A 16-bit operand in registers: matrix m of 8 x 8 at rows 8 (m % 2) and columns 8 (m / 2); transposed, the one
    column of matrices of B."""
    rows = np.zeros((2 * _SIDE, _DEPTH if len(registers) > 2 else _SIDE))
    for number, register in enumerate(registers):
        top, left = _SIDE * (number & 1), _SIDE * (number >> 1)
        pair = warp.read(register, f"{kind}x2")
        if transposed:
            rows[top + _COLUMN, left + _ROW], rows[top + _COLUMN + 1, left + _ROW] = pair.T
        else:
            rows[top + _ROW, left + _COLUMN], rows[top + _ROW, left + _COLUMN + 1] = pair.T
    return rows


def _places(number: int) -> tuple[Array, Array]:
    """Where the lanes' number of this place lies in an accumulator of 16 rows."""
    return _ROW + _SIDE * (number >> 1 & 1), _COLUMN + (number & 1) + _SIDE * (number >> 2)


def multiply_synchronously(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """mma.sync.aligned.m16n8k16.row.col.f32.KIND.KIND.f32 d, a, b, c"""
    whole(active_L)
    if "m16n8k16" not in instruction.parts or instruction.kind != "f32" or instruction.parts[-4] != "f32":
        raise Fault("a product that is not modelled")
    kind, (target, *sources) = instruction.parts[-2], instruction.operands
    a, b, c = (members(source) for source in sources)
    product = _fragment(warp, a, kind) @ _fragment(warp, b, kind, transposed=True)
    before = [warp.read(register, "f32") for register in c]
    for number, (register, value) in enumerate(zip(members(target), before, strict=True)):
        warp.write(register, product[_places(number)] + value, "f32", active_L)


def multiply_asynchronously(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """wgmma: four warps multiply 16 rows of A each by one B. Its result must not be used, nor its operands in shared
    memory be changed, before its group has been waited for."""
    whole(active_L)
    what = instruction.parts[1]
    if what == "mma_async":
        _issue(warp, instruction, active_L)
        return
    if what == "commit_group":
        warp.product_groups.append(warp.open_products)
        warp.open_products = []
    elif what == "wait_group":
        while len(warp.product_groups) > int(instruction.operands[0], 0):
            for product in warp.product_groups.pop(0):
                for address_N, size in product.reads:
                    warp.shared.end_product(address_N, size)
        under_way = [*warp.open_products, *(one for group in warp.product_groups for one in group)]
        warp.busy_registers = set().union(*(product.registers for product in under_way))


def _issue(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """wgmma.mma_async.sync.aligned.m64nNk16.f32.KIND.KIND d, a, b, keep, sign a, sign b[, transpose a], transpose b"""
    shape = re.search(r"m64n(\d+)k16", instruction.opcode)
    if shape is None or instruction.parts[5] != "f32":
        raise Fault("a product that is not modelled")
    num_columns, kind = int(shape[1]), instruction.kind
    target, a, b, keep, *signs = instruction.operands
    from_registers = a.startswith("{")
    *others, transposed = signs
    if others != (["1", "1"] if from_registers else ["1", "1", "0"]):
        raise Fault("a product that is not modelled")
    reads: list[tuple[Addresses, int]] = []
    if from_registers:
        rows = _fragment(warp, members(a), kind)
    else:
        rows = _operand(warp, _descriptor(warp, a), 2 * _SIDE * (warp.number % 4), 2 * _SIDE, kind, reads)
    descriptor = _descriptor(warp, b)
    if transposed == "1":
        columns = _transposed_operand(warp, descriptor, num_columns, kind, reads)
    else:
        columns = _operand(warp, descriptor, 0, num_columns, kind, reads).T
    product = rows @ columns
    is_kept = bool(warp.read(keep, "pred")[0])
    registers = members(target)
    for number, register in enumerate(registers):
        before = warp.read(register, "f32") if is_kept else 0
        warp.write(register, product[_places(number)] + before, "f32", active_L)
    for address_N, size in reads:
        warp.shared.begin_product(address_N, size)
    warp.open_products.append(Product(frozenset(registers), tuple(reads)))
    warp.busy_registers |= set(registers)


def _descriptor(warp: Warp, operand: str) -> int:
    return int(warp.read(operand, "u64")[0])


def _fields(descriptor: int) -> tuple[int, int, int, int, int]:
    """Start address, leading and stride byte offsets, bytes of a row, and the swizzle's address bits."""
    start, leading, stride = (((descriptor >> at) & 0x3FFF) << 4 for at in (0, 16, 32))
    if descriptor >> 62 not in _SWIZZLES:
        raise Fault("an operand without swizzle, which is not modelled")
    return start, leading, stride, *_SWIZZLES[descriptor >> 62]


def _operand(warp: Warp, descriptor: int, first: int, num_rows: int, kind: str, reads: list[tuple[Addresses, int]]
             ) -> NDArray[np.float64]:
    """Rows of an operand in shared memory whose rows of 16 numbers lie together."""
    start, _, stride, pitch, swizzle = _fields(descriptor)
    row = np.arange(first, first + num_rows)[:, None]
    address = start + row // _SIDE * stride + row % _SIDE * pitch + 16 * np.arange(2)
    return _swizzled(warp, address, swizzle, kind, reads).reshape(num_rows, _DEPTH)


def _transposed_operand(warp: Warp, descriptor: int, num_columns: int, kind: str,
                        reads: list[tuple[Addresses, int]]) -> NDArray[np.float64]:
    """An operand in shared memory whose columns lie together: blocks of 8 rows by a swizzled row of columns."""
    start, leading, stride, pitch, swizzle = _fields(descriptor)
    across = pitch // 2
    depth, column = np.arange(_DEPTH)[:, None], np.arange(0, num_columns, _SIDE)
    address = (start + column // across * leading + depth // _SIDE * stride + depth % _SIDE * pitch
               + column % across * 2)
    return _swizzled(warp, address, swizzle, kind, reads).reshape(_DEPTH, num_columns)


def _swizzled(warp: Warp, address: Addresses, swizzle: int, kind: str, reads: list[tuple[Addresses, int]]
              ) -> NDArray[np.float64]:
    """Numbers of the 16-byte chunks at swizzled addresses."""
    chunk_N = (address ^ (address >> 3 & swizzle)).reshape(-1)
    reads.append((chunk_N, 16))
    bits = warp.shared.load(chunk_N, 16, warp.number).view(np.uint16)
    return decoded(bits, kind).astype(np.float64)
