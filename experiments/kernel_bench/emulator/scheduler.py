"""Executes a compiled program on the CPU, as a GPU would, and faults where one would, or might.

Every thread block in turn, in random order; within a block one warp for a random number of instructions, then another.
A warp's lanes that are furthest behind go first, together. A seed is one schedule.

Not modelled: caches, clusters, the tensor memory accelerator, fences between proxies, more than one named barrier,
atomics on global memory, and approximate functions (computed exactly).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.random import Generator
from torch import Tensor

from . import arithmetic, matrices, transfers
from .memory import GlobalMemory, SharedMemory
from .ptx import Fault, Instruction, parse
from .warp import Lanes, Launch, Warp

Execute = Callable[[Warp, Instruction, Lanes], None]
_LONGEST_BURST = 200
_MOST_INSTRUCTIONS = 20_000_000  # of a thread block: a program that does not end


def _nothing(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    """What only orders memory that is in order here."""


_ELEMENTWISE = ("add", "sub", "min", "max", "fma", "and", "or", "xor", "not", "neg", "abs", "div", "rem", "ex2", "lg2",
                "sqrt", "rsqrt", "rcp", "sin", "cos", "tanh")
_EXECUTE: Mapping[str, Execute] = {
    **dict.fromkeys(_ELEMENTWISE, arithmetic.compute), "mul": arithmetic.multiply, "mad": arithmetic.multiply,
    "shl": arithmetic.shift, "shr": arithmetic.shift, "mov": arithmetic.move, "setp": arithmetic.compare,
    "selp": arithmetic.select, "cvt": arithmetic.convert, "popc": arithmetic.count_bits, "clz": arithmetic.count_bits,
    "bfe": arithmetic.extract_bits, "prmt": arithmetic.permute_bytes, "ld": transfers.load, "st": transfers.store,
    "atom": transfers.atomic, "cp": transfers.copy, "shfl": transfers.exchange, "redux": transfers.reduce_warp,
    "vote": transfers.vote, "ldmatrix": matrices.load_matrices, "stmatrix": matrices.store_matrices,
    "mma": matrices.multiply_synchronously, "wgmma": matrices.multiply_asynchronously, "fence": _nothing,
    "bar": _nothing}  # bar.warp.sync: `_step` sees to the others


def execute(text: str, num_warps: int, shared_bytes: int, grid: Sequence[int], tensors: Sequence[Tensor],
            arguments: Sequence[int | float], seed: int = 0) -> int:
    """Run a PTX kernel on tensors of the CPU, which it changes in place. `arguments` are its parameters in order, data
    pointers as integers. Returns the number of instructions that warps executed. Fault names the thread block and the
    instruction."""
    program = parse(text)
    width, height, depth = (*grid, 1, 1)[:3]
    values = dict(zip(program.parameters, (*arguments, 0, 0), strict=False))
    launch = Launch(program, values, (width, height, depth), num_warps, GlobalMemory(tensors))
    random = np.random.default_rng(seed)
    with np.errstate(all="ignore"):
        return sum(_run_block(launch, (number % width, number // width % height, number // width // height),
                              max(shared_bytes, 16), random)
                   for number in random.permutation(width * height * depth).tolist())


def _run_block(launch: Launch, block: tuple[int, int, int], shared_bytes: int, random: Generator) -> int:
    shared = SharedMemory(shared_bytes)
    warps = [Warp(launch, block, number, shared) for number in range(launch.num_warps)]
    num_executed = 0
    while running := [warp for warp in warps if warp.is_live_L.any()]:
        ready = [warp for warp in running if not warp.at_barrier]
        if not ready:
            shared.barrier()
            for warp in running:
                warp.at_barrier = False
            continue
        warp = ready[int(random.integers(len(ready)))]
        for _ in range(int(random.integers(1, _LONGEST_BURST))):
            if warp.at_barrier or not warp.is_live_L.any():
                break
            _step(warp)
            num_executed += 1
        if num_executed > _MOST_INSTRUCTIONS:
            raise Fault(f"{launch.program.name}, thread block {block}: does not end")
    return num_executed


def _step(warp: Warp) -> None:
    """One instruction of the lanes that are furthest behind."""
    program = warp.launch.program
    place = int(warp.place_L[warp.is_live_L].min())
    instruction = program.instructions[place]
    here_L = warp.is_live_L & (warp.place_L == place)
    try:
        active_L = here_L
        if instruction.predicate is not None:
            active_L = here_L & (warp.read(instruction.predicate, "pred") ^ instruction.negated)
        warp.place_L[here_L] = place + 1
        name = instruction.parts[0]
        if name == "bra":
            warp.place_L[active_L] = program.labels[instruction.operands[-1]]
        elif name in ("ret", "exit"):
            warp.is_live_L &= ~active_L
        elif name in ("bar", "barrier") and "warp" not in instruction.parts:
            _wait(warp, instruction, active_L)
        elif active_L.any():
            _execute(warp, instruction, active_L)
    except Fault as fault:
        raise Fault(f"{program.name}, thread block {warp.block}, warp {warp.number}: {instruction.text}: {fault}"
                    ) from None


def _wait(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    if instruction.operands != ("0",):
        raise Fault("a barrier that is not modelled")
    transfers.whole(active_L | ~warp.is_live_L)
    warp.at_barrier = True


def _execute(warp: Warp, instruction: Instruction, active_L: Lanes) -> None:
    name = instruction.parts[0]
    if name not in _EXECUTE:
        raise Fault("is not modelled")
    if name != "wgmma":
        warp.refuse_busy(instruction.operands)
    try:
        _EXECUTE[name](warp, instruction, active_L)
    except (KeyError, ValueError) as error:  # a type or a suffix that no table has
        raise Fault(f"is not modelled: {error!r}") from error
