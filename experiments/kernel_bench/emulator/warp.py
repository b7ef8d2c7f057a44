"""The 32 threads of a warp: their registers, where each of them is in the program, and what they left under way."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .memory import Addresses, GlobalMemory, SharedMemory
from .number_types import UNSIGNED, Array, decoded, encoded, num_bits
from .ptx import Fault, Program

LANES = 32
Lanes = NDArray[np.bool_]
_ADDRESS = re.compile(r"\[?\s*([%$\w]+)\s*(?:\+\s*(-?\d+))?\s*\]?")


@dataclass(frozen=True)
class Launch:
    """What all thread blocks share. `values` are the arguments by parameter: integers, addresses, floats."""

    program: Program
    values: dict[str, int | float]
    grid: tuple[int, int, int]
    num_warps: int
    memory: GlobalMemory


@dataclass(frozen=True)
class Copy:
    """Some lanes' asynchronous copies to shared memory; where `is_taken` is false, zeros are written."""

    target_N: Addresses
    source_N: Addresses
    size: int
    is_taken_N: Lanes


@dataclass(frozen=True)
class Product:
    """An asynchronous product: the registers that it writes and the (address, size) that it reads."""

    registers: frozenset[str]
    reads: tuple[tuple[Addresses, int], ...]


@dataclass
class Warp:
    """`place_L` is the next instruction of each lane. Copies and products wait to be committed to a group, groups to be
    waited for."""

    launch: Launch
    block: tuple[int, int, int]
    number: int
    shared: SharedMemory
    place_L: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LANES, np.int64))
    is_live_L: Lanes = field(default_factory=lambda: np.ones(LANES, bool))
    at_barrier: bool = False
    open_copies: list[Copy] = field(default_factory=list)
    copy_groups: list[list[Copy]] = field(default_factory=list)
    open_products: list[Product] = field(default_factory=list)
    product_groups: list[list[Product]] = field(default_factory=list)
    busy_registers: set[str] = field(default_factory=set)
    _registers: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """The special registers."""
        lane_L, threads = np.arange(LANES, dtype=np.uint32), (LANES * self.launch.num_warps, 1, 1)
        self._registers |= {"%laneid": lane_L, "%tid.x": lane_L + np.uint32(LANES * self.number),
                            "%tid.y": 0 * lane_L, "%tid.z": 0 * lane_L}
        for name, sizes in (("ctaid", self.block), ("nctaid", self.launch.grid), ("ntid", threads)):
            for axis, size in zip("xyz", sizes, strict=True):
                self._registers[f"%{name}.{axis}"] = np.full(LANES, size, np.uint32)

    @property
    def block_number(self) -> int:
        x, y, z = self.block
        width, height, _ = self.launch.grid
        return x + width * (y + height * z)

    def read(self, operand: str, kind: str) -> Array:
        """A register, constant or special register as numbers of a type, [32] (pairs: [32, 2])."""
        return decoded(self._bits(operand, num_bits(kind)), kind)

    def write(self, register: str, values: Array, kind: str, active_L: Lanes) -> None:
        """Numbers of a type to a register's active lanes; a wider register takes them extended by sign or zeros."""
        if register == "_":
            return
        width = self._width(register)
        bits = encoded(values, kind)
        if width > 1 and bits.dtype.itemsize * 8 != width:
            bits = (values.astype(np.int64) if kind[0] == "s" else bits).astype(UNSIGNED[width])
        target = self._register(register)
        target[active_L] = bits[active_L]

    def addresses(self, operand: str, active_L: Lanes, kind: str = "u64") -> Addresses:
        """The addresses [register + offset] of the active lanes, int64."""
        match = _ADDRESS.fullmatch(operand)
        if match is None:
            raise Fault(f"cannot be read as an address: {operand}")
        return self.read(match[1], kind)[active_L].astype(np.int64) + int(match[2] or 0)

    def refuse_busy(self, operands: Sequence[str]) -> None:
        """Registers that a product under way writes must not be used."""
        if self.busy_registers and self.busy_registers & set(re.findall(r"%\w+", " ".join(operands))):
            raise Fault("uses a register that a product under way writes")

    def parameter(self, name: str, kind: str) -> Array:
        """A kernel's argument, [32]."""
        value, width = self.launch.values[name], num_bits(kind)
        if isinstance(value, float):
            return np.full(LANES, value, np.float32).view(np.uint32)
        return np.full(LANES, int(value) & ((1 << width) - 1), UNSIGNED[width])

    def _bits(self, operand: str, width: int) -> Array:
        if not operand.startswith("%"):
            return _constant(operand, width)
        bits = self._register(operand)
        if width == 1 or bits.dtype == bool:
            return bits.astype(bool if width == 1 else UNSIGNED[width])
        return bits.astype(UNSIGNED[width], copy=False)

    def _register(self, name: str) -> Array:
        if name not in self._registers:
            width = self._width(name)
            self._registers[name] = np.zeros(LANES, bool if width == 1 else UNSIGNED[width])
        return self._registers[name]

    def _width(self, register: str) -> int:
        prefix = register.rstrip("0123456789")
        if prefix not in self.launch.program.widths:
            raise Fault(f"{register}: is not declared")
        return self.launch.program.widths[prefix]


@cache
def _constant(text: str, width: int) -> Array:
    """A number, a float's bits (0f, 0d), or the address of the shared memory, which is 0."""
    if not (text[0].isdigit() or text[0] == "-"):
        value = 0
    else:
        value = int(text[2:], 16) if text[:2] in ("0f", "0d") else int(text, 0)
    numbers = np.full(LANES, bool(value)) if width == 1 else np.full(LANES, value & ((1 << width) - 1), UNSIGNED[width])
    numbers.flags.writeable = False
    return numbers
