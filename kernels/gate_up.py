"""The first half of a feed-forward layer for few rows: both products and SwiGLU in one launch.

    y_t = silu(G x_t) * (U x_t),   W = [G; U]

The product of one matrix (grouped_product), whose gate and up rows a program reads side by side: what F.linear and
`swiglu` do with 2 M numbers a row rounded, written and read between them. For up to 64 rows it is bound by reading the
weights once; with more, F.linear is the faster.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import swiglu
from .autocast import autocast_dtype
from .case import Case, Cost
from .checks import integer_field
from .dispatch import kernel, runs_triton
from .grouped_product import FLOAT32_TILES, Tile, few_rows, many_rows, multiply
from .tensor_checks import assert_contiguous, check_dtype, check_rank, check_shape
from .tile_table import Bucket, TileChoice

MOST_ROWS = 64
# By the largest number of rows.
TILES = TileChoice("gate_up", (
    Bucket(16, Tile(16, 32, 64, True, 4, 4), few_rows(32, 64)),
    Bucket(32, Tile(32, 64, 64, True, 4, 3), few_rows(32, 64)),
    Bucket(float("inf"), Tile(64, 64, 64, False, 4, 3), few_rows(64) + many_rows(64))))


def pays(x: Tensor, gate_up_GE: Tensor) -> bool:
    """Whether one launch is better than two for x [..., E]: where Triton runs and rows are few."""
    return runs_triton(x, gate_up_GE) and x.numel() <= MOST_ROWS * x.shape[-1] and autocast_dtype(x) is None


def reference(x_TE: Tensor, gate_up_GE: Tensor) -> Tensor:
    """silu(gate) * up of x_TE [T, E] with gate_up_GE [2 M, E], the gate rows first: [T, M], all of one float dtype.
    Triton takes any number of rows, and is meant for up to 64."""
    return swiglu.reference(F.linear(x_TE, gate_up_GE))


def _check(x_TE: Tensor, gate_up_GE: Tensor) -> None:
    check_rank("x_TE", x_TE, 2)
    check_shape("gate_up_GE", gate_up_GE, len(gate_up_GE) // 2 * 2, x_TE.shape[1])
    check_dtype("gate_up_GE", gate_up_GE, x_TE.dtype)


@kernel(reference, check=_check)
def gate_up_swiglu(x_TE: Tensor, gate_up_GE: Tensor) -> Tensor:
    assert_contiguous(x_TE=x_TE, gate_up_GE=gate_up_GE)
    num_rows, columns = len(x_TE), len(gate_up_GE) // 2
    y_TM = torch.empty((num_rows, columns), dtype=x_TE.dtype, device=x_TE.device)
    tile = FLOAT32_TILES[0] if x_TE.element_size() == 4 else TILES.tile(num_rows, x_TE.device)
    multiply(tile, x_TE, gate_up_GE[None], y_TM, None, gated=True)
    return y_TM


@dataclass(frozen=True)
class GateUpCase(Case):
    """`rows` positions of `width` to `ffn_width` numbers each."""

    rows: int
    width: int
    ffn_width: int
    run = staticmethod(gate_up_swiglu)
    reference = staticmethod(reference)

    def __post_init__(self) -> None:
        for name in ("rows", "width", "ffn_width"):
            integer_field(self, name)

    @property
    def needs_hgmma(self) -> bool:
        return True

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
        x_TE = torch.randn(self.rows, self.width, dtype=dtype, device=device)
        return x_TE, torch.randn(2 * self.ffn_width, self.width, dtype=dtype, device=device).mul_(self.width**-0.5)

    def cost(self, dtype: torch.dtype) -> Cost:
        numbers = (2 * self.ffn_width + self.rows) * self.width + self.rows * self.ffn_width
        return Cost(numbers * dtype.itemsize, 4 * self.rows * self.width * self.ffn_width)
