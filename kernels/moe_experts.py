"""The experts of a mixture: each token's chosen SwiGLU networks, summed by their weights.

    h_p = silu(G_x u_p) * (U_x u_p)          for each assignment p of a token u_p to an expert x
    y_t = sum_a weight_ta * D_x h_(t,a)      in the order of a, in float32: no atomics

Assignments are sorted by expert (moe_sort), and a program multiplies a tile of one expert's rows by a block of its
weights. Programs lie expert after expert, those that share weights side by side; each finds its place from the counts
alone, and those beyond the last return, so that the grid depends on T, A and X only. With few rows an expert the
product is bound by reading each active expert's weights once; weights are then the tensor core's M side, which has 64
rows whatever the number of tokens.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import moe_experts_cpu, moe_sort
from .autocast import autocast_dtype
from .case import Case, Cost
from .checks import integer_field
from .dispatch import kernel, launch, num_pipeline_stages
from .tensor_checks import assert_contiguous, check_dtype, check_rank, check_shape


@dataclass(frozen=True)
class Tile:
    """What one program multiplies: `rows` assignments by `columns` outputs (twice that of gate and up together), in
    steps of `depth` 16-bit elements. `weights_first`: the weights are the tensor core's M side."""

    rows: int
    columns: int
    depth: int
    weights_first: bool
    num_warps: int
    num_stages: int


# By the largest mean number of rows an expert (T * A / X) that a pair of tiles (gate and up; down) is for.
TILES: tuple[tuple[float, Tile, Tile], ...] = (
    (8, Tile(16, 32, 64, True, 4, 4), Tile(16, 64, 64, True, 4, 4)),
    (24, Tile(32, 64, 64, True, 4, 3), Tile(32, 64, 64, True, 4, 4)),
    (48, Tile(64, 64, 64, False, 4, 3), Tile(64, 128, 64, False, 4, 3)),
    (float("inf"), Tile(128, 128, 64, False, 8, 4), Tile(128, 256, 64, False, 8, 4)),
)
# float32 has no exact tensor-core product: operands stay in registers, which larger tiles overflow.
FLOAT32_TILES = Tile(32, 32, 32, True, 8, 2), Tile(32, 64, 32, True, 8, 2)


