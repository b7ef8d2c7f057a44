"""What a kernel gives to be checked, compiled and timed: shapes, inputs, and the least work its result takes."""

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
    they do not change their inputs' meaning: calling `run` twice gives the same result."""

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Any, ...]:
        """Random arguments, never zeros; on the meta device without data."""
        ...

    def run(self, *inputs: Any) -> Any:
        """The public function, which dispatches."""
        ...

    def reference(self, *inputs: Any) -> Any:
        """The plain PyTorch computation."""
        ...

    def cost(self, dtype: torch.dtype) -> Cost: ...
