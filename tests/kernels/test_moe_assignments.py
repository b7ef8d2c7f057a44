"""Routing and sorting in one launch equals the two by themselves."""

import pytest
import torch
from quicksilver.kernels import moe_assignments
from quicksilver.kernels.case import tensors_of
from quicksilver.kernels.dispatch import launch
from quicksilver.kernels.moe_assignments import Assignments, reference, route_and_sort
from quicksilver.kernels.moe_router import Routing, Scoring
from quicksilver.kernels.moe_sort import sort_by_expert
from torch import Tensor

from .comparison import POINTWISE, check, run

ROUTINGS = [Routing(2, Scoring.SOFTMAX, renormalise=True), Routing(3, Scoring.SOFTMAX_OF_CHOSEN),
            Routing(3, Scoring.SIGMOID, num_groups=4, groups_kept=2, scale=2.5),
            Routing(5, Scoring.SIGMOID, num_groups=3, groups_kept=2)]


def sorted_tensors(function: object, *arguments: object) -> tuple[Tensor, ...]:
    return tuple(tensors_of(function(*arguments)))  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("has_shared", [False, True])
@pytest.mark.parametrize("num_rows", [1, 5, 32])
@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
def test_it_equals_the_reference(routing: Routing, num_rows: int, has_shared: bool) -> None:
    logits_TX = torch.randn(num_rows, 12)
    bias_X = torch.randn(12) if routing.scoring is Scoring.SIGMOID else None
    check(lambda *inputs: sorted_tensors(route_and_sort, *inputs), lambda *inputs: sorted_tensors(reference, *inputs),
          (logits_TX, bias_X, routing, has_shared), POINTWISE)


@pytest.mark.parametrize("has_shared", [False, True])
def test_few_rows_take_one_launch_and_many_the_same_result(has_shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[str] = []

    def counted(program: object, *arguments: object, **options: object) -> None:
        programs.append(program.__name__)  # pyright: ignore[reportAttributeAccessIssue]
        launch(program, *arguments, **options)  # pyright: ignore[reportArgumentType]

    for module in ("moe_router", "moe_sort"):
        monkeypatch.setattr(f"quicksilver.kernels.{module}.launch", counted)
    logits_TX, routing = torch.randn(8, 30), Routing(4)
    few, _ = run(sorted_tensors, route_and_sort, logits_TX, None, routing, has_shared)
    assert set(programs) == {"_route_kernel"}
    monkeypatch.setattr(moe_assignments, "_MOST_LANES", 8 * 32 - 1)
    many, _ = run(sorted_tensors, route_and_sort, logits_TX, None, routing, has_shared)
    assert set(programs) == {"_route_kernel", "_sort_chunk_kernel"}
    assert all(torch.equal(one, other) for one, other in zip(few, many, strict=True))


def test_rows_of_nan_have_different_experts_and_leave_no_hole_in_the_order() -> None:
    logits_TX = torch.full((3, 8), torch.nan)
    logits_TX[1] = torch.randn(8)
    found, _ = run(sorted_tensors, route_and_sort, logits_TX, None, Routing(3), True)
    expert_TB, _, order_P, count_Y = found
    assert sorted(order_P.tolist()) == list(range(12))
    assert all(len(set(row)) == 4 for row in expert_TB.tolist())
    expected = sort_by_expert(expert_TB.contiguous(), 9)
    assert torch.equal(order_P, expected[0])
    assert torch.equal(count_Y, expected[1])


def test_no_rows_have_no_assignments() -> None:
    found: Assignments = route_and_sort(torch.randn(0, 8), None, Routing(3), True)
    assert found.expert_TB.shape == (0, 4)
    assert found.count_Y.tolist() == [0] * 9
