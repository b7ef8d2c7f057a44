"""What a kernel gives to be checked, compiled and timed: shapes, inputs, and the least work its result takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class Cost:
    """Bytes that must cross the memory bus, each input read once and each output written once, and the FLOPs of the
    products (two a multiply-add) that run on tensor cores."""

    num_bytes: int
    num_flops: int = 0


class Case(Protocol):
    """One shape of one kernel. `run` and `reference` take what `inputs` gives and return a tensor or a tuple of them;
    calling `run` twice gives the same result.

    A case may also have `needs_hgmma` (default false): its products of 16-bit inputs must use Hopper's warp-group
    instructions; and `needs_wide_loads` (default true): its data must be loaded 128 bits at a time."""

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        """Random arguments, never zeros; on the meta device without data."""
        ...

    @property
    def run(self) -> Callable[..., Any]:
        """The public function, which dispatches."""
        ...

    @property
    def reference(self) -> Callable[..., Any]:
        """The plain PyTorch computation."""
        ...

    def cost(self, dtype: torch.dtype) -> Cost: ...
