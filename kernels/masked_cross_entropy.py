"""Cross-entropy of an output head at chosen positions, and its gradient, never holding all logits.

    z = h W^T,   nll_m = log sum_v e^z_mv - z_m,t(m),   d nll_m / d z_mv = softmax(z_m)_v - [v = t(m)]

Rows go in chunks: logits by a library product, then one program a row. The result is each row's loss, which objectives
weight and reduce as they like. A row's upstream gradient g_m is then known in the backward pass only, and since W's
gradient sums over rows it cannot be scaled afterwards. So the backward pass repeats the product, a program turns the
chunk in place into g_m (softmax - one-hot), and two more products accumulate the gradients of h and W in float32: four
products in all, where a loss that knows its weights beforehand takes three; an evaluation takes one. g is divided by
its largest magnitude until the end, since 1 / (t n) would vanish in float16.

A chunk holds 2^28 logits, 0.5 GiB in 16 bits, whatever M is: 2,048 rows for V = 126,464. Each chunk reads and writes
W's float32 gradient once, which its product hides from about 700 rows on (2 FLOPs a row against 8 bytes; an H200 does
184 FLOPs a byte).

Liger's fused kernel (0.8.5, read in its source) recomputes in its backward pass for the same reason. It is measured
beside this one and not used: it counts its targets with .item() in both passes, which no CUDA graph captures; its
chunks hold about M E logits, 256 rows where M = E = 4,096; it sums W's gradient in W's dtype unless told otherwise; and
it rounds g to the dtype of the logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from .autocast import autocast_dtype
from .case import Case, Cost
from .dispatch import kernel, launch
from .tensor_checks import check_dtype, check_rank, check_shape

_LOGITS_PER_CHUNK = 2**28
_ROWS = 128  # chunks are whole multiples of it


def reference(hidden_ME: Tensor, head_VE: Tensor, target_M: Tensor) -> Tensor:
    """The loss in nats of each row, float32 [M] (float64 for float64), differentiable in hidden_ME and head_VE, which
    are float of one dtype or under autocast; target_M is int64, from 0 to V - 1. Rows to be ignored are not passed: any
    other target is a ValueError on a CPU, and elsewhere, where its value may not be read, a loss of NaN."""
    logits_MV = F.linear(hidden_ME, head_VE)
    logits_MV = logits_MV.to(torch.promote_types(logits_MV.dtype, torch.float32))
    is_token_M = (target_M >= 0) & (target_M < len(head_VE))
    nll_M = F.cross_entropy(logits_MV, target_M.where(is_token_M, 0), reduction="none")
    return nll_M * torch.where(is_token_M, 1.0, torch.nan)


def _check(hidden_ME: Tensor, head_VE: Tensor, target_M: Tensor) -> None:
    check_rank("hidden_ME", hidden_ME, 2)
    check_rank("head_VE", head_VE, 2)
    check_shape("head_VE", head_VE, len(head_VE), hidden_ME.shape[1])
    check_shape("target_M", target_M, len(hidden_ME))
    check_dtype("target_M", target_M, torch.int64)
    readable = target_M.device.type == "cpu" and not isinstance(target_M, FakeTensor)
    if readable and len(target_M) and not torch.compiler.is_compiling():
        for target in torch.stack(target_M.aminmax()).tolist():
            if not 0 <= target < len(head_VE):
                raise ValueError(f"target {target}: must be from 0 to {len(head_VE) - 1}, the head's last token; leave "
                                 "rows out that are to be ignored")


@kernel(reference, check=_check, differentiable=True)
def masked_cross_entropy(hidden_ME: Tensor, head_VE: Tensor, target_M: Tensor) -> Tensor:
    dtype = autocast_dtype(hidden_ME)
    if dtype is not None:
        hidden_ME, head_VE = hidden_ME.to(dtype), head_VE.to(dtype)
    nll_M: Any = _MaskedCrossEntropy.apply(hidden_ME, head_VE, target_M.contiguous())
    return nll_M


class _MaskedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ME: Tensor, head_VE: Tensor, target_M: Tensor) -> Tensor:
        size, vocab_size = (len(hidden_ME),), len(head_VE)
        nll_M = torch.empty(size, dtype=torch.float32, device=hidden_ME.device)
        lse_M = torch.empty(size, dtype=torch.float32, device=hidden_ME.device)
        block = min(4096, triton.next_power_of_2(vocab_size))
        for part, logits_NV in _chunks(hidden_ME, head_VE):
            launch(_loss_kernel, (len(logits_NV),), logits_NV, target_M[part], nll_M[part], lse_M[part], vocab_size,
                   BLOCK=block, num_warps=max(1, block // 512))
        ctx.save_for_backward(hidden_ME, head_VE, target_M, lse_M)
        return nll_M

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_ME, head_VE, target_M, lse_M = ctx.saved_tensors
        (upstream_M,), vocab_size = grad_outputs, len(head_VE)
        d_hidden_ME, d_head_VE = (
            torch.empty(tensor.shape, dtype=torch.float32, device=tensor.device) if needed else None
            for tensor, needed in zip((hidden_ME, head_VE), ctx.needs_input_grad, strict=False))
        if d_head_VE is not None and not len(hidden_ME):
            d_head_VE.zero_()
        largest = F.pad(upstream_M.abs(), (0, 1)).amax()
        relative_M = upstream_M / torch.where(largest > 0, largest, 1)
        block = min(2048, triton.next_power_of_2(vocab_size))
        pieces = triton.cdiv(vocab_size, block)
        for part, logits_NV in _chunks(hidden_ME, head_VE):
            launch(_gradient_kernel, (len(logits_NV) * pieces,), logits_NV, target_M[part], lse_M[part],
                   relative_M[part], vocab_size, pieces, BLOCK=block, num_warps=max(1, block // 512))
            if d_hidden_ME is not None:
                _add_product(d_hidden_ME[part], logits_NV, head_VE, 0)
            if d_head_VE is not None:
                _add_product(d_head_VE, logits_NV.T, hidden_ME[part], min(part.start, 1))
        return (None if d_hidden_ME is None else d_hidden_ME.mul_(largest).to(hidden_ME.dtype),
                None if d_head_VE is None else d_head_VE.mul_(largest).to(head_VE.dtype), None)


def _chunks(hidden_ME: Tensor, head_VE: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Which rows, and their logits: chunks as equal as can be, in one buffer that may be written."""
    (num_rows, vocab_size), device = (len(hidden_ME), len(head_VE)), hidden_ME.device
    most = max(_ROWS, _LOGITS_PER_CHUNK // vocab_size // _ROWS * _ROWS)
    size = triton.cdiv(triton.cdiv(num_rows, max(1, triton.cdiv(num_rows, most))), _ROWS) * _ROWS
    logits_NV = torch.empty((min(size, num_rows), vocab_size), dtype=hidden_ME.dtype, device=device)
    for start in range(0, num_rows, max(size, 1)):
        part = slice(start, min(start + size, num_rows))
        chunk_NV = logits_NV[: part.stop - start]
        torch.mm(hidden_ME[part], head_VE.T, out=chunk_NV)
        yield part, chunk_NV


def _add_product(total: Tensor, left: Tensor, right: Tensor, factor: int) -> None:
    """total = factor * total + left @ right, with `total` and the sums in float32."""
    if left.is_cuda and left.dtype != torch.float32 and torch.version.hip is None:
        torch.addmm(total, left, right, beta=factor, out_dtype=torch.float32, out=total)
    else:
        torch.addmm(total, left.float(), right.float(), beta=factor, out=total)


@triton.jit
def _loss_kernel(logits_ptr, target_ptr, nll_ptr, lse_ptr, vocab_size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * vocab_size
    # Each lane keeps its own maximum and sum. The first maximum is below any logit, and finite: no inf - inf.
    largest = tl.full((BLOCK,), -1e38, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, vocab_size, BLOCK):
        column = start + tl.arange(0, BLOCK)
        value = tl.load(logits_ptr + column, mask=column < vocab_size, other=float("-inf")).to(tl.float32)
        decay = tl.exp(-tl.abs(value - largest))
        total = tl.where(value > largest, total * decay + 1, total + decay)
        largest = tl.maximum(largest, value)
    top = tl.max(largest)
    lse = top + tl.log(tl.sum(total * tl.exp(largest - top)))
    tl.store(lse_ptr + row, lse)
    token = tl.load(target_ptr + row)
    is_token = (token >= 0) & (token < vocab_size)
    tl.store(nll_ptr + row, lse - tl.load(logits_ptr + token, mask=is_token, other=float("nan")).to(tl.float32))


@triton.jit(do_not_specialize=["pieces"])
def _gradient_kernel(logits_ptr, target_ptr, lse_ptr, relative_ptr, vocab_size, pieces, BLOCK: tl.constexpr):
    program = tl.program_id(0)
    row = (program // pieces).to(tl.int64)
    column = program % pieces * BLOCK + tl.arange(0, BLOCK)
    logits_ptrs = logits_ptr + row * vocab_size + column
    value = tl.load(logits_ptrs, mask=column < vocab_size, other=float("-inf")).to(tl.float32)
    softmax = tl.exp(value - tl.load(lse_ptr + row))
    token = tl.load(target_ptr + row)
    weight = tl.where((token >= 0) & (token < vocab_size), tl.load(relative_ptr + row), float("nan"))
    gradient = (softmax - (column == token).to(tl.float32)) * weight
    tl.store(logits_ptrs, gradient.to(logits_ptr.dtype.element_ty), mask=column < vocab_size)


@dataclass(frozen=True)
class MaskedCrossEntropyCase(Case):
    """The losses of `rows` positions and, if `backward`, their gradients."""

    rows: int
    width: int
    vocab_size: int
    backward: bool = True

    def inputs(self, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
        hidden_ME = torch.randn(self.rows, self.width, dtype=dtype, device=device)
        head_VE = torch.randn(self.vocab_size, self.width, dtype=dtype, device=device) * self.width**-0.5
        target_M = torch.randint(self.vocab_size, (self.rows,), device=device)
        return hidden_ME, head_VE, target_M, torch.rand(self.rows, device=device)

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Losses, and the gradients of hidden states and head."""
        return self._computed(masked_cross_entropy, *inputs)

    def reference(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return self._computed(reference, *inputs)

    def _computed(self, function: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        return _with_gradients(function, *inputs) if self.backward else (function(*inputs[:3]),)

    def cost(self, dtype: torch.dtype) -> Cost:
        # One product that reads hidden states and head; with gradients, which are written, three.
        num_weights, factor = (self.rows + self.vocab_size) * self.width, 2 if self.backward else 1
        return Cost(factor * num_weights * dtype.itemsize + self.rows * 16,
                    (6 if self.backward else 2) * self.rows * self.vocab_size * self.width)


def _with_gradients(function: Any, hidden_ME: Tensor, head_VE: Tensor, target_M: Tensor, upstream_M: Tensor
                    ) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (hidden_ME, head_VE)]
        nll_M = function(*leaves, target_M)
        return nll_M.detach(), *torch.autograd.grad(nll_M, leaves, upstream_M.to(nll_M.dtype))
