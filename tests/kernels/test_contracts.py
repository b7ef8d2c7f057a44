"""What every kernel does with arguments outside its contract: reference and Triton refuse them alike, or agree."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from quicksilver.kernels.attention import KEY_TILE, attention
from quicksilver.kernels.choose import choose_ranked
from quicksilver.kernels.commit import CommitCase, commit
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.lm_head_statistics import statistics_of_hidden
from quicksilver.kernels.masked_cross_entropy import masked_cross_entropy
from quicksilver.kernels.moe_experts import ExpertsCase, experts
from quicksilver.kernels.moe_router import select_experts
from quicksilver.kernels.moe_sort import Load, sort_by_expert
from quicksilver.kernels.rms_norm import add_rms_norm, rms_norm
from quicksilver.kernels.rotate_and_store import rotate_and_store
from quicksilver.kernels.swiglu import swiglu
from quicksilver.kernels.token_statistics import statistics_of_logits
from torch import Tensor

from .comparison import each_tensor, on_device

CPU, F32 = torch.device("cpu"), torch.float32


def _drawn() -> tuple[Any, ...]:
    """What a question of two rows and three positions is in plain types: all statistics of a draw."""
    return (torch.tensor([5, 2**40]), torch.arange(6).view(2, 3), torch.tensor(1), 1.5, torch.tensor([[0, 1, 2]] * 2),
            0.7, True, True, True, True)


def _attention() -> tuple[Any, ...]:
    num_keys = 2 * KEY_TILE + 3
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, num_keys, 2, 8), torch.randn(2, num_keys, 2, 8)
    tiles = torch.tensor([0, 2], dtype=torch.int32).expand(2, 2, 2).contiguous()
    return (q, k, v, torch.tensor([[0, 1, 2]] * 2), torch.tensor([[9, num_keys, 40]] * 2), tiles,
            torch.tensor([[1, 2], [2, 1]], dtype=torch.int32))


def _rotated() -> tuple[Any, ...]:
    return (torch.randn(2, 3, 6, 8), torch.arange(6).view(2, 3), torch.randn(9, 4), torch.randn(9, 4), torch.rand(8),
            torch.rand(8), 1e-5, 2, torch.zeros(7, 2, 8), torch.zeros(7, 2, 8), torch.tensor([0, -1, 2, 3, -1, 6]))


KERNELS: dict[Callable[..., Any], Callable[[], tuple[Any, ...]]] = {
    rms_norm: lambda: (torch.randn(3, 8), torch.rand(8), 1e-5),
    add_rms_norm: lambda: (torch.randn(3, 8), torch.randn(3, 8), torch.rand(8), 1e-5),
    swiglu: lambda: (torch.randn(3, 8),),
    masked_cross_entropy: lambda: (torch.randn(4, 8), torch.randn(9, 8), torch.tensor([0, 8, 3, 3])),
    statistics_of_logits: lambda: (torch.randn(2, 3, 11), torch.full((2, 3), -0.5), *_drawn()),
    statistics_of_hidden: lambda: (torch.randn(2, 3, 8), torch.randn(11, 8), 4, *_drawn()),
    commit: lambda: CommitCase(2, 3, 5).inputs(F32, CPU),
    choose_ranked: lambda: (torch.randn(2, 5), torch.rand(2, 5) < 0.7, torch.tensor([1, 2]), torch.tensor([2, 3]), 1,
                            0.1),
    attention: _attention,
    rotate_and_store: _rotated,
    sort_by_expert: lambda: (torch.tensor([[0, 2], [1, 2], [3, 0]], dtype=torch.int32), 4),
    experts: lambda: ExpertsCase(Load(3, 4, 2), 8, 4).inputs(F32, CPU),
    select_experts: lambda: (torch.randn(3, 8), torch.randn(8), 2, 2, 2, 1, True, 1.5),
}


def _variants(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor with one element less or more along each dimension, one dimension more, and one less."""
    for dim, size in enumerate(tensor.shape):
        if size > 1:
            yield tensor.narrow(dim, 0, size - 1)
            yield tensor.narrow(dim, 0, 1)
        yield torch.cat((tensor, tensor.narrow(dim, size - 1, 1)), dim)
    yield tensor[None]
    yield tensor.expand(2, *tensor.shape)
    if tensor.ndim:
        yield tensor[0]


def _outcome(function: Callable[..., Any], arguments: list[Any], implementation: Implementation) -> Any:
    """What a function returns and leaves in its arguments, or that it refuses them."""
    # Both where the kernels run: some values are read, and refused, on a CPU only.
    copies = [each_tensor(value, lambda tensor: on_device(tensor).clone()) for value in arguments]
    try:
        with using(implementation):
            result = function(*copies)
    except ValueError:
        return "refused"
    left = [value.cpu() for value in copies if isinstance(value, Tensor)]
    if function is commit:
        left = [buffer[:, :-1] for buffer in left[:4]]  # anything may stand in the spare column
    return [*(value.cpu() for value in (result if isinstance(result, list | tuple) else [result])), *left]


def _agree(function: Callable[..., Any], arguments: list[Any], what: str) -> bool:
    """Whether both refuse."""
    reference, triton = (_outcome(function, arguments, implementation) for implementation in Implementation)
    if isinstance(reference, str) or isinstance(triton, str):
        assert reference == triton == "refused", what
        return True
    for one, other in zip(reference, triton, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, equal_nan=True, msg=lambda text: f"{what}: {text}")
    return False


@pytest.mark.parametrize("function", KERNELS, ids=lambda function: function.__name__)
def test_an_argument_of_another_shape_is_refused_by_both_or_read_alike(function: Callable[..., Any]) -> None:
    arguments, num_refused = list(KERNELS[function]()), 0
    assert not _agree(function, arguments, "as they should be")
    for place, value in enumerate(arguments):
        for variant in _variants(value) if isinstance(value, Tensor) else ():
            changed = [*arguments[:place], variant, *arguments[place + 1 :]]
            num_refused += _agree(function, changed, f"argument {place} of shape {list(variant.shape)}")
    assert num_refused


@pytest.mark.parametrize("function", KERNELS, ids=lambda function: function.__name__)
def test_indices_of_another_dtype_are_refused_by_both_or_read_alike(function: Callable[..., Any]) -> None:
    arguments = list(KERNELS[function]())
    for place, value in enumerate(arguments):
        if isinstance(value, Tensor) and not value.dtype.is_floating_point:
            for dtype in {torch.uint8, torch.int32, torch.int64} - {value.dtype}:
                changed = [*arguments[:place], value.to(dtype), *arguments[place + 1 :]]
                _agree(function, changed, f"argument {place} of {dtype}")


@pytest.mark.parametrize(("function", "place", "dtype"), [
    (rms_norm, 1, torch.bfloat16), (add_rms_norm, 1, torch.float64), (attention, 2, torch.float16)])
def test_floats_of_two_dtypes_are_refused_where_the_two_would_differ(function: Any, place: int, dtype: torch.dtype
                                                                     ) -> None:
    arguments = list(KERNELS[function]())
    arguments[place] = arguments[place].to(dtype)
    assert _agree(function, arguments, f"argument {place} of {dtype}")


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("banned", [-1, 11])
def test_a_banned_token_that_is_none_is_refused(implementation: Implementation, banned: int) -> None:
    arguments = list(KERNELS[statistics_of_hidden]())
    arguments[2] = banned
    with using(implementation), pytest.raises(ValueError, match=f"banned_id={banned}: must be from 0 to 10"):
        statistics_of_hidden(*arguments)
