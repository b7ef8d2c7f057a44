"""What programs that turn heads share: a head's first half, its second half and what is not rotated are tiles [N, dims]
of their own, each a run of whole vectors. N are the heads of a token, or the tokens of a head."""

import triton
import triton.language as tl


@triton.jit
def load_numbers(source_ptr, dim, inside):
    return tl.load(source_ptr + dim, mask=inside, other=0).to(tl.float32)


@triton.jit
def rotated(x_low, x_high, cos_ptr, sin_ptr, inside, HALF: tl.constexpr, HALF_BLOCK: tl.constexpr):
    """Both halves, turned by the angles at cos_ptr and sin_ptr: one pointer for all, or [N, 1]."""
    low = tl.arange(0, HALF_BLOCK)[None, :]
    y_low = x_low * load_numbers(cos_ptr, low, inside) + x_high * load_numbers(sin_ptr, low, inside)
    high = low + HALF
    return y_low, x_high * load_numbers(cos_ptr, high, inside) + x_low * load_numbers(sin_ptr, high, inside)


@triton.jit
def store_heads(target_ptr, exists, y_low, y_high, y_kept, D: tl.constexpr, HALF: tl.constexpr,
                HALF_BLOCK: tl.constexpr, KEPT_BLOCK: tl.constexpr):
    """Write the heads that exist [N, 1] to target_ptr [N, 1]."""
    if HALF_BLOCK > 0:
        low = tl.arange(0, HALF_BLOCK)[None, :]
        tl.store(target_ptr + low, y_low.to(target_ptr.dtype.element_ty), mask=exists & (low < HALF))
        tl.store(target_ptr + low + HALF, y_high.to(target_ptr.dtype.element_ty), mask=exists & (low < HALF))
    if KEPT_BLOCK > 0:
        kept = 2 * HALF + tl.arange(0, KEPT_BLOCK)[None, :]
        tl.store(target_ptr + kept, y_kept.to(target_ptr.dtype.element_ty), mask=exists & (kept < D))
