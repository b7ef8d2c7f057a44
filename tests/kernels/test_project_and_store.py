"""Norm, product, rotation and store in one launch against float64, and against the launches it stands for."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.project_and_store import (
    MOST_ROWS,
    ProjectAndStoreCase,
    pays,
    project_and_store,
    reference,
)

from .comparison import DTYPES, PRODUCT, check

CPU = torch.device("cpu")
CASE = ProjectAndStoreCase(rows=2, fed=3, context=6, heads=4, kv_heads=2, width=24, rotated=8, qk_norm=True,
                           model_width=72)


def case(**changes: Any) -> ProjectAndStoreCase:
    return replace(CASE, **changes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [
    CASE, case(qk_norm=False), case(rotated=24), case(width=16, rotated=16, heads=1, kv_heads=1),
    case(rotated=0, qk_norm=False), case(width=25), case(width=48, rotated=16),
    case(rows=1, fed=1, context=1, model_width=8),
    case(rows=3, fed=6, context=6, width=32, rotated=32, model_width=64), case(rows=1, fed=33, context=33)], ids=str)
def test_it_equals_the_reference(case: ProjectAndStoreCase, dtype: torch.dtype) -> None:
    check(project_and_store, reference, case.inputs(dtype, CPU), PRODUCT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_with_a_bias_and_nothing_to_add_and_no_slots(dtype: torch.dtype) -> None:
    x_BFE, _, projection, *others, _ = CASE.inputs(dtype, CPU)
    projection = replace(projection, bias_N=torch.randn(len(projection.weight_NE)).to(dtype))
    check(project_and_store, reference, (x_BFE, None, projection, *others, None), PRODUCT)


def test_every_row_may_have_positions_of_its_own() -> None:
    x_BFE, delta_BFE, projection, num_heads, rope, *others = CASE.inputs(torch.float32, CPU)
    rope = replace(rope, positions_BF=torch.tensor([[0, 2, 4], [5, 1, 3]]))
    check(project_and_store, reference, (x_BFE, delta_BFE, projection, num_heads, rope, *others), PRODUCT)


def test_no_tokens_give_none() -> None:
    x_BFE, delta_BFE, projection, num_heads, rope, norm, _ = CASE.inputs(torch.float32, CPU)
    rope = replace(rope, positions_BF=rope.positions_BF[:, :0])
    check(project_and_store, reference,
          (x_BFE[:, :0].clone(), delta_BFE[:, :0].clone(), projection, num_heads, rope, norm, None), PRODUCT)


def test_it_pays_for_few_rows_whose_dtype_holds_what_is_not_divided_yet() -> None:
    weight_NE = torch.ones(8, 4)
    with torch.inference_mode(), using(Implementation.TRITON):
        sizes = {rows: pays(torch.ones(1, rows, 4), weight_NE) for rows in (1, MOST_ROWS, MOST_ROWS + 1)}
        dtypes = {dtype: pays(torch.ones(1, 1, 4, dtype=dtype), weight_NE.to(dtype)) for dtype in DTYPES}
    assert sizes == {1: True, MOST_ROWS: True, MOST_ROWS + 1: False}
    assert dtypes == {torch.float32: True, torch.bfloat16: True, torch.float16: False}


@pytest.mark.parametrize(("changes", "message"), [
    ({"norm_weight_E": torch.ones(7)}, "norm_weight_E"), ({"weight_NE": torch.ones(192, 7)}, "weight_NE"),
    ({"bias_N": torch.ones(7)}, "bias_N"), ({"bias_N": torch.ones(192).double()}, "bias_N"),
    ({"head_width": 25}, "heads of 25 rows"),
    ({"weight_NE": torch.ones(192, 72).bfloat16()}, "weight_NE"), ({"head_width": 64}, "qkv_BFHD")])
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    x_BFE, delta_BFE, projection, *others = CASE.inputs(torch.float32, CPU)
    with pytest.raises(ValueError, match=message):
        project_and_store(x_BFE, delta_BFE, replace(projection, **changes), *others)