def reference(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
    """The weighted sum of each token's experts, [T, E] in x's dtype.

    x_TE [T, E]; gate_up_XGE [X, 2 M, E], an expert's gate rows before its up rows, and down_XEM [X, E, M], as
    nn.Linear keeps them, of x's dtype; expert_TA int32 [T, A] and weight_TA float32 [T, A] as `route` gives them. Under
    autocast the products are of its dtype. Differentiable in PyTorch, with many tokens on a CPU once. The reference
    multiplies every token by every expert."""
    sum_TE = torch.zeros_like(x_TE, dtype=torch.promote_types(x_TE.dtype, weight_TA.dtype))
    for expert, (gate_up_GE, down_EM) in enumerate(zip(gate_up_XGE, down_XEM, strict=True)):
        weight_T1 = (weight_TA * (expert_TA == expert)).sum(1, keepdim=True)
        sum_TE = sum_TE + weight_T1 * moe_experts_cpu.swiglu(x_TE, gate_up_GE, down_EM)
    return sum_TE.to(x_TE.dtype)


def _check(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> None:
    check_rank("x_TE", x_TE, 2)
    check_rank("down_XEM", down_XEM, 3)
    check_rank("expert_TA", expert_TA, 2)
    (num_rows, width), (num_experts, _, expert_width) = x_TE.shape, down_XEM.shape
    check_shape("down_XEM", down_XEM, num_experts, width, expert_width)
    check_shape("gate_up_XGE", gate_up_XGE, num_experts, 2 * expert_width, width)
    check_shape("expert_TA", expert_TA, num_rows, expert_TA.shape[1])
    check_shape("weight_TA", weight_TA, *expert_TA.shape)
    check_dtype("expert_TA", expert_TA, torch.int32)


@kernel(reference, check=_check, cpu=moe_experts_cpu.experts_on_cpu)
def experts(x_TE: Tensor, gate_up_XGE: Tensor, down_XEM: Tensor, expert_TA: Tensor, weight_TA: Tensor) -> Tensor:
    assert_contiguous(x_TE=x_TE, gate_up_XGE=gate_up_XGE, down_XEM=down_XEM, weight_TA=weight_TA)
    (num_rows, width), (num_experts, _, expert_width) = x_TE.shape, down_XEM.shape
    top_k, dtype, product_dtype = expert_TA.shape[1], x_TE.dtype, autocast_dtype(x_TE)
    if product_dtype is not None:
        x_TE, gate_up_XGE, down_XEM = (value.to(product_dtype) for value in (x_TE, gate_up_XGE, down_XEM))
    num_assignments = num_rows * top_k
    order_P, count_X = moe_sort.sort_by_expert(expert_TA, num_experts)
    hidden_PM = torch.empty((num_assignments, expert_width), dtype=x_TE.dtype, device=x_TE.device)
    row_PE = torch.empty((num_assignments, width), dtype=x_TE.dtype, device=x_TE.device)
    y_TE = torch.empty((num_rows, width), dtype=dtype, device=x_TE.device)
    gate_up, down = tiles(num_assignments, num_experts, x_TE.element_size())
    _multiply(gate_up, (x_TE, gate_up_XGE, order_P, count_X, hidden_PM), top_k, gated=True)
    _multiply(down, (hidden_PM, down_XEM, order_P, count_X, row_PE), top_k, gated=False)
    block = min(1024, triton.next_power_of_2(width))
    launch(_combine_kernel, (num_rows, triton.cdiv(width, block)), row_PE, weight_TA, y_TE, width, TOP_K=top_k,
           BLOCK=block, num_warps=4)
    return y_TE


def tiles(num_assignments: int, num_experts: int, element_size: int) -> tuple[Tile, Tile]:
    """The tiles of the two products, from what the host knows."""
    if element_size == 4:
        return FLOAT32_TILES
    return next((gate_up, down) for mean, gate_up, down in TILES if num_assignments <= mean * num_experts)


def _multiply(tile: Tile, tensors: tuple[Tensor, ...], top_k: int, gated: bool) -> None:
    source, weight, _, _, result = tensors
    (num_experts, _, width), (num_assignments, columns) = weight.shape, result.shape
    # Whatever the load: no more than one unfilled tile for each expert with rows.
    active = min(num_assignments, num_experts)
    row_tiles = active + (num_assignments - active) // tile.rows
    launch(_grouped_kernel, (row_tiles * triton.cdiv(columns, tile.columns),), *tensors, width, columns, num_experts,
           top_k, GATED=gated, ROWS=tile.rows, COLUMNS=tile.columns, DEPTH=tile.depth * 2 // source.element_size(),
           WEIGHTS_FIRST=tile.weights_first, BLOCK_EXPERTS=moe_sort.expert_block(num_experts),
           num_warps=tile.num_warps, num_stages=num_pipeline_stages(tile.num_stages))


@triton.jit
def _grouped_kernel(source_ptr, weight_ptr, order_ptr, count_ptr, result_ptr, width, columns, num_experts, top_k,
                    GATED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
                    WEIGHTS_FIRST: tl.constexpr, BLOCK_EXPERTS: tl.constexpr):
    expert, block, first, end = _tile(tl.program_id(0), count_ptr, num_experts, tl.cdiv(columns, COLUMNS), ROWS,
                                      BLOCK_EXPERTS)
    if expert >= num_experts:
        return
    position = first + tl.arange(0, ROWS)
    # Rows and columns past the end repeat the last one; only what is stored is masked.
    existing = tl.minimum(position, end - 1)  # pyright: ignore[reportOperatorIssue]
    assignment = tl.load(order_ptr + existing)
    row = assignment // top_k if GATED else existing
    if GATED:
        # Eight gate rows, their eight up rows, and so on: a thread then holds both halves of what it multiplies.
        line = tl.arange(0, 2 * COLUMNS)
        column = tl.minimum(block * COLUMNS + line // 16 * 8 + line % 8, columns - 1) + line // 8 % 2 * columns
    else:
        column = tl.minimum(block * COLUMNS + tl.arange(0, COLUMNS), columns - 1)
    depth = tl.arange(0, DEPTH)[None, :]
    source_ptrs = source_ptr + row.to(tl.int64)[:, None] * width + depth
    weight_ptr += expert.to(tl.int64) * width * (2 * columns if GATED else columns)
    # 32 bits hold one expert's matrix, and take half the registers of pointers.
    within = column[:, None] * width + depth
    if WEIGHTS_FIRST:
        total = tl.zeros([column.shape[0], ROWS], dtype=tl.float32)
    else:
        total = tl.zeros([ROWS, column.shape[0]], dtype=tl.float32)
    for start in range(0, width, DEPTH):
        inside = depth < width - start
        values = tl.load(source_ptrs, mask=inside, other=0)
        weights = tl.load(weight_ptr + within, mask=inside, other=0)
        if WEIGHTS_FIRST:
            total = tl.dot(weights, tl.trans(values), total, input_precision="ieee")
        else:
            total = tl.dot(values, tl.trans(weights), total, input_precision="ieee")
        source_ptrs += DEPTH
        weight_ptr += DEPTH
    if GATED:
        if WEIGHTS_FIRST:
            halves = total.reshape(COLUMNS // 8, 2, 8, ROWS).permute(0, 2, 3, 1)
            gate, up = tl.split(halves)
            gate, up = gate.reshape(COLUMNS, ROWS), up.reshape(COLUMNS, ROWS)
        else:
            gate, up = tl.split(total.reshape(ROWS, COLUMNS // 8, 2, 8).permute(0, 1, 3, 2))
            gate, up = gate.reshape(ROWS, COLUMNS), up.reshape(ROWS, COLUMNS)
        total = gate / (1.0 + tl.exp(tl.minimum(-gate, 88.0))) * up  # e^88 is finite in float32
    if WEIGHTS_FIRST:
        total = tl.trans(total)
    target = (position if GATED else assignment).to(tl.int64)[:, None]
    column = block * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    tl.store(result_ptr + target * columns + column, total.to(result_ptr.dtype.element_ty),
             mask=(position < end)[:, None] & (column < columns))


@triton.jit
def _tile(program, count_ptr, num_experts, num_blocks, ROWS: tl.constexpr, BLOCK_EXPERTS: tl.constexpr):
    """The program's expert, block of columns, first row, and the end of the expert's rows. Beyond the last program the
    expert is at least num_experts."""
    x = tl.arange(0, BLOCK_EXPERTS)
    rows = tl.load(count_ptr + x, mask=x < num_experts, other=0)
    row_tiles = (rows + ROWS - 1) // ROWS
    end_program = tl.cumsum(row_tiles, axis=0) * num_blocks
    expert = tl.sum((end_program <= program).to(tl.int32))
    first_row = tl.sum(tl.where(x < expert, rows, 0))
    end_row = tl.sum(tl.where(x <= expert, rows, 0))
    num_tiles = tl.maximum((end_row - first_row + ROWS - 1) // ROWS, 1)  # pyright: ignore[reportOperatorIssue]
    local = program - tl.sum(tl.where(x < expert, row_tiles, 0)) * num_blocks
    return expert, local // num_tiles, first_row + local % num_tiles * ROWS, end_row


@triton.jit
def _combine_kernel(rows_ptr, weight_ptr, y_ptr, width, TOP_K: tl.constexpr, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for choice in range(TOP_K):
        assignment = token * TOP_K + choice
        weight = tl.load(weight_ptr + assignment).to(tl.float32)
        total += weight * tl.load(rows_ptr + assignment * width + column, mask=inside, other=0).to(tl.float32)
    tl.store(y_ptr + token * width + column, total.to(y_ptr.dtype.element_ty), mask=inside)


@dataclass(frozen=True)
class ExpertsCase(Case):
    """The weighted experts, `expert_width` wide, of tokens of `width` under one load."""

    load: moe_sort.ExpertLoad
    width: int
    expert_width: int
    run = staticmethod(experts)
    reference = staticmethod(reference)

    @property
    def needs_hgmma(self) -> bool:
        return True

    def __post_init__(self) -> None:
        integer_field(self, "width")
        integer_field(self, "expert_width")

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        load, width = self.load, self.width
        x_TE = torch.randn(load.num_tokens, width, dtype=dtype, device=device)
        gate_up_XGE = torch.randn(load.num_experts, 2 * self.expert_width, width, dtype=dtype, device=device)
        down_XEM = torch.randn(load.num_experts, width, self.expert_width, dtype=dtype, device=device)
        weight_TA = torch.rand(load.num_tokens, load.top_k, device=device).softmax(-1)
        return (x_TE, gate_up_XGE.mul_(width**-0.5), down_XEM.mul_(self.expert_width**-0.5), load.draw().to(device),
                weight_TA)

    def cost(self, dtype: torch.dtype) -> Cost:
        """Reads the weights of the experts that have tokens, once."""
        load, matrices = self.load, 3 * self.width * self.expert_width
        assignments = load.num_tokens * load.top_k
        activations = 2 * load.num_tokens * self.width
        return Cost((load.num_distinct() * matrices + activations) * dtype.itemsize + 8 * assignments,
                    2 * assignments * matrices)
