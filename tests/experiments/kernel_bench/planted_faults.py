"""Faults planted in what Triton compiles, or in what it is given."""

import re
from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
import triton
import triton.language as tl
from quicksilver.experiments.harness.records import Json
from quicksilver.experiments.kernel_bench import emulate
from quicksilver.kernels.case import Case, Cost
from quicksilver.kernels.dispatch import launch
from torch import Tensor

WEAKER_COPY_WAIT = r"(cp\.async\.wait_group\s+)(\d+)"
WEAKER_PRODUCT_WAIT = r"(wgmma\.wait_group\.sync\.aligned\s+)(\d+)"


def emulated_with(case: Case, target: str, seed: int, pattern: str, replacement: str) -> Json:
    """The verdict on a case after each match of a pattern in its PTX was replaced; `+1` stands for the second group and
    one more, behind the first. ValueError if nothing matches."""
    execute = emulate.execute

    def edited(text: str, *arguments: object) -> int:
        new, number = re.subn(pattern, lambda match: f"{match[1]}{int(match[2]) + 1}" if replacement == "+1"
                              else replacement, text)
        if not number:
            raise ValueError(f"{pattern!r}: is nowhere in the PTX for {target}")
        return execute(new, *arguments)  # pyright: ignore[reportArgumentType]

    with patch.object(emulate, "execute", edited):
        return emulate.emulated(case, "bfloat16", target, seed)


@dataclass(frozen=True)
class CopyCase(Case):
    """y = x, of `size` numbers from `shift` on; which bound is wrong, if any, by its name."""

    size: int
    shift: int = 0
    bound: str = "right"

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor]:
        return (torch.randn(self.shift + self.size, dtype=dtype, device=device),)

    def run(self, x: Tensor) -> Tensor:
        y = torch.empty(self.size, dtype=x.dtype, device=x.device)
        limit = {"right": self.size, "off by one": self.size + 1, "missing": 2**20}[self.bound]
        launch(_copy_kernel, (1,), x, y, self.shift, limit, BLOCK=triton.next_power_of_2(self.size), num_warps=1)
        return y

    def reference(self, x: Tensor) -> Tensor:
        return x[self.shift :]

    def cost(self, dtype: torch.dtype) -> Cost:
        return Cost(0)

    def wrong(self, bound: str) -> "CopyCase":
        return replace(self, bound=bound)


@triton.jit
def _copy_kernel(x, y, shift, limit, BLOCK: tl.constexpr):
    place = tl.arange(0, BLOCK)
    inside = place < limit
    # A promise that nobody checks: a shift that is not a multiple of 16 misaligns the vectors.
    source = tl.max_contiguous(tl.multiple_of(x + shift + place, 16), 16)
    value = tl.load(source, mask=tl.max_constancy(inside, 16), other=0)
    tl.store(y + place, value, mask=inside)
