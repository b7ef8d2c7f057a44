"""Which implementation of a kernel runs: one explicit decision, and a record of what it was.

A kernel has up to three implementations of one signature, which `kernel` makes into one public function:

    reference   the definition, in a few lines of plain PyTorch, on any device
    cpu         PyTorch as it is fastest on a CPU, where values may be read; without one the reference runs there
    triton      a launcher of Triton kernels

The device decides: triton on a GPU, cpu elsewhere. Where a gradient is required of a launcher without a backward,
PyTorch runs: cpu on a CPU, the reference on a GPU. `using` decides otherwise; without a GPU Triton then runs in its
interpreter (TRITON_INTERPRET=1, set before Triton is imported). Fake tensors and torch.compile never see a cpu
implementation, since there are no values to read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from enum import Enum
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from triton import knobs
from triton.runtime import driver

from .case import tensors_of
from .interpreter import patch_bfloat16, patch_pace

P = ParamSpec("P")
R = TypeVar("R")

INTERPRETED: bool = knobs.runtime.interpret
if INTERPRETED:
    patch_bfloat16()
    patch_pace()


class Implementation(Enum):
    """What computes a kernel's result."""

    REFERENCE = "reference"
    CPU = "cpu"
    TRITON = "triton"

    __hash__ = object.__hash__  # an Enum's own is a call in Python, several times a kernel

    @classmethod
    def named(cls, name: str) -> "Implementation | None":
        """The setting `kernels`: a member's name, or "auto" for the choice by device, which is None."""
        allowed = ("auto", *(member.value for member in cls))
        if name not in allowed:
            raise ValueError(f"kernels={name!r}: must be one of {', '.join(allowed)}")
        return None if name == "auto" else cls(name)


Ran = set[tuple[str, Enum]]
"""What ran, by the kernel's name: the Implementation, and which algorithm of a cpu implementation that has several."""

Executor = Callable[[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]], None]
"""What runs a Triton program in a GPU's place: given the program, its grid, arguments and options."""

_chosen: ContextVar[Implementation | None] = ContextVar("chosen", default=None)
_ran: ContextVar[Ran | None] = ContextVar("ran", default=None)
_compiled: ContextVar[list[Any] | None] = ContextVar("compiled", default=None)
_executor: ContextVar[Executor | None] = ContextVar("executor", default=None)


@contextmanager
def using(implementation: Implementation | None) -> Iterator[None]:
    """Run this implementation of every kernel that has it, whatever the device; None chooses by device. ValueError
    where Triton is asked for and neither a GPU nor the interpreter can run it."""
    can_run = INTERPRETED or torch.cuda.is_available() or _is_compiling() or _executor.get() is not None
    if implementation is Implementation.TRITON and not can_run:
        raise ValueError("kernels=triton: there is no GPU, and TRITON_INTERPRET=1 was not set before Triton was "
                         "imported; must be auto, reference or cpu, or be interpreted")
    token = _chosen.set(implementation)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def recording() -> Iterator[Ran]:
    """Collect what runs of each kernel."""
    ran: Ran = set()
    token = _ran.set(ran)
    try:
        yield ran
    finally:
        _ran.reset(token)


def requested() -> Implementation | None:
    """The implementation that `using` asks for; None where the device decides."""
    return _chosen.get()


def note(name: str, what: Enum) -> None:
    """Put on record what runs of the kernel `name`: the implementation, or a cpu implementation's algorithm."""
    ran = _ran.get()
    if ran is not None:
        ran.add((name, what))


def named(ran: Ran) -> dict[str, str]:
    """What ran of each kernel, in words: "triton", "cpu (grouped products)", "reference, triton"."""
    words: dict[str, str] = {}
    for name in sorted({name for name, _ in ran}):
        notes = {what for kernel, what in ran if kernel == name}
        algorithms = ", ".join(sorted(what.value for what in notes if not isinstance(what, Implementation)))
        words[name] = ", ".join(f"{what.value} ({algorithms})" if what is Implementation.CPU and algorithms
                                else what.value for what in Implementation if what in notes)
    return words


