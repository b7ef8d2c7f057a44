"""The commit against its definition: exact, and nothing else is touched."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels.commit import commit
from quicksilver.kernels.dispatch import Implementation, using
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import run


def _case(num_rows: int, num_queried: int, length: int, *, commits: float = 0.5) -> list[Tensor]:
    """A canvas with some masks, and a commit of some of the masked positions among the queried ones, at a step of each
    row's own; rows query the spare column where they run out of positions."""
    exists_BS = torch.arange(length + 1).expand(num_rows, -1) < length
    masked_BS = (torch.rand(num_rows, length + 1) < 0.8) & exists_BS
    order_BL = torch.rand(num_rows, length).argsort(1)
    query_BQ = torch.nn.functional.pad(order_BL, (0, num_queried), value=length)[:, :num_queried].contiguous()
    commit_BQ = masked_BS.gather(1, query_BQ) & (torch.rand(num_rows, num_queried) < commits)
    token_BQ = torch.randint(1, 2**40, (num_rows, num_queried))
    tokens_BS, step_BS = torch.randint(0, 100, (2, num_rows, length + 1))
    return [tokens_BS, masked_BS, step_BS, torch.randn(num_rows, length + 1), query_BQ, commit_BQ, token_BQ,
            torch.randn(num_rows, num_queried), 7 + torch.arange(num_rows)]


def _check(case: list[Any]) -> None:
    """Triton and the reference write what the definition says, and nothing else (the reference: the spare column)."""
    tokens_BS, masked_BS, step_BS, log_prob_BS, query_BQ, commit_BQ, token_BQ, log_prob_BQ, step_B = case
    expected = [buffer.clone() for buffer in case[:4]]
    for row, queried in commit_BQ.nonzero().tolist():
        position = int(query_BQ[row, queried])
        expected[0][row, position] = token_BQ[row, queried]
        expected[1][row, position] = False
        expected[2][row, position] = step_B[row]
        if log_prob_BQ is not None:
            expected[3][row, position] = log_prob_BQ[row, queried]
    remaining_B = expected[1].gather(1, query_BQ).sum(1)

    (found_B,), left = run(commit, *case)
    assert torch.equal(found_B.cpu(), remaining_B)
    for found_BS, expected_BS in zip(left, expected, strict=False):
        assert torch.equal(found_BS.cpu(), expected_BS)
    assert torch.equal(commit(*case), remaining_B)
    for found_BS, expected_BS in zip((tokens_BS, masked_BS, step_BS, log_prob_BS), expected, strict=True):
        assert torch.equal(found_BS[:, :-1], expected_BS[:, :-1])


@pytest.mark.parametrize(("num_rows", "num_queried", "length"), [
    (1, 1, 1), (2, 1, 5), (3, 64, 64), (2, 65, 90), (1, 255, 300), (1, 257, 300), (2, 12, 7), (0, 3, 5), (2, 0, 5)])
def test_it_equals_the_definition(num_rows: int, num_queried: int, length: int) -> None:
    _check(_case(num_rows, num_queried, length))


@pytest.mark.parametrize("commits", [0.0, 1.0])
def test_all_or_nothing(commits: float) -> None:
    _check(_case(2, 9, 9, commits=commits))


def test_without_log_probabilities_theirs_stay() -> None:
    case = _case(2, 9, 12)
    _check([*case[:7], None, case[8]])


@pytest.mark.parametrize("implementation", list(Implementation))
def test_no_value_is_read_on_the_host(implementation: Implementation) -> None:
    with FakeTensorMode() as mode, using(implementation):
        case = [mode.from_tensor(tensor) for tensor in _case(2, 9, 12)]
        assert commit(*case).shape == (2,)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(1, 90), st.integers(1, 70), st.integers(0, 2**31))
def test_any_shape(num_rows: int, num_queried: int, length: int, seed: int) -> None:
    torch.manual_seed(seed)
    _check(_case(num_rows, num_queried, length))
