"""The sort of assignments by expert: stable, compact, whatever the load."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.moe_sort import CHUNK, ExpertLoad, SortCase, reference, sort_by_expert
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import run


def check_sort(expert_TA: Tensor, num_experts: int) -> None:
    (order_P, count_X), _ = run(sort_by_expert, expert_TA, num_experts)
    for found, expected in zip((order_P, count_X), reference(expert_TA, num_experts), strict=True):
        assert found.dtype == expected.dtype == torch.int32
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize(("num_tokens", "num_experts"), [
    (0, 1), (0, 64), (1, 257), (CHUNK // 4 - 1, 31), (CHUNK // 4, 32), (CHUNK // 4 + 1, 33), (CHUNK, 257), (619, 512)])
def test_it_equals_the_reference(num_tokens: int, num_experts: int) -> None:
    check_sort(torch.randint(0, num_experts, (num_tokens, 4), dtype=torch.int32), num_experts)


def test_the_reference_follows_the_definition() -> None:
    expert_TA = torch.randint(0, 7, (50, 3), dtype=torch.int32)
    flat = expert_TA.flatten().tolist()
    order_P, count_X = reference(expert_TA, 7)
    assert order_P.tolist() == [place for _, place in sorted(zip(flat, range(len(flat)), strict=True))]
    assert count_X.tolist() == [flat.count(expert) for expert in range(7)]


@pytest.mark.parametrize(("num_tokens", "expert"), [(100, 0), (100, 5), (700, 8)])
def test_one_expert_may_get_everything(num_tokens: int, expert: int) -> None:
    check_sort(torch.full((num_tokens, 2), expert, dtype=torch.int32), 9)


@pytest.mark.parametrize("load", [ExpertLoad(150, 64, 8, zipf_exponent=1.2), ExpertLoad(150, 64, 8, num_active=8),
                                  ExpertLoad(20, 512, 8)])
def test_any_load(load: ExpertLoad) -> None:
    check_sort(load.draw(), load.num_experts)


@pytest.mark.parametrize("implementation", list(Implementation))
def test_no_value_is_read_on_the_host(implementation: Implementation) -> None:
    with FakeTensorMode(), using(implementation):
        order_P, count_X = sort_by_expert(torch.zeros(300, 8, dtype=torch.int32), 64)
        assert (order_P.shape, count_X.shape) == ((2400,), (64,))


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1300), st.integers(1, 512), st.integers(0, 2**31))
def test_any_size(num_assignments: int, num_experts: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    expert_TA = torch.randint(0, num_experts, (num_assignments, 1), dtype=torch.int32, generator=generator)
    check_sort(expert_TA, num_experts)


@pytest.mark.parametrize("load", [ExpertLoad(200, 16, 4), ExpertLoad(200, 16, 4, zipf_exponent=1.0),
                                  ExpertLoad(200, 16, 4, num_active=4), ExpertLoad(200, 16, 4, num_active=9)])
def test_a_load_sends_a_token_to_different_active_experts(load: ExpertLoad) -> None:
    expert_TA = load.draw()
    assert all(len(set(row)) == 4 for row in expert_TA.tolist())
    assert load.num_distinct() == (load.num_active or 16)
    assert expert_TA.max() < (load.num_active or 16)
    assert torch.equal(expert_TA, load.draw())


def test_a_load_is_drawn_once_however_many_sets_of_inputs_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, drawn = ExpertLoad.scores, []
    monkeypatch.setattr(ExpertLoad, "scores", lambda load: drawn.append(load) or scores(load))
    case = SortCase(ExpertLoad(7, 11, 3))
    first, _ = case.inputs(torch.bfloat16, torch.device("cpu"))
    first.zero_()
    second, _ = case.inputs(torch.bfloat16, torch.device("cpu"))
    assert second.any()
    assert drawn == [case.load]


def test_zipf_is_the_more_skewed_load() -> None:
    uniform, zipf = (reference(ExpertLoad(500, 32, 2, exponent).draw(), 32)[1].max() for exponent in (0.0, 1.0))
    assert zipf > 3 * uniform


@pytest.mark.parametrize(("fields", "message"), [
    ((-1, 4, 2), "num_tokens=-1"), ((1, 4, 5), "top_k=5"), ((1, 4, 2, -1.0), "zipf_exponent"),
    ((1, 4, 2, 0.0, 1), "num_active=1")])
def test_a_load_out_of_range_is_refused(fields: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExpertLoad(*fields)