@contextmanager
def compiling() -> Iterator[list[Any]]:
    """Collect, instead of running them, what the Triton kernels compile to for the active driver's target. Public
    functions are then called with tensors on the meta device."""
    token, chosen = _compiled.set([]), _chosen.set(Implementation.TRITON)
    try:
        compiled = _compiled.get()
        assert compiled is not None
        yield compiled
    finally:
        _compiled.reset(token)
        _chosen.reset(chosen)


@contextmanager
def executing_with(executor: Executor) -> Iterator[None]:
    """Hand Triton programs to `executor` instead of to a GPU."""
    token = _executor.set(executor)
    try:
        yield
    finally:
        _executor.reset(token)


def _is_compiling() -> bool:
    return _compiled.get() is not None


def kernel(reference: Callable[P, R], *, check: Callable[P, None], cpu: Callable[P, R] | None = None,
           differentiable: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a launcher the public function of a kernel: it takes and returns what `reference` does, whose docstring
    speaks for all implementations. `check` refuses, for all, arguments that they would take differently: shapes and
    numbers that the host knows. `differentiable` says that the launcher has a backward (a torch.autograd.Function).
    torch.compile traces the reference."""

    def public(launcher: Callable[P, R]) -> Callable[P, R]:
        name = launcher.__name__
        implementations = {Implementation.REFERENCE: reference, Implementation.TRITON: launcher}
        if cpu is not None:
            implementations[Implementation.CPU] = cpu
        has_cpu = cpu is not None

        @wraps(launcher)
        def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
            check(*args, **kwargs)
            if torch.compiler.is_compiling():
                return reference(*args, **kwargs)
            chosen = _decide((*args, *kwargs.values()) if kwargs else args, has_cpu, differentiable)
            note(name, chosen)
            return implementations[chosen](*args, **kwargs)

        dispatched.__doc__ = reference.__doc__
        return dispatched

    return public


def _decide(arguments: Sequence[Any], has_cpu: bool, differentiable: bool) -> Implementation:
    """The implementation for these arguments, by the setting, their device, and whether a gradient is required."""
    first = arguments[0] if isinstance(arguments[0], Tensor) else next(
        value for value in arguments if isinstance(value, Tensor))
    chosen = _chosen.get() or (Implementation.TRITON if first.is_cuda else Implementation.CPU)
    if chosen is Implementation.TRITON and not differentiable and _needs_gradient(arguments):
        chosen = Implementation.REFERENCE if first.is_cuda else Implementation.CPU
    if chosen is Implementation.CPU:
        if first.is_cuda:
            raise ValueError(f"kernels=cpu with tensors on {first.device}: must be auto, reference or triton there")
        if not has_cpu or first.is_meta or isinstance(first, FakeTensor):
            return Implementation.REFERENCE
    return chosen


def runs_triton(first: Tensor, *others: Any) -> bool:
    """Whether a kernel without a backward would run Triton on these arguments: for callers that fuse what others leave
    apart."""
    if (_chosen.get() or first.is_cuda) in (False, Implementation.CPU, Implementation.REFERENCE):
        return False  # at once, since it is asked several times a layer
    if torch.compiler.is_compiling():
        return False
    return _decide((first, *others), has_cpu=False, differentiable=False) is Implementation.TRITON


def _needs_gradient(arguments: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors_of(tuple(arguments)))


def launch(program: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a Triton program on a grid. Under `compiling` it is compiled instead; on tensors without data (fake or meta
    ones) and on empty grids nothing happens."""
    options["enable_fp_fusion"] = True  # what Triton does where it is not told, until 3.10
    compiled = _compiled.get()
    if compiled is not None:
        compiled.append(program.warmup(*arguments, grid=grid, **options))
        return
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    if first.is_meta or isinstance(first, FakeTensor) or 0 in grid:
        return
    executor = _executor.get()
    if executor is not None:
        executor(program, grid, arguments, options)
        return
    # The interpreter's numpy warns of infinities where a GPU computes on.
    with torch.cuda.device_of(first), np.errstate(all="ignore") if INTERPRETED else nullcontext():
        program[grid](*arguments, **options)


def num_pipeline_stages(number: int) -> int:
    """Stages of a program's load pipeline on the present target: AMD's 64 KiB of local memory hold two."""
    is_amd = torch.version.hip is not None
    if _is_compiling():
        target: Any = driver.active.get_current_target()
        is_amd = target.backend == "hip"
    return min(number, 2) if is_amd else number
