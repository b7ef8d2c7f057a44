"""Products of rows with their matrices: one matrix for all, a last one that lies apart, gated or not."""

import pytest
import torch
import torch.nn.functional as F
from quicksilver.kernels import gate_up
from quicksilver.kernels.dispatch import Implementation, note
from quicksilver.kernels.grouped_product import DOWN, GATE_UP, Groups, Tile, multiply, tiles
from quicksilver.kernels.moe_sort import reference as sort_by_expert
from quicksilver.kernels.tile_table import TileChoice
from torch import Tensor

from .comparison import PRODUCT, rel_rms, run

WIDTH, COLUMNS = 40, 24


def expected(source_TK: Tensor, weight_NK: Tensor, gated: bool) -> Tensor:
    product = F.linear(source_TK.double(), weight_NK.double())
    if not gated:
        return product
    gate, up = product.chunk(2, dim=-1)
    return F.silu(gate) * up


def product(tile: Tile, source: Tensor, weight_XNK: Tensor, groups: Groups | None, gated: bool,
            last_NK: Tensor | None, num_rows: int) -> Tensor:
    note("multiply", Implementation.TRITON)  # as the kernels do that are made of it
    result_PN = torch.empty((num_rows, COLUMNS), dtype=source.dtype, device=source.device)
    multiply(tile, source, weight_XNK, result_PN, groups, gated=gated, last_NK=last_NK)
    return result_PN


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("regime", range(3))
def test_all_rows_for_one_matrix(regime: int, gated: bool, dtype: torch.dtype) -> None:
    source, weight_1NK = torch.randn(37, WIDTH).to(dtype), torch.randn(1, (1 + gated) * COLUMNS, WIDTH).to(dtype)
    (found,), _ = run(product, GATE_UP.buckets[regime].default, source, weight_1NK, None, gated, None, 37)
    assert rel_rms(found, expected(source, weight_1NK[0], gated)) <= PRODUCT[dtype]


@pytest.mark.parametrize("gated", [False, True])
def test_a_last_matrix_that_lies_apart_is_one_more(gated: bool) -> None:
    matrix_P1 = torch.randint(0, 4, (30, 1), dtype=torch.int32)
    weight_XNK = torch.randn(4, (1 + gated) * COLUMNS, WIDTH)
    source, (order_P, count_X) = torch.randn(30, WIDTH), sort_by_expert(matrix_P1, 4)
    rows = source if gated else source[order_P]  # an ungated product's rows are sorted already
    (found,), _ = run(product, GATE_UP.buckets[0].default, rows, weight_XNK[:3].clone(), Groups(order_P, count_X, 1),
                      gated, weight_XNK[3].clone(), 30)
    by_row = torch.stack([expected(row, weight_XNK[matrix], gated)
                          for row, (matrix,) in zip(source, matrix_P1.tolist(), strict=True)])
    # A gated product stays sorted, an ungated one returns to the order of the assignments.
    assert rel_rms(found, by_row[order_P] if gated else by_row) <= PRODUCT[torch.float32]


def test_tiles_grow_with_the_mean_number_of_rows() -> None:
    half, whole = (torch.empty(1, dtype=dtype) for dtype in (torch.bfloat16, torch.float32))
    assert [tiles(mean * 4, 4, half)[0].rows for mean in (1, 8, 9, 24, 25, 48, 49)] == [16, 16, 32, 32, 64, 64, 128]
    assert tiles(4000, 4, whole) == tiles(1, 4, whole)


@pytest.mark.parametrize("choice", [GATE_UP, DOWN, gate_up.TILES], ids=lambda choice: choice.name)
def test_what_ships_is_a_candidate_and_every_candidate_multiplies_right(choice: TileChoice[Tile]) -> None:
    gated = choice is not DOWN
    source, weight_1NK = torch.randn(37, WIDTH).bfloat16(), torch.randn(1, (1 + gated) * COLUMNS, WIDTH).bfloat16()
    for tile in {tile for bucket in choice.buckets for tile in bucket.candidates}:
        (found,), _ = run(product, tile, source, weight_1NK, None, gated, None, 37)
        assert rel_rms(found, expected(source, weight_1NK[0], gated)) <= PRODUCT[torch.bfloat16]
    assert all(bucket.default in bucket.candidates for bucket in choice.buckets)
