"""The check of what Triton compiles, without a GPU: a case's programs are compiled for a target, and an emulator runs
their PTX. Runs in processes whose environment selects the Triton version (see `compiler_environment`)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import triton
from torch import Tensor

from ...kernels.case import Case
from ...kernels.dispatch import executing_with
from ..harness.records import Json
from .compile import aim_at
from .emulator import execute
from .verify import verdict

EMULATED = ("sm_80", "sm_90")
"""The targets whose instructions the emulator knows."""


def emulated(case: Case, dtype_name: str, target: str, seed: int) -> Json:
    """The verdict on a case whose programs were compiled for `target` and executed in one schedule, drawn by `seed`;
    and of each Triton function the number of instructions that warps executed. Fault if one did what it must not."""
    aim_at(target)
    functions: dict[str, int] = {}
    with executing_with(partial(_run, functions, seed)):
        found = verdict(case, dtype_name, "cpu")
    return found | {"ran": f"executed as compiled for {target}", "triton": triton.__version__, "functions": functions}


def _run(functions: dict[str, int], seed: int, program: Any, grid: tuple[int, ...], arguments: tuple[Any, ...],
         options: dict[str, Any]) -> None:
    compiled = program.warmup(*arguments, grid=grid, **options)
    kinds = [compiled.src.signature[name] for name in compiled.src.fn.arg_names[: len(arguments)]]
    passed = list(_passed(arguments, kinds))
    values = [value.data_ptr() if isinstance(value, Tensor) else value for value in passed]
    tensors = [value for value in passed if isinstance(value, Tensor)]
    number = execute(compiled.asm["ptx"], compiled.metadata.num_warps, compiled.metadata.shared, grid, tensors, values,
                     seed)
    functions[program.fn.__name__] = functions.get(program.fn.__name__, 0) + number


def _passed(arguments: Sequence[Any], kinds: Sequence[Any]) -> Iterator[Any]:
    """The arguments that the compiled program takes, those in tuples one by one: not its constants."""
    for argument, kind in zip(arguments, kinds, strict=True):
        if isinstance(argument, tuple):
            yield from _passed(argument, kind)
        elif kind != "constexpr":
            yield argument
