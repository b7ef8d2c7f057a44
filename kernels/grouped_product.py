"""The product of rows, sorted by the matrix that each is for, with those matrices; SwiGLU where they are two halves.

    y_p = W_x u_p,   or   silu(G_x u_p) * (U_x u_p) with W_x = [G_x; U_x]        for each row p of a matrix x

A program multiplies a tile of one matrix's rows by a block of its columns. Programs lie matrix after matrix, those that
share weights side by side; each finds its place from the counts alone, and those beyond the last return, so that the
grid depends on the numbers of rows and matrices only. With few rows a matrix the product is bound by reading each
active matrix once; weights are then the tensor core's M side, which has 64 rows whatever the number of tokens.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from .dispatch import launch, num_pipeline_stages
from .tile_table import Bucket, TileChoice


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


def few_rows(*columns: int) -> tuple[Tile, ...]:
    """What may be tried where reading the weights takes the time, with so many columns."""
    return tuple(Tile(rows, wide, depth, True, 4, num_stages) for rows in (16, 32) for wide in columns
                 for depth in (64, 128) for num_stages in (3, 4))


def many_rows(*columns: int) -> tuple[Tile, ...]:
    """The same where products take the time. The largest tile overflows the registers of four warps."""
    return tuple(Tile(rows, wide, 64, False, num_warps, num_stages) for rows in (64, 128) for wide in columns
                 for num_warps in (4, 8) if num_warps == 8 or rows == 64 or wide == columns[0] for num_stages in (3, 4))


# Of the two products, by the largest mean number of rows an expert (T * A / X).
GATE_UP = TileChoice("experts_gate_up", (
    Bucket(8, Tile(16, 32, 64, True, 4, 4), few_rows(32, 64)),
    Bucket(24, Tile(32, 64, 64, True, 4, 3), few_rows(32, 64)),
    Bucket(48, Tile(64, 64, 64, False, 4, 3), few_rows(64) + many_rows(64)),
    Bucket(float("inf"), Tile(128, 128, 64, False, 8, 4), many_rows(64, 128))))
DOWN = TileChoice("experts_down", (
    Bucket(8, Tile(16, 64, 64, True, 4, 4), few_rows(64, 128)),
    Bucket(24, Tile(32, 64, 64, True, 4, 4), few_rows(64, 128)),
    Bucket(48, Tile(64, 128, 64, False, 4, 3), few_rows(128) + many_rows(128)),
    Bucket(float("inf"), Tile(128, 256, 64, False, 8, 4), many_rows(128, 256))))
# float32 has no exact tensor-core product: operands stay in registers, which larger tiles overflow.
FLOAT32_TILES = Tile(32, 32, 32, True, 8, 2), Tile(32, 64, 32, True, 8, 2)


@dataclass(frozen=True)
class Groups:
    """Which matrix each row is for: the assignments order_P int32 [P], sorted by matrix, of which `top_k` follow one
    another a token, and how many each matrix has, count_Y int32."""

    order_P: Tensor
    count_Y: Tensor
    top_k: int


def tiles(num_assignments: int, num_experts: int, source: Tensor) -> tuple[Tile, Tile]:
    """The tiles of the two products of `source`, from what the host knows."""
    if source.element_size() == 4:
        return FLOAT32_TILES
    mean = num_assignments / num_experts
    return GATE_UP.tile(mean, source.device), DOWN.tile(mean, source.device)


def multiply(tile: Tile, source: Tensor, weight_XNK: Tensor, result_PN: Tensor, groups: Groups | None, *, gated: bool,
             last_NK: Tensor | None = None) -> None:
    """Write the products of `source`: a row a token [T, K] if gated, else a row an assignment [P, K]. Without groups
    all rows are for the one matrix there is. `last_NK` is one more matrix, which lies apart, after the last."""
    num_matrices, (num_rows, columns) = len(weight_XNK) + (last_NK is not None), result_PN.shape
    # Whatever the load: no more than one unfilled tile for each matrix with rows.
    active = min(num_rows, num_matrices)
    row_tiles = active + (num_rows - active) // tile.rows
    order_P, count_Y, top_k = (None, None, 1) if groups is None else (groups.order_P, groups.count_Y, groups.top_k)
    launch(_grouped_kernel, (row_tiles * triton.cdiv(columns, tile.columns),), source, weight_XNK, last_NK, order_P,
           count_Y, result_PN, num_rows, weight_XNK.shape[2], columns, num_matrices, top_k, GATED=gated, ROWS=tile.rows,
           COLUMNS=tile.columns, DEPTH=tile.depth * 2 // source.element_size(), WEIGHTS_FIRST=tile.weights_first,
           BLOCK_EXPERTS=max(512, triton.next_power_of_2(num_matrices)), num_warps=tile.num_warps,
           num_stages=num_pipeline_stages(tile.num_stages))


@triton.jit(do_not_specialize=["num_rows", "num_experts", "top_k"])
def _grouped_kernel(source_ptr, weight_ptr, last_ptr, order_ptr, count_ptr, result_ptr, num_rows, width, columns,
                    num_experts, top_k, GATED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
                    DEPTH: tl.constexpr, WEIGHTS_FIRST: tl.constexpr, BLOCK_EXPERTS: tl.constexpr):
    matrix_size = width * (2 * columns if GATED else columns)
    if count_ptr is None:
        num_tiles = tl.cdiv(num_rows, ROWS)
        block, first, end = tl.program_id(0) // num_tiles, tl.program_id(0) % num_tiles * ROWS, num_rows
    else:
        expert, block, first, end = _tile(tl.program_id(0), count_ptr, num_experts, tl.cdiv(columns, COLUMNS), ROWS,
                                          BLOCK_EXPERTS)
        if expert >= num_experts:
            return
        # A branch between two tensors' pointers does not compile for AMD with Triton 3.6; a selection does.
        if last_ptr is not None:
            is_last = expert == num_experts - 1
            weight_ptr = tl.where(is_last, last_ptr, weight_ptr)
            expert = tl.where(is_last, 0, expert)
        weight_ptr += expert.to(tl.int64) * matrix_size
    position = first + tl.arange(0, ROWS)
    # Rows and columns past the end repeat the last one; only what is stored is masked.
    existing = tl.minimum(position, end - 1)  # pyright: ignore[reportOperatorIssue]
    assignment = existing if order_ptr is None else tl.load(order_ptr + existing)
    row = assignment // top_k if GATED else existing
    if GATED:
        # Eight gate rows, their eight up rows, and so on: a thread then holds both halves of what it multiplies.
        line = tl.arange(0, 2 * COLUMNS)
        column = tl.minimum(block * COLUMNS + line // 16 * 8 + line % 8, columns - 1) + line // 8 % 2 * columns
    else:
        column = tl.minimum(block * COLUMNS + tl.arange(0, COLUMNS), columns - 1)
    depth = tl.arange(0, DEPTH)[None, :]
    source_ptrs = source_ptr + row.to(tl.int64)[:, None] * width + depth
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
    target = (position if GATED or order_ptr is None else assignment).to(tl.int64)[:, None]
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


