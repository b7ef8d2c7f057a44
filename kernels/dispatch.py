"""Which implementation of a kernel runs: one explicit decision, and a record of what it was.

A kernel's file holds a PyTorch `reference` and a launcher of Triton kernels of the same signature; `kernel` makes the
public function out of the two. It runs Triton where the inputs lie on a GPU, PyTorch elsewhere, and PyTorch wherever a
gradient is required of a kernel without a backward. `using` overrides the choice by device; without a GPU, Triton then
runs in its interpreter (TRITON_INTERPRET=1, set before Triton is imported).
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

from .interpreter import mend_bfloat16

P = ParamSpec("P")
R = TypeVar("R")

INTERPRETED: bool = knobs.runtime.interpret
if INTERPRETED:
    mend_bfloat16()


class Implementation(Enum):
    """Triton kernels, or their references in PyTorch."""

    REFERENCE = "reference"
    TRITON = "triton"

    @classmethod
    def named(cls, name: str) -> "Implementation | None":
        """The setting `kernels`: a member's name, or "auto" for the choice by device, which is None."""
        allowed = ("auto", *(member.value for member in cls))
        if name not in allowed:
            raise ValueError(f"kernels={name!r}: must be one of {', '.join(allowed)}")
        return None if name == "auto" else cls(name)


_chosen: ContextVar[Implementation | None] = ContextVar("chosen", default=None)
Ran = set[tuple[str, Enum]]
"""Kernels by name, and what ran: an Implementation, or, where PyTorch has several ways, the way that it took."""

_ran: ContextVar[Ran | None] = ContextVar("ran", default=None)
_compiled: ContextVar[list[Any] | None] = ContextVar("compiled", default=None)


@contextmanager
def using(implementation: Implementation | None) -> Iterator[None]:
    """Run this implementation of every kernel, whatever the device; None chooses by device. ValueError where Triton is
    asked for and neither a GPU nor the interpreter can run it."""
    if implementation is Implementation.TRITON and not (INTERPRETED or torch.cuda.is_available() or _compiling()):
        raise ValueError("kernels=triton: there is no GPU, and TRITON_INTERPRET=1 was not set before Triton was "
                         "imported; must be reference, or be interpreted")
    token = _chosen.set(implementation)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def recording() -> Iterator[Ran]:
    """Collect the names of the kernels that run, and what runs of each."""
    token = _ran.set(set())
    try:
        ran = _ran.get()
        assert ran is not None
        yield ran
    finally:
        _ran.reset(token)


def note(name: str, what: Enum) -> None:
    """Put on record what runs of the kernel `name`, or in its place."""
    ran = _ran.get()
    if ran is not None:
        ran.add((name, what))


def named(ran: Ran) -> dict[str, str]:
    """What ran of each kernel, in words; all of it where that was several things."""
    words: dict[str, list[str]] = {}
    for name, what in sorted(ran, key=lambda pair: (pair[0], pair[1].value)):
        words.setdefault(name, []).append(what.value)
    return {name: ", ".join(several) for name, several in words.items()}


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


def _compiling() -> bool:
    return _compiled.get() is not None


def decide(arguments: Sequence[Any], *, differentiable: bool = False) -> Implementation:
    """The implementation of a kernel for these arguments, a tensor first. Whoever runs it puts it on record."""
    chosen = _chosen.get() or (Implementation.TRITON if arguments[0].is_cuda else Implementation.REFERENCE)
    if chosen is Implementation.TRITON and not differentiable and _need_gradient(arguments):
        chosen = Implementation.REFERENCE
    return chosen


def _need_gradient(arguments: Sequence[Any]) -> bool:
    return torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in arguments)


def kernel(reference: Callable[P, R], *, check: Callable[P, None], mutates: Sequence[str] = (),
           differentiable: bool = False, notes_itself: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a launcher the public function of a kernel: it takes and returns what `reference` does, whose docstring
    speaks for both. `check` refuses, for both, arguments that they would take differently: shapes and numbers that the
    host knows. `mutates` names the arguments written in place; `differentiable` says that the launcher has a backward
    (a torch.autograd.Function), `notes_itself` that the reference has several ways and notes the one it takes.
    torch.compile sees a custom operator, and the reference where a gradient is required."""

    def public(launcher: Callable[P, R]) -> Callable[P, R]:
        name = launcher.__name__

        @wraps(launcher)
        def decided(*args: P.args, **kwargs: P.kwargs) -> R:
            arguments = args if not kwargs else _tensors(args, kwargs)
            chosen = decide(arguments, differentiable=differentiable)
            if chosen is Implementation.TRITON or not notes_itself:
                note(name, chosen)
            return launcher(*args, **kwargs) if chosen is Implementation.TRITON else reference(*args, **kwargs)

        operator = torch.library.custom_op(f"quicksilver::{name}", decided, mutates_args=mutates)
        operator.register_fake(launcher)

        @wraps(launcher)
        def dispatched(*args: P.args, **kwargs: P.kwargs) -> R:
            check(*args, **kwargs)
            # Calling the operator costs more than a launch, and only torch.compile needs it.
            if not torch.compiler.is_compiling():
                return decided(*args, **kwargs)
            needs_gradient = _need_gradient(_tensors(args, kwargs))
            return reference(*args, **kwargs) if needs_gradient else operator(*args, **kwargs)

        dispatched.__doc__ = reference.__doc__
        return dispatched

    return public


def check_shape(name: str, tensor: Tensor | None, *shape: int) -> None:
    """Refuse a tensor of another shape; None, an argument left out, has any."""
    if tensor is not None and tensor.shape != shape:
        raise ValueError(f"{name} of shape {list(tensor.shape)}: must be {list(shape)}")


def check_rank(name: str, tensor: Tensor, rank: int) -> None:
    """Refuse a tensor of another number of dimensions."""
    if tensor.ndim != rank:
        raise ValueError(f"{name} of shape {list(tensor.shape)}: must have {rank} dimensions")


def check_dtype(name: str, tensor: Tensor | None, dtype: torch.dtype) -> None:
    """Refuse a tensor of another dtype; None, an argument left out, has any."""
    if tensor is not None and tensor.dtype != dtype:
        raise ValueError(f"{name} of {tensor.dtype}: must be {dtype}")


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


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
    # The interpreter's numpy warns of infinities where a GPU computes on.
    with torch.cuda.device_of(first), np.errstate(all="ignore") if INTERPRETED else nullcontext():
        program[grid](*arguments, **options)


def stages(number: int) -> int:
    """Stages of a program's load pipeline on the present target: AMD's 64 KiB of local memory hold two."""
    is_amd = torch.version.hip is not None
    if _compiling():
        target: Any = driver.active.get_current_target()
        is_amd = target.backend == "hip"
    return min(number, 2) if is_amd else number
