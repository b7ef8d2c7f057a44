"""PTX written by hand: a kernel around a few statements, and what they calculate."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from quicksilver.experiments.kernel_bench.emulator import execute
from torch import Tensor

LANES = 32
NUM_REGISTERS = 40


def kernel(body: str, num_parameters: int) -> str:
    """A kernel of pointers, which stand in %rd0, %rd1, ..., with the thread's number in %r0."""
    parameters = ",\n".join(f"\t.param .u64 .ptr .global made_param_{number}" for number in range(num_parameters))
    loads = "\n".join(f"\tld.param.b64 \t%rd{number}, [made_param_{number}];" for number in range(num_parameters))
    registers = "\n".join(f"\t.reg .{kind} \t%{name}<{NUM_REGISTERS}>;" for kind, name in (
        ("pred", "p"), ("b16", "rs"), ("b32", "r"), ("b64", "rd")))
    return (f".version 8.7\n.target sm_90a\n.visible .entry made(\n{parameters}\n)\n.reqntid 32\n{{\n{registers}\n"
            f"// %bb.0:\n{loads}\n\tmov.u32 \t%r0, %tid.x;\n{body}\n\tret;\n}}\n")


def run(body: str, *tensors: Tensor, num_warps: int = 1, shared_bytes: int = 0, grid: Sequence[int] = (1,),
        seed: int = 0) -> int:
    """Execute a body on tensors, in place."""
    return execute(kernel(body, len(tensors)), num_warps, shared_bytes, grid, tensors,
                   [tensor.data_ptr() for tensor in tensors], seed)


def calculated(statement: str, *inputs: NDArray[np.generic], bits: int = 32) -> NDArray[np.generic]:
    """The 32 lanes' values of a statement that writes %r30 (%rs30 with 16 bits, %rd30 with 64) from %r10, %r11, ...
    (%rs10 ... of arrays of 16 bits, %rd10 ... of 64)."""
    names = {2: "rs", 4: "r", 8: "rd"}
    lines, tensors = [], []
    for number, values in enumerate(inputs):
        size = values.dtype.itemsize
        tensors.append(torch.from_numpy(values.view(f"i{size}").copy()))
        lines += [f"mul.wide.u32 %rd20, %r0, {size};", f"add.s64 %rd21, %rd{number}, %rd20;",
                  f"ld.global.b{8 * size} %{names[size]}{10 + number}, [%rd21];"]
    size = bits // 8
    found = torch.zeros(LANES, dtype={2: torch.int16, 4: torch.int32, 8: torch.int64}[size])
    lines += [statement, f"mul.wide.u32 %rd20, %r0, {size};", f"add.s64 %rd21, %rd{len(inputs)}, %rd20;",
              f"st.global.b{bits} [%rd21], %{names[size]}30;"]
    run("\n".join(lines), *tensors, found)
    return found.numpy()
