"""Instructions that move data: loads, stores, atomics, asynchronous copies, and exchanges within a warp."""

from functools import reduce

import numpy as np

from .memory import Bytes
from .number_types import UNSIGNED, Array, num_bits
from .ptx import Fault, Instruction, members
from .warp import LANES, Copy, Lanes, Warp


def load(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """ld.SPACE[.vN].type registers, [address]"""
    kind, (target, source) = instruction.kind, instruction.operands
    if "param" in instruction.parts:
        warp.write(target, warp.parameter(source.strip("[] "), kind), f"u{num_bits(kind)}", active_L)
        return
    registers, size = members(target), num_bits(kind) // 8
    data_NS = _loaded(warp, instruction, source, size * len(registers), active_L)
    for place, register in enumerate(registers):
        piece_N = np.ascontiguousarray(data_NS[:, place * size : (place + 1) * size]).view(UNSIGNED[8 * size])[:, 0]
        if kind[0] == "s":
            piece_N = piece_N.view(f"i{size}")
        warp.write(register, _spread(piece_N, active_L), kind.replace("f", "b"), active_L)


def _loaded(warp: Warp, instruction: Instruction, address: str, size: int, active_L: Lanes) -> Bytes:
    if "global" in instruction.parts:
        return warp.launch.memory.load(warp.addresses(address, active_L), size, warp.block_number)
    return warp.shared.load(warp.addresses(address, active_L, "u32"), size, warp.number)


def _spread(value_N: Array, active_L: Lanes) -> Array:
    """Values of the active lanes among those of all."""
    value_L = np.zeros(LANES, value_N.dtype)
    value_L[active_L] = value_N
    return value_L


def store(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """st.SPACE[.vN].type [address], registers"""
    target, source = instruction.operands
    kind = instruction.kind.replace("f", "b")
    data_NS = np.concatenate([_bytes_of(warp.read(register, kind)[active_L]) for register in members(source)], 1)
    if "global" in instruction.parts:
        warp.launch.memory.store(warp.addresses(target, active_L), data_NS, warp.block_number)
    else:
        warp.shared.store(warp.addresses(target, active_L, "u32"), data_NS, warp.number)


def _bytes_of(value_N: Array) -> Bytes:
    bits_N = np.ascontiguousarray(value_N)
    return bits_N.view(np.uint8).reshape(len(bits_N), bits_N.dtype.itemsize)


def atomic(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """atom.shared.add.u32 alone."""
    if not {"shared", "add"} <= set(instruction.parts) or instruction.kind not in ("u32", "s32"):
        raise Fault("an atomic that is not modelled")
    target, address, value = instruction.operands
    added_N = warp.read(value, "u32")[active_L]
    before_N = warp.shared.add(warp.addresses(address, active_L, "u32"), added_N, warp.number)
    warp.write(target, _spread(before_N, active_L), "u32", active_L)


def copy(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """cp.async: a copy from global to shared memory takes effect when its group has been waited for, the latest that it
    may; what it writes must be free from the time on at which it is asked for, the earliest."""
    parts = instruction.parts
    if "commit_group" in parts:
        whole(active_L)
        warp.copy_groups.append(warp.open_copies)
        warp.open_copies = []
    elif "wait_group" in parts or "wait_all" in parts:
        whole(active_L)
        most_left = int(instruction.operands[0], 0) if instruction.operands else 0
        while len(warp.copy_groups) > most_left:
            for one in warp.copy_groups.pop(0):
                _finish(warp, one)
    else:
        target, source, size, *taken = instruction.operands
        num_bytes = int(size, 0)
        taken_N = warp.read(taken[0], "u32")[active_L] if taken else np.full(active_L.sum(), num_bytes, np.uint32)
        if ((taken_N != 0) & (taken_N != num_bytes)).any():
            raise Fault("a copy of a part, which is not modelled")
        one = Copy(warp.addresses(target, active_L, "u32"), warp.addresses(source, active_L), num_bytes, taken_N > 0)
        warp.shared.begin_copy(one.target_N, num_bytes, warp.number)
        warp.open_copies.append(one)


def _finish(warp: Warp, copied: Copy) -> None:
    data_NS = np.zeros((len(copied.target_N), copied.size), np.uint8)
    if copied.is_taken_N.any():
        source_N = copied.source_N[copied.is_taken_N]
        data_NS[copied.is_taken_N] = warp.launch.memory.load(source_N, copied.size, warp.block_number)
    warp.shared.end_copy(copied.target_N, data_NS, warp.number)


def exchange(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """shfl.sync: the value of another lane."""
    whole(active_L)
    mode, (target, source, distance, *_) = instruction.parts[2], instruction.operands
    lane_L, distance_L = np.arange(LANES), warp.read(distance, "u32").astype(np.int64)
    other_L = {"bfly": lane_L ^ distance_L, "idx": distance_L % LANES, "up": lane_L - distance_L,
               "down": lane_L + distance_L}[mode]
    other_L = np.where((other_L >= 0) & (other_L < LANES), other_L, lane_L)
    warp.write(target, warp.read(source, "b32")[other_L], "b32", active_L)


def reduce_warp(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """redux.sync: one value of all lanes'."""
    whole(active_L)
    name, kind = instruction.parts[2], instruction.kind
    values = warp.read(instruction.operands[1], kind)
    operations = {"add": np.add, "min": np.minimum, "max": np.maximum, "and": np.bitwise_and, "or": np.bitwise_or,
                  "xor": np.bitwise_xor}
    warp.write(instruction.operands[0], np.full(LANES, reduce(operations[name], values)), kind, active_L)


def vote(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """vote.sync.ballot.b32: a bit for each lane whose predicate is true."""
    whole(active_L)
    if "ballot" not in instruction.parts:
        raise Fault("a vote that is not modelled")
    bits = int(np.packbits(warp.read(instruction.operands[1], "pred"), bitorder="little").view(np.uint32)[0])
    warp.write(instruction.operands[0], np.full(LANES, bits, np.uint32), "u32", active_L)


def whole(active_L: Lanes) -> None:
    """Fault unless all lanes are active."""
    if not active_L.all():
        raise Fault("a part of a warp executes what takes the whole warp")
