"""The fused head and cross-entropy, and its gradients, against float64."""

import importlib
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quicksilver.kernels import masked_cross_entropy as module
from quicksilver.kernels.dispatch import Implementation, recording, using
from quicksilver.kernels.masked_cross_entropy import MaskedCrossEntropyCase, masked_cross_entropy, reference
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .comparison import DEVICE, DTYPES, PRODUCT, rel_rms, run, strided_variants, widened


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOGITS_PER_CHUNK", 200)
    monkeypatch.setattr(module, "_ROWS", 4)


def _inputs(rows: int, width: int, vocab_size: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Hidden states, head, targets and upstream gradients of both signs, for logits that 16 bits hold well."""
    hidden_ME, head_VE = torch.randn(rows, width) * 0.5 * width**-0.5, torch.randn(vocab_size, width)
    upstream_M = (torch.rand(rows) + 0.5) * torch.randn(rows).sign()
    return [hidden_ME.to(dtype), head_VE.to(dtype), torch.randint(vocab_size, (rows,)), upstream_M]


def _differentiated(*inputs: Tensor) -> tuple[Tensor, ...]:
    return MaskedCrossEntropyCase.run(MaskedCrossEntropyCase(1, 1, 1), *inputs)


def _errors(inputs: list[Tensor], found: list[Tensor]) -> list[float]:
    expected = MaskedCrossEntropyCase.reference(MaskedCrossEntropyCase(1, 1, 1), *widened(inputs))
    return [rel_rms(one, other) for one, other in zip(found, expected, strict=True)]


def _check(inputs: list[Tensor]) -> list[Tensor]:
    found, _ = run(_differentiated, *inputs)
    assert [tensor.dtype for tensor in found] == [torch.float32, inputs[0].dtype, inputs[1].dtype]
    assert all(error <= PRODUCT[inputs[0].dtype] for error in _errors(inputs, found)), _errors(inputs, found)
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "width", "vocab_size"), [
    (1, 1, 2), (3, 7, 11), (2, 16, 2047), (2, 16, 2048), (1, 16, 2049), (1, 8, 4097), (5, 33, 128)])
def test_losses_and_gradients_equal_the_reference(rows: int, width: int, vocab_size: int, dtype: torch.dtype) -> None:
    _check(_inputs(rows, width, vocab_size, dtype))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [3, 4, 5, 13])
def test_chunks_add_up(rows: int, dtype: torch.dtype) -> None:
    _check(_inputs(rows, 32, 43, dtype))


@pytest.mark.usefixtures("small_chunks")
def test_no_more_logits_are_held_than_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []

    def chunks(*arguments: Any) -> Iterator[tuple[slice, Tensor]]:
        for part, logits_NV in chunked(*arguments):
            parts.append(part)
            assert len(logits_NV) == part.stop - part.start <= 4
            yield part, logits_NV

    chunked = module._chunks
    monkeypatch.setattr(module, "_chunks", chunks)
    with using(Implementation.TRITON):
        hidden_ME, head_VE, target_M, _ = (tensor.to(DEVICE) for tensor in _inputs(11, 3, 43))
        masked_cross_entropy(hidden_ME, head_VE, target_M)
    assert [part.start for part in parts] == [0, 4, 8]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_it_is_as_accurate_as_pytorch_in_sixteen_bits(dtype: torch.dtype) -> None:
    inputs = _inputs(64, 64, 1000, dtype)
    ours = _errors(inputs, run(_differentiated, *inputs)[0])
    theirs = _errors(inputs, [*MaskedCrossEntropyCase.reference(MaskedCrossEntropyCase(1, 1, 1), *inputs)])
    assert all(one <= 1.1 * other + 1e-4 for one, other in zip(ours, theirs, strict=True)), (ours, theirs)


def test_rows_are_weighted_by_upstream_gradients_of_any_size() -> None:
    inputs = _inputs(6, 8, 43)
    inputs[3] *= torch.tensor([1e-12, 1e12, 0.0, 1.0, 1e-3, 1e3])
    _check(inputs)


@pytest.mark.parametrize("implementation", list(Implementation))
@pytest.mark.parametrize("target", [-100, -1, 5, 2**40])
def test_a_target_that_is_no_token_is_refused_where_it_may_be_read(implementation: Implementation, target: int) -> None:
    hidden_ME, head_VE, target_M, _ = _inputs(3, 4, 5)
    target_M[1] = target
    with using(implementation), pytest.raises(ValueError, match=f"target {target}: must be from 0 to 4"):
        masked_cross_entropy(hidden_ME, head_VE, target_M)


def test_elsewhere_its_loss_and_gradient_are_nan_and_no_other_memory_is_read() -> None:
    """What the two do on a GPU, where no value is read before."""
    inputs = _inputs(4, 8, 5)
    inputs[2] = torch.tensor([1, -100, 5, 4])
    theirs = module._with_gradients(reference, *inputs)
    with using(Implementation.TRITON):
        ours = module._with_gradients(module._MaskedCrossEntropy.apply, *(tensor.to(DEVICE) for tensor in inputs))
    for nll_M, d_hidden_ME, _ in (theirs, ours):
        assert nll_M.isnan().tolist() == [False, True, True, False]
        assert d_hidden_ME.isnan().any(1).tolist()[1:3] == [True, True]
    for place in (0, 3):
        torch.testing.assert_close(ours[0][place].cpu(), theirs[0][place], rtol=1e-5, atol=1e-6)


def test_without_rows_the_heads_gradient_is_zero() -> None:
    nll_M, d_hidden_ME, d_head_VE = run(_differentiated, *_inputs(0, 3, 5))[0]
    assert (nll_M.shape, d_hidden_ME.shape) == ((0,), (0, 3))
    assert torch.equal(d_head_VE, torch.zeros_like(d_head_VE))


@pytest.mark.parametrize("layout", ["transposed", "sliced", "offset"])
def test_it_reads_any_layout(layout: str) -> None:
    inputs = _inputs(5, 12, 67)
    inputs[0], inputs[1], inputs[3] = (strided_variants(inputs[index])[layout] for index in (0, 1, 3))
    _check(inputs)


def test_equal_logits_share_the_probability() -> None:
    target_M = torch.tensor([0, 5])
    nll_M, _, d_head_VE = _check([torch.ones(2, 4), torch.zeros(8, 4), target_M, torch.ones(2)])
    torch.testing.assert_close(nll_M.cpu(), torch.full((2,), 8.0).log())
    torch.testing.assert_close(d_head_VE[:, 0].cpu(), torch.full((8,), 0.25) - torch.eye(8)[target_M].sum(0))


def test_large_logits_neither_overflow_nor_lose_the_loss() -> None:
    _check([torch.full((2, 1), 100.0), torch.linspace(-8, 8, 33)[:, None], torch.tensor([32, 0]), torch.ones(2)])


def test_upstream_gradients_below_float16_survive() -> None:
    inputs = _inputs(4, 8, 9, torch.float16)
    inputs[3] = torch.tensor([1e-9, 2e-9, 0, -1e-9])
    scaled = [*inputs[:3], inputs[3] * 2.0**30]
    for small, large in zip(run(_differentiated, *inputs)[0][1:], run(_differentiated, *scaled)[0][1:], strict=True):
        # What is left of the result is rounded to float16's smallest steps, no more.
        assert (small.double() - large.double() / 2.0**30).abs().max() <= 2.0**-25
    zero = [*inputs[:3], torch.zeros(4)]
    assert not any(gradient.any() for gradient in run(_differentiated, *zero)[0][1:])


def test_the_references_gradients_are_right() -> None:
    hidden_ME, head_VE, target_M, _ = widened(_inputs(3, 4, 5))

    def losses(hidden_ME: Tensor, head_VE: Tensor) -> Tensor:
        return reference(hidden_ME, head_VE, target_M)

    assert torch.autograd.gradcheck(losses, (hidden_ME.requires_grad_(), head_VE.requires_grad_()))


def test_the_kernel_runs_where_a_gradient_is_required() -> None:
    hidden_ME, head_VE, target_M, _ = (tensor.to(DEVICE) for tensor in _inputs(3, 4, 5))
    for needed in ((True, False), (False, True)):
        leaves = hidden_ME.detach().requires_grad_(needed[0]), head_VE.detach().requires_grad_(needed[1])
        with using(Implementation.TRITON), recording() as ran:
            masked_cross_entropy(*leaves, target_M).sum().backward()
        assert ran == {("masked_cross_entropy", Implementation.TRITON)}
        assert [leaf.grad is not None for leaf in leaves] == list(needed)


def test_a_second_derivative_is_refused() -> None:
    hidden_ME, head_VE, target_M, _ = (tensor.to(DEVICE) for tensor in _inputs(3, 4, 5))
    with using(Implementation.TRITON):
        nll_M = masked_cross_entropy(hidden_ME.requires_grad_(), head_VE, target_M)
    with pytest.raises(RuntimeError, match="out="):
        torch.autograd.grad(nll_M.sum(), hidden_ME, create_graph=True)


def test_under_autocast_products_are_narrow_and_gradients_wide() -> None:
    hidden_ME, head_VE, target_M, upstream_M = (tensor.to(DEVICE) for tensor in _inputs(3, 8, 9))
    found = []
    for implementation in (Implementation.REFERENCE, Implementation.TRITON):
        leaves = hidden_ME.detach().requires_grad_(), head_VE.detach().requires_grad_()
        with using(implementation), torch.autocast(DEVICE.type, torch.bfloat16):
            nll_M = masked_cross_entropy(*leaves, target_M)
        found.append((nll_M.detach(), *torch.autograd.grad(nll_M, leaves, upstream_M)))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert rel_rms(one, other) <= 1e-2


def test_no_value_is_read_on_the_host() -> None:
    with FakeTensorMode() as mode, using(Implementation.TRITON):
        inputs = [mode.from_tensor(tensor) for tensor in _inputs(300, 4, 5)]
        assert [tensor.shape for tensor in _differentiated(*inputs)] == [(300,), (300, 4), (5, 4)]


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(2, 300), st.sampled_from(DTYPES), st.integers(0, 2**31))
def test_any_shape(rows: int, width: int, vocab_size: int, dtype: torch.dtype, seed: int) -> None:
    torch.manual_seed(seed)
    _check(_inputs(rows, width, vocab_size, dtype))


def _liger(hidden_ME: Tensor, head_VE: Tensor, target_M: Tensor, upstream_M: Tensor) -> list[Tensor]:
    liger = importlib.import_module("liger_kernel.ops.fused_linear_cross_entropy")
    leaves = hidden_ME.detach().requires_grad_(), head_VE.detach().requires_grad_()
    nll_M = liger.LigerFusedLinearCrossEntropyFunction.apply(*leaves, target_M, None, None, -100, 0.0, 0.0, "none")[0]
    return [nll_M.detach(), *torch.autograd.grad(nll_M, leaves, upstream_M)]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("liger_kernel") is None, reason="Liger is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_it_is_no_less_accurate_than_liger(dtype: torch.dtype) -> None:
    inputs = [tensor.to(DEVICE) for tensor in _inputs(24, 32, 257, dtype)]
    ours = _errors(inputs, run(_differentiated, *inputs)[0])
    liger = _liger(*inputs)
    theirs = _errors(inputs, liger)
    assert all(one <= 1.1 * other + 1e-6 for one, other in zip(ours, theirs, strict=True)), (ours, theirs)
