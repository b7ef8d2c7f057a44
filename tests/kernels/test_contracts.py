"""What every kernel does with arguments outside its contract: its implementations refuse them alike, or agree."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from quicksilver.kernels.attention import attention
from quicksilver.kernels.case import tensors_of, with_tensors
from quicksilver.kernels.choose import choose
from quicksilver.kernels.commit import CommitCase, commit
from quicksilver.kernels.commit_rules import Rule
from quicksilver.kernels.dispatch import Implementation, using
from quicksilver.kernels.key_ranges import KEY_TILE, KeyRanges
from quicksilver.kernels.lm_head_statistics import lm_head_statistics
from quicksilver.kernels.masked_cross_entropy import masked_cross_entropy
from quicksilver.kernels.moe_experts import ExpertsCase, experts
from quicksilver.kernels.moe_router import Routing, Scoring, route
from quicksilver.kernels.moe_sort import ExpertLoad, sort_by_expert
from quicksilver.kernels.rms_norm import add_rms_norm, rms_norm
from quicksilver.kernels.rotate_and_store import KVSlots, QKNorm, Rope, rotate_and_store
from quicksilver.kernels.swiglu import swiglu
from quicksilver.kernels.token_statistics import SamplingParams, Statistic, StatisticsRequest, statistics_of_logits
from torch import Tensor

from .comparison import on_device, strided_variants

CPU, F32 = torch.device("cpu"), torch.float32


def _request() -> StatisticsRequest:
    """All statistics of two rows and two positions, drawn."""
    sampling = SamplingParams(1 / 1.5, torch.tensor([5, 2**40]), torch.arange(4).view(2, 2), torch.tensor([1, 4]))
    wanted: frozenset[Statistic] = frozenset({"log_prob", "canvas_log_prob", "margin", "logit_gap", "entropy"})
    return StatisticsRequest(wanted, sampling, 1 / 0.7, torch.tensor([[0, 1]] * 2))


def _attention() -> list[Any]:
    num_keys = 2 * KEY_TILE + 3
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, num_keys, 2, 8), torch.randn(2, num_keys, 2, 8)
    tiles = torch.tensor([0, 2], dtype=torch.int32).expand(2, 2, 2).contiguous()
    return [q, k, v, KeyRanges(num_keys, torch.tensor([[0, 1, 2]] * 2), torch.tensor([[9, num_keys, 40]] * 2), tiles,
                               torch.tensor([[1, 2], [2, 1]], dtype=torch.int32))]


def _rotated() -> list[Any]:
    return [torch.randn(2, 2, 6, 8), 2, Rope(torch.arange(4).view(2, 2), torch.randn(9, 4), torch.randn(9, 4)),
            QKNorm(torch.rand(8), torch.rand(8), 1e-5),
            KVSlots(torch.zeros(7, 2, 8), torch.zeros(7, 2, 8), torch.tensor([0, 4, 2, 6]))]


KERNELS: dict[Callable[..., Any], Callable[[], list[Any]]] = {
    rms_norm: lambda: [torch.randn(3, 8), torch.rand(8), 1e-5],
    add_rms_norm: lambda: [torch.randn(3, 8), torch.randn(3, 8), torch.rand(8), 1e-5],
    swiglu: lambda: [torch.randn(3, 8)],
    masked_cross_entropy: lambda: [torch.randn(4, 8), torch.randn(9, 8), torch.tensor([0, 8, 3, 3])],
    statistics_of_logits: lambda: [torch.randn(2, 2, 11), _request(), torch.full((2, 2), -0.5)],
    lm_head_statistics: lambda: [torch.randn(2, 2, 8), torch.randn(11, 8), 4, _request()],
    commit: lambda: list(CommitCase(2, 3, 5).inputs(F32, CPU)),
    choose: lambda: [torch.randn(2, 5), torch.rand(2, 5) < 0.7, torch.tensor([1, 2]), torch.tensor([2, 3]),
                     Rule.THRESHOLD, 0.1],
    attention: _attention,
    rotate_and_store: _rotated,
    sort_by_expert: lambda: [torch.tensor([[0, 2], [1, 2], [3, 0]], dtype=torch.int32), 4],
    experts: lambda: list(ExpertsCase(ExpertLoad(3, 4, 2), 8, 4).inputs(F32, CPU)),
    route: lambda: [torch.randn(3, 8), torch.randn(8), Routing(2, Scoring.SIGMOID, 2, 1, True, 1.5)],
}
EVERY_KERNEL = pytest.mark.parametrize("function", KERNELS, ids=lambda function: function.__name__)


def _changed(arguments: list[Any], place: int, variant: Tensor) -> list[Any]:
    """The arguments with another tensor in place of the one with this number."""
    numbers = itertools.count()
    return with_tensors(arguments, lambda tensor: variant if next(numbers) == place else tensor)


def _copied(tensor: Tensor) -> Tensor:
    """A copy of the tensor and of all memory that it is part of."""
    storage = tensor.as_strided((tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0).clone()
    return storage.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _shapes(tensor: Tensor) -> Iterator[Tensor]:
    """The tensor with one element less or more along each dimension, one dimension more, and one less."""
    for dim, size in enumerate(tensor.shape):
        if size > 1:
            yield tensor.narrow(dim, 0, size - 1).contiguous()
            yield tensor.narrow(dim, 0, 1).contiguous()
        yield torch.cat((tensor, tensor.narrow(dim, size - 1, 1)), dim)
    yield tensor[None]
    yield tensor.expand(2, *tensor.shape).contiguous()
    if tensor.ndim:
        yield tensor[0]


def _outcome(function: Callable[..., Any], arguments: list[Any], implementation: Implementation) -> list[Tensor] | str:
    """What a function returns and leaves in its arguments, or that it refuses them."""
    # All where the kernels run, except what runs on a CPU alone: some values are read, and refused, there only.
    there = _copied if implementation is Implementation.CPU else lambda tensor: _copied(on_device(tensor))
    copies = with_tensors(arguments, there)
    try:
        with using(implementation):
            result = function(*copies)
    except ValueError:
        return "refused"
    left = [tensor.cpu() for tensor in tensors_of(copies)]
    if function is commit:
        left = [buffer[:, :-1] for buffer in left[:4]]  # anything may stand in the spare column
    return [*(tensor.cpu() for tensor in tensors_of(result)), *left]


def _agree(function: Callable[..., Any], arguments: list[Any], what: str, others: tuple[Implementation, ...]) -> bool:
    """Whether all refuse."""
    expected = _outcome(function, arguments, Implementation.REFERENCE)
    for implementation in others:
        _check_alike(expected, _outcome(function, arguments, implementation), f"{what}: {implementation}")
    return isinstance(expected, str)


def _check_alike(expected: list[Tensor] | str, found: list[Tensor] | str, what: str) -> None:
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected == "refused", what
        return
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-5, equal_nan=True), what


ALL = Implementation.CPU, Implementation.TRITON


@EVERY_KERNEL
def test_an_argument_of_another_shape_is_refused_by_all_or_read_alike(function: Callable[..., Any]) -> None:
    arguments, num_refused = KERNELS[function](), 0
    others = (Implementation.TRITON,) if function is masked_cross_entropy else ALL  # values are read on a CPU
    assert not _agree(function, arguments, "as they should be", others)
    for place, tensor in enumerate(tensors_of(arguments)):
        for variant in _shapes(tensor):
            what = f"tensor {place} of shape {list(variant.shape)}"
            num_refused += _agree(function, _changed(arguments, place, variant), what, others)
    assert num_refused


@EVERY_KERNEL
def test_indices_of_another_dtype_are_refused_by_all_or_read_alike(function: Callable[..., Any]) -> None:
    arguments = KERNELS[function]()
    for place, tensor in enumerate(tensors_of(arguments)):
        if not tensor.dtype.is_floating_point:
            for dtype in {torch.uint8, torch.int32, torch.int64} - {tensor.dtype}:
                _agree(function, _changed(arguments, place, tensor.to(dtype)), f"tensor {place} of {dtype}", ALL)


def _unless_assumed_contiguous(function: Callable[..., Any], arguments: list[Any]) -> list[Tensor] | str | None:
    """The outcome on the Triton path; None where it asserts a layout that these arguments do not have."""
    try:
        return _outcome(function, arguments, Implementation.TRITON)
    except AssertionError as error:
        if "contiguous" in str(error) or "must be those of" in str(error):
            return None
        raise


@EVERY_KERNEL
def test_triton_reads_tensors_that_begin_anywhere_and_asserts_what_it_takes_for_granted(function: Callable[..., Any]
                                                                                        ) -> None:
    arguments, num_refused = KERNELS[function](), 0
    for place, tensor in enumerate(tensors_of(arguments)):
        for layout, variant in strided_variants(tensor).items() if tensor.ndim else ():
            changed = _changed(arguments, place, variant)
            found = _unless_assumed_contiguous(function, changed)
            if found is None:
                assert not variant.is_contiguous()
                num_refused += 1
            else:
                _check_alike(_outcome(function, changed, Implementation.REFERENCE), found, f"tensor {place}, {layout}")
    assert num_refused or function is masked_cross_entropy  # whose products are a library's


@pytest.mark.parametrize(("function", "place", "dtype"), [
    (rms_norm, 1, torch.bfloat16), (add_rms_norm, 1, torch.float64), (attention, 2, torch.float16)])
def test_floats_of_two_dtypes_are_refused_where_they_would_be_read_otherwise(function: Any, place: int,
                                                                             dtype: torch.dtype) -> None:
    arguments = KERNELS[function]()
    arguments[place] = arguments[place].to(dtype)
    assert _agree(function, arguments, f"argument {place} of {dtype}", ALL)


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("banned", [-1, 11])
def test_a_banned_token_that_is_none_is_refused(implementation: Implementation, banned: int) -> None:
    arguments = KERNELS[lm_head_statistics]()
    arguments[2] = banned
    with using(implementation), pytest.raises(ValueError, match=f"banned_id={banned}: must be from 0 to 10"):
        lm_head_statistics(*arguments)
