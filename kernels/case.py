"""What a kernel gives to be checked, compiled and timed: shapes, inputs, and the least work its result takes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """Bytes that must cross the memory bus, each input read once and each output written once, and the FLOPs of the
    products (two a multiply-add) that run on tensor cores."""

    num_bytes: int
    num_flops: int = 0


class Case(Protocol):
    """One shape of one kernel; concrete cases derive from it. `run` is the public function, which dispatches, and
    `reference` the plain PyTorch computation. Both take what `inputs` gives and return a tensor or a tuple of them.
    Calling `run` twice gives the same result."""

    run: ClassVar[Callable[..., Any]]
    reference: ClassVar[Callable[..., Any]]

    @property
    def needs_hgmma(self) -> bool:
        """Whether its products of 16-bit inputs must use Hopper's warp-group instructions."""
        return False

    @property
    def needs_wide_loads(self) -> bool:
        """Whether its data must be loaded 128 bits at a time."""
        return True

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        """Random arguments, never zeros; on the meta device without data."""
        ...

    def cost(self, dtype: torch.dtype) -> Cost: ...


def tensors_of(value: Any) -> Iterator[Tensor]:
    """The tensors in an argument: itself, or those in a tuple, a list or a dataclass."""
    return parts_of(value, Tensor)


def parts_of(value: Any, kind: type[T]) -> Iterator[T]:
    """The instances of a type in an argument."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from parts_of(part, kind)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from parts_of(getattr(value, field.name), kind)


def with_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The argument with every tensor in it changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple | list):
        return type(value)(with_tensors(part, change) for part in value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{field.name: with_tensors(getattr(value, field.name), change) for field in fields(value)})
